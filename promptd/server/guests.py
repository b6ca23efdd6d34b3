"""One instance of a guest as the server drives it: messages in, pieces of text out. Everything blocks but `stop`."""

from __future__ import annotations

import codecs
import logging
from collections.abc import Callable, Sequence
from itertools import chain

from promptd.chat import Completion, Message, StopReason
from promptd.errors import InvalidArgument, RuntimeFailure, TooLarge, UnsupportedOperation
from promptd.wasm.host import Host
from promptd.wasm.stdio import Stdin, Stdio

Write = Callable[[str], None]

MAX_CONVERSATION = 16 * 1024**2
"""Characters of all messages that a handler is called with, which the server keeps between its turns."""

AnsweredTurn = tuple[Message, ...]
"""The messages of a turn, and the reply."""

_log = logging.getLogger(__name__)


class GuestInstance:
    """A running guest. A handler is called with messages; a command guest reads them as lines, its output is the reply.

    With `only_message` a command guest reads that as its whole standard input, answers and exits.
    """

    def __init__(
        self,
        host: Host,
        name: str,
        client: str = "",
        only_message: str | None = None,
        past: Sequence[AnsweredTurn] = (),
    ) -> None:
        """`client` is the name of the key it answers to: instances of different keys share nothing of the KV cache.
        `past` are turns that a handler is given before those to come.
        """
        self._host = host
        self._client = client
        self._name = name
        self._once = only_message is not None
        self._past = list(past)
        self._output = _Output()
        stdin: Stdin | bytes = Stdin.LINES if only_message is None else only_message.encode()
        if host.guest(name).is_handler:
            stdin = Stdin.CLOSED  # wasmtime would read a pipe ahead, and has 512 threads for that
        self._session = host.open_session(
            name,
            stdio=Stdio(
                stdin,
                stdout=self._output.feed,
                stderr=self._on_stderr,
            ),
            identity=f"guest/{name}@{client}" if client else f"guest/{name}",
        )

    @property
    def ended(self) -> bool:
        """Whether the instance has exited, trapped or been stopped, so that it answers no more."""
        return self._session.ended

    @property
    def is_handler(self) -> bool:
        """Whether it is called with messages, and keeps no conversation itself."""
        return self._session.guest.is_handler

    def renewed(self) -> GuestInstance:
        """Close this instance of a handler, and return a fresh one with the same past."""
        self.close()
        return GuestInstance(self._host, self._name, self._client, past=self._past)

    @property
    def past(self) -> list[AnsweredTurn]:
        """The turns a handler has answered; raises UnsupportedOperation for a command, which keeps them to itself."""
        if not self.is_handler:
            raise UnsupportedOperation(
                f"guest {self._name} is a command: what it remembers is in its own memory, which can be neither copied "
                "nor taken back; sessions with handlers and graphs can be forked and rewound"
            )
        return list(self._past)

    def rewind(self, turns: int) -> None:
        """Forget the last `turns` turns; raises InvalidArgument when there are fewer, and as `past`."""
        answered = len(self.past)
        if not 0 <= turns <= answered:
            raise InvalidArgument(f"cannot rewind {turns} turns of a conversation that has {answered}")
        del self._past[answered - turns :]

    def answer(self, messages: Sequence[Message], write: Write) -> Completion:
        """Return the guest's reply to `messages`, of which a command guest gets the last; `write` takes its pieces.

        Raises the PromptdError that ended the turn: the guest's own error, its trap, or a limit it hit.
        """
        before = self._session.usage
        self._output.begin(write)
        if self.is_handler:
            text = self._handle(messages)
        else:
            self._command(messages[-1].content)
            text = self._output.end()
        return Completion(text, StopReason.END_OF_TURN, self._session.usage - before)

    def _handle(self, messages: Sequence[Message]) -> str:
        """Return what the handler returns to the whole conversation; what it wrote before is the beginning of that."""
        conversation = [*chain.from_iterable(self._past), *messages]
        if sum(len(message.content) for message in conversation) > MAX_CONVERSATION:
            raise TooLarge(f"the conversation is longer than {MAX_CONVERSATION} characters; open a new session")
        text = self._session.respond(conversation, self._output.write)
        self._past.append((*messages, Message("assistant", text)))
        written = self._output.end()
        if text.startswith(written) and len(text) > len(written):
            self._output.write(text[len(written) :])
        return text

    def _command(self, line: str) -> None:
        if self._once:
            code: int | None = self._session.run()
        else:
            if "\n" in line:
                raise InvalidArgument(
                    f"guest {self._name} reads one line in each turn; send the message without line breaks"
                )
            code = self._session.turn(line)
        if code:
            raise RuntimeFailure(f"guest {self._name} exited with code {code}")

    def stop(self) -> None:
        """End the instance, from any thread; a turn that is running raises."""
        self._session.stop("its client has left, or its session was closed")

    def close(self) -> None:
        """Free the instance. Idempotent."""
        self._session.close()

    def _on_stderr(self, data: bytes) -> None:
        _log.info("guest %s: %r", self._name, data.decode(errors="replace").rstrip("\n"))


class _Output:
    """What a guest says in one turn, as it says it.

    The line breaks that end its standard output are those of a terminal program, and no part of a reply.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._breaks = ""
        self._pieces: list[str] = []
        self._write: Write = lambda text: None

    def begin(self, write: Write) -> None:
        self._write = write
        self._breaks = ""
        self._pieces.clear()
        self._decoder.reset()

    def feed(self, data: bytes) -> None:
        """Take bytes of standard output."""
        text = self._breaks + self._decoder.decode(data)
        said = text.rstrip("\r\n")
        self._breaks = text[len(said) :]
        self.write(said)

    def write(self, text: str) -> None:
        """Take text."""
        if text:
            self._pieces.append(text)
            self._write(text)

    def end(self) -> str:
        """Return all of the turn's text."""
        self.write(self._decoder.decode(b"", final=True))
        return "".join(self._pieces)
