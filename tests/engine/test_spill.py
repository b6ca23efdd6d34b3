"""More conversations than fit the KV cache, on SmolLM2 through a real worker."""

from __future__ import annotations

import stat
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
from exact import EXACT

from promptd.chat import Completion
from promptd.engine.client import Engine
from promptd.engine.options import Sampling
from promptd.engine.sequence import Sequence
from promptd.engine.spill import Spill
from promptd.engine.statistics import EngineStats

Ask = Callable[..., Completion]
SHORT = Sampling(temperature=0, max_tokens=6)
FEW = {"kv_tokens": 1024, "max_sequences": 2}
PROMPTS = [f"Tell me at length why the number {number} is good. " * 5 for number in range(4)]
MEBIBYTE = 1024**2


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


def test_saved_cells_are_gone_when_their_conversation_is(smollm2: Path, ask: Ask) -> None:
    with Engine(smollm2, EXACT.model_copy(update=FEW)) as engine:
        conversations = [engine.conversation(f"guest {number}") for number in range(4)]
        for conversation, prompt in zip(conversations, PROMPTS, strict=True):
            ask(conversation, prompt, SHORT)
        assert engine.stats().spill_memory > 0
        for conversation in conversations:
            conversation.close()
        assert engine.stats().spill_memory == 0


class Cells:
    """Stands for llama.cpp in what is only about files."""

    def __init__(self) -> None:
        self.restored: list[bytes] = []

    def save(self, sequence: int) -> bytes:
        return bytes([sequence]) * 1000

    def restore(self, sequence: int, data: bytes) -> bool:
        self.restored.append(data)
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
    assert spill.restore(changed) is None
    assert spill.restore(good) == good.tokens
    assert cells.restored == [b"\x01" * 1000]
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
    assert spill.restore(lost) is None
    assert (spill.memory, spill.disk) == (0, 0)


def test_where_a_restore_was_measured_to_be_dearer_than_prefilling_it_is_not_made(tmp_path: Path) -> None:
    spill = Spill(Cells(), memory=5000, disk=0, directory=None, model=b"model")
    each = sequence(1)
    spill.save(each)
    spill.restore(each)
    spill.save(each)
    spill.prefill_token = 1e-12
    assert spill.usable(each, each.tokens, 0) == 0
    spill.prefill_token = 1.0
    assert spill.usable(each, each.tokens, 0) == 50
