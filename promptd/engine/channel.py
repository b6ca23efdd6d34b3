"""How messages travel between the parent and the worker: length-prefixed msgpack frames over a socket pair.

Each side decodes nothing but the types it was told to, and no frame beyond `MAX_FRAME_BYTES`: a worker that a hostile
model file has taken over can lie about a reply, but not reach further.
"""

from __future__ import annotations

import select
import socket
from typing import Generic, TypeVar

import msgspec

MAX_FRAME_BYTES = 256 * 1024**2
"""Larger than any conversation that fits a context, small enough not to exhaust the reader."""

_LENGTH_BYTES = 4
_RECEIVE_BYTES = 256 * 1024

M = TypeVar("M")


class ProtocolError(Exception):
    """The other side sent something that is no message of ours."""


class Channel(Generic[M]):
    """One end of the socket pair: sends any message, receives messages of the types it was made for.

    `send` may be called by one thread while another receives; several senders need a lock of their own.
    """

    def __init__(self, connection: socket.socket, receives: type[M]) -> None:
        self._socket = connection
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(receives)
        self._buffer = bytearray()

    def send(self, message: msgspec.Struct) -> None:
        """Write one frame; OSError when the other side is gone, ValueError when the message is too large."""
        payload = self._encoder.encode(message)
        if len(payload) > MAX_FRAME_BYTES:
            raise ValueError(f"a message of {len(payload)} bytes is over the limit of {MAX_FRAME_BYTES}")
        self._socket.sendall(len(payload).to_bytes(_LENGTH_BYTES, "little") + payload)

    def receive(self, *, wait: bool = True) -> M | None:
        """Return the next message; None when there is none yet and `wait` is false.

        Raises EOFError when the other side has closed, ProtocolError for bytes that are no message.
        """
        while (message := self._take()) is None:
            try:
                data = self._socket.recv(_RECEIVE_BYTES, 0 if wait else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            except ConnectionError as error:
                raise EOFError from error
            if not data:
                raise EOFError
            self._buffer += data
        return message

    def comes(self, seconds: float) -> bool:
        """Return whether there is something to receive within `seconds`, if only a part of a message or the other
        side's end.
        """
        end = self._end()
        if end is not None and end <= len(self._buffer):
            return True
        # select() takes no descriptor from 1024 on, and a worker has its socket by a daemon's number
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _end(self) -> int | None:
        """Return where the first frame in the buffer ends, if that can be told yet."""
        if len(self._buffer) < _LENGTH_BYTES:
            return None
        return _LENGTH_BYTES + int.from_bytes(self._buffer[:_LENGTH_BYTES], "little")

    def _take(self) -> M | None:
        """Return the first whole message in the buffer."""
        end = self._end()
        if end is None:
            return None
        if end - _LENGTH_BYTES > MAX_FRAME_BYTES:
            raise ProtocolError(f"a frame of {end - _LENGTH_BYTES} bytes is over the limit of {MAX_FRAME_BYTES}")
        if end > len(self._buffer):
            return None
        try:
            message = self._decoder.decode(memoryview(self._buffer)[_LENGTH_BYTES:end])
        except msgspec.MsgspecError as error:
            raise ProtocolError(str(error)) from error
        finally:
            del self._buffer[:end]
        return message
