"""Graphs with LoRA adapters on one model: other replies, one worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import pytest
from lora_files import metadata, write_lora

from promptd.backends import open_graph as open_backend
from promptd.backends.ggml import GgmlGraph
from promptd.backends.text import Allowance
from promptd.chat import ChatOptions, Completion, Message
from promptd.config import EngineSettings, GraphSettings, LoraSettings
from promptd.errors import InvalidEncoding, NotFound, UnsupportedOperation
from promptd.tensor import Tensor

ENGINE = EngineSettings(threads=1, step_tokens=48, kv_tokens=2048)
Open = Callable[..., GgmlGraph]


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lora(tmp_path_factory.mktemp("lora") / "pirate.gguf")


@pytest.fixture(scope="module")
def open_graph(smollm2: Path) -> Iterator[Open]:
    graphs: list[GgmlGraph] = []

    def open_graph(*adapters: tuple[Path, float], **settings: object) -> GgmlGraph:
        given = [{"file": file, "scale": scale} for file, scale in adapters]
        table = {"model": "smollm2", "temperature": 0, "max_tokens": 6, "lora": given, **settings}
        graphs.append(GgmlGraph(smollm2, GraphSettings.model_validate(table), ENGINE))
        return graphs[-1]

    open_graph()  # keeps the worker for the whole module
    yield open_graph
    for graph in graphs:
        graph.close()


def first(graph: GgmlGraph, guest: str = "guest") -> set[int]:
    """Return the 20 tokens with which a reply begins most likely."""
    options = ChatOptions(logprobs=20, max_tokens=1)
    reply = graph.prompt_context(guest).send([Message("user", "Name a fruit.")], options).result()
    return {each.token for each in reply.logprobs[0].top}


def alike(one: set[int], other: set[int]) -> bool:
    """Return whether two sets are of the same weights: rounding changes some of the least likely tokens."""
    return len(one & other) >= 14


def test_an_adapter_changes_the_reply_as_much_as_its_scale_says(open_graph: Open, lora: Path) -> None:
    base = first(open_graph())
    little, much = (first(open_graph((lora, scale))) for scale in (0.0001, 1.0))
    assert alike(little, base)
    assert not alike(much, base)
    for none in (open_graph((lora, 0.0)), open_graph()):
        assert alike(first(none), base)


def test_graphs_with_different_adapters_answer_at_once_on_one_worker(open_graph: Open, lora: Path) -> None:
    plain, adapted, strong = open_graph(), open_graph((lora, 0.3)), open_graph((lora, 1.0))
    expected = [first(graph) for graph in (plain, adapted, strong)]
    tell = [Message("user", "Tell a story.")]
    options = ChatOptions(max_tokens=20)
    replies = [graph.prompt_context("busy").send(tell, options) for graph in (plain, adapted, strong)]
    assert all(map(alike, [first(graph) for graph in (plain, adapted, strong)], expected))
    assert not alike(expected[0], expected[2])
    made: list[Completion] = [reply.result() for reply in replies]
    assert all(completion.usage.generated for completion in made)
    (pid,) = {graph.stats().worker_pid for graph in (plain, adapted, strong)}
    assert pid is not None
    assert plain.stats().worker_starts == 1


def test_cells_are_never_shared_between_adapters(open_graph: Open, lora: Path) -> None:
    ask = [Message("user", "A question that nobody else has asked, and that is long enough to be found again.")]
    brief = ChatOptions(max_tokens=1)
    graphs = open_graph(), open_graph((lora, 0.5)), open_graph((lora, 0.25))
    for _ in range(2):
        cached = [graph.prompt_context("again").send(ask, brief).result().usage.cached for graph in graphs]
    assert all(cached), "each its own"
    other = open_graph((lora, 0.125))
    assert other.prompt_context("again").send(ask, brief).result().usage.cached == 0
    text = b"A text that nobody else goes on with, and that is long enough."
    costs = []
    for graph in graphs[:2]:
        context = graph.text_model(b"", "again").context("again")
        context.set_prompt(text)
        context.compute(Allowance())
        costs.append(context.usage.cached)
        context.close()
    assert costs == [0, 0]


def test_the_tensor_interface_has_the_adapter_too(open_graph: Open, lora: Path) -> None:
    answers = [
        graph.execution_context("guest").compute([("0", Tensor.text("One two three"))])[0][1].data
        for graph in (open_graph(), open_graph((lora, 4.0)))
    ]
    assert answers[0] != answers[1]


def test_adapters_come_and_go_while_the_model_stays(open_graph: Open, lora: Path, tmp_path: Path) -> None:
    graph = open_graph()
    base, worker = first(graph, "hot"), graph.stats().worker_pid
    second = write_lora(tmp_path / "second.gguf", seed=2, spread=0.5)

    def with_(*adapters: tuple[Path, float]) -> set[int]:
        lora = [{"file": file, "scale": scale} for file, scale in adapters]
        settings = GraphSettings.model_validate({**graph.settings.model_dump(), "lora": lora})
        return first(graph.configured(settings), "hot")

    one, both = with_((lora, 1.0)), with_((lora, 1.0), (second, 1.0))
    write_lora(second, seed=3, spread=0.5)
    changed = with_((lora, 1.0), (second, 1.0))
    assert not any(alike(each, other) for each, other in combinations((base, one, both, changed), 2))
    assert alike(with_(), base)
    assert (graph.stats().worker_pid, graph.stats().worker_starts) == (worker, 1)


def test_a_conversation_keeps_its_adapter_over_forks_and_a_new_worker(smollm2: Path, lora: Path) -> None:
    settings = GraphSettings.model_validate({"model": "m", "temperature": 0, "lora": f"{lora}:2"})
    graph = GgmlGraph(smollm2, settings, EngineSettings(threads=1, kv_tokens=512))
    options = ChatOptions(logprobs=20, max_tokens=2)
    context = graph.prompt_context("guest")
    context.send([Message("user", "Hi.")], options).result()
    fork = context.fork()
    ask = [Message("user", "Name a fruit.")]
    one = {each.token for each in fork.send(ask, options).result().logprobs[0].top}
    worker = graph.stats().worker_pid
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    other = {each.token for each in context.send(ask, options).result().logprobs[0].top}
    assert graph.stats().worker_starts == 2
    assert alike(one, other)
    graph.close()


def test_a_bad_adapter_is_refused_when_the_graph_is_opened(open_graph: Open, tmp_path: Path) -> None:
    worker = open_graph().stats().worker_pid
    wrong = write_lora(tmp_path / "wrong.gguf", {"blk.0.attn_q.weight": (32, 32)})
    with pytest.raises(InvalidEncoding, match=r"wrong.gguf does not fit .* is it for another model\?$"):
        open_graph((wrong, 1.0))
    odd = write_lora(tmp_path / "odd.gguf", entries=metadata(architecture="mamba"))
    with pytest.raises(InvalidEncoding, match="architecture mamba"):
        open_graph((odd, 0.0))
    with pytest.raises(NotFound):
        open_graph((tmp_path / "none.gguf", 1.0))
    with pytest.raises(UnsupportedOperation, match="only GGUF models can have LoRA adapters"):
        (tmp_path / "model.onnx").write_bytes(b"\x08\x07")
        open_backend(tmp_path / "model.onnx", GraphSettings(model="m", lora=(LoraSettings(file=odd),)), ENGINE)
    assert open_graph().stats().worker_pid == worker
