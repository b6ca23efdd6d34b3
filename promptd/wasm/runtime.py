"""The wasmtime engine all guests of a process share, and the thread that advances its epoch while guests compute."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from wasmtime import Config, Engine

from promptd.errors import Busy, UnsupportedOperation
from promptd.wasm import fixes
from promptd.wasm.cache import CompileCache
from promptd.wasm.call import Call
from promptd.wasm.guest import Guest, load_guest

DEADLINE_TICK_S = 0.01
"""How often a running guest is asked whether it may go on, and so how long a stopped loop runs on."""

SETTINGS = "epoch_interruption=1 threads=0 gc=0"
"""What `_engine` configures, as a part of the compile cache's key."""

SLEEPERS_LIMIT = 16
"""Most stopped instances of one guest that may still sleep in a WASI call: wasmtime cannot interrupt it, so thread and
memory stay."""

ALL_SLEEPERS_LIMIT = 512
"""The same for all guests together; so that one guest cannot keep the others from running, many times the other."""

READERS_LIMIT = 448
"""Most guests that may read a pipe at once: each holds one of the 512 threads that wasmtime's tokio runtime has for
what blocks, and reads of files need some too. Measured: with 520 guests the last gets no input at all."""

TRIAL_S = 5.0
"""What a guest may take to be tried out when it is loaded."""

T = TypeVar("T")


def _engine() -> Engine:
    config = Config()
    config.epoch_interruption = True
    config.wasm_threads = False  # the memory limit does not reach shared memories
    config.wasm_gc = False  # a GC heap would be a second memory beside the limited one
    # Multi-memory stays on: wasmtime 50 joins components inside a component by modules that need it, and aborts the
    # process where it is off. The store's limit of memories bounds their number.
    return Engine(config)


class Runtime:
    """One per process: everything guests share. Any thread may use it."""

    def __init__(self, cache: CompileCache | None = None) -> None:
        fixes.apply()
        self.engine = _engine()
        self._cache = cache
        self._lock = threading.Lock()
        self._busy = threading.Event()
        self._running = 0
        self._computing = 0
        """How many of those are not in a host call."""
        self._sleepers: Counter[str] = Counter()
        self._readers = 0
        self._closed = False
        self._ticker: threading.Thread | None = None

    def load(self, path: Path, name: str | None = None) -> Guest:
        """Return the guest in `path`, compiled or from the cache; `name` is what errors and logs call it.

        Raises NotFound without such a file, InvalidEncoding when it is not valid WebAssembly, UnsupportedOperation when
        it exports nothing to run, imports what promptd does not offer, or sleeps in its start functions.
        """
        guest = name or path.stem
        return load_guest(self.engine, self._cache, SETTINGS, path, guest, lambda work: self._try(guest, path, work))

    def _try(self, guest: str, path: Path, work: Callable[[], T]) -> T:
        """Return what `work` returns, which runs code of the guest."""
        ended = threading.Event()

        def on_guest_thread() -> T:
            with self.running(guest):
                return work()

        call = Call(on_guest_thread, ended.set, f"trial-{guest}")
        if not ended.wait(TRIAL_S) and call.leave(lambda: self.count_sleeper(guest, -1)):
            self.count_sleeper(guest, 1)
            raise UnsupportedOperation(
                f"{path} sleeps while it is instantiated: its start functions took more than {TRIAL_S:g} s; "
                "move that work into the function promptd calls"
            )
        if call.error is not None:
            raise call.error
        value: T = call.value
        return value

    @contextmanager
    def running(self, guest: str) -> Iterator[None]:
        """Advance the epoch while `guest` runs in the block and is not `paused`; Busy when too many stopped instances
        are still asleep.
        """
        with self._lock:
            asleep, of_all = self._sleepers[guest], self._sleepers.total()
            if asleep >= SLEEPERS_LIMIT:
                raise Busy(
                    f"{asleep} stopped instances of guest {guest} still sleep inside a WASI call; "
                    "it can run again when one wakes, or promptd is restarted"
                )
            if of_all >= ALL_SLEEPERS_LIMIT:
                raise Busy(f"{of_all} stopped guests still sleep inside a WASI call; restart promptd to be rid of them")
            self._running += 1
            self._computes(1)
            if self._ticker is None:
                self._ticker = threading.Thread(target=self._tick, name="promptd-epoch", daemon=True)
                self._ticker.start()
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                self._computes(-1)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Not advance the epoch for a running guest while the block, a host call of it, runs."""
        with self._lock:
            self._computes(-1)
        try:
            yield
        finally:
            with self._lock:
                self._computes(1)

    def _computes(self, change: int) -> None:
        """The lock is held."""
        self._computing += change
        if self._computing == 0 and not self._closed:
            self._busy.clear()
        elif self._computing == change:  # the first
            self._busy.set()

    def count_sleeper(self, guest: str, change: int) -> None:
        """Note that a stopped instance of `guest` is left asleep (1), or has woken and gone (-1)."""
        with self._lock:
            self._sleepers[guest] += change

    def take_reader(self) -> None:
        """Reserve the thread that reads a guest's pipe ahead; raises Busy."""
        with self._lock:
            if self._readers >= READERS_LIMIT:
                raise Busy(
                    f"{self._readers} components that read pipes already wait for their next line, more than wasmtime "
                    "has threads for; close a session, or grant the guest no directory: then it needs none"
                )
            self._readers += 1

    def give_reader(self) -> None:
        """Give back what `take_reader` reserved."""
        with self._lock:
            self._readers -= 1

    @property
    def guests(self) -> int:
        """Guests that run now, or wait for input, or sleep."""
        return self._running

    @property
    def sleepers(self) -> int:
        """Stopped guests whose thread is still inside a WASI call."""
        with self._lock:
            return self._sleepers.total()

    def close(self) -> None:
        """End the ticker; guests that still run are no longer stopped by it."""
        with self._lock:
            self._closed = True
            self._busy.set()
        if self._ticker is not None:
            self._ticker.join()

    def _tick(self) -> None:
        while not self._closed:
            self._busy.wait()
            self.engine.increment_epoch()
            time.sleep(DEADLINE_TICK_S)
