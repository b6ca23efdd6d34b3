"""More conversations than fit the KV cache, on SmolLM2 through a real worker."""

from __future__ import annotations

import gc
import stat
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
from exact import EXACT

from promptd.chat import Completion
from promptd.engine.client import Engine
from promptd.engine.kvcache import RENT_TOKENS
from promptd.engine.options import Sampling
from promptd.engine.sequence import Sequence
from promptd.engine.spill import Spill
from promptd.engine.statistics import EngineStats

Ask = Callable[..., Completion]
SHORT = Sampling(temperature=0, max_tokens=6)
FEW = {"kv_tokens": 1024, "max_sequences": 2}
PROMPTS = [f"Tell me at length why the number {number} is good. " * 5 for number in range(4)]
MEBIBYTE = 1024**2
SAVING = EXACT.model_copy(update={"spill_memory": 256 * MEBIBYTE})


def two_rounds(engine: Engine, ask: Ask) -> tuple[list[str], EngineStats]:
    conversations = [engine.conversation(f"guest {number}") for number in range(len(PROMPTS))]
    replies = []
    for prompts in (PROMPTS, ["Go on."] * len(PROMPTS)):
        for conversation, prompt in zip(conversations, prompts, strict=True):
            replies.append(ask(conversation, prompt, SHORT).text)
    return replies, engine.stats()


@pytest.mark.parametrize(
    ("memory", "disk"), [(256 * MEBIBYTE, 0), (0, 256 * MEBIBYTE), (0, 0)], ids=["memory", "disk", "neither"]
)
def test_conversations_that_had_to_leave_wake_token_identically(
    smollm2: Path, ask: Ask, memory: int, disk: int
) -> None:
    with Engine(smollm2, EXACT) as roomy:
        undisturbed, plain = two_rounds(roomy, ask)
    assert plain.evictions == 0
    settings = EXACT.model_copy(update={**FEW, "spill_memory": memory, "spill_disk": disk})
    with Engine(smollm2, settings) as engine:
        replies, stats = two_rounds(engine, ask)
    assert replies == undisturbed
    assert stats.evictions >= 4
    assert stats.resident <= 2
    assert (stats.restored > 0) == (memory + disk > 0)
    assert (stats.spill_memory > 0, stats.spill_disk > 0) == (memory > 0, disk > 0)
    assert (stats.prompt_tokens == plain.prompt_tokens) == (memory + disk > 0), "no prompt token twice"


def test_saved_cells_of_closed_conversations_have_a_part_of_the_memory_and_none_on_disk(
    smollm2: Path, ask: Ask
) -> None:
    memory = 9 * MEBIBYTE
    settings = EXACT.model_copy(update={**FEW, "spill_memory": memory, "spill_disk": 256 * MEBIBYTE})
    with Engine(smollm2, settings) as engine:
        conversations = [engine.conversation(f"guest {number}") for number in range(8)]
        for conversation, prompt in zip(conversations, (*PROMPTS, *PROMPTS), strict=True):
            ask(conversation, prompt, SHORT)
        before = engine.stats()
        assert before.spill_memory > memory // 4
        assert before.spill_disk > 0
        assert before.saved == 6
        for conversation in conversations:
            conversation.close()
        after = engine.stats()
        assert 0 < after.spill_memory <= memory // 4
        assert (after.spill_disk, after.saved) == (0, 0)


LONG = Sampling(temperature=0, max_tokens=RENT_TOKENS + 8, ignore_end=True)


def test_an_idle_conversation_leaves_the_cache_while_another_decodes_and_comes_back(smollm2: Path, ask: Ask) -> None:
    with Engine(smollm2, SAVING) as engine:
        idle, busy = engine.conversation("idle"), engine.conversation("busy")
        ask(idle, PROMPTS[0], SHORT)
        held = engine.stats().kv_used
        ask(busy, "Count.", LONG)
        moved = engine.stats()
        assert (moved.saved, moved.resident, moved.evictions) == (1, 1, 0)
        assert moved.kv_used < held + RENT_TOKENS
        usage = ask(idle, "Go on.", SHORT).usage
        stats = engine.stats()
    assert stats.restored == 1
    assert usage.cached >= held - SHORT.max_tokens  # the last tokens of a reply and the end of a turn are new
    assert stats.prompt_tokens - moved.prompt_tokens == usage.prompt - usage.cached


def test_what_a_closed_conversation_left_behind_serves_its_guest_alone(smollm2: Path, ask: Ask) -> None:
    with Engine(smollm2, SAVING) as engine:
        ask(engine.conversation("one"), PROMPTS[0], SHORT)  # closed by its end
        gc.collect()
        ask(engine.conversation("busy"), "Count.", LONG)
        assert engine.stats().spilled >= 1
        other = ask(engine.conversation("other"), PROMPTS[0], SHORT).usage
        again = ask(engine.conversation("one"), PROMPTS[0], SHORT).usage
    assert other.cached == 0
    assert again.cached == again.prompt - 1


def test_a_fork_of_a_conversation_that_left_the_cache_prefills_nothing_twice(smollm2: Path, ask: Ask) -> None:
    with Engine(smollm2, SAVING) as engine:
        idle = engine.conversation("idle")
        first = ask(idle, PROMPTS[0], SHORT).usage
        ask(engine.conversation("busy"), "Count.", LONG)
        assert engine.stats().saved >= 1
        forks = [idle.fork() for _ in range(2)]
        usages = [ask(conversation, "Go on.", SHORT).usage for conversation in (*forks, idle)]
    assert all(usage.cached >= first.prompt for usage in usages)


def test_without_memory_for_it_an_idle_conversation_stays_in_the_cache(smollm2: Path, ask: Ask) -> None:
    with Engine(smollm2, EXACT) as engine:
        idle, busy = engine.conversation("idle"), engine.conversation("busy")
        ask(idle, PROMPTS[0], SHORT)
        ask(busy, "Count.", LONG)
        assert (engine.stats().resident, engine.stats().spilled) == (2, 0)


class Cells:
    """Stands for llama.cpp in what is only about files."""

    divisible = True

    def __init__(self) -> None:
        self.restored: list[bytes] = []

    def save(self, sequence: int) -> bytearray:
        return bytearray([sequence]) * 1000

    def restore(self, sequence: int, data: bytes | bytearray) -> bool:
        self.restored.append(bytes(data))
        return True


def sequence(number: int, guest: str = "guest") -> Sequence:
    made = Sequence(guest, array("i", range(50)))
    made.cells = list(range(50))
    made.slot = number
    return made


def test_files_are_private_and_a_changed_one_is_not_restored(tmp_path: Path) -> None:
    cells = Cells()
    spill = Spill(cells, memory=0, disk=5000, directory=tmp_path, model=b"model")
    good, changed = sequence(1), sequence(2)
    spill.save(good)
    (good_file,) = tmp_path.iterdir()
    spill.save(changed)
    (changed_file,) = set(tmp_path.iterdir()) - {good_file}
    assert stat.S_IMODE(good_file.stat().st_mode) == 0o600
    changed_file.write_bytes(good_file.read_bytes())
    assert spill.restore(changed, 2) is None
    assert spill.restore(good, 1) == good.tokens
    assert cells.restored == [b"\x01" * 1000]
    spill.used(good, good)
    assert list(tmp_path.iterdir()) == []
    assert (spill.memory, spill.disk) == (0, 0)


def test_the_oldest_go_to_disk_and_from_there_to_nowhere(tmp_path: Path) -> None:
    spill = Spill(Cells(), memory=2000, disk=1000, directory=tmp_path, model=b"model")
    sequences = [sequence(number) for number in range(4)]
    for each in sequences:
        spill.save(each)
    assert (spill.memory, spill.disk) == (2000, 1000)
    assert [spill.cells(each) for each in sequences] == [0, 50, 50, 50]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_disk_that_takes_nothing_costs_a_prefill_only(tmp_path: Path) -> None:
    spill = Spill(Cells(), memory=0, disk=5000, directory=tmp_path / "missing", model=b"model")
    lost = sequence(1)
    spill.save(lost)
    assert spill.restore(lost, 1) is None
    assert (spill.memory, spill.disk) == (0, 0)


def test_where_a_restore_was_measured_to_be_dearer_than_prefilling_it_is_not_made(tmp_path: Path) -> None:
    spill = Spill(Cells(), memory=5000, disk=0, directory=None, model=b"model")
    each = sequence(1)
    spill.save(each)
    spill.restore(each, 1)
    spill.prefill_token = 1e-12
    assert spill.find(each, each.tokens, cached=0, free=1000) is None
    spill.prefill_token = 1.0
    assert spill.find(each, each.tokens, cached=0, free=1000) is each
