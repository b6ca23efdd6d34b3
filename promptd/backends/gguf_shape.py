"""What the header of a GGUF file says of the KV cache its model needs, before llama.cpp has seen the file."""

from __future__ import annotations

from pathlib import Path

from promptd.engine.kv_size import ModelShape
from promptd.graphs.gguf import Header, read_header

_CELL_NUMBER_BYTES = 2
"""Of one number in a 16-bit KV cache."""


def read_shape(path: Path) -> ModelShape:
    """Check the header of the GGUF file at `path`, since files from strangers have crashed llama.cpp, and return the
    model's shape; raises as `read_header`.
    """
    header = read_header(path)
    return ModelShape(header.info.context_length or 0, _kv_cell_bytes(header))


def _kv_cell_bytes(header: Header) -> int:
    """Return what one token takes, by llama.cpp's defaults (src/llama-model.cpp, load_hparams); 0 where the header does
    not say.

    Where layers differ, an array stands in place of a number, and all heads count: that is the most it can be.
    """
    architecture = header.info.architecture
    heads = header.number(f"{architecture}.attention.head_count")
    kv_heads = header.number(f"{architecture}.attention.head_count_kv") or heads or 1
    default = (header.info.embedding_length or 0) // (heads or 1)
    lengths = [header.number(f"{architecture}.attention.{name}_length") or default for name in ("key", "value")]
    layers = header.number(f"{architecture}.block_count") or 0
    return layers * kv_heads * sum(lengths) * _CELL_NUMBER_BYTES
