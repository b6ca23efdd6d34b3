"""The core ABIs on echo and ONNX graphs: what every function answers, right and wrong."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from guest_host import Host
from puppet import F32, F64, I32, I64, LEGACY, SPECIFIED, U8, Puppet, errno_of

from promptd.backends.echo import EchoGraph
from promptd.errors import UnsupportedOperation
from promptd.tensor import NamedTensor
from promptd.wasm.runtime import Runtime
from promptd.wasm.traps import GuestTrap


@pytest.fixture
def make(runtime: Runtime) -> Iterator[Callable[..., Puppet]]:
    """Return a function that makes a guest with an echo graph."""
    made: list[Puppet] = []

    def make(graphs: dict[str, Any] | None = None, **options: Any) -> Puppet:
        made.append(Puppet(runtime, graphs or {"echo": EchoGraph()}, **options))
        return made[-1]

    yield make
    for puppet in made:
        puppet.close()


@pytest.fixture
def guest(make: Callable[..., Puppet]) -> Puppet:
    return make()


@pytest.fixture
def plain(make: Callable[..., Puppet]) -> Puppet:
    """A guest that imports the functions of the specification only."""
    return make(names=SPECIFIED)


def test_an_echo_graph_gives_back_what_it_is_given(plain: Puppet) -> None:
    context = plain.init(plain.load("echo"))
    plain.set(context, b"\0\1\2\3", index=0, kind=U8, dims=(2, 2))
    plain.set(context, struct.pack("<f", 1.5), index=7, kind=F32, dims=(1,))
    plain.compute(context)
    assert plain.get(context, 0) == b"\0\1\2\3"
    assert plain.get(context, 7) == struct.pack("<f", 1.5)


def test_an_input_can_be_set_again_and_a_context_computed_again(plain: Puppet) -> None:
    context = plain.init(plain.load("echo"))
    for text in (b"first", b"second", b"third"):
        plain.set(context, text, dims=(len(text),))
        plain.compute(context)
        plain.compute(context)
        assert plain.get(context) == text


def test_contexts_do_not_share_inputs(plain: Puppet) -> None:
    graph = plain.load("echo")
    first, second = plain.init(graph), plain.init(graph)
    plain.set(first, b"one")
    plain.set(second, b"two")
    plain.compute(first)
    plain.compute(second)
    assert (plain.get(first), plain.get(second)) == (b"one", b"two")


def test_text_may_have_the_dimensions_of_one_byte(plain: Puppet) -> None:
    context = plain.init(plain.load("echo"))
    for kind in (2, 3):
        plain.set(context, b"hello", kind=kind, dims=(1,))
        plain.compute(context)
        assert plain.get(context) == b"hello"


@pytest.mark.parametrize(
    ("number", "data", "dims", "label"),
    [
        (0, bytes(6), (3,), "FP16"),
        (F32, bytes(12), (3,), "FP32"),
        (F64, bytes(24), (3,), "FP64"),
        (2, bytes(3), (3,), "U8"),
        (U8, bytes(3), (3,), "U8"),
        (3, bytes(12), (3,), "I32"),
        (I32, bytes(12), (3,), "I32"),
        (I64, bytes(24), (3,), "I64"),
        (F32, b"", (2, 0), "FP32"),
        (F32, bytes(4), (), "FP32"),
    ],
)
def test_the_length_of_the_data_tells_which_numbering_of_types_a_guest_uses(
    make: Callable[..., Puppet], number: int, data: bytes, dims: tuple[int, ...], label: str
) -> None:
    seen: list[NamedTensor] = []

    class Watching(EchoGraph):
        def execution_context(self, guest: str) -> Any:
            inner = super().execution_context(guest)

            class Context:
                def compute(self, inputs: list[NamedTensor], *, deadline: float | None = None) -> list[NamedTensor]:
                    seen.extend(inputs)
                    return inner.compute(inputs, deadline=deadline)

                def close(self) -> None:
                    inner.close()

            return Context()

    guest = make({"echo": Watching()}, names=SPECIFIED)
    context = guest.init(guest.load("echo"))
    guest.set(context, data, kind=number, dims=dims)
    guest.compute(context)
    assert [(name, tensor.type.value, tensor.dimensions) for name, tensor in seen] == [("0", label, dims)]


def test_data_of_another_length_than_its_shape_is_refused(plain: Puppet) -> None:
    context = plain.init(plain.load("echo"))
    plain.set(context, bytes(7), kind=F32, dims=(2,))
    assert errno_of(lambda: plain.compute(context)) == 1
    assert errno_of(lambda: plain.set(context, b"", kind=6)) == 1


def test_a_small_buffer_is_told_how_large_it_has_to_be(plain: Puppet) -> None:
    context = plain.init(plain.load("echo"))
    plain.set(context, b"twelve bytes")
    plain.compute(context)
    buffer, written = plain.put(b"untouched..."), plain.out()
    for room in (0, 11):
        assert plain.call("get_output", context, 0, buffer, room, written) == 7
        assert plain.word(written) == 12
        assert plain.read(buffer, 12) == b"untouched..."
    assert plain.call("get_output", context, 0, buffer, 12, written) == 0
    assert plain.read(buffer, 12) == b"twelve bytes"


def test_outputs_before_a_compute_and_unknown_ones_are_errors(plain: Puppet) -> None:
    context = plain.init(plain.load("echo"))
    plain.set(context, b"x")
    assert errno_of(lambda: plain.get(context)) == 5
    plain.compute(context)
    assert errno_of(lambda: plain.get(context, 1)) == 1
    assert errno_of(lambda: plain.get(context, 2**32 - 1)) == 1


@pytest.mark.parametrize("handle", [0, 99, 2**31, 2**32 - 1])
def test_handles_that_are_none_are_errors(guest: Puppet, handle: int) -> None:
    graph = guest.load("echo")
    context = guest.init(graph)
    assert errno_of(lambda: guest.init(handle)) == 1
    assert errno_of(lambda: guest.init(context)) == 1, "a context is no graph"
    for name, arguments in (
        ("set_input", (0, guest.put(bytes(20)))),
        ("compute", ()),
        ("get_output", (0, 2048, 0, 2048)),
        ("compute_single", ()),
        ("get_output_single", (0, 2048, 0, 2048)),
        ("fini_single", ()),
        ("unload", ()),
        ("finalize_execution_context", ()),
    ):
        assert guest.call(name, handle, *arguments) == 1, name


def test_handles_count_up_and_are_not_used_again(guest: Puppet) -> None:
    handles = []
    for _ in range(3):
        graph = guest.load("echo")
        context = guest.init(graph)
        handles += [graph, context]
        assert guest.call("finalize_execution_context", context) == 0
        assert guest.call("finalize_execution_context", context) == 1
        assert guest.call("unload", graph) == 0
        assert guest.call("unload", graph) == 1
    assert handles == sorted(set(handles))


def test_a_name_loaded_twice_is_one_handle_until_it_is_unloaded(guest: Puppet) -> None:
    graph = guest.load("echo")
    assert guest.load("echo") == graph
    assert guest.load("echo", "{}") != graph, "with another configuration it is another graph"
    guest.call("unload", graph)
    assert guest.load("echo") != graph


def test_the_context_of_an_unloaded_graph_can_be_read_and_nothing_else(guest: Puppet) -> None:
    graph = guest.load("echo")
    context = guest.init(graph)
    guest.set(context, b"kept")
    guest.compute(context)
    guest.call("unload", graph)
    assert guest.get(context) == b"kept"
    assert guest.call("compute", context) == 1
    assert errno_of(lambda: guest.set(context, b"more")) == 1
    assert errno_of(lambda: guest.init(graph)) == 1
    assert guest.call("finalize_execution_context", context) == 0


def test_names_that_are_not_granted_are_not_found(guest: Puppet, plain: Puppet) -> None:
    assert errno_of(lambda: guest.load("other")) == 8
    assert errno_of(lambda: guest.load("")) == 8
    assert errno_of(lambda: guest.load("other", "{}")) == 8
    assert errno_of(lambda: plain.load("missing")) == 8
    assert errno_of(lambda: guest.load("missing")) == 103, "granted, but the model is not there"


def test_a_guest_of_wasmedge_without_extensions_gets_its_errnos_where_the_operator_says_so(
    make: Callable[..., Puppet],
) -> None:
    assert errno_of(lambda: make(names=("load_by_name",), wasmedge=True).load("missing")) == 103


def test_only_language_models_work_token_by_token(guest: Puppet) -> None:
    context = guest.init(guest.load("echo"))
    assert guest.call("compute_single", context) == 1
    assert guest.call("get_output_single", context, 0, 2048, 10, 2048) == 1
    assert guest.call("fini_single", context) == 1


@pytest.mark.parametrize(
    ("encoding", "target", "errno"),
    [
        (0, 0, 2),
        (2, 0, 2),
        (3, 0, 2),
        (4, 0, 2),
        (7, 0, 2),
        (2**32 - 1, 0, 2),
        (1, 4, 1),
        (1, 2**32 - 1, 1),
        (1, 3, 2),
        (5, 0, 2),
        (6, 2, 2),
    ],
)
def test_loading_what_is_no_model(guest: Puppet, encoding: int, target: int, errno: int) -> None:
    assert errno_of(lambda: guest.load_bytes(b"not a model", encoding=encoding, target=target)) == errno


def test_a_guest_cannot_load_a_file_of_the_host(guest: Puppet) -> None:
    for builder in (b"preload:/etc/passwd", b"preload:model.gguf", b""):
        assert errno_of(lambda builder=builder: guest.load_bytes(builder, encoding=6)) == 1
    assert guest.call("load", 2048, 0, 5, 0, 2048) == 1
    assert guest.call("load", 2048, 2**32 - 1, 5, 0, 2048) == 1


def test_a_model_that_is_larger_than_the_limit_is_refused(make: Callable[..., Puppet]) -> None:
    guest = make(own_model=1000)
    assert errno_of(lambda: guest.load_bytes(b"GGUF" + bytes(1000), encoding=6)) == 7
    assert errno_of(lambda: guest.load_bytes(b"GGUF" + bytes(100), encoding=6)) == 2
    assert errno_of(lambda: make(own_model=0).load_bytes(b"GGUF", encoding=6)) == 6


END = 16 * 65536
"""The first address beyond a guest's memory."""


@pytest.mark.parametrize("pointer", [END - 3, END, 2**31, 2**32 - 4])
def test_pointers_out_of_memory_are_errors(guest: Puppet, pointer: int) -> None:
    graph = guest.load("echo")
    context = guest.init(graph)
    name = guest.put(b"echo")
    for function, arguments in (
        ("load", (pointer, 1, 5, 0, 2048)),
        ("load", (2048, 1, 5, 0, pointer)),
        ("load_by_name", (pointer, 4, 2048)),
        ("load_by_name", (name, 4, pointer)),
        ("load_by_name", (name, 2**32 - 1, 2048)),
        ("load_by_name_with_config", (name, 4, pointer, 4, 2048)),
        ("load_by_name_with_config", (name, 4, 2048, 2**32 - 1, 2048)),
        ("init_execution_context", (graph, pointer)),
        ("set_input", (context, 0, pointer)),
        ("get_output", (context, 0, pointer, 16, 2048)),
        ("get_output", (context, 0, 2048, 16, pointer)),
    ):
        guest.set(context, b"sixteen bytes...")
        guest.compute(context)
        assert guest.call(function, *arguments) == 1, (function, arguments)


def test_the_pointers_in_a_tensor_are_checked(guest: Puppet) -> None:
    context = guest.init(guest.load("echo"))
    for fields in (
        (END, 1, U8, 2048, 4),
        (2048, 2**31, U8, 2048, 4),
        (2048, 65, U8, 2048, 4),
        (2049, 1, U8, 2048, 4),
        (2048, 1, U8, END - 3, 4),
        (2048, 1, U8, 2048, 2**32 - 1),
    ):
        assert guest.call("set_input", context, 0, guest.put(struct.pack("<5I", *fields))) == 1, fields
    garbage = struct.pack("<IIIII", 0xFFFFFFFF, 0, 0xABCDEF00 | U8, 0xFFFFFFF0, 0)
    assert guest.call("set_input", context, 0, guest.put(garbage)) == 1, "a pointer counts even for no data"
    assert guest.call("set_input", context, 0, guest.put(struct.pack("<5I", 3, 0, 0xABCDEF00 | U8, 2048, 1))) == 0


def test_pointers_to_words_are_aligned(guest: Puppet) -> None:
    graph = guest.load("echo")
    name = guest.put(b"echo")
    assert guest.call("load_by_name", name, 4, 2049) == 1
    assert guest.call("init_execution_context", graph, 2050) == 1
    assert guest.call("set_input", guest.init(graph), 0, 2051) == 1
    assert guest.call("load", 2049, 1, 5, 0, 2048) == 1


def test_a_failing_call_hands_out_no_handle(guest: Puppet) -> None:
    guest.call("load_by_name", guest.put(b"echo"), 4, END)
    assert guest.load("echo") == 1


def test_names_have_to_be_utf8(guest: Puppet) -> None:
    assert guest.call("load_by_name", guest.put(b"\xff\xfe"), 2, 2048) == 1


def test_memory_that_has_grown_is_found(plain: Puppet) -> None:
    context = plain.init(plain.load("echo"))
    for size in (1, 3_000_000, 9_000_000):
        data = bytes([size % 251]) * size
        plain.set(context, data)
        plain.compute(context)
        assert plain.get(context, room=size) == data


def test_inputs_are_copied(plain: Puppet) -> None:
    context = plain.init(plain.load("echo"))
    data = plain.put(b"before")
    plain.call("set_input", context, 0, plain.put(struct.pack("<5I", plain.put(struct.pack("<I", 6)), 1, U8, data, 6)))
    plain.memory.write(plain.store, b"after.", data)
    plain.compute(context)
    assert plain.get(context) == b"before"


def test_a_guest_without_memory_traps(make: Callable[..., Puppet]) -> None:
    guest = make(memory="")
    with pytest.raises(Exception):  # noqa: B017 - whatever wasmtime makes of it; the session shows what `control` says
        guest.call("compute", 1)
    assert isinstance(guest.control.stopped, GuestTrap)
    assert "exports no memory" in str(guest.control.stopped)


def test_contexts_and_tensors_are_limited(make: Callable[..., Puppet]) -> None:
    guest = make(contexts=2)
    graph = guest.load("echo")
    first = guest.init(graph)
    guest.init(graph)
    assert errno_of(lambda: guest.init(graph)) == 7
    guest.call("finalize_execution_context", first)
    guest.init(graph)
    hoarder = make(memory='(memory (export "memory") 16)')
    hoarder.nn.hold_bytes(256 * 1024**2 - 5)
    context = hoarder.init(hoarder.load("echo"))
    with pytest.raises(Exception):  # noqa: B017
        hoarder.set(context, b"sixteen bytes...")
    assert "memory limit" in str(hoarder.control.stopped)


def test_contexts_of_an_unloaded_graph_no_longer_count(make: Callable[..., Puppet]) -> None:
    guest = make(contexts=2)
    for _ in range(5):
        graph = guest.load("echo")
        contexts = [guest.init(graph), guest.init(graph)]
        guest.call("unload", graph)
        if graph % 2:
            guest.call("finalize_execution_context", contexts[0])


# WAMR's legacy module


@pytest.fixture
def legacy(make: Callable[..., Puppet]) -> Puppet:
    return make(module=LEGACY)


def legacy_set(guest: Puppet, context: int, kind: int, dims: tuple[int, ...], data: bytes) -> int:
    shape = guest.put(struct.pack(f"<{len(dims)}I", *dims))
    array = guest.put(struct.pack("<II", shape, len(dims)))
    return guest.call("set_input", context, 0, guest.put(struct.pack("<IB3xI", array, kind, guest.put(data))))


def test_the_legacy_module_counts_outputs_in_f32_elements(legacy: Puppet) -> None:
    context = legacy.init(legacy.load("echo"))
    data = struct.pack("<6f", *range(6))
    assert legacy_set(legacy, context, 1, (2, 3), data) == 0
    legacy.compute(context)
    buffer, size = legacy.put(bytes(24)), legacy.put(struct.pack("<I", 5))
    assert legacy.call("get_output", context, 0, buffer, size) == 7
    assert (legacy.word(size), legacy.read(buffer, 24)) == (6, bytes(24))
    assert legacy.call("get_output", context, 0, buffer, size) == 0
    assert (legacy.word(size), legacy.read(buffer, 24)) == (6, data)


def test_the_legacy_module_has_the_old_numbers_of_types(legacy: Puppet) -> None:
    context = legacy.init(legacy.load("echo"))
    for kind, data in ((0, bytes(6)), (1, bytes(12)), (2, b"abc"), (3, bytes(12))):
        assert legacy_set(legacy, context, kind, (3,), data) == 0
        legacy.compute(context)
        buffer, size = legacy.put(bytes(16)), legacy.put(struct.pack("<I", 4))
        assert legacy.call("get_output", context, 0, buffer, size) == 0
        assert legacy.read(buffer, len(data)) == data
    assert legacy_set(legacy, context, 4, (3,), bytes(24)) == 1
    assert legacy_set(legacy, context, 1, (2**31, 2**31), b"") == 1


def test_the_legacy_module_takes_its_builders_by_pointer(legacy: Puppet) -> None:
    builder = legacy.put(struct.pack("<II", legacy.put(b"no model"), 8))
    array = legacy.put(struct.pack("<II", builder, 1))
    assert legacy.call("load", array, 6, 0, legacy.out()) == 2
    assert legacy.call("load", END, 6, 0, legacy.out()) == 1


# What does not link


@pytest.mark.parametrize(
    ("imports", "why"),
    [
        ('(import "wasi_ephemeral_nn" "load" (func (param i32) (result i32)))', "as another type than 5 u32"),
        ('(import "wasi_ephemeral_nn" "load" (func (param i32 i32 i32 i32) (result i32)))', "as another type"),
        ('(import "wasi_ephemeral_nn" "compute" (func (param i64) (result i32)))', "as another type"),
        ('(import "wasi_ephemeral_nn" "compute" (func (param i32)))', "as another type"),
        ('(import "wasi_ephemeral_nn" "train" (func (param i32) (result i32)))', "which that module does not have"),
        ('(import "wasi_nn" "unload" (func (param i32) (result i32)))', "which that module does not have"),
        ('(import "wasi_ephemeral_nn" "load" (memory 1))', "as another type"),
        ('(import "wasi_nn_2" "load" (func))', "does not offer to core modules"),
    ],
)
def test_imports_that_promptd_does_not_have_are_told_before_a_run(host: Host, imports: str, why: str) -> None:
    with pytest.raises(UnsupportedOperation, match=why):
        host.load(f'(module {imports} (memory (export "memory") 1) (func (export "_start")))')


# A whole run


def test_a_guest_that_only_imports_wasi_ephemeral_nn_runs_in_a_session(host: Host) -> None:
    opened = host.open(
        """(module
      (import "wasi_ephemeral_nn" "load_by_name" (func $load (param i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1) (data (i32.const 2048) "echo")
      (func (export "_start") (call $exit (call $load (i32.const 2048) (i32.const 3) (i32.const 4096)))))"""
    )
    assert opened.session.guest.graphs_wanted
    assert opened.session.run() == 8


def test_a_trap_in_a_host_function_is_told(host: Host) -> None:
    opened = host.open(
        """(module
      (import "wasi_ephemeral_nn" "compute" (func $compute (param i32) (result i32)))
      (func (export "_start") (drop (call $compute (i32.const 1)))))"""
    )
    with pytest.raises(GuestTrap, match="exports no memory"):
        opened.session.run()


READ_ON = """(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 10))
    (i32.store (i32.const 8) (i32.const 64))
    (loop $again
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 12)))
      (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))
      (br $again))))"""


def test_a_guest_that_reads_on_after_the_end_of_its_input_is_ended(host: Host) -> None:
    opened = host.open(
        READ_ON.replace(
            "(i32.store (i32.const 8)", "(i32.store (i32.const 12) (i32.const 0)) (i32.store (i32.const 8)"
        ),
        stdin=b"some input",
    )
    with pytest.raises(GuestTrap, match="its standard input is at its end, and it read on 16 times"):
        opened.session.run()


def test_reading_past_the_end_a_few_times_is_no_fault(host: Host) -> None:
    reads = "(drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 12)))" * 15
    opened = host.open(
        f"""(module
      (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 10)) {reads}))"""
    )
    assert opened.session.run() == 0


def test_what_a_guest_reads_arrives(host: Host, tmp_path: Path) -> None:
    opened = host.open(
        """(module
      (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 100))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 12)))
        (i32.store (i32.const 4) (i32.load (i32.const 12)))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))""",
        stdin=b"a line of input\n",
    )
    assert opened.session.run() == 0
    assert opened.stdout == b"a line of input\n"


def test_a_guest_with_wasmedges_sockets_links_and_is_told_they_are_not_supported(host: Host) -> None:
    opened = host.open(
        """(module
      (import "wasi_snapshot_preview1" "sock_open" (func $open (param i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "sock_shutdown" (func $shutdown (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "sock_getaddrinfo"
        (func $info (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (call $exit (i32.add (i32.const 1) (i32.and (call $open (i32.const 1) (i32.const 1) (i32.const 0))
          (call $accept (i32.const 3) (i32.const 0)))))))"""
    )
    assert opened.session.run() == 59
