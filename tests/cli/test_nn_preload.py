"""`promptd run --nn-preload`: model files are named as WasmEdge's users name them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import assert_one_sentence, promptd

from promptd.config import nn_preload
from promptd.errors import InvalidArgument

PROMPT = "<|im_start|>user\\0aWhat is the capital of Japan?<|im_end|>\\0a<|im_start|>assistant\\0a"
TENSOR = "".join(f"\\{byte:02x}" for byte in struct.pack("<5I", 0, 0, 3, 2048, len(PROMPT.replace("\\0a", "\n"))))

GUEST = f"""(module
  (import "wasi_ephemeral_nn" "load_by_name" (func $load (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "init_execution_context" (func $init (param i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "set_input" (func $set (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "compute" (func $compute (param i32) (result i32)))
  (import "wasi_ephemeral_nn" "get_output" (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 1024) "default")
  (data (i32.const 2048) "{PROMPT}")
  (data (i32.const 1100) "{TENSOR}")
  (func $check (param $status i32) (if (local.get $status) (then (call $exit (local.get $status)))))
  (func (export "_start")
    (call $check (call $load (i32.const 1024) (i32.const 7) (i32.const 0)))
    (call $check (call $init (i32.load (i32.const 0)) (i32.const 4)))
    (call $check (call $set (i32.load (i32.const 4)) (i32.const 0) (i32.const 1100)))
    (call $check (call $compute (i32.load (i32.const 4))))
    (i32.store (i32.const 8) (i32.const 4096))
    (call $check (call $get (i32.load (i32.const 4)) (i32.const 0) (i32.const 4096) (i32.const 4096) (i32.const 12)))
    (call $check (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))))"""


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    path = tmp_path / "guest.wat"
    path.write_text(GUEST)
    return path


def test_a_model_is_named_by_its_file_and_of_two_of_one_name_the_first_is_taken(guest: Path, smollm2: Path) -> None:
    first, second = f"default:GgMl:AUTO:{smollm2}", "default:GGML:AUTO:/gone.gguf"
    done = promptd("run", "--nn-preload", first, "--nn-preload", second, "-o", "default.temperature=0", guest)
    assert (done.returncode, done.stdout, done.stderr) == (0, "The capital of Japan is Tokyo.<|im_end|>", "")


def test_a_file_that_is_not_there_has_wasmedges_errno(guest: Path, tmp_path: Path) -> None:
    done = promptd("run", "--nn-preload", f"default:GGML:AUTO:{tmp_path}/gone.gguf", guest)
    assert done.returncode == 103
    assert "is granted graph 'default', but it is not there" in done.stderr


def test_a_name_that_was_not_preloaded_is_not_found(guest: Path, smollm2: Path) -> None:
    done = promptd("run", "--nn-preload", f"other:GGML:AUTO:{smollm2}", guest)
    assert done.returncode == 8
    assert "asked for graph 'default', which it is not granted" in done.stderr


def test_a_directory_is_granted_in_wasmedges_order(tmp_path: Path) -> None:
    (tmp_path / "guest.wat").write_text("""(module
      (import "wasi_snapshot_preview1" "fd_prestat_dir_name" (func $name (param i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (drop (call $name (i32.const 3) (i32.const 64) (i32.const 5)))
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 5))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))""")
    done = promptd("run", "--dir", f"/data:{tmp_path}", tmp_path / "guest.wat")
    assert (done.returncode, done.stdout) == (0, "/data")


@pytest.mark.parametrize(
    ("form", "target"), [("GGML:AUTO", "auto"), ("ggml:cpu", "cpu"), ("AutoDetect:Auto", "auto"), ("Ggml:GPU", "gpu")]
)
def test_encodings_and_targets_may_be_in_any_case(form: str, target: str) -> None:
    name, settings = nn_preload(f"default:{form}:model.gguf")
    assert (name, settings.model, settings.target) == ("default", "file:model.gguf", target)


def test_a_path_may_hold_colons() -> None:
    name, settings = nn_preload("my-model:Ggml:Gpu:C:\\models\\a:b.gguf")
    assert (name, settings.model, settings.target) == ("my-model", "file:C:\\models\\a:b.gguf", "gpu")
    assert nn_preload("m:ONNX:TPU:x.onnx")[1].target == "auto"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("default", "is not of the form NAME:ENCODING:TARGET:PATH"),
        ("default:GGML:AUTO", "is not of the form"),
        ("default:GGML:AUTO:", "is not of the form"),
        ("default:whisper:AUTO:x", "does not execute 'whisper'"),
        ("default:GGML:NPU:x", "'NPU' is no TARGET"),
        (":GGML:AUTO:x", "cannot be a graph's name"),
        ("a b:GGML:AUTO:x", "cannot be a graph's name"),
    ],
)
def test_anything_else_is_one_sentence(text: str, why: str, guest: Callable[[], Path]) -> None:
    with pytest.raises(InvalidArgument, match=why):
        nn_preload(text)
    assert_one_sentence(promptd("run", "--nn-preload", text, "guest.wasm"), why)
