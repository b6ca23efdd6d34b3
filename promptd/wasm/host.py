"""The host: settings, model store, graphs, backends and wasm runtime put together, for the CLI and the server."""

from __future__ import annotations

from pathlib import Path

from promptd.backends import open_graph
from promptd.backends.base import Graph
from promptd.backends.echo import EchoGraph
from promptd.config import EngineSettings, GraphSettings, GuestSettings, Settings
from promptd.errors import InvalidArgument
from promptd.graphs.adapter import check_adapter
from promptd.graphs.reference import EchoReference, FileReference, Reference, parse_reference
from promptd.graphs.registry import Registry
from promptd.graphs.store import Store
from promptd.wasm.cache import CompileCache
from promptd.wasm.grants import Grant
from promptd.wasm.guest import Guest
from promptd.wasm.runtime import Runtime
from promptd.wasm.session import Session
from promptd.wasm.stdio import Stdio


class Host:
    """Everything one promptd process runs guests with. Thread-safe; close it when done.

    Graphs are loaded and guests compiled when they are first asked for, and shared from then on.
    """

    def __init__(self, settings: Settings, *, store: Store | None = None) -> None:
        self.settings = settings
        self._store = store or Store()
        self._runtime = Runtime(CompileCache.open())
        self._graphs = Registry[Graph](self._load_graph, _graphs_of(settings))
        self._guests = Registry[Guest](self._load_guest, settings.guests, kind="guest")

    @property
    def store(self) -> Store:
        """The models on this machine."""
        return self._store

    def graph(self, name: str) -> Graph:
        """Return the graph of that name, loading its model if need be; raises a PromptdError."""
        return self._graphs.get(name)

    def graph_names(self) -> list[str]:
        """Return the names of all graphs, sorted."""
        return sorted(self.settings.graphs)

    def guest_names(self) -> list[str]:
        """Return the names of all guests, sorted."""
        return sorted(self._guests.names())

    def guest(self, name: str) -> Guest:
        """Return the guest of that name, compiling it if need be; raises a PromptdError."""
        return self._guests.get(name)

    def compiled_guests(self) -> dict[str, Guest]:
        """Return the guests that are compiled, by name."""
        return self._guests.loaded()

    def add_guest(self, name: str, settings: GuestSettings) -> None:
        """Serve one more guest; raises InvalidArgument when the name is taken."""
        self._guests.add(name, settings)

    def remove_guest(self, name: str) -> None:
        """Serve a guest no more; its instances that run go on. Raises NotFound."""
        self._guests.remove(name)

    def guest_settings(self, name: str) -> GuestSettings:
        """Return what the guest of that name is granted; raises NotFound."""
        settings: GuestSettings = self._guests.settings(name)
        return settings

    def load_guests(self) -> None:
        """Compile all guests now, so that nobody waits for it later; raises the PromptdError of one that fails."""
        for name in self.guest_names():
            self._guests.get(name)

    def update(self, settings: Settings) -> None:
        """Take other settings. Sessions and conversations keep what they were opened with, until they end.

        Guests are compiled at once, as their files are now. Raises the PromptdError of one that fails, or
        InvalidArgument when one that was added has the same name, and then nothing has changed; so it is with a LoRA
        adapter that does not fit the model of a loaded graph. Graphs of which only options have changed stay loaded,
        others are loaded when asked for.
        """
        guests = {name: self._load_guest(name, guest) for name, guest in settings.guests.items()}
        before, loaded = self.settings, self._graphs.loaded()
        for name in loaded.keys() & settings.graphs.keys():
            if _loads_alike(name, before, settings) and not isinstance(loaded[name], EchoGraph):
                for adapter in settings.graphs[name].lora:
                    check_adapter(adapter.file, self._path_of(parse_reference(settings.graphs[name].model)))
        self._guests.update(settings.guests, guests)
        self.settings = settings
        self._graphs.update(_graphs_of(settings))
        for name in loaded:  # held meanwhile, so that a graph with other options finds its model loaded
            if name in settings.graphs and _loads_alike(name, before, settings):
                self._graphs.get(name)

    def loaded_graphs(self) -> dict[str, Graph]:
        """Return the graphs whose models are loaded, by name."""
        return self._graphs.loaded()

    def unload_graph(self, name: str) -> bool:
        """Unload a graph until it is asked for again; false when it was not loaded."""
        return self._graphs.unload(name)

    def open_session(self, guest_name: str, *, stdio: Stdio, identity: str) -> Session:
        """Start an instance of the guest of that name, with the grants its settings give it; raises a PromptdError."""
        guest = self._guests.get(guest_name)
        grant = Grant.of(self.guest_settings(guest_name))
        return Session(self._runtime, guest, grant, self.graph, stdio, identity)

    def close(self) -> None:
        """Unload all models. Idempotent."""
        self._graphs.close()
        self._runtime.close()

    def _load_graph(self, name: str, given: tuple[GraphSettings, EngineSettings]) -> Graph:
        settings, engine = given
        reference = parse_reference(settings.model)
        if isinstance(reference, EchoReference):
            return EchoGraph(settings)
        draft = None if settings.draft is None else self._path_of(parse_reference(settings.draft))
        return open_graph(self._path_of(reference), settings, engine, draft)

    def _path_of(self, reference: Reference) -> Path:
        if isinstance(reference, EchoReference):
            raise InvalidArgument("draft: echo is no model that could guess for another")
        return reference.path if isinstance(reference, FileReference) else self._store.resolve(reference).path

    def _load_guest(self, name: str, settings: GuestSettings) -> Guest:
        return self._runtime.load(settings.file, name)


def _graphs_of(settings: Settings) -> dict[str, tuple[GraphSettings, EngineSettings]]:
    return {name: (graph, settings.engine) for name, graph in settings.graphs.items()}


def _loads_alike(name: str, before: Settings, after: Settings) -> bool:
    """Return whether a graph has the same model, loaded in the same way, under both settings."""
    return before.engine == after.engine and all(
        getattr(before.graphs[name], field) == getattr(after.graphs[name], field)
        for field in ("model", "target", "context", "draft")
    )
