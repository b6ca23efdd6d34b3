"""Graphs that admins make while the daemon runs, from a graph or a model that is there; kept in files, one for each."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from promptd.config import NAME_PATTERN, GraphSettings, UploadSettings, graph_settings
from promptd.errors import Busy, InvalidArgument, NotFound, PromptdError, SecurityDenied, TooLarge
from promptd.graphs.reference import EchoReference, FileReference, Reference, parse_reference
from promptd.server.errors import UnknownModel
from promptd.server.uploads import default_folder
from promptd.wasm.host import Host

MAX_MADE = 100
"""How many may be made."""

_SUFFIX = ".json"

_log = logging.getLogger(__name__)


class MadeGraphs:
    """The graphs that were made. They stay until they are deleted, also when the daemon is started anew."""

    def __init__(self, host: Host, settings: UploadSettings) -> None:
        """Take up again what was made before, as far as its names are free."""
        self._host = host
        self._folder = settings.folder or default_folder()
        self._names: set[str] = set()
        self._lock = threading.Lock()
        self._restore()

    def source(self, name: str) -> GraphSettings:
        """Return the settings of a graph, or those a graph of a model of the catalog or the hub would have.

        Raises UnknownModel for what is neither, SecurityDenied for a file, NotFound for a model that is not on this
        machine.
        """
        if name in self._host.settings.graphs:
            return self._host.settings.graphs[name]
        reference = _reference(name)
        if not isinstance(reference, EchoReference):
            self._host.store.resolve(reference)
        return GraphSettings(model=name)

    def make(self, name: str, source: str, options: dict[str, Any]) -> None:
        """Make a graph of what `source` names, with some settings of its own; replaces one that was made before.

        Raises as `source` does, InvalidArgument for options out of range and names that cannot be, SecurityDenied for
        a graph of the daemon's settings, TooLarge when there are too many.
        """
        base = self.source(source)
        settings = graph_settings(name, base.model, options, base)
        with self._lock:
            if name not in self._names:
                self._refuse_settings(name)
                if len(self._names) >= MAX_MADE:
                    raise TooLarge(f"{MAX_MADE} graphs are made already; delete one first")
            self._write(name, settings)
            self._host.make_graph(name, settings)
            self._names.add(name)

    def delete(self, name: str) -> None:
        """Delete a graph that was made, or the file of a pulled model that no graph and no other name uses.

        Raises SecurityDenied for a graph of the daemon's settings, InvalidArgument for a model that a graph has,
        UnknownModel.
        """
        with self._lock:
            if name in self._names:
                self._path(name).unlink(missing_ok=True)
                self._host.remove_graph(name)
                self._names.discard(name)
                return
            self._refuse_settings(name)
            try:
                stored = self._host.store.resolve(_reference(name))
            except NotFound:
                raise UnknownModel(name) from None
            if used := sorted(self._graphs_of(stored.path)):
                raise InvalidArgument(f"{name} is the model of the graph {used[0]}; delete that first")
            self._host.store.remove(name)

    def _refuse_settings(self, name: str) -> None:
        if name in self._host.settings.graphs:
            raise SecurityDenied(f"the graph {name} stands in the daemon's settings; change it there")

    def _graphs_of(self, path: Path) -> Iterator[str]:
        """Yield the names of the graphs whose model, or draft model, is the file."""
        for name, graph in self._host.settings.graphs.items():
            for model in filter(None, (graph.model, graph.draft)):
                try:
                    if self._host.store.resolve(model).path.resolve() == path.resolve():
                        yield name
                except PromptdError:  # it has no file, or none that is here
                    continue

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"

    def _write(self, name: str, settings: GraphSettings) -> None:
        text = settings.model_dump_json(by_alias=True, exclude_unset=True)
        unfinished = self._folder / f".{name}{_SUFFIX}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            unfinished.write_text(text)
            unfinished.replace(self._path(name))
        except OSError as error:
            _log.error("graphs cannot be written to %s: %s", self._folder, error)
            raise Busy(f"the graph cannot be kept: {error.strerror}") from error

    def _restore(self) -> None:
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            name = path.name.removesuffix(_SUFFIX)
            if not re.fullmatch(NAME_PATTERN, name):
                continue
            try:
                self._host.make_graph(name, GraphSettings.model_validate_json(path.read_bytes()))
            except (OSError, ValidationError, InvalidArgument) as error:
                _log.warning("the graph made in %s is not served: %s", path, error)
            else:
                self._names.add(name)


def _reference(name: str) -> Reference:
    """Return the model of the catalog or the hub that `name` is; raises UnknownModel, SecurityDenied for a file."""
    try:
        reference = parse_reference(name)
    except PromptdError:
        raise UnknownModel(name) from None
    if isinstance(reference, FileReference):
        raise SecurityDenied("a file cannot be named over HTTP; name a graph, or a model that was pulled")
    return reference
