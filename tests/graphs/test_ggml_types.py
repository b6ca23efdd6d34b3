from __future__ import annotations

import ctypes

from promptd.graphs.ggml_types import TENSOR_KINDS


def test_tensor_types_have_the_names_and_sizes_of_the_installed_llama_cpp(ggml: ctypes.CDLL) -> None:
    for number, kind in TENSOR_KINDS.items():
        assert kind.name.lower() == ggml.ggml_type_name(number).decode().lower()
        assert (kind.block, kind.bytes) == (ggml.ggml_blck_size(number), ggml.ggml_type_size(number))


def test_the_numbers_left_out_are_types_llama_cpp_removed(ggml: ctypes.CDLL) -> None:
    gaps = set(range(max(TENSOR_KINDS))) - set(TENSOR_KINDS)
    assert gaps
    assert all(ggml.ggml_blck_size(number) == 0 for number in gaps)
