"""wasi:nn/prompt, under each version it is served with."""

from __future__ import annotations

import logging

import pytest
import wat
from guest_host import Host

from promptd.backends.echo import EchoGraph, EchoPrompt
from promptd.chat import ChatOptions
from promptd.errors import UnsupportedOperation
from promptd.wasm.grants import Grant

VERSIONS = [wat.RELEASED, wat.PHASE_3]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("own", [True, False])
def test_a_prompt_is_answered_whether_init_takes_its_graph_by_own_or_by_borrow(
    host: Host, version: str, own: bool
) -> None:
    assert host.run(wat.prompting("echo", "Grüße, 世界 🌍", version, own=own)) == (0, "Grüße, 世界 🌍")


@pytest.mark.parametrize("version", VERSIONS)
def test_an_empty_prompt_is_a_prompt(host: Host, version: str) -> None:
    assert host.run(wat.prompting("echo", "", version)) == (0, "")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_graph_that_is_not_granted_looks_like_one_that_does_not_exist(
    host: Host, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    host.graphs["secret"] = EchoGraph()
    guest = host.load(wat.prompting("secret", "hi", version))
    with caplog.at_level(logging.WARNING, "promptd.grants"):
        denied = host.run(guest, grant=Grant())
    assert "graph 'secret', which it is not granted" in caplog.text
    del host.graphs["secret"]
    assert host.run(guest, grant=Grant(graphs=frozenset({"secret"}))) == denied
    assert denied == (1, "6no graph is named 'secret'")


def test_a_graph_that_takes_no_prompts_fails_with_a_string(host: Host) -> None:
    class NoPrompts(EchoGraph):
        def prompt_context(self, guest: str, options: ChatOptions = ChatOptions()) -> EchoPrompt:
            raise UnsupportedOperation("this graph takes tensors, not prompts")

    host.graphs["echo"] = NoPrompts()
    assert host.run(wat.prompting("echo", "hi")) == (
        1,
        "unsupported-operation: this graph takes tensors, not prompts",
    )


def test_a_prompt_over_its_size_limit_is_too_large(host: Host) -> None:
    assert host.run(wat.prompting("echo", "x" * 11), prompt=10) == (
        1,
        "too-large: the prompt has 11 bytes and the limit is 10",
    )


def test_a_backend_that_fails_unexpectedly_is_a_runtime_error_and_no_traceback(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(EchoGraph):
        def prompt_context(self, guest: str, options: ChatOptions = ChatOptions()) -> EchoPrompt:
            raise ZeroDivisionError("a fault of promptd")

    host.graphs["echo"] = Broken()
    with caplog.at_level(logging.DEBUG, "promptd.guest"):
        assert host.run(wat.prompting("echo", "hi")) == (
            1,
            "runtime-error: promptd failed in init; its debug log says why",
        )
    assert "a fault of promptd" in caplog.text
