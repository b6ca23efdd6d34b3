"""Makes text of guests and models harmless to a terminal: what they write may be read, but may not steer."""

from __future__ import annotations

import codecs
import os

from promptd.cli.output import neutralise
from promptd.wasm.stdio import Sink, to_fd


def terminal_sink(fd: int) -> Sink:
    """Return a sink that writes to `fd`: neutralised when that is a terminal, untouched when it is a file or a pipe."""
    write = to_fd(fd)
    if not os.isatty(fd):
        return write
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def sink(data: bytes) -> None:
        write(neutralise(decoder.decode(data)).encode())

    return sink
