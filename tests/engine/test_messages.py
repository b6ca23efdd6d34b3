from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import msgspec
import pytest

from promptd.chat import Message, StopReason, Usage
from promptd.engine.channel import MAX_FRAME_BYTES, Channel, ProtocolError
from promptd.engine.messages import Cancel, Command, Ended, Event, Open, Pieces, Send
from promptd.engine.options import Sampling
from promptd.engine.transcript import Transcript, Turn

TURN = Turn((Message("user", "é"),), "reply", 3, b"\1\0\0\0", exact=False)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def test_messages_arrive_as_they_were_sent(ends: tuple[socket.socket, socket.socket]) -> None:
    parent: Channel[Event] = Channel(ends[0], Event)  # type: ignore[arg-type]
    worker: Channel[Command] = Channel(ends[1], Command)  # type: ignore[arg-type]
    commands = [
        Open(1, "guest", "auto", "shift", Transcript((Message("system", "s"),), 1.5, turns=[TURN])),
        Send(2, 1, (Message("user", "hi\0"), Message("tool", "")), Sampling(stop=("a", "b"), seed=3), 12.5),
        Cancel(2),
    ]
    for command in commands:
        parent.send(command)
    assert [worker.receive() for _ in commands] == commands
    assert worker.receive(wait=False) is None
    ended = Ended(2, StopReason.MAX_TOKENS, Usage(1, 2, 3), TURN, 0)
    worker.send(Pieces(((2, "tex"), (3, "🦙"))))
    worker.send(ended)
    assert parent.receive() == Pieces(((2, "tex"), (3, "🦙")))
    assert parent.receive() == ended


def test_large_messages_pass(ends: tuple[socket.socket, socket.socket]) -> None:
    sender: Channel[Event] = Channel(ends[0], Event)  # type: ignore[arg-type]
    receiver: Channel[Event] = Channel(ends[1], Event)  # type: ignore[arg-type]
    message = Pieces(((1, "x" * 5_000_000),))
    thread = threading.Thread(target=sender.send, args=(message,))
    thread.start()
    assert receiver.receive() == message
    thread.join()


def test_what_comes_is_a_whole_message_or_more_of_one(ends: tuple[socket.socket, socket.socket]) -> None:
    receiver: Channel[Event] = Channel(ends[0], Event)  # type: ignore[arg-type]
    sender: Channel[Event] = Channel(ends[1], Event)  # type: ignore[arg-type]
    assert not receiver.comes(0.0)
    payload = msgspec.msgpack.encode(Pieces(((1, "x"),)))
    ends[1].sendall(len(payload).to_bytes(4, "little") + payload[:-1])
    assert receiver.comes(0.0)
    assert receiver.receive(wait=False) is None
    assert not receiver.comes(0.0), "a part that was received is nothing to receive"
    ends[1].sendall(payload[-1:])
    sender.send(Pieces(((2, "y"),)))
    assert receiver.receive() == Pieces(((1, "x"),))
    assert receiver.comes(0.0)
    assert receiver.receive() == Pieces(((2, "y"),))


def test_the_end_of_the_other_side_is_told(ends: tuple[socket.socket, socket.socket]) -> None:
    receiver: Channel[Event] = Channel(ends[0], Event)  # type: ignore[arg-type]
    ends[1].close()
    with pytest.raises(EOFError):
        receiver.receive()


@pytest.mark.parametrize(
    "frame",
    [
        (MAX_FRAME_BYTES + 1).to_bytes(4, "little"),
        b"\5\0\0\0hello",
        b"\1\0\0\0\xc1",
        (lambda body: len(body).to_bytes(4, "little") + body)(msgspec.msgpack.encode({"type": "Evil", "call": 1})),
        (lambda body: len(body).to_bytes(4, "little") + body)(
            msgspec.msgpack.encode({"type": "Accepted", "call": "1"})
        ),
    ],
    ids=["too long", "no msgpack", "reserved byte", "unknown type", "wrong field"],
)
def test_what_is_no_message_is_refused(ends: tuple[socket.socket, socket.socket], frame: bytes) -> None:
    receiver: Channel[Event] = Channel(ends[0], Event)  # type: ignore[arg-type]
    ends[1].sendall(frame)
    with pytest.raises(ProtocolError):
        receiver.receive()
