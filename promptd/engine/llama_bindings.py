"""llama-cpp-python's ctypes bindings, without the package around them.

Importing `llama_cpp` also imports its high-level API, and for that numpy, jinja2 and diskcache: 90 of the 180 ms of a
worker's imports, for nothing it uses (llama_cpp/__init__.py of 0.3.36).
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_PACKAGE = "llama_cpp"


def submodule(name: str) -> Any:
    """Return a module of the package llama_cpp; raises ModuleNotFoundError."""
    if _PACKAGE in sys.modules:
        return import_module(f"{_PACKAGE}.{name}")
    spec = find_spec(_PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"No module named {_PACKAGE!r}", name=_PACKAGE)
    package = ModuleType(_PACKAGE)
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[_PACKAGE] = package
    try:
        return import_module(f"{_PACKAGE}.{name}")
    finally:
        del sys.modules[_PACKAGE]  # so that who wants the whole package gets it


bindings = submodule("llama_cpp")
