"""The host: settings, model store, graphs, backends and wasm runtime put together, for the CLI and the server."""

from __future__ import annotations

import threading

from promptd.backends.base import Graph
from promptd.backends.graphs import Graphs
from promptd.config import GraphSettings, GuestSettings, Settings
from promptd.errors import InvalidArgument, NotFound
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

    def __init__(self, settings: Settings, *, graphs: Graphs | None = None) -> None:
        """`graphs` are those of the settings, for a caller that has begun to load them; the host closes them."""
        self.settings = settings
        """What is in force: what the operator set, and the graphs that were made since."""
        self._made: dict[str, GraphSettings] = {}
        self._changing = threading.Lock()
        self._graphs = graphs or Graphs(settings, Store())
        self._runtime = Runtime(CompileCache.open())
        self._guests = Registry[Guest](self._load_guest, settings.guests, kind="guest")

    @property
    def store(self) -> Store:
        """The models on this machine."""
        return self._graphs.store

    def graph(self, name: str) -> Graph:
        """Return the graph of that name, loading its model if need be; raises a PromptdError."""
        return self._graphs.get(name)

    def graph_names(self) -> list[str]:
        """Return the names of all graphs, sorted."""
        return self._graphs.names()

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
        with self._changing:
            if taken := sorted(self._made.keys() & settings.graphs.keys()):
                raise InvalidArgument(f"a graph called {taken[0]!r} was made while promptd ran; delete it first")
            settings = settings.model_copy(update={"graphs": {**settings.graphs, **self._made}})
            guests = {name: self._load_guest(name, guest) for name, guest in settings.guests.items()}
            self._graphs.check(settings)
            self._guests.update(settings.guests, guests)
            self.settings = settings
            self._graphs.update(settings)

    def make_graph(self, name: str, settings: GraphSettings) -> None:
        """Have one more graph, in place of one of that name that was made before; raises InvalidArgument when the
        operator's settings have it.
        """
        with self._changing:
            if name in self.settings.graphs and name not in self._made:
                raise InvalidArgument(f"the graph {name} stands in promptd's settings, so it cannot be made anew")
            self._made[name] = settings
            self._take_graphs({**self.settings.graphs, name: settings})

    def remove_graph(self, name: str) -> None:
        """Have a graph no more that was made; conversations with it go on. Raises NotFound."""
        with self._changing:
            if self._made.pop(name, None) is None:
                raise NotFound(f"no graph called {name!r} was made while promptd ran")
            self._take_graphs({key: graph for key, graph in self.settings.graphs.items() if key != name})

    def _take_graphs(self, graphs: dict[str, GraphSettings]) -> None:
        self.settings = self.settings.model_copy(update={"graphs": graphs})
        self._graphs.update(self.settings)

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

    def _load_guest(self, name: str, settings: GuestSettings) -> Guest:
        return self._runtime.load(settings.file, name)
