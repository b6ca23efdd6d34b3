"""The graphs of one process by name: from settings to loaded models, each loaded when it is first asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from promptd.backends import open_graph
from promptd.backends.base import Graph
from promptd.backends.echo import EchoGraph
from promptd.config import EngineSettings, GraphSettings, Settings
from promptd.errors import InvalidArgument, PromptdError
from promptd.graphs.adapter import check_adapter
from promptd.graphs.reference import EchoReference, FileReference, Reference, parse_reference
from promptd.graphs.registry import Registry
from promptd.graphs.store import Store


class Graphs:
    """All graphs that settings name. Thread-safe; close it when done."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.store = store
        """The models on this machine."""
        self._settings = settings
        self._registry = Registry[Graph](self._load, _by_name(settings))

    def get(self, name: str) -> Graph:
        """Return the graph of that name, loading its model if need be; raises a PromptdError."""
        return self._registry.get(name)

    def preload(self, names: Iterable[str]) -> None:
        """Begin to load graphs that will soon be asked for; whoever asks is told where that fails."""

        def load(name: str) -> None:
            with suppress(PromptdError):
                self.get(name)

        for name in names:
            threading.Thread(target=load, args=(name,), name=f"promptd-load-{name}", daemon=True).start()

    def names(self) -> list[str]:
        """Return the names of all graphs, sorted."""
        return sorted(self._settings.graphs)

    def loaded(self) -> dict[str, Graph]:
        """Return the graphs whose models are loaded, by name."""
        return self._registry.loaded()

    def unload(self, name: str) -> bool:
        """Unload a graph until it is asked for again; false when it was not loaded."""
        return self._registry.unload(name)

    def check(self, settings: Settings) -> None:
        """Raise the PromptdError of a LoRA adapter that does not fit the model of a loaded graph."""
        for name in self._alike(settings):
            if not isinstance(self.loaded().get(name), EchoGraph):
                for adapter in settings.graphs[name].lora:
                    check_adapter(adapter.file, self._path_of(parse_reference(settings.graphs[name].model)))

    def update(self, settings: Settings) -> None:
        """Take other settings. Graphs of which only options have changed stay loaded, others are loaded when asked
        for; what is in use of those that are gone stays until nobody uses it.
        """
        loaded = self.loaded()
        alike = self._alike(settings)
        self._settings = settings
        self._registry.update(_by_name(settings))
        for name in alike & loaded.keys():  # held meanwhile, so that a graph with other options finds its model loaded
            self.get(name)

    def close(self) -> None:
        """Unload all models. Idempotent."""
        self._registry.close()

    def _alike(self, settings: Settings) -> set[str]:
        """Return the loaded graphs that have the same model, loaded in the same way, under other settings."""
        names = self.loaded().keys() & settings.graphs.keys()
        return {name for name in names if _loads_alike(name, self._settings, settings)}

    def _load(self, name: str, given: tuple[GraphSettings, EngineSettings]) -> Graph:
        settings, engine = given
        reference = parse_reference(settings.model)
        if isinstance(reference, EchoReference):
            return EchoGraph(settings)
        draft = None if settings.draft is None else self._path_of(parse_reference(settings.draft))
        return open_graph(self._path_of(reference), settings, engine, draft)

    def _path_of(self, reference: Reference) -> Path:
        if isinstance(reference, EchoReference):
            raise InvalidArgument("draft: echo is no model that could guess for another")
        return reference.path if isinstance(reference, FileReference) else self.store.resolve(reference).path


def _by_name(settings: Settings) -> dict[str, tuple[GraphSettings, EngineSettings]]:
    return {name: (graph, settings.engine) for name, graph in settings.graphs.items()}


def _loads_alike(name: str, before: Settings, after: Settings) -> bool:
    """Return whether a graph has the same model, loaded in the same way, under both settings."""
    return before.engine.of_worker == after.engine.of_worker and all(
        getattr(before.graphs[name], field) == getattr(after.graphs[name], field)
        for field in ("model", "target", "context", "draft")
    )
