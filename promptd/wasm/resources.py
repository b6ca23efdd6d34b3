"""A session's own table of what its guest holds by handle: graphs, tensors, contexts, errors.

wasmtime does not run a handle's destructor when a store dies, so the table is swept when the session closes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from promptd.errors import InvalidArgument

T = TypeVar("T")

FIRST_HANDLE = 1


class Resources:
    """Objects by handle. Handles count up from 1 and are never used twice."""

    def __init__(self) -> None:
        self._objects: dict[int, Any] = {}
        self._handles = itertools.count(FIRST_HANDLE)

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._objects.values()))

    def add(self, thing: object) -> int:
        """Keep `thing` and return its handle."""
        handle = next(self._handles)
        self._objects[handle] = thing
        return handle

    def get(self, handle: int, kind: type[T]) -> T:
        """Return the object of `handle`; InvalidArgument when there is none of that kind."""
        thing = self._objects.get(handle)
        if not isinstance(thing, kind):
            raise InvalidArgument(f"handle {handle} is not a {kind.__name__.lower()}")
        return thing

    def take(self, handle: int, kind: type[T]) -> T:
        """Return the object of `handle` and forget the handle; InvalidArgument as `get`."""
        thing = self.get(handle, kind)
        del self._objects[handle]
        return thing

    def pop(self, handle: int) -> Any:
        """Forget `handle` and return its object, or None."""
        return self._objects.pop(handle, None)

    def sweep(self, close: Callable[[Any], None]) -> None:
        """Close all objects, the youngest first: contexts before their graphs."""
        for handle in sorted(self._objects, reverse=True):
            thing = self._objects.pop(handle, None)
            if thing is not None:
                close(thing)
