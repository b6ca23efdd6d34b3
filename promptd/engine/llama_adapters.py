"""The fence around llama.cpp's LoRA adapters: each file is loaded once, and a context has one set of them at a time.

Checked against llama-cpp-python 0.3.36 (llama.h: llama_adapter_lora_init, llama_set_adapters_lora). Files must have
been checked before (graphs/adapter.py): llama.cpp ends the process for metadata of a wrong type.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from promptd.engine.adapters import Adapters
from promptd.engine.llama import Context, Model, last_error
from promptd.engine.llama_bindings import bindings as _llama
from promptd.errors import InvalidEncoding


class LoadedAdapters:
    """The adapters of one model, for one context. They are freed with the model."""

    def __init__(self, model: Model, context: Context) -> None:
        self._model = model
        self._context = context
        self._handles: dict[tuple[str, int], Any] = {}
        self._used: Adapters = ()

    def load(self, adapters: Adapters) -> None:
        """Load those that are not loaded; raises InvalidEncoding for one the model cannot take."""
        for adapter in adapters:
            key = (adapter.path, adapter.version)
            if key in self._handles:
                continue
            last_error()
            handle = _llama.llama_adapter_lora_init(self._model.handle, adapter.path.encode())
            if not handle:
                reason = last_error() or "llama.cpp does not say why"
                raise InvalidEncoding(f"{Path(adapter.path).name} is no LoRA adapter for this model: {reason}")
            self._handles[key] = handle

    def use(self, adapters: Adapters) -> None:
        """Let the context's next steps have these, which are loaded, and no others."""
        if adapters == self._used:
            return
        count = len(adapters)
        handles = (_llama.llama_adapter_lora_p_ctypes * count)(
            *(self._handles[each.path, each.version] for each in adapters)
        )
        scales = (ctypes.c_float * count)(*(each.scale for each in adapters))
        _llama.llama_set_adapters_lora(self._context.handle, handles, count, scales)
        self._used = adapters
