"""Checks a LoRA adapter, a GGUF file, against the model it is for, before llama.cpp sees it.

llama.cpp ends the process for metadata of a wrong type, and trusts the shapes and types of what it multiplies.
"""

from __future__ import annotations

from pathlib import Path

from promptd.errors import InvalidEncoding
from promptd.graphs.ggml_types import FLOATS
from promptd.graphs.gguf import Header, read_header

UNUSABLE_TYPES = frozenset({"I8", "I16", "I32", "I64", "F64"})
"""Tensor types llama.cpp cannot multiply with."""

EMBEDDING = "token_embd.weight"
"""The one tensor whose pair llama.cpp takes the other way round (llm_build_inp_embd)."""


def check_adapter(path: Path, model: Path) -> None:
    """Raise unless the file at `path` is a LoRA adapter for the model file `model`.

    InvalidEncoding with one sentence that names file and cause; else as `gguf.read_gguf`.
    """
    header, base = read_header(path), read_header(model)
    if header.text("general.type") != "adapter" or header.text("adapter.type") != "lora":
        raise InvalidEncoding(f"{path} is no LoRA adapter: its general.type is {header.text('general.type')!r}")
    if header.info.architecture != base.info.architecture:
        raise InvalidEncoding(
            f"{path} is an adapter for models of the architecture {header.info.architecture},"
            f" and {model.name} is of {base.info.architecture}"
        )
    if header.kind("adapter.lora.alpha") not in (None, FLOATS[0]):
        raise InvalidEncoding(f"{path} is no usable LoRA adapter: its adapter.lora.alpha is no 32-bit float")
    names = {name.removesuffix(".lora_a").removesuffix(".lora_b") for name in header.tensors}
    for name in sorted(names):
        if not name.endswith("_norm.weight") and (reason := _mismatch(name, header, base)):
            raise InvalidEncoding(f"{path} does not fit {model.name}: {reason}; is it for another model?")


def _mismatch(name: str, adapter: Header, base: Header) -> str | None:
    """Return why the pair for one tensor does not fit, None where it does."""
    a, b = adapter.tensors.get(f"{name}.lora_a"), adapter.tensors.get(f"{name}.lora_b")
    if a is None or b is None:
        return f"the tensor {name!r} lacks its lora_a or lora_b"
    target = base.tensors.get(name)
    if target is None:
        return f"it changes {name!r}, which the model does not have"
    for tensor in (a, b):
        if tensor.type in UNUSABLE_TYPES:
            return f"a tensor of {name!r} is of the type {tensor.type}"
    (a_in, a_out, *a_rest), (b_in, b_out, *b_rest) = ((*each.shape, 1, 1, 1)[:4] for each in (a, b))
    (wanted_in, wanted_out, *rest) = (*target.shape, 1, 1, 1)[:4]
    fits = (
        (wanted_in, wanted_out, a_in) == (b_out, a_out, b_in)
        if name.endswith(EMBEDDING)
        else (wanted_in, wanted_out, a_out) == (a_in, b_out, b_in)
    )
    if not fits or not a_rest == b_rest == rest:
        return (
            f"the shapes {list(a.shape)} and {list(b.shape)} do not make the model's {list(target.shape)} of {name!r}"
        )
    return None
