from __future__ import annotations

from promptd.engine.prefill_share import MIN_TOKENS, PrefillShare


def share(decode_seconds: float, token_seconds: float) -> PrefillShare:
    """Return a share that has seen steps of a machine that takes so long."""
    measured = PrefillShare(512)
    for _ in range(20):
        measured.observe(8, 0, decode_seconds)
        measured.observe(8, 50, decode_seconds + 50 * token_seconds)
    return measured


def test_with_nobody_decoding_prefill_gets_the_whole_step() -> None:
    assert share(0.03, 0.004).tokens(0, 0, 1) == 512


def test_where_prompt_tokens_are_dear_a_step_takes_few_of_them() -> None:
    tokens = share(0.032, 0.001).tokens(8, 8, 1)
    assert 0.032 + tokens * 0.001 < 2 * 0.032
    assert tokens > 16


def test_where_prompt_tokens_are_cheap_a_step_takes_many() -> None:
    assert share(0.032, 0.00001).tokens(8, 8, 1) == 504


def test_prefill_gets_on_whatever_it_costs() -> None:
    assert share(0.001, 1.0).tokens(8, 8, 1) == MIN_TOKENS


def test_many_guests_that_wait_weigh_more_than_a_few_that_decode() -> None:
    measured = share(0.032, 0.001)
    assert measured.tokens(8, 1, 8) > 5 * measured.tokens(8, 8, 8)


def test_a_width_that_was_not_measured_goes_by_the_nearest() -> None:
    measured = share(0.032, 0.001)
    assert measured.tokens(9, 9, 1) == measured.tokens(8, 8, 1)
