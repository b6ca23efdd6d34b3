"""How a guest ends when it does not return: the errors a caller sees, and the sentence for each trap of wasmtime."""

from __future__ import annotations

import logging
import re

from promptd.config import GuestLimits
from promptd.errors import RuntimeFailure, TimedOut, TooLarge

_log = logging.getLogger("promptd.guest")

TRAP_EXIT_CODE = 134
"""128 + SIGABRT, what a shell reports for a program that aborted, and what the wasmtime CLI exits with after a trap."""


class GuestTrap(RuntimeFailure):
    """The guest was ended by a trap; its instance cannot be used again."""

    exit_code = TRAP_EXIT_CODE


class GuestDeadline(TimedOut, GuestTrap):
    """The guest's deadline passed, in wasm or in a host call."""


class GuestOutputLimit(TooLarge, GuestTrap):
    """The guest wrote more than its output limit."""


class GuestCallLimit(TooLarge, GuestTrap):
    """The guest passed more to the host in one call than wasmtime carries."""


class GuestStopped(GuestTrap):
    """The host stopped the guest."""


_SENTENCES = {
    "wasm `unreachable` instruction executed": (
        "it reached an `unreachable` instruction, as a panic, an abort or a failed allocation does; "
        "its standard error may say why"
    ),
    "call stack exhausted": "its call stack overflowed",
    "out of bounds memory access": "it accessed memory outside its bounds",
    "out of bounds table access": "it accessed a table outside its bounds",
    "integer divide by zero": "it divided an integer by zero",
    "integer overflow": "an integer operation overflowed",
    "invalid conversion to integer": "it converted a number that is no integer to an integer",
    "uninitialized element": "it called through an empty table element",
    "indirect call type mismatch": "it called a function by a wrong type",
    "cannot enter component instance": "its instance has ended before",
}

LIST_CALL_LIMIT = 2_796_201
"""Most bytes of list<u8> one call from a component to the host can carry: wasmtime 50's hostcall fuel, 128 MiB / 48.

The other way there is no such limit. The guest cannot be given an error in its place: wasmtime traps before the host
function is called.
"""

_TOO_MUCH_DATA = "fuel allocated for hostcalls has been exhausted"


def trap_of(error: BaseException, guest: str, limits: GuestLimits) -> GuestTrap:
    """Return the trap that wasmtime reported as `error`, in one sentence; its wasm backtrace goes to the debug log."""
    text = str(error)
    _log.debug("guest %s trapped: %s", guest, text)
    kind = GuestCallLimit if _TOO_MUCH_DATA in text else GuestTrap
    return kind(f"guest {guest} trapped: {_reason(text, limits)}")


def _reason(text: str, limits: GuestLimits) -> str:
    if match := re.search(r"wasm trap: (.+)", text):
        return _SENTENCES.get(match[1], match[1])
    if match := re.search(r"memory minimum size of (\d+) pages exceeds memory limits", text):
        need, have = int(match[1]) / 16, limits.memory / 1024**2
        return f"it needs {need:.1f} MiB of memory to start, more than its limit of {have:.1f} MiB"
    if _TOO_MUCH_DATA in text:
        return (
            f"too-large: it passed more data to the host in one call than wasmtime carries ({LIST_CALL_LIMIT} bytes of "
            "list<u8>); a larger tensor has to go in parts, and a larger model by name"
        )
    if match := re.search(r"(?:resource limit exceeded: .+|GC heap out of memory.*|.+ exceeds table limits)", text):
        return match[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"^\d+: ", "", lines[-1]) if lines else "no reason given"
