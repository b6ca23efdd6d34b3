"""wasi:nn/{tensor,graph,inference,errors}: the echo graph gives back what it was given."""

from __future__ import annotations

from typing import Any

import pytest
import wat
from guest_host import Host
from wasmtime.component import ListType

from promptd.backends.echo import EchoExecution, EchoGraph
from promptd.errors import UnsupportedOperation, code_of
from promptd.tensor import NamedTensor, Tensor, TensorType
from promptd.wasm.stdio import Stdin
from promptd.wasm.traps import LIST_CALL_LIMIT, GuestCallLimit, GuestTrap

VERSIONS = [wat.RELEASED, wat.PHASE_3]

OPEN = """
      (call $load-by-name (i32.const 1024) (i32.const 4) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (call $print-error (i32.load (i32.const 68))) (return (i32.const 1))))
      (call $init-execution (i32.load (i32.const 68)) (i32.const 72))
      (if (i32.load8_u (i32.const 72)) (then (call $print-error (i32.load (i32.const 76))) (return (i32.const 1))))
      (call $drop-graph (i32.load (i32.const 68)))"""
"""Loads the graph `echo` and leaves an execution context's handle at 76."""

COMPUTE = """
      (call $infer (i32.load (i32.const 76)) (i32.const 128) (local.get $count) (i32.const 80))
      (if (i32.load8_u (i32.const 80)) (then (call $print-error (i32.load (i32.const 84))) (return (i32.const 1))))"""
"""Computes on the named tensors listed at 128; the outputs' list stands at 84."""


def computing(
    data_size: int, dimensions: tuple[int, ...], type: int, names: tuple[str, ...] = ("x",), version: str = wat.RELEASED
) -> str:
    """Return a guest that computes on tensors of `data_size` bytes 0xAB and prints the first output's data."""
    dims = "".join(
        f"(i32.store (i32.const {512 + 4 * i}) (i32.const {dimension}))" for i, dimension in enumerate(dimensions)
    )
    inputs = "".join(
        f"""
      (i32.store (i32.const {128 + 12 * i}) (i32.const {600 + i}))
      (i32.store (i32.const {132 + 12 * i}) (i32.const 1))
      (i32.store (i32.const {136 + 12 * i}) (call $tensor-new (i32.const 512) (i32.const {len(dimensions)})
        (i32.const {type}) (local.get $data) (i32.const {data_size})))"""
        for i in range(len(names))
    )
    return wat.command(
        f"""
    (data (i32.const 1024) "echo")
    (data (i32.const 600) "{"".join(names)}")
    (func $main (result i32)
      (local $data i32) (local $count i32)
      (local.set $count (i32.const {len(names)}))
      (local.set $data (call $realloc (i32.const 0) (i32.const 0) (i32.const 1) (i32.const {data_size})))
      (memory.fill (local.get $data) (i32.const 0xab) (i32.const {data_size}))
      {dims}{OPEN}{inputs}{COMPUTE}
      (call $tensor-data (i32.load (i32.add (i32.load (i32.const 84)) (i32.const 8))) (i32.const 92))
      (call $print-string (i32.load (i32.const 84)))
      (call $print-string (i32.const 92))
      (i32.const 0))""",
        version=version,
    )


def outcome(host: Host, guest: str, **limits: int) -> tuple[int, bytes]:
    opened = host.open(guest, **limits)
    return opened.session.run(), bytes(opened.stdout)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("type", "size"), list(enumerate([2, 4, 8, 2, 1, 4, 8])))
def test_a_tensor_of_every_type_comes_back(host: Host, version: str, type: int, size: int) -> None:
    assert outcome(host, computing(6 * size, (1, 2, 3), type, version=version)) == (0, b"x" + b"\xab" * 6 * size)


@pytest.mark.parametrize("dimensions", [(0,), (3, 0, 7)])
def test_a_tensor_without_elements_comes_back(host: Host, dimensions: tuple[int, ...]) -> None:
    assert outcome(host, computing(0, dimensions, 1)) == (0, b"x")


def test_a_tensor_without_dimensions_is_a_scalar(host: Host) -> None:
    assert outcome(host, computing(4, (), 1)) == (0, b"x" + b"\xab" * 4)


def test_a_picture_of_600_kilobytes_comes_back(host: Host) -> None:
    size = 224 * 224 * 3 * 4
    assert outcome(host, computing(size, (1, 3, 224, 224), 1)) == (0, b"x" + b"\xab" * size)


def test_the_largest_tensor_one_call_carries_comes_back(host: Host) -> None:
    size = LIST_CALL_LIMIT - 64
    assert outcome(host, computing(size, (size,), 4)) == (0, b"x" + b"\xab" * size)


def test_a_larger_tensor_ends_the_guest_with_a_sentence_that_names_the_limit(host: Host) -> None:
    size = LIST_CALL_LIMIT + 1
    with pytest.raises(
        GuestCallLimit, match=f"too-large: .* wasmtime carries \\({LIST_CALL_LIMIT} bytes of list<u8>\\)"
    ) as ended:
        host.run(computing(size, (size,), 4))
    assert code_of(ended.value).name == "too-large"


class Inflating(EchoGraph):
    """Answers with four times the largest tensor that one call carries."""

    def execution_context(self, guest: str) -> EchoExecution:
        class Execution(EchoExecution):
            def compute(self, inputs: Any, *, deadline: float | None = None) -> list[NamedTensor]:
                size = 4 * LIST_CALL_LIMIT
                return [(name, Tensor((size,), TensorType.U8, b"\xab" * size)) for name, _ in inputs]

        return Execution()


def test_there_is_no_such_limit_on_what_a_graph_answers(host: Host) -> None:
    host.graphs["echo"] = Inflating()
    code, output = outcome(host, computing(1, (1,), 4))
    assert (code, len(output)) == (0, 1 + 4 * LIST_CALL_LIMIT)


def test_text_may_have_any_shape(host: Host) -> None:
    assert outcome(host, computing(5, (1,), 4)) == (0, b"x" + b"\xab" * 5)


def test_data_of_another_length_than_its_shape_is_an_invalid_argument(host: Host) -> None:
    assert outcome(host, computing(5, (1, 2), 1)) == (
        1,
        b"0tensor 'x' of type FP32 and shape 1x2 needs 8 bytes, but has 5",
    )


def test_two_inputs_of_one_name_are_an_invalid_argument(host: Host) -> None:
    assert outcome(host, computing(1, (1,), 4, ("x", "x"))) == (1, b"0two inputs are named 'x'")
    assert outcome(host, computing(1, (1,), 4, ("x", "y"))) == (0, b"x\xab")


def test_a_graph_that_takes_no_tensors_says_so(host: Host) -> None:
    class NoTensors(EchoGraph):
        def execution_context(self, guest: str) -> EchoExecution:
            raise UnsupportedOperation("this graph takes prompts, not tensors")

    host.graphs["echo"] = NoTensors()
    assert outcome(host, computing(1, (1,), 4)) == (1, b"4this graph takes prompts, not tensors")


@pytest.mark.parametrize(
    ("encoding", "error"),
    [
        (0, "1promptd has no backend for the encoding openvino; it executes onnx and ggml"),
        (1, "1this model is "),
        (5, "1this model is "),
        (6, "1this model is "),
    ],
)
def test_bytes_that_are_no_model_are_an_invalid_encoding(host: Host, encoding: int, error: str) -> None:
    guest = wat.command(
        f"""
    (func $main (result i32)
      (i32.store (i32.const 512) (i32.const 1024))
      (i32.store (i32.const 516) (i32.const 100))
      (call $load (i32.const 512) (i32.const 1) (i32.const {encoding}) (i32.const 0) (i32.const 64))
      (call $print-error (i32.load (i32.const 68)))
      (i32.load8_u (i32.const 64)))""",
        version=wat.RELEASED,
    )
    code, text = host.run(guest)
    assert code == 1
    assert text.startswith(error)


def test_a_result_can_be_the_next_input_without_its_data_entering_the_guest(host: Host) -> None:
    again = """
      (i32.store (i32.const 128) (i32.const 600))
      (i32.store (i32.const 132) (i32.const 1))
      (i32.store (i32.const 136) (i32.load (i32.add (i32.load (i32.const 84)) (i32.const 8))))"""
    text = computing(4, (4,), 4)
    assert outcome(host, text.replace(COMPUTE, COMPUTE + again + COMPUTE + again + COMPUTE)) == (
        0,
        b"x\xab\xab\xab\xab",
    )


def test_a_tensor_passed_on_is_copied_into_the_host_once_and_out_of_it_once(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, lifted, lowered = 100_000, [0], [0]
    from_guest, to_guest = ListType.convert_from_c, ListType.convert_to_c

    def lift(self: Any, raw: Any) -> Any:
        value = from_guest(self, raw)
        lifted[0] += len(value) if isinstance(value, bytes) else 0
        return value

    def lower(self: Any, store: Any, value: Any, pointer: Any) -> None:
        lowered[0] += len(value) if isinstance(value, bytes) else 0
        to_guest(self, store, value, pointer)

    monkeypatch.setattr(ListType, "convert_from_c", lift)
    monkeypatch.setattr(ListType, "convert_to_c", lower)
    pass_on = """
      (i32.store (i32.const 128) (i32.const 600))
      (i32.store (i32.const 132) (i32.const 1))
      (i32.store (i32.const 136) (i32.load (i32.add (i32.load (i32.const 84)) (i32.const 8))))"""
    guest = computing(size, (size,), 4).replace(COMPUTE, COMPUTE + 20 * (pass_on + COMPUTE))
    assert outcome(host, guest) == (0, b"x" + b"\xab" * size)
    assert (lifted[0], lowered[0]) == (size, size)


def test_a_tensor_given_away_cannot_be_used_again(host: Host) -> None:
    drop_output = "(call $drop-tensor (i32.load (i32.add (i32.load (i32.const 84)) (i32.const 8))))"
    text = computing(4, (4,), 4)
    with pytest.raises(GuestTrap, match="unknown handle index"):
        host.run(text.replace(COMPUTE, COMPUTE + drop_output + COMPUTE))


def test_a_guest_cannot_hold_more_in_tensors_than_its_memory_limit(host: Host) -> None:
    hoard = wat.command(
        """
    (func $main (result i32)
      (loop $more
        (drop (call $tensor-new (i32.const 512) (i32.const 1) (i32.const 4) (i32.const 0) (i32.const 65536)))
        (br $more))
      (i32.const 0))""",
        version=wat.RELEASED,
    )
    with pytest.raises(GuestTrap, match="it holds more than its memory limit of 1048576 bytes in tensors"):
        host.run(hoard, memory=1024**2)


def test_tensors_that_are_dropped_do_not_count(host: Host) -> None:
    tidy = wat.command(
        """
    (func $main (result i32)
      (local $left i32)
      (local.set $left (i32.const 40))
      (loop $more
        (call $drop-tensor
          (call $tensor-new (i32.const 512) (i32.const 1) (i32.const 4) (i32.const 0) (i32.const 65536)))
        (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
      (i32.const 0))""",
        version=wat.RELEASED,
    )
    assert host.run(tidy, memory=1024**2) == (0, "")


def test_the_limit_on_contexts_counts_those_that_live(host: Host) -> None:
    def opening(times: int, drop: str) -> str:
        return wat.command(
            f"""
    (data (i32.const 1024) "echo")
    (func $main (result i32)
      (local $left i32)
      (call $load-by-name (i32.const 1024) (i32.const 4) (i32.const 64))
      (local.set $left (i32.const {times}))
      (loop $more
        (call $init (i32.load (i32.const 68)) (i32.const 72))
        (if (i32.load8_u (i32.const 72)) (then (call $print-string (i32.const 76)) (return (i32.const 1))))
        {drop}
        (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
      (i32.const 0))""",
            version=wat.PHASE_3,
        )

    assert host.run(opening(4, ""), contexts=4) == (0, "")
    full = (1, "too-large: the limit of 4 contexts is reached; drop one first")
    assert host.run(opening(5, ""), contexts=4) == full
    assert host.run(opening(5, "(call $drop-context (i32.load (i32.const 76)))"), contexts=4) == (0, "")


def test_what_a_guest_never_dropped_is_freed_with_its_session(host: Host) -> None:
    closed: list[str] = []

    class Counting(EchoGraph):
        def execution_context(self, guest: str) -> EchoExecution:
            class Execution(EchoExecution):
                def close(self) -> None:
                    closed.append(guest)

            return Execution()

    host.graphs["echo"] = Counting()
    opened = host.open(computing(1, (1,), 4))
    assert opened.session.run() == 0
    assert closed == []
    opened.session.close()
    assert closed == ["guest"]
    opened.session.close()
    assert closed == ["guest"]


def test_sessions_do_not_see_each_others_handles(host: Host) -> None:
    holder = wat.command(
        """
    (data (i32.const 1024) "echo")
    (func $main (result i32)
      (call $load-by-name (i32.const 1024) (i32.const 4) (i32.const 64))
      (drop (call $input))
      (i32.const 0))""",
        version=wat.RELEASED,
    )

    def thief(guess: int) -> str:
        return wat.command(
            f"(func $main (result i32) (call $init-execution (i32.const {guess}) (i32.const 72)) (i32.const 0))",
            version=wat.RELEASED,
        )

    first = host.open(holder, stdin=Stdin.LINES)
    assert first.session.turn() is None
    for guess in range(1, 5):
        with pytest.raises(GuestTrap, match="unknown handle index"):
            host.run(thief(guess))
    assert first.session.finish() == 0
