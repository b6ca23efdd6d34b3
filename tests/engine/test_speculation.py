"""Guesses in the steps of a real worker, and when they are made."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from exact import EXACT, GREEDY

from promptd.chat import Completion, Message, StopReason
from promptd.engine import llama
from promptd.engine.client import Engine
from promptd.engine.generation import Generation
from promptd.engine.kvcache import KVCache
from promptd.engine.messages import RawEnd
from promptd.engine.options import Sampling
from promptd.engine.prompts import Prompt
from promptd.engine.sampling import sampler_chain
from promptd.engine.scheduler import Scheduler, Work
from promptd.engine.sequence import Sequence
from promptd.engine.speculation import GROWTH, PROBE_STEP, PROBE_TOKENS, Speculation

COPY = (
    "Repeat the following text exactly, word for word, without any changes:\n\nThe quick brown fox jumps over the"
    " lazy dog near the river bank. Every morning, Alice walked down to the market to buy apples, bread and cheese."
)
LONG = Sampling(temperature=0, max_tokens=48)
Pair = tuple[Engine, Engine]


@pytest.fixture(scope="module")
def engines(smollm2: Path) -> Iterator[Pair]:
    """Two engines that are told the same in the same order: one makes no guesses, one makes all it can."""
    with Engine(smollm2, EXACT) as plain, Engine(smollm2, EXACT.model_copy(update={"speculation": "on"})) as guessing:
        yield plain, guessing


def both(engines: Pair, text: str, sampling: Sampling) -> list[Completion]:
    return [engine.conversation("guest").send([Message("user", text)], sampling).result() for engine in engines]


@pytest.mark.parametrize(
    "sampling",
    [
        LONG,
        Sampling(temperature=0.4, seed=5, max_tokens=48),
        Sampling(temperature=0, max_tokens=48, stop=("Every morn",)),
        Sampling(temperature=0, max_tokens=48, repeat_penalty=1.1),
        Sampling(temperature=0, max_tokens=48, grammar='root ::= [A-Za-z ]+ "." [A-Za-z ]+ "," [^"]*'),
        Sampling(temperature=0, max_tokens=7),
    ],
    ids=["greedy", "drawn", "stop string", "penalty", "grammar", "few tokens"],
)
def test_a_reply_with_guesses_is_the_reply_without_in_fewer_steps(engines: Pair, sampling: Sampling) -> None:
    before = [engine.stats() for engine in engines]
    expected, reply = both(engines, COPY, sampling)
    assert (reply.text, reply.stop_reason) == (expected.text, expected.stop_reason)
    assert reply.usage == expected.usage
    after = [engine.stats() for engine in engines]
    assert after[1].generated_tokens - before[1].generated_tokens == reply.usage.generated
    drafted = after[1].drafted_tokens - before[1].drafted_tokens
    accepted = after[1].accepted_tokens - before[1].accepted_tokens
    assert 0 < accepted <= drafted
    plain, guessing = (now.steps - then.steps for now, then in zip(after, before, strict=True))
    assert plain - accepted <= guessing < plain
    assert after[0].drafted_tokens == 0


def test_the_next_turn_goes_on_from_what_was_said_and_not_from_what_was_guessed(engines: Pair) -> None:
    replies = []
    for engine in engines:
        conversation = engine.conversation("guest")
        first = conversation.send([Message("user", COPY)], LONG).result()
        second = conversation.send([Message("user", "Once more.")], LONG).result()
        assert second.usage.cached >= first.usage.prompt + first.usage.generated - 1
        replies.append(second.text)
    assert replies[0] == replies[1]


def test_a_cancelled_reply_leaves_the_conversation_as_it_was(engines: Pair) -> None:
    texts = []
    for engine in engines:
        conversation = engine.conversation("guest")
        reply = conversation.send([Message("user", COPY)], LONG)
        next(iter(reply))
        reply.cancel()
        assert reply.result().stop_reason is StopReason.CANCELLED
        texts.append(conversation.send([Message("user", "What is 2+2?")], GREEDY).result().text)
    assert texts[0] == texts[1]


def test_a_full_context_ends_a_reply_at_the_same_token(engines: Pair) -> None:
    ends = []
    for engine in engines:
        tokens = engine.tokenize(b"one two three four five six one two three four five six one two three")
        reply = engine.generate("guest", tokens, Sampling(temperature=0, ignore_end=True), context=len(tokens) + 20)
        completion = reply.result()
        assert completion.end is RawEnd.CONTEXT_FULL
        assert completion.usage.generated == 20
        ends.append(completion.data)
    assert ends[0] == ends[1]


def test_a_reply_that_waits_for_its_reader_goes_on_with_the_same_tokens(engines: Pair) -> None:
    data = []
    for engine in engines:
        tokens = engine.tokenize(b"one two three four five six one two three four five six one two three")
        reply = engine.generate("guest", tokens, Sampling(temperature=0, max_tokens=40, ignore_end=True), ahead=10)
        data.append(b"".join(reply))
    assert data[0] == data[1]


def test_guesses_of_many_replies_share_the_steps(engines: Pair) -> None:
    engine = engines[1]
    before = engine.stats()
    sampling = Sampling(temperature=0, max_tokens=24, ignore_end=True)
    usages = []

    def ask(guest: str) -> None:
        reply = engine.conversation(guest).send([Message("user", COPY)], sampling)
        usages.append(reply.result().usage.generated)

    threads = [threading.Thread(target=ask, args=(f"guest {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = engine.stats()
    assert usages == [24] * 4
    assert after.generated_tokens - before.generated_tokens == 96
    assert after.accepted_tokens > before.accepted_tokens


class Bench:
    """A scheduler and guesses, stepped without decoding, on a machine whose steps take what is said they take."""

    def __init__(
        self,
        path: Path,
        *,
        first: float,
        further: float,
        mode: Literal["auto", "on", "off"] = "auto",
        divisible: bool = True,
    ) -> None:
        """A step takes `first` seconds for its first token and `further` for each of the others."""
        llama.start()
        self._model = llama.Model(path, gpu_layers=0)
        context = llama.Context(self._model, cells=512, sequences=8, step_tokens=64, threads=1, offload=False)
        self.kv = KVCache(context if divisible else _Indivisible(), 512, 8)
        self.scheduler = Scheduler(self.kv, 64, 8)
        self.speculation = Speculation(self.kv, self.scheduler, step_tokens=64, outputs=context.outputs, mode=mode)
        self._first, self._further = first, further
        self._calls = 0

    def submit(self) -> Generation:
        self._calls += 1
        prompt = array("i", range(40))
        sampling = Sampling(temperature=0, max_tokens=200)
        generation = Generation(
            self._calls,
            Sequence(f"guest {self._calls}"),
            Prompt((), prompt, 0, 0, []),
            sampling,
            sampler_chain(sampling, 300, prompt),
            context=512,
            deadline=None,
        )
        self.scheduler.submit(generation)
        return generation

    def step(self, says: Callable[[int], int]) -> list[Work]:
        """Make a step; replies say `says(position)`."""
        step = self.speculation.extend(self.scheduler.schedule())
        tokens = sum(work.count + len(work.draft) for work in step)
        guesses = any(work.draft for work in step)
        (self.speculation if guesses else self.scheduler).measured(step, self._first + (tokens - 1) * self._further)
        for work in step:
            if not work.output:
                continue
            sampled = []
            for guess in (*work.draft, -1):
                token = says(len(work.generation.sequence.tokens))
                self.scheduler.sampled(work.generation)
                work.generation.advance(token, b"x", is_end=False)
                sampled.append(token)
                if token != guess:
                    break
            self.speculation.verified(work, sampled)
            sequence = work.generation.sequence
            assert sequence.pending == 1, "what was said last is still to be decoded, and nothing else"
        return step


class _Indivisible:
    """The memory of a recurrent model."""

    divisible = False

    def remove(self, sequence: int, start: int = 0) -> bool:
        return start == 0

    def copy(self, source: int, target: int, start: int = -1, end: int = -1) -> None:
        raise AssertionError("nothing of it can be copied")

    def clear(self) -> None: ...


def copying(position: int) -> int:
    """Say the prompt, again and again."""
    return position % 40


def rambling(position: int) -> int:
    """Say what was said before, but for one token in three."""
    return 100 + position if position % 3 == 0 else position % 3


@pytest.fixture
def bench(tiny: Callable[..., Path]) -> Callable[..., Bench]:
    return lambda **machine: Bench(tiny(context=512), **machine)


def test_guesses_that_hold_are_made_where_a_further_token_is_cheap(bench: Callable[..., Bench]) -> None:
    machine = bench(first=0.008, further=0.004)
    machine.submit()
    for _ in range(40):
        machine.step(copying)
    assert machine.speculation.accepted == machine.speculation.drafted > 40


def test_guesses_that_do_not_hold_are_not_gone_on_with(bench: Callable[..., Bench]) -> None:
    machine = bench(first=0.008, further=0.004)
    machine.submit()
    for _ in range(60):
        machine.step(rambling)
    assert machine.speculation.drafted < 10


def test_nothing_is_guessed_where_a_further_token_costs_as_much_as_a_step(bench: Callable[..., Bench]) -> None:
    machine = bench(first=0.008, further=0.008)
    machine.submit()
    for _ in range(40):
        machine.step(copying)
    assert machine.speculation.drafted == 0


def test_a_wide_batch_leaves_no_room_for_guesses(bench: Callable[..., Bench]) -> None:
    machine = bench(first=0.006, further=0.004)
    for _ in range(8):
        machine.submit()
    for _ in range(30):
        machine.step(copying)
    assert machine.speculation.drafted == 0


def test_where_guesses_do_not_pay_their_cost_is_looked_at_again_seldom_and_with_few(
    bench: Callable[..., Bench],
) -> None:
    machine = bench(first=0.0061, further=0.0022)
    for _ in range(2):
        machine.submit()
    few = [sum(len(work.draft) for work in machine.step(copying)) for _ in range(18)]
    assert max(few) > PROBE_STEP - 2
    for _ in range(2):
        machine.submit()
    while not all(generation.sequence.pending == 1 for generation in machine.scheduler.running):
        machine.step(copying)
    together = [sum(len(work.draft) for work in machine.step(copying)) for _ in range(36)]
    assert PROBE_STEP - 4 <= max(together) <= PROBE_STEP - 3, "a reply may have ended"
    assert 1 <= sum(map(bool, together)) <= 10


def test_guesses_that_looked_cheap_by_chance_become_many_only_step_by_step(bench: Callable[..., Bench]) -> None:
    machine = bench(first=0.1, further=0.0)
    for _ in range(8):
        machine.submit()

    def guesses() -> int:
        return sum(len(work.draft) for work in machine.step(copying))

    while guesses() == 0:
        pass
    assert guesses() == GROWTH * PROBE_TOKENS
    machine._further = 0.2
    first, *others = (guesses() for _ in range(20))
    assert first == GROWTH * GROWTH * PROBE_TOKENS
    assert others[:5] == [0] * 5
    assert max(others) <= PROBE_TOKENS


def test_guesses_take_no_more_than_the_step_has_logits_for(bench: Callable[..., Bench]) -> None:
    machine = bench(first=0.008, further=0.0001, mode="on")
    for _ in range(4):
        machine.submit()
    widest = max(sum(1 + len(work.draft) for work in machine.step(copying) if work.count == 1) for _ in range(60))
    assert widest == 32


@pytest.mark.parametrize("settings", [{"mode": "off"}, {"mode": "on", "divisible": False}])
def test_guessing_is_off_on_request_and_for_models_that_cannot_forget_a_token(
    bench: Callable[..., Bench], settings: dict[str, object]
) -> None:
    machine = bench(first=0.008, further=0.0001, **settings)
    machine.submit()
    for _ in range(20):
        assert not any(work.draft for work in machine.step(copying))
