"""What guesses are expected to cost after what was measured."""

from __future__ import annotations

import random

import pytest

from promptd.engine.guess_cost import GuessCost


def after(*measured: tuple[int, float]) -> GuessCost:
    cost = GuessCost()
    for guesses, seconds in measured:
        cost.observe(guesses, seconds)
    return cost


def test_of_one_number_of_guesses_each_costs_the_same() -> None:
    cost = after((4, 0.008), (4, 0.008))
    assert [cost.seconds(guesses) for guesses in (1, 4, 16)] == pytest.approx([0.002, 0.008, 0.032])


def test_what_comes_with_the_first_guess_is_told_from_what_each_costs() -> None:
    cost = after((1, 0.008), (7, 0.026), (16, 0.053))
    assert [cost.seconds(guesses) for guesses in (1, 7, 16)] == pytest.approx([0.008, 0.026, 0.053])


def test_what_was_measured_last_counts_most() -> None:
    cost = after(
        *[(guesses, 0.01 * guesses) for guesses in (1, 8)] * 10,
        *[(guesses, 0.001 * guesses) for guesses in (1, 8)] * 20,
    )
    assert cost.seconds(8) == pytest.approx(0.008, rel=0.05)


def test_no_cost_is_negative_whatever_was_measured() -> None:
    chance = random.Random(4)
    for _ in range(200):
        cost = after(*((chance.randint(1, 16), chance.uniform(-0.01, 0.03)) for _ in range(chance.randint(1, 8))))
        assert all(0.0 <= cost.seconds(guesses) <= cost.seconds(guesses + 1) for guesses in range(1, 16))


def test_hope_lowers_what_is_expected_until_something_is_measured() -> None:
    cost = after((2, 0.01))
    assert (cost.last, cost.hope) == (2, 1.0)
    cost.hope = 0.5
    assert cost.seconds(2) == pytest.approx(0.005)
    cost.observe(3, 0.015)
    assert (cost.last, cost.hope) == (3, 1.0)
    assert cost.seconds(2) == pytest.approx(0.01)
