from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from promptd.engine import llama
from promptd.engine.generation import Generation
from promptd.engine.kvcache import KVCache
from promptd.engine.options import Sampling
from promptd.engine.prompts import Prompt
from promptd.engine.quota import Quotas
from promptd.engine.sampling import sampler_chain
from promptd.engine.scheduler import Scheduler, Work
from promptd.engine.sequence import Sequence as TokenSequence
from promptd.engine.sequence import SequenceState
from promptd.errors import Busy

CELLS = 512


class Driver:
    """A scheduler on a real KV cache, stepped without decoding: the policy is in what is scheduled."""

    def __init__(
        self,
        path: Path,
        *,
        step_tokens: int = 64,
        slots: int = 4,
        queue: int = 8,
        weights: dict[str, float] | None = None,
        quotas: dict[str, float] | None = None,
    ) -> None:
        llama.start()
        self.model = llama.Model(path, gpu_layers=0)
        context = llama.Context(
            self.model, cells=CELLS, sequences=slots, step_tokens=step_tokens, threads=1, offload=False
        )
        self.kv = KVCache(context, CELLS, slots, quotas=Quotas(None, quotas or {}, cells=CELLS, slots=slots))
        self.scheduler = Scheduler(self.kv, step_tokens, queue, weights)
        self.calls = 0

    def submit(
        self,
        tokens: int,
        deadline: float | None = None,
        sequence: TokenSequence | None = None,
        guest: str = "guest",
    ) -> Generation:
        self.calls += 1
        prompt = array("i", [10 * self.calls] * tokens)
        sampling = Sampling(temperature=0)
        generation = Generation(
            self.calls,
            sequence or TokenSequence(guest),
            Prompt((), prompt, 0, 0, []),
            sampling,
            sampler_chain(sampling, 300, prompt),
            context=CELLS,
            deadline=deadline,
        )
        self.scheduler.submit(generation)
        return generation

    def step(self) -> list[Work]:
        work = self.scheduler.schedule()
        for item in work:
            if item.output:
                item.generation.sequence.tokens.append(7)
                self.scheduler.sampled(item.generation)
        return work

    def shares(self) -> list[tuple[int, int]]:
        """Make a step; return (call, tokens) of the work in it."""
        return [(item.generation.call, item.count) for item in self.step()]


@pytest.fixture
def drive(tiny: Callable[..., Path]) -> Callable[..., Driver]:
    return lambda **settings: Driver(tiny(context=CELLS), **settings)


def test_decoding_comes_first_and_prefill_fills_a_part_of_the_rest(drive: Callable[..., Driver]) -> None:
    driver = drive(step_tokens=64)
    driver.submit(10)
    driver.submit(20)
    assert driver.shares() == [(1, 10), (2, 20)]
    driver.submit(12)
    assert driver.shares() == [(1, 1), (2, 1), (3, 8)]
    assert driver.shares() == [(1, 1), (2, 1), (3, 4)]
    assert driver.shares() == [(1, 1), (2, 1), (3, 1)]


def test_only_the_last_chunk_of_a_prompt_is_sampled_from(drive: Callable[..., Driver]) -> None:
    driver = drive(step_tokens=64)
    driver.submit(100)
    assert [item.output for item in driver.step()] == [False]
    assert [item.output for item in driver.step()] == [True]


def test_prompts_are_prefilled_in_the_order_they_came(drive: Callable[..., Driver]) -> None:
    driver = drive(step_tokens=64)
    for tokens in (50, 50, 50):
        driver.submit(tokens)
    assert driver.shares() == [(1, 50), (2, 14)]
    assert driver.shares() == [(1, 1), (2, 8)]


def test_when_a_step_is_too_small_for_all_sequences_take_turns(drive: Callable[..., Driver]) -> None:
    driver = drive(step_tokens=2, slots=4)
    for _ in range(4):
        driver.submit(1)
    served = [call for _ in range(20) for call, _ in driver.shares()]
    assert {served.count(call) for call in (1, 2, 3, 4)} == {10}


def test_a_turn_beyond_the_running_ones_and_the_queue_is_busy(drive: Callable[..., Driver]) -> None:
    driver = drive(queue=2, slots=1)
    for _ in range(3):
        driver.submit(1)
    with pytest.raises(Busy, match=r"2 prompts are already waiting.*would be number 3"):
        driver.submit(1)


def test_turns_wait_for_a_sequence_id(drive: Callable[..., Driver]) -> None:
    driver = drive(slots=1)
    first = driver.submit(10)
    second = driver.submit(10)
    assert driver.shares() == [(1, 10)]
    assert second.sequence.state is SequenceState.WAITING
    driver.scheduler.remove(first)
    assert driver.shares() == [(2, 10)]
    assert driver.kv.evictions == 1, "the idle sequence gave way"


def test_a_prompt_waits_until_all_of_it_fits_the_cache(drive: Callable[..., Driver]) -> None:
    driver = drive(step_tokens=512)
    first = driver.submit(400)
    driver.submit(200)
    assert driver.shares() == [(1, 400)]
    assert driver.shares() == [(1, 1)]
    driver.scheduler.remove(first)
    assert driver.shares() == [(2, 200)]


def test_when_cells_run_out_the_youngest_turn_is_preempted_and_later_goes_on(drive: Callable[..., Driver]) -> None:
    driver = drive(step_tokens=512)
    first, second = driver.submit(300), driver.submit(CELLS - 300)
    assert driver.shares() == [(1, 300), (2, 212)]
    assert driver.shares() == [(1, 1)]
    assert second.sequence.state is SequenceState.WAITING
    assert second.sequence.computed == 0
    assert driver.scheduler.counters.preemptions == 1
    driver.scheduler.remove(first)
    assert driver.shares() == [(2, 213)], "prompt and what was generated"


def test_the_cached_beginning_of_a_prompt_is_not_decoded_again(drive: Callable[..., Driver]) -> None:
    driver = drive()
    sequence = TokenSequence("guest")
    first = driver.submit(30, sequence=sequence)
    driver.step()
    driver.scheduler.remove(first)
    driver.calls = 0
    again = driver.submit(50, sequence=sequence)
    assert driver.shares() == [(1, 20)]
    assert again.usage.cached == 30
    assert driver.scheduler.counters.cached_tokens == 30
    assert driver.scheduler.counters.prompt_tokens == 50


def test_a_prompt_that_is_wholly_cached_decodes_its_last_token_for_the_logits(drive: Callable[..., Driver]) -> None:
    driver = drive()
    sequence = TokenSequence("guest")
    first = driver.submit(30, sequence=sequence)
    driver.step()
    driver.scheduler.remove(first)
    driver.calls = 0
    driver.submit(30, sequence=sequence)
    assert driver.shares() == [(1, 1)]


def test_deadlines_count_for_waiting_and_running_turns(drive: Callable[..., Driver]) -> None:
    driver = drive(slots=1)
    running, waiting, patient = driver.submit(5, 10.0), driver.submit(5, 20.0), driver.submit(5)
    driver.step()
    assert driver.scheduler.expired(9.0) == []
    assert driver.scheduler.expired(10.0) == [running]
    assert driver.scheduler.expired(30.0) == [running, waiting]
    assert patient in driver.scheduler.waiting


def test_a_turn_that_is_taken_out_leaves_the_others_as_they_were(drive: Callable[..., Driver]) -> None:
    driver = drive(slots=2)
    turns = [driver.submit(5) for _ in range(4)]
    driver.step()
    driver.scheduler.remove(turns[0])
    driver.scheduler.remove(turns[2])
    assert _calls(driver.step()) == [2, 4]


def test_of_several_guests_prompts_the_least_served_guest_is_prefilled_first(drive: Callable[..., Driver]) -> None:
    driver = drive(step_tokens=64)
    driver.submit(200, guest="long")
    assert driver.shares() == [(1, 64)]
    driver.submit(20, guest="short")
    assert driver.shares() == [(2, 20), (1, 44)], "it need not wait for the long prompt"


def test_a_guest_with_many_prompts_gets_one_guests_share_of_prefill(drive: Callable[..., Driver]) -> None:
    driver = drive(step_tokens=16, slots=8)
    for _ in range(5):
        driver.submit(60, guest="many")
    driver.submit(60, guest="one")
    served = Counter({1: 0, 6: 0})
    for _ in range(6):
        for call, tokens in driver.shares():
            served[call] += tokens
    assert served[6] == 48
    assert sum(served.values()) - served[6] == 48


def test_a_weight_is_a_larger_share(drive: Callable[..., Driver]) -> None:
    driver = drive(step_tokens=16, weights={"big": 3.0})
    driver.submit(200, guest="small")
    driver.submit(200, guest="guest/big")
    served = Counter[int]()
    for _ in range(8):
        for call, tokens in driver.shares():
            served[call] += tokens
    assert served == {1: 32, 2: 96}


def test_waiting_turns_are_admitted_guest_by_guest(drive: Callable[..., Driver]) -> None:
    driver = drive(slots=1, queue=8)
    turns = [driver.submit(4, guest=guest) for guest in ("many", "many", "many", "one")]
    order = []
    for _ in turns:
        ((call, _),) = driver.shares()
        order.append(call)
        driver.scheduler.remove(turns[call - 1])
    assert order == [1, 4, 2, 3]


def test_a_guest_with_nothing_running_takes_the_place_of_a_guests_second_turn(drive: Callable[..., Driver]) -> None:
    driver = drive(slots=2)
    driver.submit(4, guest="many")
    second = driver.submit(4, guest="many")
    driver.step()
    driver.submit(4, guest="one")
    assert _calls(driver.step()) == [1, 3]
    assert second.sequence.state is SequenceState.WAITING
    driver.submit(4, guest="two")
    assert _calls(driver.step()) == [1, 3], "each has one now; the newcomer waits"


def test_a_turn_that_waits_for_its_guests_quota_holds_up_nobody_else(drive: Callable[..., Driver]) -> None:
    driver = drive(slots=8, quotas={"hog": 200})
    first, second, third = (driver.submit(120, guest="hog") for _ in range(3))
    other = driver.submit(30, guest="other")
    driver.step()
    assert (first in driver.scheduler.running, other in driver.scheduler.running) == (True, True)
    assert list(driver.scheduler.waiting) == [second, third]
    driver.scheduler.remove(first)
    driver.step()
    assert second in driver.scheduler.running, "what the first held has left the cache"
    assert list(driver.scheduler.waiting) == [third]


def test_a_guest_that_grows_to_its_quota_preempts_its_own_younger_turn(drive: Callable[..., Driver]) -> None:
    driver = drive(slots=8, step_tokens=128, quotas={"hog": 128})
    first, second = driver.submit(50, guest="hog"), driver.submit(50, guest="hog")
    other = driver.submit(50, guest="other")
    while not driver.scheduler.counters.preemptions:
        driver.step()
        assert first.sequence.computed + second.sequence.computed <= 128
    assert driver.scheduler.running == [first, other]
    while first.sequence.computed < 128:
        driver.step()
    assert driver.scheduler.counters.preemptions == 1, "alone it may hold all of the quota"


def test_when_a_step_is_too_small_guests_not_sequences_take_turns(drive: Callable[..., Driver]) -> None:
    driver = drive(step_tokens=2, slots=4)
    for guest in ("many", "many", "many", "one"):
        driver.submit(1, guest=guest)
    served = [call for _ in range(30) for call, _ in driver.shares()]
    assert abs(served.count(4) - 30) <= 2
    assert {served.count(call) for call in (1, 2, 3)} <= {9, 10, 11}


def test_batch_widths_are_counted(drive: Callable[..., Driver]) -> None:
    driver = drive()
    driver.submit(5)
    driver.step()
    driver.submit(5)
    driver.step()
    driver.step()
    assert dict(driver.scheduler.counters.widths) == {1: 1, 2: 2}
    assert driver.scheduler.counters.steps == 3


def _calls(work: Sequence[Work]) -> list[int]:
    return [item.generation.call for item in work]
