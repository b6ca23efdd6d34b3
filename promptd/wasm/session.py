"""A session: one running instance of a guest, called over one or many turns, and stopped from any thread.

Every call into the guest runs on a thread of its own, while the caller's thread serves the guest's pipes and watches
its clock. So a caller gets control back even from a guest that sleeps inside WASI, which wasmtime cannot interrupt.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from promptd.backends.base import Graph
from promptd.chat import Message, Usage
from promptd.errors import Busy, InvalidArgument, PromptdError, UnsupportedOperation
from promptd.wasm.call import Call
from promptd.wasm.control import Control
from promptd.wasm.grants import Grant
from promptd.wasm.guest import Guest
from promptd.wasm.idle import Idle
from promptd.wasm.instance import WASM_ERRORS, GuestInstance
from promptd.wasm.nn import Nn
from promptd.wasm.runtime import DEADLINE_TICK_S, Runtime
from promptd.wasm.stdio import OutputLimitReached, Stdin, Stdio, Streams
from promptd.wasm.traps import GuestOutputLimit, GuestStopped, GuestTrap, trap_of

_log = logging.getLogger("promptd.guest")

STOP_GRACE_S = 0.5
"""How long a stopped guest may take to end before its caller no longer waits for it."""

LOOK_S = 0.001
"""How often a turn looks whether the guest waits for its next line."""

_INHERITED = Stdio()


class Session:
    """One running instance. Its calls do not overlap, except `stop`, which any thread may call at any time, a sink too.

    `graphs` is asked for granted names only, on the guest's thread; `identity` is whom the models account the guest's
    use to.
    """

    def __init__(
        self,
        runtime: Runtime,
        guest: Guest,
        grant: Grant,
        graphs: Callable[[str], Graph],
        stdio: Stdio = _INHERITED,
        identity: str = "",
    ) -> None:
        self.guest = guest
        self._runtime = runtime
        self._grant = grant
        self._stdin = stdio.stdin
        piped = guest.format == "component" and (guest.splices or bool(grant.dirs))  # see component_lines.py
        self._streams = Streams(stdio, grant.limits.output, pipe_lines=piped)
        self._control = Control(guest.name, self._streams.wake, runtime.paused)
        self._nn = Nn(guest.name, grant, graphs, self._control, self._streams.write_partial, identity)
        self._instance: GuestInstance | None = None
        self._call: Call | None = None
        self._idle: Idle | None = None
        self._calling = threading.Lock()
        self._closed = False

    @property
    def ended(self) -> bool:
        """Whether the guest has exited, trapped or was stopped: no further call can succeed."""
        exited = not self.guest.is_handler and self._call is not None and self._call.done
        return exited or self._closed or self._control.stopped is not None

    @property
    def usage(self) -> Usage:
        """The tokens of all replies the guest has got so far."""
        return self._nn.meter.usage

    def run(self) -> int:
        """Run a command to its end and return its exit code; raises GuestTrap."""
        with self._clocked():
            self._start()
            self._serve(until_idle=False)
            return int(self._value())

    def turn(self, line: str | None = None) -> int | None:
        """Send a command one line and wait until it wants another: None, or its exit code if it ended instead. Raises
        GuestTrap.

        Without a line, the guest is only started, to say its greeting. The session needs `Stdin.LINES`.
        """
        with self._clocked():
            self._need_lines()
            if self._call is None:
                self._start()
            if line is not None:
                self._streams.send(line.encode(errors="replace") + b"\n")
            return int(self._value()) if self._serve(until_idle=True) else None

    def finish(self) -> int:
        """End a command's standard input, and wait for its exit code; raises GuestTrap."""
        with self._clocked():
            self._need_lines()
            if self._call is None:
                self._start()
            self._streams.end_input()
            self._serve(until_idle=False)
            return int(self._value())

    def respond(self, messages: Sequence[Message], partial: Callable[[str], None] | None = None) -> str:
        """Let a handler answer `messages`; `partial` takes what it writes to promptd:prompt/output meanwhile.

        Raises GuestTrap, or the PromptdError the handler answered with; after the latter the session goes on.
        """
        if not self.guest.is_handler:
            raise UnsupportedOperation(
                f"guest {self.guest.name} is no chat handler: it does not export promptd:prompt/handler"
            )
        given = list(messages)
        with self._clocked():
            self._streams.partial = partial or (lambda _text: None)
            self._begin(lambda instance: instance.respond(given))
            self._serve(until_idle=False)
            return str(self._value())

    def interrupt(self) -> bool:
        """Cancel the replies the guest streams at this moment, from any thread: it reads their end, and goes on. False
        when there are none.
        """
        return self._nn.cancel_replies()

    def stop(self, reason: str = "stopped") -> None:
        """End the guest from any thread; its running call raises GuestStopped. Idempotent."""
        self._control.stop(GuestStopped(f"guest {self.guest.name} was stopped: {reason}"))

    def close(self) -> None:
        """Stop the guest, wait for the running call to return, and free all the guest holds. Idempotent."""
        self.stop("its session was closed")
        with self._calling:
            if self._closed:
                return
            self._closed = True
            self._streams.discard()
            self._serve(until_idle=False)
            self._nn.close()
            self._streams.close()
            if self._idle is not None:
                self._runtime.give_reader()
            if self._call is not None and self._call.leave(self._wake_up):
                self._runtime.count_sleeper(self.guest.name, 1)
            else:
                self._free()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            warnings.warn(f"a session of guest {self.guest.name} was not closed", ResourceWarning, stacklevel=1)
            self.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # One call into the guest

    @contextlib.contextmanager
    def _clocked(self) -> Iterator[None]:
        """Hold off other calls, and limit the time of this one."""
        if not self._calling.acquire(blocking=False):
            raise Busy(f"guest {self.guest.name} still works on another call of its session")
        try:
            if self._control.stopped is not None:
                raise self._control.stopped.with_traceback(None)
            if self.ended:
                raise InvalidArgument(f"guest {self.guest.name} has exited; open a new session")
            self._control.begin(self._grant.limits.deadline)
            yield
        finally:
            self._control.end()
            self._calling.release()

    def _need_lines(self) -> None:
        if self._stdin is not Stdin.LINES:
            raise InvalidArgument("a session takes turns only when its standard input is Stdin.LINES")

    def _start(self) -> None:
        if not self.guest.is_command:
            raise UnsupportedOperation(f"guest {self.guest.name} is no command: it answers messages and cannot be run")
        if self._call is not None:
            raise InvalidArgument(f"guest {self.guest.name} runs already; a session runs its guest once")
        piped = self._stdin is Stdin.LINES and self._streams.lines is None
        if piped:
            self._runtime.take_reader()
        call = self._begin(lambda instance: instance.run())
        if piped:
            self._idle = Idle(self._streams, self._control, call.thread, lambda: self._runtime.guests == 1)

    def _begin(self, work: Callable[[GuestInstance], Any]) -> Call:
        def on_guest_thread() -> Any:
            with self._runtime.running(self.guest.name):
                if self._instance is None:
                    engine, control = self._runtime.engine, self._control
                    self._instance = GuestInstance(engine, self.guest, self._grant, self._streams, control, self._nn)
                return work(self._instance)

        self._call = Call(on_guest_thread, self._streams.wake, f"guest-{self.guest.name}")
        return self._call

    def _serve(self, *, until_idle: bool) -> bool:
        """Serve the guest until its call ends, True, or until it waits for input, False, where that is asked for.

        A stopped guest that does not end in time counts as ended. Raises what a sink raised, and KeyboardInterrupt.
        """
        failure: BaseException | None = None
        give_up: float | None = None
        while (call := self._call) is not None and not call.done:
            failure = self._pump(self._pause(until_idle), failure)
            if self._control.must_stop():
                self._streams.cut_input()
                give_up = give_up or time.monotonic() + STOP_GRACE_S
                if time.monotonic() > give_up:
                    break
            elif until_idle and self._waits() and not call.done:
                failure = self._pump(0, failure)
                if failure is None and self._control.stopped is None:
                    return False
        failure = self._pump(0, failure)
        if failure:
            raise failure
        return True

    def _waits(self) -> bool:
        """Whether the guest waits for its next line."""
        if self._streams.lines is not None:
            return self._streams.lines.waits
        return self._idle is not None and self._idle.waits()

    def _pause(self, until_idle: bool) -> float | None:
        if self._control.stopped is not None:
            return DEADLINE_TICK_S
        if until_idle and self._streams.lines is None:
            return DEADLINE_TICK_S if self._control.in_host_call else LOOK_S
        deadline = self._control.deadline
        return None if deadline is None else deadline - time.monotonic() + DEADLINE_TICK_S

    def _pump(self, seconds: float | None, failure: BaseException | None) -> BaseException | None:
        """Serve the pipes once; return the first failure of a sink, which stops the guest."""
        try:
            self._streams.pump(seconds)
        except OutputLimitReached:
            limit = self._grant.limits.output
            self._control.stop(
                GuestOutputLimit(f"guest {self.guest.name} was stopped: it wrote more than its limit of {limit} bytes")
            )
        except BaseException as error:
            self.stop("interrupted" if isinstance(error, KeyboardInterrupt) else "its output could not be delivered")
            return failure or error
        return failure

    def _value(self) -> Any:
        """Return what the ended call returned, or raise why it did not."""
        call = self._call
        if self._control.stopped is None and call is not None:
            error, guest = call.error, self.guest.name
            if error is None:
                return call.value
            if isinstance(error, PromptdError):
                raise error
            if isinstance(error, WASM_ERRORS):
                self._control.stop(trap_of(error, guest, self._grant.limits))
            else:
                _log.debug("guest %s: a host function failed", guest, exc_info=error)
                self._control.stop(
                    GuestTrap(f"guest {guest} was stopped: a host function failed ({type(error).__name__})")
                )
        assert self._control.stopped is not None
        raise self._control.stopped.with_traceback(None)

    def _free(self) -> None:
        if self._instance is not None:
            self._instance.close()

    def _wake_up(self) -> None:
        """Free what a guest left asleep has held till now."""
        self._free()
        self._runtime.count_sleeper(self.guest.name, -1)
