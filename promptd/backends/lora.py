"""The LoRA adapters of a graph: files of the operator's, checked against the model, in the form the engine takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from promptd.config import LoraSettings
from promptd.engine.adapters import Adapters, Lora
from promptd.graphs.adapter import check_adapter


def adapters_of(settings: Sequence[LoraSettings], model: Path) -> Adapters:
    """Return the set of adapters; those of scale 0 are as none, and are checked too.

    Raises NotFound, InvalidEncoding for a file that is no adapter for `model`, RuntimeFailure for one that cannot be
    read.
    """
    adapters = []
    for each in settings:
        path = each.file.absolute()
        check_adapter(path, model)
        adapters.append(Lora(str(path), path.stat().st_mtime_ns, each.scale))
    return tuple(sorted(adapter for adapter in adapters if adapter.scale))
