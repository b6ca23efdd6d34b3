"""The properties of a graph, as the phase 3 plan has them: text by name; promptd's are the graph's options.

Names are those of promptd.toml. A value is a number in decimal, `stop` is a JSON list of strings, and the empty text is
no value where an option can have none. What a graph is (`facts`) can be read only, and nothing here tells where its
model comes from or what its system prompt says.
"""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic import ValidationError

from promptd.backends.base import Configurable, Graph
from promptd.config import GraphSettings
from promptd.errors import InvalidArgument, NotFound, TooLarge, UnsupportedOperation
from promptd.wasm.guest_graphs import NAME_SHOWN
from promptd.wasm.held import LoadedGraph
from promptd.wasm.nn import Nn

OPTIONS = ("temperature", "top-k", "top-p", "min-p", "repeat-penalty", "seed", "max-tokens", "stop")
"""What a guest can set. Limits are no options: what a grant forbids, no property allows."""

VALUE_LIMIT = 64 * 1024
"""Most bytes of a value."""


def names(graph: Graph) -> list[str]:
    """Return the names of the graph's properties, those that can be set first; none where it has no options."""
    return [*OPTIONS, *graph.facts] if isinstance(graph, Configurable) else []


def get(graph: Graph, name: str) -> str | None:
    """Return a property as text; None where there is none of that name, or it has no value."""
    if not isinstance(graph, Configurable):
        return None
    return _text(getattr(graph.settings, _field(name))) if name in OPTIONS else graph.facts.get(name)


def changed(graph: Graph, name: str, text: str) -> Graph:
    """Return the graph with one option set, the same model behind it; `graph` itself stays as it is.

    Raises NotFound for an unknown name, UnsupportedOperation for a property that can only be read, InvalidArgument for
    a value that is none, TooLarge for a huge one.
    """
    shown = repr(name[:NAME_SHOWN])
    if not isinstance(graph, Configurable) or name not in names(graph):
        raise NotFound(f"the graph has no property {shown}")
    if name not in OPTIONS:
        raise UnsupportedOperation(f"the property {shown} can only be read")
    if len(text.encode()) > VALUE_LIMIT:
        raise TooLarge(f"the value of {shown} has more than {VALUE_LIMIT} bytes")
    try:
        settings = GraphSettings.model_validate({**graph.settings.model_dump(), _field(name): _value(name, text)})
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidArgument(f"{name}: {first['msg']}, got {str(first['input'])[:NAME_SHOWN]!r}") from error
    return graph.configured(settings)


def set_on(nn: Nn, loaded: LoadedGraph, name: str, text: str) -> None:
    """Set an option for the contexts that are opened from this handle from now on; raises as `changed`."""
    loaded.graph = changed(loaded.graph, name, text)


def _field(name: str) -> str:
    return name.replace("-", "_")


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return json.dumps(value, ensure_ascii=False) if isinstance(value, tuple) else str(value)


def _value(name: str, text: str) -> Any:
    """Return what pydantic then checks: a number, a list of strings, or None."""
    if text == "" and GraphSettings.model_fields[_field(name)].default is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if name == "stop":
        fits = isinstance(value, list) and all(isinstance(item, str) for item in value)
        wanted = "a JSON list of strings"
    else:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf
        wanted = "a number"
    if not fits:
        raise InvalidArgument(f"{name} is {wanted}, not {text[:NAME_SHOWN]!r}")
    return value
