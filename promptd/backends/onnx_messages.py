"""What the parent and an onnxruntime process say to each other: typed messages, and tensors as the bytes they are.

A frame is the length of a msgpack message, the number of tensors that follow it and their sizes, the message, the
tensors. Nothing is pickled, and the parent allocates no more than `limit`: a process that a hostile model has taken
over can lie about a result, but not reach further.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar

import msgspec

from promptd.backends.onnx_ports import Feed, Port

MAX_MESSAGE_BYTES = 64 * 1024**2
"""Of the message alone. A model's names are in it, so it can be as large as a model that is given as bytes."""

MAX_BLOBS = 65536

Buffer = bytes | memoryview

_HEAD = struct.Struct("<II")
_SIZE_BYTES = 8
_VECTORS = 512
"""Buffers in one sendmsg; Linux takes 1024."""


class Load(msgspec.Struct, frozen=True, tag=True):
    """The first frame: which model to load. Without a path the model's bytes follow."""

    path: str | None
    target: Literal["cpu", "gpu", "auto"]
    memory: int
    """Bytes that weights and tensors may take."""


class Run(msgspec.Struct, frozen=True, tag=True):
    """Compute these outputs from these inputs."""

    call: int
    outputs: tuple[str, ...]
    feeds: tuple[Feed, ...]


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End a run as soon as the operator it is in is done."""

    call: int


Command = Load | Run | Stop


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    warning: str | None


class LoadFailed(msgspec.Struct, frozen=True, tag=True):
    """The model cannot be loaded; the process exits. `code` is a name of errors.ERROR_CODES."""

    code: str
    sentence: str


class Done(msgspec.Struct, frozen=True, tag=True):
    """A run has ended; the bytes of its outputs follow."""

    call: int
    shapes: tuple[tuple[int, ...], ...]


class Failed(msgspec.Struct, frozen=True, tag=True):
    """A run has failed. `code` is a name of errors.ERROR_CODES."""

    call: int
    code: str
    sentence: str


class Logged(msgspec.Struct, frozen=True, tag=True):
    """onnxruntime has something to say; `level` is that of the logging module."""

    level: int
    text: str


Event = Loaded | LoadFailed | Done | Failed | Logged

M = TypeVar("M")


class ProtocolError(Exception):
    """The other side sent something that is no message of ours."""


class TensorChannel(Generic[M]):
    """One end of the socket pair: sends any message, receives messages of the types it was made for.

    One thread may send while another receives; several senders need a lock of their own. At most `limit` bytes of
    tensors are taken in one frame.
    """

    def __init__(self, connection: socket.socket, receives: Any, limit: int) -> None:
        self._socket = connection
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(receives)
        self._limit = limit
        self._unsent: list[memoryview] = []
        """What is left of the frame being sent, the next part last."""

    def send(self, message: Command | Event, blobs: Sequence[Buffer] = (), deadline: float | None = None) -> None:
        """Write one frame; OSError when the other side is gone, TimeoutError when it did not take it in time."""
        payload = self._encoder.encode(message)
        sizes = b"".join(len(blob).to_bytes(_SIZE_BYTES, "little") for blob in blobs)
        parts = [
            memoryview(_HEAD.pack(len(payload), len(blobs)) + sizes + payload),
            *(memoryview(blob) for blob in blobs),
        ]
        parts.reverse()
        self._unsent = parts
        self.send_rest(deadline)

    def send_rest(self, deadline: float | None) -> None:
        """Go on with a frame that was not taken in time."""
        parts = self._unsent
        while parts:
            sent = self._write(parts[: -_VECTORS - 1 : -1], deadline)
            while parts and sent >= len(parts[-1]):
                sent -= len(parts.pop())
            if sent:
                parts[-1] = parts[-1][sent:]

    def receive(self) -> tuple[M, list[bytes] | None]:
        """Return the next message and its tensors, or None for tensors that memory does not suffice for.

        Raises EOFError when the other side has closed, ProtocolError for bytes that are no message.
        """
        length, count = _HEAD.unpack(self._read(_HEAD.size))
        if length > MAX_MESSAGE_BYTES or count > MAX_BLOBS:
            raise ProtocolError(f"a frame of {length} bytes and {count} tensors is over the limit")
        head = self._read(count * _SIZE_BYTES + length)
        sizes = struct.unpack_from(f"<{count}Q", head)
        if sum(sizes) > self._limit:
            raise ProtocolError(f"{sum(sizes)} bytes of tensors are over the limit of {self._limit}")
        try:
            message = self._decoder.decode(memoryview(head)[count * _SIZE_BYTES :])
        except msgspec.MsgspecError as error:
            raise ProtocolError(str(error)) from error
        blobs: list[bytes] = []
        for index, size in enumerate(sizes):
            try:
                blobs.append(self._read(size))
            except MemoryError:  # before anything of it was read
                blobs.clear()
                self._skip(sum(sizes[index:]))
                return message, None
        return message, blobs

    def _write(self, parts: list[memoryview], deadline: float | None) -> int:
        if deadline is None:
            return self._socket.sendmsg(parts)
        while True:
            try:
                return self._socket.sendmsg(parts, (), socket.MSG_DONTWAIT)
            except BlockingIOError:
                left = deadline - time.monotonic()
                poll = select.poll()
                poll.register(self._socket, select.POLLOUT)
                if left <= 0 or not poll.poll(left * 1000):
                    raise TimeoutError("the other side does not read") from None

    def _read(self, size: int) -> bytes:
        """Return exactly so many bytes, in one buffer that the kernel filled unless a signal came between."""
        if not size:
            return b""
        data = self._some(size)
        if len(data) < size:
            whole = bytearray(data)
            while len(whole) < size:
                whole += self._some(size - len(whole))
            data = bytes(whole)
        return data

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._some(min(size, 65536)))

    def _some(self, size: int) -> bytes:
        try:
            data = self._socket.recv(size, socket.MSG_WAITALL)
        except ConnectionError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        return data
