"""A language model through the tensors of components: which input is the prompt, and what comes out."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from promptd.backends.ggml import GgmlGraph
from promptd.config import EngineSettings, GraphSettings
from promptd.errors import InvalidArgument, InvalidEncoding, PromptTooLong, RuntimeFailure, TimedOut, TooLarge
from promptd.tensor import Tensor, TensorType

ENGINE = EngineSettings(threads=1, step_tokens=64, kv_tokens=4096)
TOKYO = "<|im_start|>user\nWhat is the capital of Japan?<|im_end|>\n<|im_start|>assistant\n"
ANSWER = "The capital of Japan is Tokyo.<|im_end|>"


@pytest.fixture(scope="module")
def open_graph(smollm2: Path) -> Iterator[Callable[..., GgmlGraph]]:
    opened: list[GgmlGraph] = []

    def open_graph(**settings: Any) -> GgmlGraph:
        opened.append(GgmlGraph(smollm2, GraphSettings(model="smollm2", temperature=0, **settings), ENGINE))
        return opened[-1]

    open_graph()
    yield open_graph
    for graph in opened:
        graph.close()


def options(**values: Any) -> Tensor:
    return Tensor.text(json.dumps(values))


@pytest.mark.parametrize("name", ["0", "prompt", "user", "", "input"])
def test_the_prompt_may_have_any_name_and_the_answer_is_output_0(
    open_graph: Callable[..., GgmlGraph], name: str
) -> None:
    outputs = open_graph().execution_context("guest").compute([(name, Tensor.text(TOKYO))])
    assert outputs[0] == ("0", Tensor.text(ANSWER))
    assert outputs[0][1].dimensions == (len(ANSWER),)
    label, metadata = outputs[1]
    assert (label, json.loads(metadata.data)["output_tokens"]) == ("1", 8)


def test_the_prompts_dimensions_mean_nothing_and_other_types_are_passed_over(
    open_graph: Callable[..., GgmlGraph],
) -> None:
    floats = Tensor((1,), TensorType.FP32, struct.pack("<f", 1))
    prompt = Tensor((1,), TensorType.U8, TOKYO.encode())
    outputs = open_graph().execution_context("guest").compute([("noise", floats), ("text", prompt)])
    assert outputs[0][1].data.decode() == ANSWER
    with pytest.raises(InvalidArgument, match="no input is a prompt"):
        open_graph().execution_context("guest").compute([("noise", floats)])
    with pytest.raises(InvalidArgument, match="no input is a prompt"):
        open_graph().execution_context("guest").compute([])


@pytest.mark.parametrize("name", ["options", "metadata", "1"])
def test_a_configuration_holds_for_its_compute(open_graph: Callable[..., GgmlGraph], name: str) -> None:
    context = open_graph().execution_context("guest")
    outputs = context.compute([(name, options(**{"n-predict": 3})), ("0", Tensor.text(TOKYO))])
    assert outputs[0][1].data == b"The capital of"
    assert context.compute([("0", Tensor.text(TOKYO))])[0][1].data.decode() == ANSWER


def test_hayrides_options_are_understood(open_graph: Callable[..., GgmlGraph]) -> None:
    sent = options(temperature=0, num_context=0, num_batch=0, max_predict=3, top_k=0, top_p=0, seed=0)
    outputs = open_graph().execution_context("guest").compute([("user", Tensor.text(TOKYO)), ("options", sent)])
    assert outputs[0][1].data == b"The capital of"


def test_wrong_configurations_are_refused(open_graph: Callable[..., GgmlGraph]) -> None:
    context = open_graph().execution_context("guest")
    with pytest.raises(InvalidEncoding):
        context.compute([("options", Tensor.text("{")), ("0", Tensor.text(TOKYO))])
    with pytest.raises(InvalidArgument, match="mmproj"):
        context.compute([("options", options(mmproj="/etc/passwd")), ("0", Tensor.text(TOKYO))])


def test_a_graph_with_the_embedding_option_answers_with_a_vector(open_graph: Callable[..., GgmlGraph]) -> None:
    outputs = open_graph(embedding=True).execution_context("guest").compute([("0", Tensor.text("A cat sat."))])
    name, vector = outputs[0]
    assert (name, vector.type, vector.dimensions) == ("0", TensorType.FP32, (576,))
    values = struct.unpack("<576f", vector.data)
    assert abs(sum(value * value for value in values) - 1) < 1e-4
    by_option = (
        open_graph()
        .execution_context("guest")
        .compute([("options", options(embedding=True)), ("0", Tensor.text("A cat sat."))])
    )
    assert by_option[0][1] == vector


def test_errors_of_size_and_time(open_graph: Callable[..., GgmlGraph]) -> None:
    context = open_graph().execution_context("guest")
    with pytest.raises(PromptTooLong):
        context.compute([("options", options(**{"ctx-size": 256})), ("0", Tensor.text("word " * 300))])
    with pytest.raises(TimedOut):
        context.compute(
            [("options", options(**{"ignore-eos": True})), ("0", Tensor.text(TOKYO))], deadline=time.monotonic() + 0.1
        )
    context.tokens_left = 10
    with pytest.raises(TooLarge, match="token limit"):
        context.compute([("0", Tensor.text(TOKYO))])


def test_closing_a_context_ends_its_compute(open_graph: Callable[..., GgmlGraph]) -> None:
    context = open_graph().execution_context("guest")
    timer = threading.Timer(0.3, context.close)
    timer.start()
    with pytest.raises(RuntimeFailure, match="cancelled"):
        context.compute([("options", options(**{"ignore-eos": True})), ("0", Tensor.text(TOKYO))])
    timer.join()
    with pytest.raises(RuntimeFailure, match="cancelled"):
        context.compute([("0", Tensor.text(TOKYO))])


def test_what_a_compute_costs_is_told(open_graph: Callable[..., GgmlGraph]) -> None:
    context = open_graph().execution_context("guest")
    context.compute([("0", Tensor.text(TOKYO))])
    assert (context.usage.prompt, context.usage.generated) == (16, 8)
