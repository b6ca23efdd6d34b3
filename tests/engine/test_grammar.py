"""Grammars and schemas of strangers: what they may be, and that replies keep to them to the last token."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest
from exact import GREEDY

from promptd.chat import Completion, StopReason
from promptd.engine import confined, grammar
from promptd.engine.client import Engine
from promptd.engine.grammar import gbnf
from promptd.errors import InvalidArgument, PromptdError, TooLarge


def test_a_schema_is_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    schemas = ['{"type": "integer", "minimum": 17}', '{"type": "nonsense"}']

    def outcome(schema: str) -> object:
        try:
            return gbnf("", schema)
        except PromptdError as error:
            return str(error)

    first = [outcome(schema) for schema in schemas]
    assert isinstance(first[0], bytes)
    assert isinstance(first[1], str)
    monkeypatch.setattr(grammar, "confined", None)  # a second conversion would call it
    assert [outcome(schema) for schema in schemas] == first


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (json.dumps({"enum": ["x" * 70_000]}), "limit of 65536"),
        ('{"type": "array", "items": {"type": "null"}, "minItems": 400000}', "limit of 1048576"),
        ('{"type": "array", "items": {"type": "null"}, "minItems": 1000000000}', "too much time or memory"),
        (
            json.dumps({"properties": {f"p{number}": {} for number in range(800)}}),
            "too much time or memory|limit of 1048576",
        ),
        (json.dumps({"properties": {f"p{number}": {} for number in range(2000)}}), "recursion|too much time"),
        ('{"enum": [', "not valid JSON"),
    ],
    ids=["large", "grows", "grows beyond memory", "slow", "deep", "no JSON"],
)
def test_a_schema_that_takes_too_much_is_refused(schema: str, said: str) -> None:
    with pytest.raises(PromptdError, match=said):
        gbnf("", schema)


@pytest.mark.parametrize(
    ("text", "kind"), [("x" * 65_537, TooLarge), ('root ::= "\0"', InvalidArgument)], ids=["large", "zero"]
)
def test_a_grammar_out_of_bounds_is_refused_before_anything_reads_it(text: str, kind: type[PromptdError]) -> None:
    with pytest.raises(kind):
        gbnf(text, "")


def test_what_is_confined_ends_with_its_time_and_hurts_nobody() -> None:
    def forever() -> bytes:
        while True:
            pass

    with pytest.raises(confined.Refused, match="too much time"):
        confined.confined(forever, 10)
    with pytest.raises(confined.Refused, match="over the limit of 10"):
        confined.confined(lambda: b"x" * 11, 10)
    with pytest.raises(confined.Refused, match=r"^no$"):
        confined.confined(lambda: exec("raise ValueError('no')"), 10)
    assert confined.confined(lambda: b"x" * 200_000, 200_000) == b"x" * 200_000


def test_a_grammar_holds_from_the_first_token_to_a_stop_string_across_tokens(
    engine: Engine, ask: Callable[..., Completion]
) -> None:
    sampling = msgspec.structs.replace(
        GREEDY,
        grammar='root ::= ("red green " | "blue yellow ")+',
        stop=("n bl", "w red", "n red", "w bl"),
        max_tokens=40,
    )
    reply = ask(engine.conversation("guest"), "Name colours.", sampling)
    assert reply.stop_reason is StopReason.STOP_SEQUENCE
    assert reply.text in ("red gree", "blue yello")


def test_every_turn_begins_its_grammar_anew(engine: Engine, ask: Callable[..., Completion]) -> None:
    conversation = engine.conversation("guest")
    sampling = msgspec.structs.replace(GREEDY, json_schema='{"enum": [1, 2, 3]}')
    assert [ask(conversation, "A number?", sampling).text in ("1", "2", "3") for _ in range(3)] == [True] * 3


def test_a_bias_and_log_probabilities_go_with_a_grammar(engine: Engine, ask: Callable[..., Completion]) -> None:
    sampling = msgspec.structs.replace(GREEDY, grammar='root ::= "yes" | "no"', logprobs=1)
    reply = ask(engine.conversation("guest"), "Is the sky blue?", sampling)
    assert "".join(each.data.decode() for each in reply.logprobs) == reply.text
    bias = tuple((each.token, -100.0) for each in reply.logprobs)
    other = ask(engine.conversation("guest"), "Is the sky blue?", msgspec.structs.replace(sampling, logit_bias=bias))
    assert {reply.text, other.text} <= {"yes", "no"}
    assert other.logprobs[0].token != reply.logprobs[0].token
