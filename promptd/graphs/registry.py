"""The registry: graphs, or guests, by the name the operator gave them; each is loaded once and then shared."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from promptd.errors import InvalidArgument, NotFound, RuntimeFailure


@runtime_checkable
class Closeable(Protocol):
    """Something that holds what must be given back."""

    def close(self) -> None:
        """Give it back. Idempotent."""


G = TypeVar("G")
S = TypeVar("S")


class Registry(Generic[G]):
    """Things of one `kind` by name; safe to use from any thread."""

    def __init__(self, load: Callable[[str, S], G], settings: Mapping[str, S], kind: str = "graph") -> None:
        """`load` makes what a name means from its settings; it is called without any lock held, and may take its
        time.
        """
        self._load: Callable[[str, Any], G] = load
        self._settings: dict[str, Any] = dict(settings)
        self._kind = kind
        self._added: set[str] = set()
        self._graphs: dict[str, Future[G]] = {}
        self._lock = threading.Lock()
        self._closed = False

    def get(self, name: str) -> G:
        """Return what is called `name`, loading it if nobody has yet.

        Whoever asks while it loads waits, and shares the outcome. After a failure, which all of them see, the next
        call tries again. Raises NotFound for unknown names.
        """
        with self._lock:
            if self._closed:
                raise RuntimeFailure("promptd is shutting down")
            settings = self._settings.get(name)
            if settings is None:
                raise NotFound(f"no {self._kind} is called {name!r}")
            future = self._graphs.get(name)
            mine = future is None
            if future is None:
                future = self._graphs[name] = Future()
        if mine:
            self._fill(name, settings, future)
        return future.result()

    def add(self, name: str, settings: Any) -> None:
        """Make one more name known; raises InvalidArgument when the name is taken."""
        with self._lock:
            if name in self._settings:
                raise InvalidArgument(f"there is already a {self._kind} called {name!r}")
            self._settings[name] = settings
            self._added.add(name)

    def update(self, settings: Mapping[str, Any], loaded: Mapping[str, G] | None = None) -> None:
        """Take other settings, beside those of names that were added; `loaded` is what is loaded of them already.

        What was loaded from settings that are gone or have changed is let go of, not closed: whoever uses it goes on.
        Raises InvalidArgument when a name was added already, and then nothing has changed.
        """
        with self._lock:
            kept = {name: self._settings[name] for name in self._added}
            if taken := sorted(kept.keys() & settings.keys()):
                raise InvalidArgument(
                    f"a {self._kind} called {taken[0]!r} was added while promptd ran; delete it first"
                )
            before, self._settings = self._settings, {**settings, **kept}
            for name in list(self._graphs):
                if name not in self._settings or self._settings[name] != before[name]:
                    del self._graphs[name]
            for name, graph in (loaded or {}).items():
                self._graphs[name] = Future()
                self._graphs[name].set_result(graph)

    def remove(self, name: str) -> None:
        """Forget a name; raises NotFound. What is loaded of it is not closed: it may be in use."""
        with self._lock:
            if self._settings.pop(name, None) is None:
                raise NotFound(f"no {self._kind} is called {name!r}")
            self._added.discard(name)
            self._graphs.pop(name, None)

    def names(self) -> list[str]:
        """Return all names, loaded or not."""
        with self._lock:
            return list(self._settings)

    def settings(self, name: str) -> Any:
        """Return the settings of a name; raises NotFound for unknown names."""
        with self._lock:
            if name not in self._settings:
                raise NotFound(f"no {self._kind} is called {name!r}")
            return self._settings[name]

    def loaded(self) -> dict[str, G]:
        """Return what is loaded, by name."""
        with self._lock:
            futures = list(self._graphs.items())
        return {name: future.result() for name, future in futures if future.done() and future.exception() is None}

    def unload(self, name: str) -> bool:
        """Unload what is called `name`; the next `get` loads it again. False when it was not loaded."""
        with self._lock:
            future = self._graphs.get(name)
            if future is None or not future.done() or future.exception() is not None:
                return False
            del self._graphs[name]
        _close(future.result())
        return True

    def close(self) -> None:
        """Unload everything, and refuse to load more; one that is just being loaded is unloaded by its loader.
        Idempotent.
        """
        with self._lock:
            self._closed = True
            loaded = [future for future in self._graphs.values() if future.done()]
            self._graphs.clear()
        for future in loaded:
            if future.exception() is None:
                _close(future.result())

    def _fill(self, name: str, settings: Any, future: Future[G]) -> None:
        try:
            graph = self._load(name, settings)
        except BaseException as error:
            with self._lock:
                if self._graphs.get(name) is future:
                    del self._graphs[name]
            future.set_exception(error)
            if isinstance(error, Exception):
                return
            raise
        with self._lock:
            closed = self._closed
            if not closed:
                future.set_result(graph)
        if closed:
            _close(graph)
            future.set_exception(RuntimeFailure("promptd is shutting down"))


def _close(thing: object) -> None:
    if isinstance(thing, Closeable):
        thing.close()
