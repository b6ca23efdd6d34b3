"""docs/abi.md names every version and function that promptd serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptd.wasm.component import FACES
from promptd.wasm.core import MODULES
from promptd.wasm.properties import OPTIONS
from promptd.wasm.unversioned import U1, U2, U3

TEXT = (Path(__file__).parents[2] / "docs" / "abi.md").read_text()

VERSIONS = {name.partition("@")[2] for name in FACES if name.startswith("wasi:nn/")}
FUNCTIONS = {
    function.rpartition(".")[2]
    for name, face in [*FACES.items(), *(("wasi:nn/", face) for shape in (U1, U2, U3) for face in shape.values())]
    if name.startswith("wasi:nn/")
    for function in face.functions
}


@pytest.mark.parametrize("name", sorted(VERSIONS | FUNCTIONS | set(OPTIONS) | set(MODULES)))
def test_every_name_of_the_component_abis_is_there(name: str) -> None:
    assert f"{name}`" in TEXT or f"{name}(" in TEXT


@pytest.mark.parametrize("name", sorted({name for functions in MODULES.values() for name in functions}))
def test_every_function_of_the_core_abis_is_there(name: str) -> None:
    assert f"`{name}`" in TEXT
