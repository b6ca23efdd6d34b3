"""The graphs of one guest: those it was granted by name, and the few small ones it has brought as bytes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from promptd.backends.base import Graph
from promptd.backends.from_bytes import open_bytes
from promptd.errors import InvalidEncoding, ModelMissing, NotFound, TooLarge, UnsupportedOperation
from promptd.wasm.control import Control
from promptd.wasm.grants import Grant
from promptd.wasm.held import LoadedGraph
from promptd.wasm.resources import Resources

_grants_log = logging.getLogger("promptd.grants")

OWN_GRAPHS_LIMIT = 4
"""Most graphs one guest can have brought as bytes at once."""

NAME_SHOWN = 80
"""Characters of a guest's name for a thing that errors and logs show."""

ENCODINGS = ("onnx", "ggml", "autodetect")
"""The graph encodings promptd has a backend for; the other encodings of wasi-nn are refused."""


class GuestGraphs:
    """Loads graphs for one guest, as far as its grant goes."""

    def __init__(self, guest: str, grant: Grant, graphs: Callable[[str], Graph], control: Control) -> None:
        """`graphs` gives those of the operator by their names."""
        self._guest = guest
        self._grant = grant
        self._graphs = graphs
        self._control = control
        self._own: list[LoadedGraph] = []

    def load_by_name(self, name: str) -> LoadedGraph:
        """Return the granted graph `name`; NotFound tells one that is not granted like one that is not there."""
        missing = NotFound(f"no graph is named {shown(name)}")
        if name not in self._grant.graphs:
            _grants_log.warning(
                "guest %s asked for graph %s, which it is not granted; grant it with --graph NAME=MODEL, "
                "or in the guest's `graphs` in promptd.toml",
                self._guest,
                shown(name),
            )
            raise missing
        with self._control.host_call():
            try:
                return LoadedGraph(name, self._graphs(name))
            except NotFound as error:
                _grants_log.warning(
                    "guest %s is granted graph %s, but it is not there: %s", self._guest, shown(name), error
                )
                raise ModelMissing(str(missing)) from error

    def load(self, builders: Sequence[bytes], encoding: str) -> LoadedGraph:
        """Load the model in the first of `builders`; see Nn.load."""
        if encoding not in ENCODINGS:
            raise InvalidEncoding(
                f"promptd has no backend for the encoding {encoding}; it executes {' and '.join(ENCODINGS[:2])}"
            )
        limit = self._grant.limits.own_model
        if limit == 0:
            raise UnsupportedOperation("this guest may not bring models of its own; load a granted graph by its name")
        if len(self._own) >= OWN_GRAPHS_LIMIT:
            raise TooLarge(f"the limit of {OWN_GRAPHS_LIMIT} graphs of the guest's own is reached; drop one first")
        with self._control.host_call():
            loaded = LoadedGraph("", open_bytes(builders, encoding, limit, self._control.deadline), own=True)
        self._own.append(loaded)
        return loaded

    def unload_unused(self, resources: Resources) -> None:
        """Unload the graphs the guest brought and neither it nor a context among its `resources` holds any more."""
        if not self._own:
            return
        used = {id(thing) for thing in resources} | {id(getattr(thing, "graph", None)) for thing in resources}
        for loaded in [loaded for loaded in self._own if id(loaded) not in used]:
            self._own.remove(loaded)
            loaded.graph.close()


def shown(name: str) -> str:
    """Return a guest's name for a thing, quoted and cut, fit for a log line."""
    return repr(name[:NAME_SHOWN])
