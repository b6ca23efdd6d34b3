"""promptd:prompt/{chat,tokens,handler,output}: what a guest that knows promptd can do beyond wasi:nn/prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import wat
from guest_host import Host

from promptd.backends.echo import EchoGraph, EchoPrompt
from promptd.chat import ChatOptions, Completion, Message, StopReason, Usage
from promptd.errors import Busy, RuntimeFailure, TooLarge
from promptd.wasm.traps import GuestTrap

OPEN = """
      (call $open (i32.const 1024) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then
        (i32.store8 (i32.const 1400) (i32.add (i32.const 48) (i32.load8_u (i32.const 68))))
        (call $print (i32.const 1400) (i32.const 1))
        (call $print-string (i32.const 72))
        (return (i32.const 1))))
      (local.set $session (i32.load (i32.const 68)))"""
SEND = """
      (call $send (local.get $session) (i32.const 2048) (i32.const 1) (i32.const 80))
      (if (i32.load8_u (i32.const 80)) (then (call $print-string (i32.const 88)) (return (i32.const 1))))
      (call $print-string (i32.const 84))"""
STREAM = """
      (call $stream (local.get $session) (i32.const 2048) (i32.const 1) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (call $print-string (i32.const 72)) (return (i32.const 1))))
      (local.set $reply (i32.load (i32.const 68)))"""
NEXT = """
      (block $end (loop $more
        (call $next (local.get $reply) (i32.const 80))
        (if (i32.load8_u (i32.const 80)) (then (call $print-string (i32.const 88)) (return (i32.const 1))))
        (br_if $end (i32.eqz (i32.load8_u (i32.const 84))))
        (call $print-string (i32.const 88))
        (call $print (i32.const 1300) (i32.const 1))
        (br $more)))"""
FINISH = """
      (call $finish (local.get $reply) (i32.const 80))
      (if (i32.load8_u (i32.const 80)) (then (call $print-string (i32.const 88)) (return (i32.const 1))))
      (call $print-string (i32.const 84))"""


def chat(*steps: str, graph: str = "echo", message: str = "hello", data: str = "") -> str:
    body = f"""
    (data (i32.const 1300) "|") {data}
    (func $main (result i32)
      (local $session i32) (local $reply i32)
      {"".join(steps)}
      (i32.const 0))"""
    return wat.chatting(body, graph, (message,))


class Spelling(EchoGraph):
    """A graph that answers letter by letter, counts each as a token, and keeps what it was asked with."""

    def __init__(self) -> None:
        self.options: list[ChatOptions] = []
        self.messages: list[Message] = []
        self.cancelled = 0

    def prompt_context(self, guest: str, options: ChatOptions = ChatOptions()) -> SpellingPrompt:
        self.options.append(options)
        return SpellingPrompt(self)


class SpellingPrompt(EchoPrompt):
    def __init__(self, graph: Spelling) -> None:
        super().__init__()
        self._graph = graph

    def send(
        self, messages: Sequence[Message], options: ChatOptions = ChatOptions(), *, deadline: float | None = None
    ) -> SpellingReply:
        self._graph.options.append(options)
        self._graph.messages += messages
        text = messages[-1].content
        return SpellingReply(self._graph, text, text if options.max_tokens is None else text[: options.max_tokens])


class SpellingReply:
    def __init__(self, graph: Spelling, prompt: str, text: str) -> None:
        self._graph = graph
        reason = StopReason.END_OF_TURN if text == prompt else StopReason.MAX_TOKENS
        self._completion = Completion(text, reason, Usage(len(prompt), 0, len(text)))

    def __iter__(self) -> Iterator[str]:
        yield from self._completion.text

    def result(self) -> Completion:
        return self._completion

    def cancel(self) -> None:
        self._graph.cancelled += 1


def test_a_session_answers_messages(host: Host) -> None:
    assert host.run(chat(OPEN, SEND, SEND, message="Grüße")) == (0, "GrüßeGrüße")


def test_a_completion_tells_its_usage_and_why_it_stopped(host: Host) -> None:
    host.graphs["echo"] = Spelling()
    places = enumerate((92, 96, 100, 104))
    digits = "".join(
        f"(i32.store8 (i32.const {1400 + i}) (i32.add (i32.const 48) (i32.load8_u (i32.const {at}))))"
        for i, at in places
    )
    assert host.run(chat(OPEN, SEND, digits, "(call $print (i32.const 1400) (i32.const 4))")) == (0, "hello0505")


def test_a_reply_can_be_read_piece_by_piece_and_whole_at_its_end(host: Host) -> None:
    host.graphs["echo"] = Spelling()
    assert host.run(chat(OPEN, STREAM, NEXT, NEXT, FINISH)) == (0, "h|e|l|l|o|hello")


def test_an_empty_reply_has_no_pieces(host: Host) -> None:
    assert host.run(chat(OPEN, STREAM, NEXT, FINISH, message="")) == (0, "")


def test_the_role_and_the_options_of_a_guest_reach_the_graph(host: Host) -> None:
    graph = host.graphs["echo"] = Spelling()
    options = """
    (func $set (param $at i32) (param $value i32)
      (i32.store8 (i32.add (i32.const 1036) (local.get $at)) (i32.const 1))
      (i32.store (i32.add (i32.const 1040) (local.get $at)) (local.get $value)))"""
    given = """
      (i32.store8 (i32.const 1032) (i32.const 1))
      (call $set (i32.const 0) (i32.const 77))
      (call $set (i32.const 8) (i32.reinterpret_f32 (f32.const 0.5)))
      (call $set (i32.const 48) (i32.const 4000000000))
      (i32.store (i32.const 1092) (i32.const 1216)) (i32.store (i32.const 1096) (i32.const 1))
      (i32.store (i32.const 1216) (i32.const 1300)) (i32.store (i32.const 1220) (i32.const 1))"""
    assert host.run(chat(given, OPEN, SEND, data=options)) == (0, "hello")
    assert graph.options[0] == ChatOptions(max_tokens=77, temperature=0.5, seed=4000000000, stop=("|",))
    assert graph.messages == [Message("user", "hello")]


@pytest.mark.parametrize(
    ("offset", "chosen"),
    [(64, ChatOptions(grammar="|")), (76, ChatOptions(json_schema="|"))],
    ids=["grammar", "schema"],
)
def test_a_grammar_and_a_schema_are_the_backends_to_keep(host: Host, offset: int, chosen: ChatOptions) -> None:
    graph = host.graphs["echo"] = Spelling()
    at = 1036 + offset
    given = f"""(i32.store8 (i32.const 1032) (i32.const 1)) (i32.store8 (i32.const {at}) (i32.const 1))
      (i32.store (i32.const {at + 4}) (i32.const 1300)) (i32.store (i32.const {at + 8}) (i32.const 1))"""
    assert host.run(chat(given, OPEN, SEND))[0] == 0
    assert graph.options[0] == chosen


def test_a_graph_that_is_not_granted_is_not_found(host: Host) -> None:
    assert host.run(chat(OPEN, graph="secret")) == (1, "1no graph is named 'secret'")


def test_a_fork_has_the_past_of_its_session_and_a_rewind_forgets_it(host: Host) -> None:
    def rewind(turns: int) -> str:
        return f"""
      (call $rewind (local.get $session) (i32.const {turns}) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (call $print-string (i32.const 72)) (return (i32.const 1))))"""

    fork = """
      (call $fork (local.get $session) (i32.const 64))
      (call $drop-session (local.get $session))
      (local.set $session (i32.load (i32.const 68)))"""
    assert host.run(chat(OPEN, SEND, SEND, fork, rewind(2), SEND)) == (0, "hellohellohello")
    assert host.run(chat(OPEN, SEND, fork, rewind(2))) == (1, "hellocannot rewind 2 turns of a conversation that has 1")


@pytest.mark.parametrize(
    ("error", "case"), [(Busy("later"), 3), (TooLarge("too long"), 2), (RuntimeFailure("it broke"), 6)]
)
def test_an_error_of_the_graph_is_the_case_of_its_code(host: Host, error: Exception, case: int) -> None:
    class Failing(EchoGraph):
        def prompt_context(self, guest: str, options: ChatOptions = ChatOptions()) -> EchoPrompt:
            raise error

    host.graphs["echo"] = Failing()
    assert host.run(chat(OPEN)) == (1, f"{case}{error}")


def test_tokens_are_counted_by_the_graph(host: Host) -> None:
    count = """
      (call $count (i32.const 1200) (i32.const 4)
        (i32.load (i32.const 2052)) (i32.load (i32.const 2056)) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (call $print-string (i32.const 72)) (return (i32.const 1))))
      (i32.store8 (i32.const 1400) (i32.add (i32.const 48) (i32.load (i32.const 68))))
      (call $print (i32.const 1400) (i32.const 1))"""
    assert host.run(chat(count, message="seven b")) == (0, "7")
    assert host.run(chat(count, graph="nope")) == (1, "no graph is named 'nope'")


def test_the_token_limit_counts_prompts_and_replies_and_cuts_the_last_reply(host: Host) -> None:
    graph = host.graphs["echo"] = Spelling()
    opened = host.open(chat(OPEN, SEND, SEND, SEND), tokens=18)
    assert opened.session.run() == 1
    assert opened.stdout == b"hello" + b"hello" + b"the token limit of 18 is reached: 20 are used"
    assert opened.session.usage == Usage(10, 0, 10)
    assert [options.max_tokens for options in graph.options] == [None, 18, 8]


def test_a_prompt_longer_than_the_tokens_left_is_refused_before_it_costs_anything(host: Host) -> None:
    graph = host.graphs["echo"] = Spelling()
    assert host.run(chat(OPEN, SEND), tokens=4) == (1, "the token limit of 4 is reached: 0 are used")
    assert graph.messages == []


def test_a_reply_dropped_half_way_is_cancelled_and_counted(host: Host) -> None:
    graph = host.graphs["echo"] = Spelling()
    drop = "(call $next (local.get $reply) (i32.const 80)) (call $drop-reply (local.get $reply))"
    opened = host.open(chat(OPEN, STREAM, drop))
    assert opened.session.run() == 0
    assert graph.cancelled == 1
    assert opened.session.usage == Usage(5, 0, 5)


def test_a_handler_answers_again_and_again_and_streams_its_parts(host: Host) -> None:
    opened = host.open(wat.HANDLER)
    parts: list[str] = []
    for text in ("one", "two", "drei ßß"):
        said = opened.session.respond([Message("system", "s"), Message("user", text)], parts.append)
        assert said == text
    assert parts == ["partial: "] * 3
    assert not opened.session.ended


def test_an_error_of_a_handler_is_the_error_its_code_names_and_the_session_goes_on(host: Host) -> None:
    opened = host.open(wat.HANDLER)
    with pytest.raises(TooLarge, match="that is more than I can read"):
        opened.session.respond([Message("user", "x" * 21)])
    assert opened.session.respond([Message("user", "short")]) == "short"


def test_a_handler_that_trapped_answers_no_more(host: Host) -> None:
    opened = host.open(wat.HANDLER)
    for _ in range(2):
        with pytest.raises(GuestTrap, match="`unreachable`"):
            opened.session.respond([Message("user", "trap")])
    assert opened.session.ended
