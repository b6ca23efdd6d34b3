"""What a file's header says of the KV cache is what llama.cpp says of the loaded model."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from gguf_files import ARRAY, UINT32, Gguf, entry, number, write
from tiny_model import write_tiny_model

from promptd.backends.gguf_shape import read_shape
from promptd.engine import llama
from promptd.engine.kv_size import ModelShape
from promptd.errors import InvalidEncoding


def test_a_models_header_tells_its_shape(smollm2: Path, tmp_path: Path) -> None:
    llama.start()
    for path in (smollm2, write_tiny_model(tmp_path / "tiny.gguf")):
        model = llama.Model(path, gpu_layers=0)
        assert read_shape(path) == ModelShape(model.n_ctx_train, model.kv_cell_bytes)


HEADS = number("llama.attention.head_count", 8)
LAYERS = number("llama.block_count", 3)
HEADS_BY_LAYER = struct.pack("<iQIII", UINT32, 3, 8, 4, 8)


@pytest.mark.parametrize(
    ("metadata", "kv_cell_bytes"),
    [
        ([LAYERS, HEADS, number("llama.attention.head_count_kv", 2)], 3 * 2 * (8 + 8) * 2),
        ([LAYERS, HEADS], 3 * 8 * (8 + 8) * 2),
        (
            [LAYERS, HEADS, *(number(f"llama.attention.{name}_length", 5 + len(name)) for name in ("key", "value"))],
            3 * 8 * (8 + 10) * 2,
        ),
        ([LAYERS, HEADS, entry("llama.attention.head_count_kv", ARRAY, HEADS_BY_LAYER)], 3 * 8 * (8 + 8) * 2),
        ([LAYERS, entry("llama.attention.head_count", ARRAY, HEADS_BY_LAYER)], 3 * (64 + 64) * 2),
        ([HEADS], 0),
    ],
    ids=["fewer heads", "as many heads", "own lengths", "heads of some layers", "heads by layer", "no layers"],
)
def test_what_a_header_leaves_out_is_as_llama_cpp_takes_it(
    tmp_path: Path, metadata: list[bytes], kv_cell_bytes: int
) -> None:
    gguf = Gguf()
    gguf.metadata += metadata
    assert read_shape(write(tmp_path / "model.gguf", gguf.build())) == ModelShape(2048, kv_cell_bytes)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidEncoding):
        read_shape(write(tmp_path / "model.gguf", b"GGUF and nothing more"))
