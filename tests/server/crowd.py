"""A crowd of clients in a process of its own: connects COUNT times, asks once told to, and prints what came of it.

usage: crowd.py HOST PORT COUNT
"""

from __future__ import annotations

import json
import resource
import socket
import sys
from collections import Counter

PATIENCE_S = 60
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def main(host: str, port: int, count: int) -> None:
    """Print "connected", wait for a line, ask on every connection, and print how often each answer came, as JSON."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    crowd = [socket.create_connection((host, port), PATIENCE_S) for _ in range(count)]
    print("connected", flush=True)
    sys.stdin.readline()
    for each in crowd:
        each.sendall(REQUEST)
    print(json.dumps(Counter(map(_answer, crowd))), flush=True)


def _answer(connection: socket.socket) -> str:
    """Return all that comes until the daemon hangs up."""
    got = b""
    try:
        while data := connection.recv(65536):
            got += data
    except OSError as error:
        return f"{got.decode()} and {error}"
    return got.decode()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
