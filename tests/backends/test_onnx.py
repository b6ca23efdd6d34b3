"""An ONNX graph computes what onnxruntime computes, refuses inputs it does not take, and ends in time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import magika
import numpy as np
import onnx_models as models
import pytest
from onnx import TensorProto, helper

from promptd.backends.onnx import OnnxGraph
from promptd.backends.onnx_model import GUEST_MODEL_MEMORY, choose_providers
from promptd.errors import (
    InvalidArgument,
    InvalidEncoding,
    NotFound,
    PromptdError,
    RuntimeFailure,
    TimedOut,
    TooLarge,
    UnsupportedOperation,
)
from promptd.tensor import NamedTensor, Tensor, TensorType


def compute(model: bytes, *inputs: NamedTensor) -> list[NamedTensor]:
    return OnnxGraph(model).execution_context("guest").compute(inputs)


def floats(*values: float, shape: tuple[int, ...] | None = None) -> Tensor:
    return Tensor((len(values),) if shape is None else shape, TensorType.FP32, np.array(values, "<f4").tobytes())


def integers(*values: int, shape: tuple[int, ...] | None = None) -> Tensor:
    return Tensor((len(values),) if shape is None else shape, TensorType.I64, np.array(values, "<i8").tobytes())


class TestTensors:
    @pytest.mark.parametrize("kind", TensorType)
    @pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,), (2, 0, 3)], ids=str)
    def test_every_type_and_shape_comes_back_as_it_went_in(self, kind: TensorType, shape: tuple[int, ...]):
        data = bytes(range(100))[: int(np.prod(shape)) * kind.item_size]
        tensor = Tensor(shape, kind, data)
        assert compute(models.identity(list(shape), models.WIT_TYPES[kind.value]), ("x", tensor)) == [("y", tensor)]

    def test_a_large_tensor_comes_back_whole(self):
        tensor = Tensor((3, 1000, 1000), TensorType.FP32, os.urandom(12_000_000))
        assert compute(models.identity(["a", "b", "c"]), ("x", tensor)) == [("y", tensor)]

    def test_brain_floats_are_computed_and_not_only_carried(self):
        cast = models.node("Cast", "x", "y", to=TensorProto.FLOAT)
        model = models.model(
            models.graph([cast], [models.port("x", ["n"], TensorProto.BFLOAT16)], [models.port("y", ["n"])])
        )
        brain = Tensor((2,), TensorType.BF16, b"\x80\x3f\x20\xc0")
        assert compute(model, ("x", brain)) == [("y", floats(1.0, -2.5))]

    def test_booleans_are_bytes_of_zero_and_one(self):
        model = models.unary("Not", ["n"], TensorProto.BOOL)
        assert compute(model, ("x", Tensor((3,), TensorType.U8, b"\x00\x01\x00"))) == [
            ("y", Tensor((3,), TensorType.U8, b"\x01\x00\x01"))
        ]
        with pytest.raises(InvalidArgument, match="'x' is boolean to the model, so each byte must be 0 or 1"):
            compute(model, ("x", Tensor((3,), TensorType.U8, b"\x00\x02\x00")))

    def test_a_scalar_may_be_given_as_one_value_in_one_dimension(self):
        assert compute(models.unary("Neg", []), ("x", floats(2.0))) == [("y", floats(-2.0, shape=()))]

    def test_an_input_of_unknown_rank_takes_every_shape(self):
        for tensor in (floats(2.0, shape=()), floats(2.0), floats(1.0, 2.0, shape=(1, 2, 1))):
            assert compute(models.identity(None), ("x", tensor)) == [("y", tensor)]

    @pytest.mark.parametrize("kind", [TensorProto.INT8, TensorProto.UINT16, TensorProto.UINT64])
    def test_types_wasi_nn_lacks_are_refused_when_they_are_used(self, kind: int):
        to_other = models.node("Cast", "x", "y", to=kind)
        output = models.model(models.graph([to_other], [models.port("x", ["n"])], [models.port("y", ["n"], kind)]))
        from_other = models.node("Cast", "x", "y", to=TensorProto.FLOAT)
        input_ = models.model(models.graph([from_other], [models.port("x", ["n"], kind)], [models.port("y", ["n"])]))
        with pytest.raises(
            UnsupportedOperation, match=r"'y' is a tensor\(u?int\d+\), which no wasi-nn tensor can carry"
        ):
            compute(output, ("x", floats(1.0)))
        with pytest.raises(
            UnsupportedOperation, match=r"'x' is a tensor\(u?int\d+\), which no wasi-nn tensor can carry"
        ):
            compute(input_, ("x", Tensor((1,), TensorType.U8, b"1")))
        with pytest.raises(UnsupportedOperation, match="'x' is a tensor"):
            compute(input_)


class TestInputs:
    SUBTRACT = models.subtract(["n"], ["n"])

    @pytest.mark.parametrize(("first", "second"), [("a", "b"), ("0", "1"), ("a", "1"), ("0", "b")])
    def test_inputs_go_by_name_or_by_position(self, first: str, second: str):
        expected = [("y", floats(3.0))]
        assert compute(self.SUBTRACT, (first, floats(5.0)), (second, floats(2.0))) == expected
        assert compute(self.SUBTRACT, (second, floats(2.0)), (first, floats(5.0))) == expected

    def test_a_name_that_looks_like_a_position_is_a_name(self):
        model = models.subtract(["n"], ["n"], a="1", b="0")
        assert compute(model, ("1", floats(5.0)), ("0", floats(2.0))) == [("y", floats(3.0))]

    @pytest.mark.parametrize("name", ["c", "2", "-1", "00", "", " 0", "٠", "9" * 5000])
    def test_an_unknown_name_is_refused_with_the_names_there_are(self, name: str):
        with pytest.raises(InvalidArgument, match=r"the model has no input .*; its inputs are: 'a', 'b'"):
            compute(self.SUBTRACT, ("a", floats(1.0)), ("b", floats(1.0)), (name, floats(1.0)))

    @pytest.mark.parametrize("again", ["a", "0"])
    def test_an_input_given_twice_is_refused(self, again: str):
        with pytest.raises(InvalidArgument, match=f"input 'a' is given twice, as 'a' and as '{again}'"):
            compute(self.SUBTRACT, ("a", floats(1.0)), (again, floats(1.0)), ("b", floats(1.0)))

    def test_a_missing_input_is_refused(self):
        with pytest.raises(InvalidArgument, match=r"input 'b' is missing; the model expects FP32 \[n\]"):
            compute(self.SUBTRACT, ("a", floats(1.0)))

    def test_an_input_with_a_default_may_be_missing(self):
        default = helper.make_tensor("b", TensorProto.FLOAT, [1], [10.0])
        model = models.model(
            models.graph(
                [models.node("Sub", "a b", "y")],
                [models.port("b", [1]), models.port("a", [1])],
                [models.port("y", [1])],
                [default],
            )
        )
        assert compute(model, ("a", floats(1.0))) == [("y", floats(-9.0))]
        assert compute(model, ("a", floats(1.0)), ("b", floats(2.0))) == [("y", floats(-1.0))]
        assert compute(model, ("0", floats(1.0)), ("1", floats(2.0))) == [("y", floats(-1.0))]

    def test_a_model_without_inputs_computes(self):
        constant = models.node("Constant", "", "y", value=helper.make_tensor("c", TensorProto.FLOAT, [1], [4.0]))
        assert compute(models.model(models.graph([constant], [], [models.port("y", [1])]))) == [("y", floats(4.0))]

    def test_outputs_have_the_models_names_and_order(self):
        split = models.node("Split", "x", "zulu alpha", num_outputs=2)
        outputs = [models.port("zulu", [1]), models.port("alpha", [1])]
        model = models.model(models.graph([split], [models.port("x", [2])], outputs))
        assert compute(model, ("x", floats(1.0, 2.0))) == [("zulu", floats(1.0)), ("alpha", floats(2.0))]

    @pytest.mark.parametrize(
        ("tensor", "sentence"),
        [
            (integers(*range(6), shape=(2, 3)), r"input 'x' is I64, but the model expects FP32 \[rows, 3\]"),
            (floats(*range(6)), r"input 'x' has shape \[6\], but the model expects FP32 \[rows, 3\]"),
            (floats(*range(6), shape=(3, 2)), r"input 'x' has shape \[3, 2\], but the model expects FP32 \[rows, 3\]"),
            (floats(*range(5), shape=(2, 3)), "'x' of type FP32 and shape 2x3 needs 24 bytes, but has 20"),
            (floats(*range(7), shape=(2, 3)), "'x' of type FP32 and shape 2x3 needs 24 bytes, but has 28"),
            (floats(shape=()), "'x' of type FP32 and shape scalar needs 4 bytes, but has 0"),
        ],
    )
    def test_a_tensor_that_does_not_fit_is_refused_with_what_would(self, tensor: Tensor, sentence: str):
        with pytest.raises(InvalidArgument, match=sentence):
            compute(models.identity(["rows", 3]), ("x", tensor))

    def test_a_dimension_with_one_name_has_one_size(self):
        with pytest.raises(InvalidArgument, match="input 'b' has 1 for dimension 'n', but input 'a' has 2"):
            compute(self.SUBTRACT, ("a", floats(1.0, 2.0)), ("b", floats(1.0)))
        assert compute(models.subtract([None], [None]), ("a", floats(1.0, 2.0)), ("b", floats(1.0))) == [
            ("y", floats(0.0, 1.0))
        ]

    @pytest.mark.parametrize("shape", [(0, *[2**32 - 1] * 4), (0,) * 100])
    def test_a_shape_no_array_can_have_is_refused(self, shape: tuple[int, ...]):
        with pytest.raises(InvalidArgument, match="beyond what arrays can have"):
            compute(models.identity(None), ("x", Tensor(shape, TensorType.FP32, b"")))

    def test_values_an_operator_rejects_end_in_one_sentence(self):
        gather = models.node("Gather", "x i", "y")
        inputs = [models.port("x", ["n"]), models.port("i", ["m"], TensorProto.INT64)]
        model = models.model(models.graph([gather], inputs, [models.port("y", ["m"])]))
        with pytest.raises(PromptdError, match="Gather") as caught:
            compute(model, ("x", floats(1.0)), ("i", integers(5)))
        assert "\n" not in str(caught.value)
        assert "onnxruntime_src" not in str(caught.value)


class TestLoading:
    def test_a_graph_loads_from_a_file(self, tmp_path: Path):
        path = tmp_path / "model.onnx"
        path.write_bytes(models.unary("Neg", ["n"]))
        graph = OnnxGraph(path)
        assert graph.execution_context("guest").compute([("x", floats(1.0))]) == [("y", floats(-1.0))]
        assert [(port.name, str(port)) for port in (*graph.inputs, *graph.outputs)] == [
            ("x", "FP32 [n]"),
            ("y", "FP32 [n]"),
        ]

    def test_a_missing_file_is_not_found_and_its_folder_not_told(self, tmp_path: Path):
        with pytest.raises(NotFound, match=r"^there is no ONNX model model\.onnx$"):
            OnnxGraph(tmp_path / "model.onnx")

    def test_a_folder_is_not_a_model(self, tmp_path: Path):
        with pytest.raises(InvalidArgument, match="cannot read the ONNX model"):
            OnnxGraph(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"hello", b"GGUF" + bytes(60), bytes(100), b"\x08\x0a", b"\x3a\x00"])
    def test_what_is_not_onnx_is_refused_as_file_and_as_bytes(self, content: bytes, tmp_path: Path):
        path = tmp_path / "model.onnx"
        path.write_bytes(content)
        for model in (content, path):
            with pytest.raises(InvalidEncoding, match="ONNX model") as caught:
                OnnxGraph(model)
            assert str(tmp_path) not in str(caught.value)

    def test_a_model_cut_off_anywhere_is_refused(self):
        whole = models.subtract([2], [2])
        for length in range(len(whole)):
            with pytest.raises(PromptdError):
                compute(whole[:length], ("a", floats(1.0, 2.0)), ("b", floats(1.0, 2.0)))

    def test_more_bytes_than_the_limit_are_refused(self):
        model = models.identity(["n"])
        with pytest.raises(TooLarge, match=f"this ONNX model is {len(model)} bytes; .* may be 10 at most"):
            OnnxGraph(model, limit=10)
        OnnxGraph(model, limit=len(model))

    def test_operators_onnxruntime_lacks_are_named(self):
        with pytest.raises(UnsupportedOperation, match="Nonsense"):
            OnnxGraph(models.unary("Nonsense", ["n"]))
        custom = helper.make_node("Custom", ["x"], ["y"], domain="elsewhere")
        with pytest.raises(UnsupportedOperation, match="elsewhere:Custom"):
            OnnxGraph(
                models.model(
                    models.graph([custom], [models.port("x", [1])], [models.port("y", [1])]), domain="elsewhere"
                )
            )

    def test_a_model_that_breaks_the_rules_is_refused(self):
        with pytest.raises(InvalidEncoding, match="MatMul"):
            OnnxGraph(models.unary("MatMul", ["n"]))

    def test_onnxruntimes_own_format_is_refused(self, tmp_path: Path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "model.ort")
        options.add_session_config_entry("session.save_model_format", "ORT")
        onnxruntime.InferenceSession(models.identity(["n"]), options)
        for model in (tmp_path / "model.ort", (tmp_path / "model.ort").read_bytes()):
            with pytest.raises(InvalidEncoding):
                OnnxGraph(model)

    def test_names_that_are_not_text_are_refused(self):
        model = models.subtract([1], [1], a="name").replace(b"name", b"na\xffe")
        with pytest.raises(InvalidEncoding, match="the name of an input or output is not UTF-8"):
            OnnxGraph(model)

    def test_the_gpu_is_used_where_there_is_one(self):
        cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
        assert choose_providers("auto", [cpu]) == ([cpu], None)
        assert choose_providers("auto", [cuda, cpu]) == ([cuda, cpu], None)
        assert choose_providers("gpu", ["CoreMLExecutionProvider", cpu]) == (["CoreMLExecutionProvider", cpu], None)
        assert choose_providers("cpu", [cuda, cpu]) == ([cpu], None)
        providers, warning = choose_providers("gpu", [cpu])
        assert providers == [cpu]
        assert warning is not None
        assert "runs on the CPU" in warning

    def test_a_graph_on_the_cpu_says_so_when_a_gpu_was_asked_for(self):
        import onnxruntime

        expected = not set(onnxruntime.get_available_providers()) & {"CUDAExecutionProvider", "CoreMLExecutionProvider"}
        assert bool(OnnxGraph(models.identity([1]), target="gpu").warnings) == expected
        assert OnnxGraph(models.identity([1]), target="cpu").warnings == ()

    def test_prompts_are_refused(self):
        graph = OnnxGraph(models.identity([1]))
        with pytest.raises(UnsupportedOperation, match="takes tensors, not prompts"):
            graph.prompt_context("guest")
        with pytest.raises(UnsupportedOperation, match="no tokens"):
            graph.count_tokens("text")

    def test_onnxruntime_is_imported_by_the_first_graph_and_logs_through_python(self, tmp_path: Path):
        path = tmp_path / "model.onnx"
        unused = helper.make_tensor("unused", TensorProto.FLOAT, [1], [1.0])
        shape = [models.port("shape", ["rank"], TensorProto.INT64)]
        zeros = models.node("ConstantOfShape", "shape", "y")
        path.write_bytes(models.model(models.graph([zeros], shape, [models.port("y", None)], [unused])))
        program = """
import logging, sys
from pathlib import Path
from promptd.backends.onnx import OnnxGraph
from promptd.errors import PromptdError
from promptd.tensor import Tensor, TensorType
assert "onnxruntime" not in sys.modules and "numpy" not in sys.modules
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s %(message).40s")
context = OnnxGraph(Path(sys.argv[1])).execution_context("guest")
try:
    context.compute([("shape", Tensor((1,), TensorType.I64, b"\\xff" * 8))])
except PromptdError as error:
    print(type(error).__name__)
"""
        ran = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
        assert ran.stderr == ""
        assert ran.stdout.splitlines() == [
            "promptd.backends.onnx_model onnxruntime: Removing initializer 'unuse",
            "RuntimeFailure",
        ]


class TestRunning:
    def test_many_contexts_compute_on_one_graph_at_once(self):
        graph = OnnxGraph(models.subtract(["n"], ["n"]))
        wrong: list[object] = []

        def work(worker: int) -> None:
            context = graph.execution_context(f"guest-{worker}")
            for turn in range(50):
                size = 1 + (worker * 50 + turn) % 97
                try:
                    result = context.compute([("a", floats(*[worker] * size)), ("b", floats(*[turn] * size))])
                except PromptdError as error:
                    wrong.append(error)
                else:
                    if result != [("y", floats(*[worker - turn] * size))]:
                        wrong.append(result)

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_a_compute_ends_at_its_deadline_and_the_context_goes_on(self):
        graph = OnnxGraph(models.counter())
        context, worker = graph.execution_context("guest"), graph.worker_pid
        with pytest.raises(TimedOut, match="the deadline passed while the ONNX graph was computing"):
            context.compute([("n", integers(10**15)), ("x", floats(1.0))], deadline=time.monotonic() + 0.2)
        with pytest.raises(TimedOut):
            context.compute([("n", integers(1)), ("x", floats(1.0))], deadline=time.monotonic())
        result = context.compute([("n", integers(3)), ("x", floats(1.0))], deadline=time.monotonic() + 60)
        assert result == [("y", floats(4.0, shape=()))]
        assert graph.worker_pid == worker

    def test_a_model_that_computes_while_it_loads_ends_at_the_deadline(self):
        side = helper.make_tensor("side", TensorProto.INT64, [2], [1500, 1500])
        value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.001])
        nodes = [models.node("ConstantOfShape", "side", "m0", value=value)]
        nodes += [models.node("MatMul", f"m{step} m0", f"m{step + 1}") for step in range(100)]
        model = models.model(models.graph(nodes, [], [models.port("m100", None)], [side]))
        with pytest.raises(TimedOut, match="the deadline passed while onnxruntime was loading the model"):
            OnnxGraph(model, deadline=time.monotonic() + 0.1)

    @pytest.mark.parametrize("closed", ["context", "graph"])
    def test_closing_ends_a_running_compute(self, closed: str):
        graph = OnnxGraph(models.counter())
        context = graph.execution_context("guest")
        closing = threading.Timer(0.2, context.close if closed == "context" else graph.close)
        closing.start()
        with pytest.raises(RuntimeFailure, match="closed"):
            context.compute([("n", integers(10**15)), ("x", floats(1.0))])
        with pytest.raises(RuntimeFailure, match="closed"):
            context.compute([("n", integers(1)), ("x", floats(1.0))])
        context.close()
        graph.close()

    def test_closing_one_context_leaves_the_others_running(self):
        graph = OnnxGraph(models.counter())
        first, second = graph.execution_context("one"), graph.execution_context("two")
        closing = threading.Timer(0.05, first.close)
        closing.start()
        turns = 500_000
        result = second.compute([("n", integers(turns)), ("x", floats(0.0))])
        closing.join()
        assert result == [("y", floats(float(turns), shape=()))]

    def test_a_graph_cannot_take_all_of_the_memory(self):
        context = OnnxGraph(models.zeros()).execution_context("guest")
        with pytest.raises(TooLarge, match="more memory than the 1024 MiB it may take"):
            context.compute([("shape", integers(GUEST_MODEL_MEMORY // 4 + 1))])
        assert context.compute([("shape", integers(2))]) == [("y", floats(0.0, 0.0))]


class TestRealModel:
    """The content-type model inside the package magika, and that package's own answers."""

    @pytest.mark.parametrize(
        ("content", "label"),
        [
            (b"import os\n\n\ndef main() -> None:\n    print(os.getcwd())\n" * 20, "python"),
            (b'{"name": "value", "list": [1, 2, 3]}\n' * 200, "jsonl"),
        ],
    )
    def test_it_answers_as_its_own_package_does(self, content: bytes, label: str):
        own = magika.Magika()
        folder = Path(magika.__file__).parent / "models" / own.get_model_name()
        labels = json.loads((folder / "config.min.json").read_text())["target_labels_space"]
        context = OnnxGraph(folder / "model.onnx").execution_context("guest")
        ((name, scores),) = context.compute([("bytes", magika_features(content))])
        probabilities = np.frombuffer(scores.data, "<f4")
        prediction = own.identify_bytes(content).prediction
        assert (name, scores.dimensions) == ("target_label", (1, len(labels)))
        assert labels[probabilities.argmax()] == prediction.dl.label == label
        assert probabilities.max() == np.float32(prediction.score)


def magika_features(content: bytes) -> Tensor:
    """Return the model's input: 1024 bytes from each end of the content without its outer spaces, padded with 256."""
    head, tail = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    features = [*head, *[256] * (1024 - len(head)), *[256] * (1024 - len(tail)), *tail]
    return Tensor((1, 2048), TensorType.I32, np.array(features, "<i4").tobytes())
