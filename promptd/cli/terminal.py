"""Makes text of guests and models harmless to a terminal: what they write may be read, but may not steer."""

from __future__ import annotations

import codecs
import os

from promptd.cli.output import neutralise, telling_write_errors
from promptd.wasm.stdio import Sink, to_fd

STDERR = 2


def terminal_sink(fd: int) -> Sink:
    """Return a sink that writes to `fd`: neutralised when that is a terminal, untouched when it is a file or a pipe."""
    to_host = to_fd(fd)

    def write(data: bytes) -> None:
        with telling_write_errors("standard error" if fd == STDERR else "standard output"):
            to_host(data)

    if not os.isatty(fd):
        return write
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def sink(data: bytes) -> None:
        write(neutralise(decoder.decode(data)).encode())

    return sink
