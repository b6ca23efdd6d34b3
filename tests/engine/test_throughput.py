"""The tokens a second that `promptd ps` shows."""

from __future__ import annotations

import pytest

from promptd.engine.throughput import Throughput


def test_only_the_time_in_which_replies_are_made_counts() -> None:
    throughput = Throughput()
    assert throughput.rate(0) == 0
    for number in range(11):
        throughput.add(number / 10)
    assert throughput.rate(1) == pytest.approx(10)
    for number in range(11):
        throughput.add(100 + number / 20)
    assert throughput.rate(101) == pytest.approx(20), "not what was long ago, nor the pause"
    assert throughput.rate(200) == 0


def test_tokens_of_one_step_all_count_and_the_latest_weigh_most() -> None:
    throughput = Throughput()
    for step in range(100):
        for _ in range(4):
            throughput.add(step / 4)
    assert throughput.rate(25) == pytest.approx(16, rel=0.1)
    for step in range(300):
        throughput.add(25 + step / 4)
    assert throughput.rate(100) == pytest.approx(4, rel=0.1)
