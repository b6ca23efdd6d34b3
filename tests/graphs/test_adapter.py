"""LoRA adapters are checked against their model before llama.cpp sees them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from gguf_files import entry, number, string
from lora_files import SMOLLM2_Q, metadata, write_lora
from tiny_model import write_tiny_model

from promptd.errors import InvalidEncoding, NotFound
from promptd.graphs.adapter import check_adapter

TINY_Q = {"blk.0.attn_q.weight": (32, 32), "blk.0.ffn_up.weight": (32, 64)}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny.gguf")


def test_an_adapter_that_fits_is_accepted(tmp_path: Path, tiny: Path) -> None:
    check_adapter(write_lora(tmp_path / "lora.gguf", TINY_Q), tiny)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"targets": SMOLLM2_Q}, "do not make the model's .32, 32. of 'blk.0.attn_q.weight'"),
        ({"targets": {"blk.0.attn_q.weight": (64, 32)}}, "do not make"),
        ({"targets": {"blk.9.attn_q.weight": (32, 32)}}, "'blk.9.attn_q.weight', which the model does not have"),
        ({"without": "blk.0.attn_q.weight.lora_b"}, "lacks its lora_a or lora_b"),
        ({"entries": metadata(architecture="gemma3")}, "architecture gemma3, and tiny.gguf is of llama"),
        ({"entries": metadata(kind="model")}, "its general.type is 'model'"),
        ({"entries": metadata(adapter="other")}, "is no LoRA adapter"),
        ({"entries": [*metadata()[:3], number("adapter.lora.alpha", 4)]}, "alpha is no 32-bit float"),
        ({"entries": [metadata()[0], number("general.type", 1)]}, "is no LoRA adapter"),
        ({"entries": [metadata()[0], *metadata()[1:3], string("adapter.lora.alpha", "4")]}, "alpha is no 32-bit float"),
        ({"entries": [*metadata(), entry("general.alignment", 4, struct.pack("<I", 3))]}, "general.alignment is 3"),
    ],
)
def test_one_that_does_not_fit_is_refused_in_one_sentence(
    tmp_path: Path, tiny: Path, how: dict[str, object], said: str
) -> None:
    path = write_lora(tmp_path / "lora.gguf", **{"targets": TINY_Q, **how})  # type: ignore[arg-type]
    with pytest.raises(InvalidEncoding, match=said) as caught:
        check_adapter(path, tiny)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_one_a_missing_one_and_no_gguf_at_all(tmp_path: Path, tiny: Path) -> None:
    path = write_lora(tmp_path / "lora.gguf", TINY_Q)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InvalidEncoding, match="cut short"):
        check_adapter(path, tiny)
    path.write_bytes(b"PK\3\4 this is a zip")
    with pytest.raises(InvalidEncoding, match="begins with"):
        check_adapter(path, tiny)
    path.unlink()
    with pytest.raises(NotFound):
        check_adapter(path, tiny)
    with pytest.raises(InvalidEncoding, match="is no LoRA adapter"):
        check_adapter(tiny, tiny)
