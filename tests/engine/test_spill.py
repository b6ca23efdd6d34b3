"""More conversations than fit the KV cache, on SmolLM2 through a real worker."""

from __future__ import annotations

import gc
import stat
import tempfile
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
from exact import EXACT

from promptd.chat import Completion, Message
from promptd.engine import llama, process
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


def two_rounds(engine: Engine) -> tuple[list[str], EngineStats]:
    conversations = [engine.conversation(f"guest {number}") for number in range(len(PROMPTS))]
    replies = []
    for prompts in (PROMPTS, ["Go on."] * len(PROMPTS)):
        for conversation, prompt in zip(conversations, prompts, strict=True):
            replies.append(conversation.send([Message("user", prompt)], SHORT).result().text)
    return replies, engine.stats()


@pytest.fixture(scope="module")
def undisturbed(smollm2: Path) -> tuple[list[str], EngineStats]:
    """The replies of two rounds, and their counters, where no conversation has to leave."""
    with Engine(smollm2, EXACT) as roomy:
        return two_rounds(roomy)


@pytest.mark.parametrize(
    ("memory", "disk"), [(256 * MEBIBYTE, 0), (0, 256 * MEBIBYTE), (0, 0)], ids=["memory", "disk", "neither"]
)
def test_conversations_that_had_to_leave_wake_token_identically(
    smollm2: Path, undisturbed: tuple[list[str], EngineStats], memory: int, disk: int
) -> None:
    expected, plain = undisturbed
    assert plain.evictions == 0
    settings = EXACT.model_copy(update={**FEW, "spill_memory": memory, "spill_disk": disk})
    with Engine(smollm2, settings) as engine:
        replies, stats = two_rounds(engine)
    assert replies == expected
    assert stats.evictions >= 4
    assert stats.resident <= 2
    assert (stats.restored > 0) == (memory + disk > 0)
    assert (stats.spill_memory > 0, stats.spill_disk > 0) == (memory > 0, disk > 0)
    assert (stats.prompt_tokens == plain.prompt_tokens) == (memory + disk > 0), "no prompt token twice"


def test_a_full_disk_costs_prefills_only(
    smollm2: Path, undisturbed: tuple[list[str], EngineStats], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    full = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({MEBIBYTE},) * 2); {process._BOOT}"
    monkeypatch.setattr(process, "_BOOT", full)  # no file can have more, as if the disk were full then
    settings = EXACT.model_copy(update={**FEW, "spill_memory": 0, "spill_disk": 256 * MEBIBYTE})
    with Engine(smollm2, settings) as engine:
        replies, stats = two_rounds(engine)
        (folder,) = tmp_path.iterdir()
        assert list(folder.iterdir()) == [], "no half of a file is left"
    expected, plain = undisturbed
    assert replies == expected
    assert stats.spilled >= 4
    assert (stats.spill_disk, stats.saved, stats.restored) == (0, 0, 0)
    assert stats.prompt_tokens > plain.prompt_tokens


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


TOKENS, SLOTS = 50, 4


@pytest.fixture
def context(tiny: Callable[..., Path]) -> llama.Context:
    """Cells of a tiny model, in which each sequence id holds TOKENS of its own."""
    llama.start()
    model = llama.Model(tiny(), gpu_layers=0)
    context = llama.Context(model, cells=256, sequences=SLOTS, step_tokens=64, threads=1, offload=False)
    batch = llama.Batch(64)
    for slot in range(SLOTS):
        batch.clear()
        batch.add(tokens_of(slot), 0, slot, output=True)
        context.decode(batch)
    return context


@pytest.fixture
def size(context: llama.Context) -> int:
    """Bytes of the saved cells of one sequence."""
    return len(context.save(0))


def tokens_of(slot: int) -> array[int]:
    return array("i", [20 + slot, *range(30, 29 + TOKENS)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for files of saved cells alone."""
    (tmp_path / "spill").mkdir()
    return tmp_path / "spill"


def sequence(slot: int) -> Sequence:
    made = Sequence("guest", tokens_of(slot))
    made.cells = list(range(TOKENS))
    made.slot = slot
    return made


def test_files_are_private_and_a_changed_one_is_not_restored(context: llama.Context, size: int, folder: Path) -> None:
    spill = Spill(context, memory=0, disk=5 * size, directory=folder, model=b"model")
    good, changed = sequence(1), sequence(2)
    cells = context.save(1)
    spill.save(good)
    (good_file,) = folder.iterdir()
    spill.save(changed)
    (changed_file,) = set(folder.iterdir()) - {good_file}
    assert stat.S_IMODE(good_file.stat().st_mode) == 0o600
    context.clear()
    changed_file.write_bytes(good_file.read_bytes())
    assert spill.restore(changed, 2) is None
    assert spill.restore(good, 1) == good.tokens
    assert context.save(1) == cells
    spill.used(good, good)
    assert list(folder.iterdir()) == []
    assert (spill.memory, spill.disk, spill.rejected) == (0, 0, 1)


def test_the_oldest_go_to_disk_and_from_there_to_nowhere(context: llama.Context, size: int, folder: Path) -> None:
    spill = Spill(context, memory=2 * size, disk=size, directory=folder, model=b"model")
    sequences = [sequence(slot) for slot in range(SLOTS)]
    for each in sequences:
        spill.save(each)
    assert (spill.memory, spill.disk) == (2 * size, size)
    assert [spill.cells(each) for each in sequences] == [0, TOKENS, TOKENS, TOKENS]
    assert len(list(folder.iterdir())) == 1


def test_a_disk_that_takes_nothing_costs_a_prefill_only(context: llama.Context, size: int, folder: Path) -> None:
    spill = Spill(context, memory=0, disk=5 * size, directory=folder / "missing", model=b"model")
    lost = sequence(1)
    spill.save(lost)
    assert spill.restore(lost, 1) is None
    assert (spill.memory, spill.disk) == (0, 0)


def test_where_a_restore_was_measured_to_be_dearer_than_prefilling_it_is_not_made(
    context: llama.Context, size: int
) -> None:
    spill = Spill(context, memory=5 * size, disk=0, directory=None, model=b"model")
    each = sequence(1)
    spill.save(each)
    context.clear()
    assert spill.restore(each, 1) == each.tokens
    spill.prefill_token = 1e-12
    assert spill.find(each, each.tokens, cached=0, free=1000) is None
    spill.prefill_token = 1.0
    assert spill.find(each, each.tokens, cached=0, free=1000) is each
