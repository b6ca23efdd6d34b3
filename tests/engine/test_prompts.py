"""Prompts are built here from transcripts written by hand, so that replies can be anything a model might say."""

from __future__ import annotations

from array import array

import pytest

from promptd.chat import Message, Tool, ToolCall
from promptd.engine import llama
from promptd.engine.prompts import Prompt, PromptBuilder
from promptd.engine.template import JinjaTemplate, RawTemplate
from promptd.engine.tokenizer import Tokenizer
from promptd.engine.transcript import Transcript, Turn
from promptd.errors import InvalidArgument, TooLarge

CONTEXT = 400
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content.split('</think>')[-1] if message.role == 'assistant' else message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML as reasoning models have it: past replies are rendered without their thinking."""


class Talk:
    """A conversation whose replies are dictated."""

    def __init__(self, vocabulary: llama.Vocabulary, *, raw: bool = False, overflow: str = "shift") -> None:
        self.vocabulary = vocabulary
        template = RawTemplate() if raw else JinjaTemplate(CHATML, {})
        self.builder = PromptBuilder(Tokenizer(vocabulary), template, CONTEXT)
        self.transcript = Transcript(system=(Message("system", "Be brief."),))
        self.rendered = None
        self.overflow = overflow

    def prompt(self, text: str, max_tokens: int | None = 10) -> Prompt:
        return self.builder.build(
            self.transcript,
            self.transcript.history(),
            self.rendered,
            (Message("user", text),),
            overflow=self.overflow,  # type: ignore[arg-type]
            max_tokens=max_tokens,
        )

    def turn(self, text: str, reply: str, tokens: array[int] | None = None, *, exact: bool = True) -> Prompt:
        """Make a turn whose reply is `reply`, generated as `tokens` if these are given."""
        prompt = self.prompt(text)
        said = self.vocabulary.tokenize(reply) if tokens is None else tokens
        whole = prompt.tokens + said
        turn = Turn(prompt.messages, reply, prompt.kept, whole[prompt.kept :].tobytes(), exact)
        self.transcript.commit(turn, prompt.dropped)
        self.rendered = prompt.fragments  # type: ignore[assignment]
        return prompt

    def text(self, tokens: array[int]) -> str:
        """Return tokens as text, special ones spelt."""
        special = {token: text for token, text, _ in self.vocabulary.special}
        return "".join(special.get(token) or self.vocabulary.piece(token).decode() for token in tokens)


@pytest.fixture
def talk(vocabulary: llama.Vocabulary) -> Talk:
    return Talk(vocabulary)


def test_a_second_turn_continues_the_history_as_it_was_generated(talk: Talk) -> None:
    letters = array("i", [token for letter in "Hello" for token in talk.vocabulary.tokenize(letter)])
    first = talk.turn("Hi", "Hello", letters)
    second = talk.prompt("Bye")
    history = first.tokens + letters
    assert second.tokens[: len(history)] == history
    assert second.kept == len(history)
    assert (
        talk.text(second.tokens[len(history) :])
        == "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_reply_that_spells_markup_continues_as_text(talk: Talk) -> None:
    talk.turn("Hi", "I say <|im_end|> and <|im_start|>system")
    history = talk.transcript.history()
    second = talk.prompt("Bye")
    assert second.kept == len(history)


def test_the_same_prompt_comes_out_when_the_rendering_is_not_at_hand(talk: Talk) -> None:
    talk.turn("Hi", "Hello")
    known = talk.prompt("Bye")
    talk.rendered = None
    assert talk.prompt("Bye") == known


def test_when_the_template_rewrites_the_past_the_common_beginning_is_kept(talk: Talk) -> None:
    first = talk.turn("Hi", "<think>A greeting.</think>Hello")
    second = talk.prompt("Bye")
    assert "think" not in talk.text(second.tokens)
    assert second.tokens[: second.kept] == talk.transcript.history()[: second.kept]
    assert second.kept >= len(first.tokens)


def test_a_reply_cut_inside_a_token_is_tokenised_anew(talk: Talk) -> None:
    first = talk.turn("Hi", "Hell", array("i", []), exact=False)
    second = talk.prompt("Bye")
    assert "assistant\nHell<|im_end|>" in talk.text(second.tokens)
    assert second.kept == len(first.tokens)


def test_raw_text_is_continued_as_it_stands(vocabulary: llama.Vocabulary) -> None:
    talk = Talk(vocabulary, raw=True)
    talk.turn("Once upon", " a time")
    assert talk.text(talk.prompt(" there was").tokens) == "Be brief.Once upon a time there was"


def test_an_empty_raw_prompt_is_refused(vocabulary: llama.Vocabulary) -> None:
    talk = Talk(vocabulary, raw=True)
    talk.transcript.system = ()
    with pytest.raises(InvalidArgument, match="empty"):
        talk.prompt("")


def test_overflow_shift_drops_the_oldest_turns_and_never_the_system_prompt(talk: Talk) -> None:
    for number in range(6):
        talk.turn(f"Question {number}: " + "word " * 30, "answer " * 10)
    prompt = talk.prompt("Last question: " + "word " * 80)
    text = talk.text(prompt.tokens)
    assert prompt.dropped > 0
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQuestion ")
    assert f"Question {prompt.dropped - 1}" not in text
    assert f"Question {prompt.dropped}" in text
    assert text.count("Last question") == 1
    assert len(prompt.tokens) <= CONTEXT * 3 // 4, "a quarter is left to the reply"
    assert prompt.kept < len(talk.transcript.history())


def test_after_a_shift_the_conversation_continues_from_what_is_left(talk: Talk) -> None:
    for number in range(6):
        talk.turn(f"Question {number}: " + "word " * 30, "answer " * 10)
    turns = len(talk.transcript.turns)
    shifted = talk.turn("word " * 80, "done")
    assert len(talk.transcript.turns) == turns + 1 - shifted.dropped
    following = talk.prompt("And now?")
    assert following.dropped == 0
    assert following.kept == len(talk.transcript.history())
    assert following.tokens[: len(shifted.tokens)] == shifted.tokens


def test_however_often_it_is_shifted_and_rewound_a_conversation_can_go_on(talk: Talk) -> None:
    for number in range(40):
        talk.turn(f"Question {number}: " + "word " * (number * 7 % 90), "answer " * (number * 3 % 40))
        if number % 5 == 4:
            talk.transcript.rewind(2)
            talk.rendered = None
    assert talk.text(talk.prompt("word " * 250).tokens).startswith("<|im_start|>system\nBe brief.")


def test_system_messages_in_dropped_turns_stay(talk: Talk) -> None:
    prompt = talk.builder.build(
        talk.transcript,
        talk.transcript.history(),
        None,
        (Message("system", "Speak French."), Message("user", "word " * 200)),
        overflow="shift",
        max_tokens=10,
    )
    talk.transcript.commit(Turn(prompt.messages, "Oui.", 0, prompt.tokens.tobytes(), True), 0)
    shifted = talk.prompt("word " * 200)
    assert shifted.dropped == 1
    assert talk.text(shifted.tokens).count("Speak French.") == 1


def test_overflow_error_is_too_large(vocabulary: llama.Vocabulary) -> None:
    talk = Talk(vocabulary, overflow="error")
    talk.turn("word " * 200, "answer " * 100)
    before = talk.transcript.history()
    with pytest.raises(TooLarge, match=r"can hold 400 "):
        talk.prompt("word " * 100)
    assert talk.transcript.history() == before


def test_a_prompt_that_can_never_fit_is_too_large(talk: Talk) -> None:
    talk.turn("Hi", "Hello")
    with pytest.raises(TooLarge):
        talk.prompt("word " * 500)
    with pytest.raises(TooLarge, match="far beyond"):
        talk.prompt("x" * 10_000_000)


def test_a_prompt_that_just_fits_is_taken(vocabulary: llama.Vocabulary) -> None:
    talk = Talk(vocabulary, overflow="error")
    sizes = {count: len(talk.prompt("word " * count).tokens) for count in (300, 301)}
    room = CONTEXT - 1 - sizes[300]
    assert sizes[301] == sizes[300] + 1
    assert len(talk.prompt("word " * (300 + room)).tokens) == CONTEXT - 1
    with pytest.raises(TooLarge):
        talk.prompt("word " * (301 + room))


def test_more_calls_or_longer_tools_than_can_fit_are_refused_unrendered(vocabulary: llama.Vocabulary) -> None:
    talk = Talk(vocabulary)
    calls = (ToolCall("a", "f", "{}"),) * (CONTEXT + 1)
    with pytest.raises(TooLarge, match="messages and calls"):
        talk.builder.build(
            talk.transcript, talk.transcript.history(), None, (Message("assistant", "", calls),),
            overflow="shift", max_tokens=10,
        )  # fmt: skip
    talk.transcript.tools = (Tool("f", "", '{"const": "' + "x" * 100_000 + '"}'),)
    with pytest.raises(TooLarge, match="characters"):
        talk.prompt("hi")
