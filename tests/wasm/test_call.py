"""The thread of a call into a guest."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from promptd.wasm.call import NICENESS, Call


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives threads a priority of their own")
def test_a_guests_thread_gives_way_and_its_callers_does_not() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, 0)

    before = niceness()
    ended = threading.Event()
    call = Call(niceness, ended.set, "guest-test")
    assert ended.wait(10)
    assert (call.value, niceness()) == (min(before + NICENESS, 19), before)
