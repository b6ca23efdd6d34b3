"""Whose step is next where sequences have different LoRA adapters."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from promptd.engine.adapters import QUANTUM_STEPS, Adapters, AdapterTurns, Lora

PLAIN: Adapters = ()
ONE: Adapters = (Lora("one.gguf", 1, 1.0),)
TWO: Adapters = (Lora("one.gguf", 1, 0.5),)


def test_all_sets_that_wait_get_as_many_steps() -> None:
    turns = AdapterTurns()
    served = [turns.next([ONE, PLAIN, TWO, PLAIN]) for _ in range(6 * QUANTUM_STEPS)]
    assert Counter(served) == dict.fromkeys((PLAIN, ONE, TWO), 2 * QUANTUM_STEPS)
    changes = sum(one != other for one, other in pairwise(served))
    assert changes == 5, "each in a row of its own"


def test_alone_a_set_goes_on_and_another_is_not_kept_waiting() -> None:
    turns = AdapterTurns()
    assert {turns.next([ONE]) for _ in range(100)} == {ONE}
    assert turns.next([ONE, PLAIN]) == PLAIN
    assert turns.next([ONE]) == ONE
