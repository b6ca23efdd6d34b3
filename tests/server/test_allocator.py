"""Memory that many threads needed for a moment goes back to the system."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import re, sys, threading
from pathlib import Path
from promptd.server.allocator import give_freed_memory_back

if sys.argv[1] == "mended":
    give_freed_memory_back()
MIB = 1024**2
together = threading.Barrier(8)
def work():
    for _ in range(3):
        blocks = [b"x" * (2 * MIB) for _ in range(10)]
        together.wait()
        del blocks
        together.wait()
def written():
    return sum(map(int, re.findall(r"Private_Dirty:\\s+(\\d+)", Path("/proc/self/smaps_rollup").read_text()))) // 1024
before = written()
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(written() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells what a process has written")
@pytest.mark.parametrize(("how", "kept"), [("mended", range(16)), ("as glibc does", range(17, 1000))])
def test_what_eight_threads_freed_is_given_back(how: str, kept: range) -> None:
    own = {name: value for name, value in os.environ.items() if not re.match("MALLOC_|GLIBC_TUNABLES", name)}
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) in kept
