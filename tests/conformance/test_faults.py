"""The suite finds what it is made to find: echo graphs that are not quite an echo fail it, in the right checks."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace

import pytest

from promptd.backends.base import Graph
from promptd.backends.echo import EchoExecution, EchoGraph, EchoPrompt, EchoReply
from promptd.chat import ChatOptions, Message
from promptd.conformance.hosts import Promptd
from promptd.conformance.runner import Verdict, run_guest
from promptd.conformance.suite import load_suite, select
from promptd.errors import InvalidArgument, RuntimeFailure
from promptd.tensor import NamedTensor, Tensor, TensorType

TENSORS = "2024-10-28"
PROMPTS = "2024-10-28-prompt"


def failed_checks(open_graph: Callable[[], Graph], guest_name: str, *names: str) -> set[str]:
    [guest] = select(load_suite(), [f"{guest_name}:{name}" for name in names] or [guest_name])
    guest = replace(guest, checks=tuple(check for check in guest.checks if not check.traps))
    with closing(Promptd(timeout=60, open_graph=open_graph)) as host:
        return {result.check.name for result in run_guest(host, guest) if result.verdict is not Verdict.PASSED}


def tensors_through(change: Callable[[list[NamedTensor]], list[NamedTensor]]) -> Callable[[], Graph]:
    """Return what opens an echo whose tensors are changed on their way."""

    class Execution(EchoExecution):
        def compute(self, inputs: Sequence[NamedTensor], *, deadline: float | None = None) -> list[NamedTensor]:
            return change(list(inputs))

    class Faulty(EchoGraph):
        def execution_context(self, guest: str) -> Execution:
            return Execution()

    return Faulty


def prompts_through(change: Callable[[str], str]) -> Callable[[], Graph]:
    """Return what opens an echo whose replies are changed prompts."""

    class Prompt(EchoPrompt):
        def send(
            self,
            messages: Sequence[Message],
            options: ChatOptions = ChatOptions(),
            *,
            deadline: float | None = None,
        ) -> EchoReply:
            return EchoReply(change(messages[-1].content))

    class Faulty(EchoGraph):
        def prompt_context(self, guest: str, options: ChatOptions = ChatOptions()) -> Prompt:
            return Prompt()

    return Faulty


def each(change: Callable[[Tensor], Tensor]) -> Callable[[list[NamedTensor]], list[NamedTensor]]:
    return lambda named: [(name, change(tensor)) for name, tensor in named]


def test_an_echo_fails_nothing() -> None:
    assert failed_checks(EchoGraph, PROMPTS) == set()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (each(lambda tensor: replace(tensor, data=tensor.data[:-1])), "echo/type-fp32"),
        (each(lambda tensor: replace(tensor, data=tensor.data.replace(b"\0", b"\1"))), "echo/every-byte"),
        (each(lambda tensor: replace(tensor, dimensions=tensor.dimensions or (1,))), "echo/rank-zero"),
        (each(lambda tensor: replace(tensor, dimensions=tuple(reversed(tensor.dimensions)))), "echo/type-u8"),
        (each(lambda tensor: replace(tensor, type=TensorType.FP16)), "echo/type-bf16"),
        (each(lambda tensor: replace(tensor, data=tensor.data[: 1 << 20])), "echo/large-2mb"),
        (lambda named: [(name, named[0][1]) for name, _ in named], "echo/two-tensors"),
        (lambda named: named[:16], "coalesced/100-tensors"),
        (lambda named: named[::-1], "coalesced/order"),
        (lambda named: [(str(place), tensor) for place, (_, tensor) in enumerate(named)], "names/words"),
        (lambda named: [(name.split("\0")[0], tensor) for name, tensor in named], "names/nul"),
        (lambda named: [(unicodedata.normalize("NFC", name), tensor) for name, tensor in named], "names/look-alikes"),
        (lambda named: [(name.strip("\ufeff"), tensor) for name, tensor in named], "names/unicode"),
    ],
)
def test_a_change_to_tensors_is_found(change: Callable[[list[NamedTensor]], list[NamedTensor]], found: str) -> None:
    assert failed_checks(tensors_through(change), TENSORS, found) == {found}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (str.strip, "prompt/spaces"),
        (lambda text: text.replace("\r\n", "\n"), "prompt/line-ends"),
        (lambda text: text.split("\0")[0], "prompt/nul"),
        (lambda text: text or " ", "prompt/empty"),
        (lambda text: unicodedata.normalize("NFC", text), "prompt/combining"),
        (lambda text: unicodedata.normalize("NFD", text), "prompt/combining"),
        (lambda text: text.removeprefix("\ufeff"), "prompt/byte-order-mark"),
        (lambda text: "".join(letter for letter in text if letter < "\U00010000"), "prompt/astral"),
        (lambda text: text.replace("\x1b", ""), "prompt/terminal-escapes"),
        (lambda text: text.replace("<|im_end|>", ""), "prompt/special-tokens"),
        (lambda text: text.replace("\ufffe", ""), "prompt/noncharacters"),
        (lambda text: text.replace("\u0e01", ""), "prompt/every-character"),
        (lambda text: text[:1000_000], "prompt/large-1mb"),
    ],
)
def test_a_change_to_prompts_is_found(change: Callable[[str], str], found: str) -> None:
    assert failed_checks(prompts_through(change), PROMPTS, found) == {found}


def test_state_that_contexts_share_is_found() -> None:
    seen: list[str] = []

    def last_but_one(text: str) -> str:
        seen.append(text)
        return seen[-2] if len(seen) > 1 else text

    assert failed_checks(prompts_through(last_but_one), PROMPTS, "prompt/two-contexts")


def test_a_context_that_a_failure_spoils_is_found() -> None:
    class Spoilt(EchoExecution):
        computed = 0

        def compute(self, inputs: Sequence[NamedTensor], *, deadline: float | None = None) -> list[NamedTensor]:
            self.computed += 1
            if self.computed == 2:
                raise RuntimeFailure("once is enough")
            return list(inputs)

    class Faulty(EchoGraph):
        def execution_context(self, guest: str) -> Spoilt:
            return Spoilt()

    assert failed_checks(Faulty, TENSORS, "echo/compute-again")


def test_a_graph_that_takes_no_prompts_is_found() -> None:
    class Faulty(EchoGraph):
        def prompt_context(self, guest: str, options: ChatOptions = ChatOptions()) -> EchoPrompt:
            raise InvalidArgument("not here")

    assert failed_checks(Faulty, PROMPTS, "prompt/echo")
