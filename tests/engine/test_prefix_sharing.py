"""Prompts that begin alike, on SmolLM2 through a real worker: what is in the KV cache is not decoded again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from exact import EXACT, GREEDY

from promptd.chat import Completion, Message
from promptd.config import EngineSettings
from promptd.engine.client import Engine
from promptd.engine.conversation import Conversation
from promptd.engine.options import Sampling

Ask = Callable[..., Completion]
RULES = " ".join(f"Rule {number}: be kind and be brief." for number in range(12))
SHORT = Sampling(temperature=0, max_tokens=4)


@pytest.fixture
def fresh(smollm2: Path) -> Iterator[Engine]:
    with Engine(smollm2, EXACT) as engine:
        yield engine


def ask_all_at_once(conversations: list[Conversation]) -> list[Completion]:
    """Ask each conversation a question of its own, all in the same instant."""
    replies: list[Completion | None] = [None] * len(conversations)
    barrier = threading.Barrier(len(conversations))

    def run(index: int) -> None:
        barrier.wait()
        replies[index] = conversations[index].send([Message("user", f"What is {index}+{index}?")], SHORT).result()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(conversations))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [reply for reply in replies if reply is not None]


def test_a_system_prompt_is_prefilled_once_for_guests_that_start_in_the_same_instant(fresh: Engine) -> None:
    conversations = [fresh.conversation(f"guest {number}", system=RULES, share_system=True) for number in range(8)]
    alone = fresh.count_tokens(RULES)
    replies = ask_all_at_once(conversations)
    stats = fresh.stats()
    asked = sum(reply.usage.prompt for reply in replies)
    assert stats.prompt_tokens + stats.cached_tokens == asked
    own = 20
    assert stats.prompt_tokens < alone + 8 * own, "the rules once, and what each asks"
    assert stats.kv_used < alone + 8 * (own + 4), "and so are their cells"


def test_replies_are_the_same_with_a_shared_beginning_as_without(fresh: Engine, smollm2: Path) -> None:
    shared = ask_all_at_once([fresh.conversation("guest", system=RULES) for _ in range(4)])
    with Engine(smollm2, EXACT) as engine:
        alone = ask_all_at_once([engine.conversation(f"guest {number}", system=RULES) for number in range(4)])
        assert engine.stats().cached_tokens == 0
    assert fresh.stats().cached_tokens > 0
    assert [reply.text for reply in shared] == [reply.text for reply in alone]


@pytest.mark.parametrize("template", ["auto", "none"])
def test_a_second_guests_probe_of_a_first_guests_prompt_finds_nothing_cached(
    engine: Engine, ask: Ask, template: str
) -> None:
    secret = f"My password is {template} swordfish, and what I ask you is this: who was Napoleon?"
    conversation = engine.conversation("victim", template=template, system=RULES)  # type: ignore[arg-type]
    ask(conversation, secret)
    probe = engine.conversation("prober", template=template, system=RULES)  # type: ignore[arg-type]
    assert ask(probe, secret).usage.cached == 0
    again = engine.conversation("victim", template=template, system=RULES)  # type: ignore[arg-type]
    assert ask(again, secret).usage.cached > 100


def test_what_a_guest_says_is_not_shared_even_where_the_system_prompt_is(fresh: Engine, ask: Ask) -> None:
    secret = "My password is swordfish, and what I ask you is this: who was Napoleon?"
    ask(fresh.conversation("victim", system=RULES, share_system=True), secret)
    cached = [
        ask(fresh.conversation(f"prober {number}", system=RULES, share_system=True), question).usage.cached
        for number, question in enumerate((secret, "What else?"))
    ]
    assert cached[0] == cached[1] > 100, "the operator's text and no more, whatever is asked"
    assert ask(fresh.conversation("prober 3", system=RULES), secret).usage.cached == 0, "its graph does not share"


def test_a_guests_own_system_message_is_not_shared(fresh: Engine) -> None:
    for guest in ("victim", "prober"):
        conversation = fresh.conversation(guest, system="Be brief.", share_system=True)
        messages = [Message("system", "The launch code is 0000."), Message("user", "Hello.")]
        reply = conversation.send(messages, GREEDY).result()
    assert reply.usage.cached < fresh.count_tokens("Be brief.") + 8


def test_a_client_that_resends_the_whole_history_pays_for_what_is_new(fresh: Engine, ask: Ask) -> None:
    conversation = fresh.conversation("guest", system=RULES)
    first = ask(conversation, "Name a fruit.")
    conversation.close()
    assert (fresh.stats().retired, fresh.stats().resident) == (1, 0)
    resent = fresh.conversation("guest", system=RULES)
    past = [Message("user", "Name a fruit."), Message("assistant", first.text), Message("user", "Another one.")]
    second = resent.send(past, GREEDY).result()
    assert second.usage.cached >= first.usage.prompt
    assert second.usage.prompt - second.usage.cached < 40
    resent.close()


def test_closed_conversations_give_way_when_cells_or_sequence_ids_are_needed(smollm2: Path, ask: Ask) -> None:
    settings = EngineSettings(threads=1, step_tokens=48, kv_tokens=512, max_sequences=4)
    with Engine(smollm2, settings) as engine:
        for number in range(12):
            conversation = engine.conversation("guest", template="none")
            ask(conversation, f"{number} " * 40, SHORT)
            conversation.close()
        stats = engine.stats()
        assert stats.evictions > 0
        assert stats.resident == 0
        assert stats.retired <= 4
        assert stats.preemptions == 0
        assert stats.kv_used <= stats.kv_total


def test_a_follower_goes_on_by_itself_when_its_leader_is_cancelled(fresh: Engine) -> None:
    story = "Once upon a time there was a llama. " * 150
    leader = fresh.conversation("guest", template="none").send([Message("user", story)], GREEDY)
    followers = [
        fresh.conversation("guest", template="none").send([Message("user", story + end)], SHORT) for end in ("A", "B")
    ]
    leader.cancel()
    leader.result()
    assert [len(follower.result().text) > 0 for follower in followers] == [True, True]
    stats = fresh.stats()
    assert stats.prompt_tokens < 2 * fresh.count_tokens(story), "one of the two led the other"
