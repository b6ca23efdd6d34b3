from __future__ import annotations

from promptd.engine.fairness import FairShare


def test_a_guest_that_comes_back_has_saved_nothing_up() -> None:
    fair = FairShare({})
    fair.begin("busy")
    fair.charge("busy", 1000)
    fair.begin("late")
    assert fair.served("late") == fair.served("busy")


def test_a_pause_does_not_wipe_out_what_a_guest_was_given() -> None:
    fair = FairShare({})
    fair.begin("modest")
    fair.begin("greedy")
    fair.charge("greedy", 1000)
    fair.end("greedy")
    fair.begin("greedy")
    assert fair.served("greedy") - fair.served("modest") == 1000


def test_guests_that_are_gone_are_forgotten_when_it_makes_no_difference() -> None:
    fair = FairShare({})
    for number in range(100):
        fair.begin(f"guest {number}")
        fair.charge(f"guest {number}", 10)
        fair.end(f"guest {number}")
    assert len(fair._served) == 0
