"""Writes LoRA adapters as GGUF files: random matrices of a small rank, and whatever else a test wants them to say."""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path

from gguf_files import Gguf, Tensor, entry, number, padded, string

FLOAT32 = 6
SMOLLM2_Q = {f"blk.{layer}.attn_q.weight": (576, 576) for layer in range(0, 30, 3)}
"""What the adapters of the tests change in SmolLM2-135M, with its dimensions."""


def metadata(architecture: str = "llama", kind: str = "adapter", adapter: str = "lora") -> list[bytes]:
    return [
        string("general.architecture", architecture),
        string("general.type", kind),
        string("adapter.type", adapter),
        entry("adapter.lora.alpha", FLOAT32, struct.pack("<f", 4.0)),
        number("general.file_type", 0),
    ]


def write_lora(
    path: Path,
    targets: Mapping[str, tuple[int, int]] = SMOLLM2_Q,
    *,
    rank: int = 2,
    seed: int = 1,
    spread: float = 0.3,
    entries: Sequence[bytes] | None = None,
    without: str = "",
) -> Path:
    """Write an adapter for tensors of the dimensions in `targets`, but for the tensor named `without`."""
    shapes = {
        name: shape
        for target, (inputs, outputs) in targets.items()
        for name, shape in ((f"{target}.lora_a", (inputs, rank)), (f"{target}.lora_b", (rank, outputs)))
        if name != without
    }
    file = Gguf(metadata=list(metadata() if entries is None else entries))
    file.tensors = [Tensor(name, shape) for name, shape in shapes.items()]
    head = file.build()
    dice = random.Random(seed)
    data = b""
    for one, other in shapes.values():
        values = array("f", [dice.gauss(0, spread) for _ in range(one * other)]).tobytes()
        data += values.ljust(padded(len(values), file.alignment), b"\0")
    path.write_bytes(head[: len(head) - len(data)] + data)
    return path
