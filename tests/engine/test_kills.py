"""The worker is killed over and over among many guests: no conversation is lost."""

from __future__ import annotations

import os
import random
import signal
import threading
from itertools import count
from pathlib import Path

import pytest

from promptd.chat import Message
from promptd.config import EngineSettings
from promptd.engine import client
from promptd.engine.client import Engine
from promptd.engine.conversation import Conversation
from promptd.engine.options import Sampling
from promptd.errors import RuntimeFailure

KILLS = 50
GUESTS = 16
TURNS = 3
"""After this many a guest begins anew, so that a new worker has little to prefill."""
SETTINGS = EngineSettings(kv_tokens=2048, max_sequences=8)
"""Fewer sequence ids than guests, so that workers also die while they save and restore cells."""
SHORT = Sampling(temperature=0, max_tokens=2)


def test_fifty_kills_at_random_moments_among_sixteen_guests_lose_no_conversation(
    smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "BACK_OFF_S", (0.0, 0.0, 0.0))
    told: list[list[str]] = [[] for _ in range(GUESTS)]
    answers: list[int] = []
    failures: list[int] = []
    unexpected: list[BaseException] = []
    over = threading.Event()
    with Engine(smollm2, SETTINGS) as engine:
        conversations = [engine.conversation(f"guest-{guest}", template="none") for guest in range(GUESTS)]

        def chat(guest: int, conversation: Conversation) -> None:
            for turn in count():
                if over.is_set():
                    return
                if len(told[guest]) == TURNS:
                    conversation.rewind(TURNS)
                    told[guest].clear()
                text = f" {guest} {turn}"
                try:
                    conversation.send([Message("user", text)], SHORT).result()
                except RuntimeFailure:
                    failures.append(guest)
                    continue
                except BaseException as error:
                    unexpected.append(error)
                    return
                told[guest].append(text)
                answers.append(guest)

        threads = [threading.Thread(target=chat, args=pair) for pair in enumerate(conversations)]
        for thread in threads:
            thread.start()
        chance = random.Random(10)
        killed: set[int] = set()
        while len(killed) < KILLS and not unexpected:
            before = len(answers)
            while len(answers) == before and not unexpected:
                over.wait(0.005)
            over.wait(chance.random() * 0.1)
            pid = engine.stats().worker_pid
            if pid is not None and pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        over.set()
        for thread in threads:
            thread.join()
        assert unexpected == []
        for guest, conversation in enumerate(conversations):
            completion = conversation.send([Message("user", " end")], SHORT).result()
            assert conversation.turns == len(told[guest]) + 1
            past = engine.count_tokens("".join(told[guest]))
            assert completion.usage.prompt >= past, "it goes on with all it was told"
        stats = engine.stats()
        assert stats.worker_starts == KILLS + 1
        assert stats.sequences == GUESTS
        assert (stats.running, stats.queue) == (0, 0)
        assert failures
