"""One client that talks in sessions, and knows after each turn what the daemon has to remember."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2

from soaking.seen import Seen

TURNS = 10
"""A session is closed after so many answers, and another is opened."""
GIVE_UP_S = 120.0
"""A session that is refused a turn for so long counts as lost; a worker that keeps crashing is locked out for 30 s."""
PAUSE_S = 1.0
"""How long a client waits after a refusal that does not say how long."""
SHARE_OF_REWINDS = 0.2
MESSAGE = "Tell me more about number {}."
MESSAGE_TOKENS = 24
"""More than a message has, with its part of the chat template."""


@dataclass(frozen=True)
class Kind:
    """What is talked to."""

    target: dict[str, str]
    counts: bool = True
    """Whether it counts tokens; an echo does not, but says again what it was told."""
    rewinds: bool = True
    """Whether turns can be taken back, and the server counts them; a command keeps them to itself."""


GRAPH = Kind({"graph": "chat"})
HANDLER = Kind({"guest": "persona"})
COMMAND = Kind({"guest": "terminal"}, rewinds=False)
ECHO = Kind({"graph": "echo"}, counts=False)


@dataclass
class Told:
    """A session, and the tokens of prompt and reply after each of its answered turns."""

    id: str
    lengths: list[int] = field(default_factory=list)


class Talker:
    """Opens sessions of one kind one after the other, and asks in them; `seen` hears what comes of it."""

    def __init__(self, http: httpx2.AsyncClient, kind: Kind, number: int, seen: Seen) -> None:
        self._http = http
        self._kind = kind
        self._seen = seen
        self._chance = random.Random(number)
        self._opening = "Please. " * (8 * number)
        """Each talker's first message is of another length, so that one who is given another's conversation sees it."""

    async def talk(self) -> None:
        """Talk until the shift ends, and close the session."""
        while self._seen.on:
            response = await self._http.post("/v1/sessions", json=self._kind.target)
            if response.status_code != 201:
                self._seen.count("sessions refused")
                await self._seen.pause(_wait(response))
                continue
            self._seen.count("sessions")
            told = Told(str(response.json()["id"]))
            await self._converse(told, TURNS)
            if self._kind.rewinds and told.lengths and self._seen.on:
                await self._fork(told)
            await self._close(told)

    async def _converse(self, told: Told, turns: int) -> None:
        for _ in range(turns):
            await self._seen.may_ask()
            if not self._seen.on or not await self._turn(told):
                return
            if self._kind.rewinds and self._chance.random() < SHARE_OF_REWINDS:
                await self._rewind(told)
            await self._seen.pause(self._chance.uniform(0.0, 0.1))

    async def _turn(self, told: Told) -> bool:
        """Ask until there is an answer; False when the shift ends before, or the session cannot be gone on with."""
        number = len(told.lengths)
        content = (self._opening if not number else "") + MESSAGE.format(number)
        began = time.monotonic()
        while self._seen.on:
            body = {"content": content, "stream": False}
            asked = time.monotonic()
            response = await self._http.post(f"/v1/sessions/{told.id}/messages", json=body)
            reply = response.json()
            if not self._kind.rewinds and response.status_code == 200 and not reply["usage"]["prompt_tokens"]:
                # The command was told that its model's worker was killed, and asks for the next line.
                if not self._seen.killed_since(asked):
                    self._lose(f"{told.id} made no reply, only {reply['content']!r}, though no worker was killed")
                    return False
                self._seen.count("turns of a command whose worker was killed")
                continue
            if response.status_code == 200:
                self._seen.count(f"turns of {self._name}")
                await self._check(told, content, reply)
                return True
            self._seen.count(f"turns refused with {response.status_code}")
            if response.status_code in (404, 410):
                self._lose(f"{told.id} is no more: {response.text}")
                return False
            if time.monotonic() - began > GIVE_UP_S:
                self._lose(f"{told.id} cannot go on after {number} turns: {response.text}")
                return False
            await self._seen.pause(_wait(response))
        return False

    async def _check(self, told: Told, content: str, reply: dict[str, Any]) -> None:
        """Compare an answer with what the session was told before."""
        usage = reply["usage"]
        if not self._kind.counts:
            if reply["content"] != content:
                self._lose(f"{told.id} said {reply['content']!r} to {content!r}")
            told.lengths.append(0)
        else:
            before = told.lengths[-1] if told.lengths else 0
            most = before + MESSAGE_TOKENS + (0 if told.lengths else 2 * len(self._opening.split()) + 64)
            if not before < usage["prompt_tokens"] <= most:
                self._lose(
                    f"turn {len(told.lengths) + 1} of {told.id} had a prompt of {usage['prompt_tokens']} tokens,"
                    f" not between {before + 1} and {most}"
                )
            told.lengths.append(usage["prompt_tokens"] + usage["completion_tokens"])
        if self._kind.rewinds:
            await self._check_turns(told)

    async def _check_turns(self, told: Told) -> None:
        response = await self._http.get(f"/v1/sessions/{told.id}")
        turns = response.json().get("turns")
        if turns != len(told.lengths):
            self._lose(f"{told.id} remembers {turns} turns of {len(told.lengths)}")

    async def _rewind(self, told: Told) -> None:
        response = await self._http.post(f"/v1/sessions/{told.id}/rewind", json={"turns": 1})
        if response.status_code != 200:
            self._lose(f"{told.id} cannot be rewound: {response.text}")
            return
        self._seen.count("rewinds")
        told.lengths.pop()
        await self._check_turns(told)

    async def _fork(self, told: Told) -> None:
        """Ask once more in a fork without the last turn."""
        response = await self._http.post(f"/v1/sessions/{told.id}/fork", json={"rewind": 1})
        if response.status_code != 201:
            self._seen.count("forks refused")
            return
        self._seen.count("forks")
        fork = replace(told, id=str(response.json()["id"]), lengths=told.lengths[:-1])
        await self._check_turns(fork)
        await self._converse(fork, 1)
        await self._close(fork)

    async def _close(self, told: Told) -> None:
        await self._http.delete(f"/v1/sessions/{told.id}")

    @property
    def _name(self) -> str:
        ((kind, name),) = self._kind.target.items()
        return f"{kind} {name}"

    def _lose(self, sentence: str) -> None:
        self._seen.losses.append(f"{self._name}: {sentence}")


def _wait(response: httpx2.Response) -> float:
    """Return how long a refused client waits."""
    return float(response.headers.get("Retry-After", PAUSE_S))
