"""Writes a GGUF model of some 20,000 random weights with a SentencePiece vocabulary, for what SmolLM2 cannot show:
other tokenizers, other templates, a context that is full in no time. What it says is noise.
"""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Sequence
from pathlib import Path

from gguf_files import ARRAY, entry, number, string, strings

FLOAT32, BOOL = 6, 7
INT32 = 5
ALIGNMENT = 32
EMBEDDING, HEADS, FEED_FORWARD = 32, 2, 64

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
SPECIAL = [
    ("<unk>", UNKNOWN),
    ("<s>", CONTROL),
    ("</s>", CONTROL),
    ("<|user|>", CONTROL),
    ("<|bot|>", CONTROL),
    ("<|end|>", CONTROL),
    ("<|soft|>", USER_DEFINED),
    ("<tool>", USER_DEFINED),
]
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ 'bot' if message.role == 'assistant' else 'user' }}|>"
    "{{ message.content }}<|end|>{% endfor %}<|bot|>"
)


def write_tiny_model(
    path: Path,
    *,
    template: str | None = TEMPLATE,
    context: int = 256,
    add_bos: bool = True,
    architecture: str = "llama",
    special: Sequence[tuple[str, int]] = SPECIAL,
    pooling: int | None = None,
    causal: bool = True,
) -> Path:
    """Write the model to `path`."""
    tokens = [*special, *((f"<0x{byte:02X}>", BYTE) for byte in range(256))]
    tokens += [(text, NORMAL) for text in ["▁", *LETTERS, *("▁" + letter for letter in LETTERS), "▁he", "llo"]]
    metadata = [
        string("general.architecture", architecture),
        number("llama.context_length", context),
        number("llama.embedding_length", EMBEDDING),
        number("llama.block_count", 1),
        number("llama.feed_forward_length", FEED_FORWARD),
        number("llama.attention.head_count", HEADS),
        entry("llama.attention.layer_norm_rms_epsilon", FLOAT32, struct.pack("<f", 1e-5)),
        string("tokenizer.ggml.model", "llama"),
        strings("tokenizer.ggml.tokens", [text for text, _ in tokens]),
        _array("tokenizer.ggml.scores", FLOAT32, array("f", [-float(index) for index in range(len(tokens))])),
        _array("tokenizer.ggml.token_type", INT32, array("i", [kind for _, kind in tokens])),
        number("tokenizer.ggml.bos_token_id", 1),
        number("tokenizer.ggml.eos_token_id", 2),
        number("tokenizer.ggml.unknown_token_id", 0),
        entry("tokenizer.ggml.add_bos_token", BOOL, bytes([add_bos])),
    ]
    if pooling is not None:
        metadata.append(number("llama.pooling_type", pooling))
    if not causal:
        metadata.append(entry("llama.attention.causal", BOOL, bytes([causal])))
    if template is not None:
        metadata.append(string("tokenizer.chat_template", template))
    square, wide, tall = (EMBEDDING, EMBEDDING), (EMBEDDING, FEED_FORWARD), (FEED_FORWARD, EMBEDDING)
    shapes = {
        "token_embd.weight": (EMBEDDING, len(tokens)),
        "output_norm.weight": (EMBEDDING,),
        "output.weight": (EMBEDDING, len(tokens)),
        "blk.0.attn_norm.weight": (EMBEDDING,),
        "blk.0.attn_q.weight": square,
        "blk.0.attn_k.weight": square,
        "blk.0.attn_v.weight": square,
        "blk.0.attn_output.weight": square,
        "blk.0.ffn_norm.weight": (EMBEDDING,),
        "blk.0.ffn_gate.weight": wide,
        "blk.0.ffn_up.weight": wide,
        "blk.0.ffn_down.weight": tall,
    }
    dice = random.Random(7)
    infos, data = b"", b""
    for name, shape in shapes.items():
        size = shape[0] * (shape[1] if len(shape) > 1 else 1)
        infos += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(shape))
        infos += struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", 0, len(data))
        data += array("f", [dice.gauss(0, 0.5) for _ in range(size)]).tobytes()
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(metadata)) + b"".join(metadata) + infos
    path.write_bytes(head + bytes(-len(head) % ALIGNMENT) + data)
    return path


def _array(key: str, kind: int, values: array) -> bytes:  # type: ignore[type-arg]
    return entry(key, ARRAY, struct.pack("<iQ", kind, len(values)) + values.tobytes())
