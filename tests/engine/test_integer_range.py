"""Rules for the integers between two bounds match those and no others."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from exact import EXACT, GREEDY
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from promptd.chat import Message
from promptd.engine.client import Engine
from promptd.engine.grammar import gbnf
from promptd.engine.integer_range import MAX_DIGITS, integer_rule
from promptd.errors import InvalidArgument

BOUND = st.none() | st.integers(-1200, 1200) | st.integers(-(10**17), 10**17)


def matches(rule: str, text: str) -> bool:
    """Read a rule of digits, classes, repetitions and alternatives as a regular expression."""
    pattern = re.sub(r'"([^"]*)"', r"\1", rule).replace(" ", "")
    return re.fullmatch(pattern, text) is not None


@given(BOUND, BOUND, st.lists(st.integers(-1300, 1300) | st.integers(-(10**16) + 1, 10**16 - 1), min_size=20))
@example(0, 0, [])
@example(-1, 1, [])
@example(100, 999, [])
@example(-1000, -10, [])
def test_what_is_within_the_bounds_matches_and_nothing_else(
    low: int | None, high: int | None, others: list[int]
) -> None:
    largest = 10**MAX_DIGITS - 1
    least = -largest if low is None else max(low, -largest)
    most = largest if high is None else min(high, largest)
    if least > most:
        with pytest.raises(ValueError, match="no integer"):
            integer_rule(low, high)
        return
    rule = integer_rule(low, high)
    edges = [each + step for each in (least, most) for step in (-1, 0, 1) if abs(each + step) <= largest]
    for number in [*others, *edges, *range(-12, 13)]:
        assert matches(rule, str(number)) == (least <= number <= most), (number, rule)
    assert not matches(rule, "-0")
    assert not matches(rule, "007")


@pytest.fixture(scope="module")
def engine(smollm2: Any) -> Any:
    with Engine(smollm2, EXACT) as engine:
        yield engine


@pytest.mark.parametrize(
    ("schema", "right"),
    [
        ({"type": "integer", "minimum": 17, "maximum": 17}, {17}),
        ({"type": "integer", "minimum": 1970, "exclusiveMaximum": 1972}, {1970, 1971}),
        ({"type": "integer", "exclusiveMinimum": -3, "maximum": -2}, {-2}),
        ({"type": "integer", "minimum": 7, "exclusiveMinimum": True, "maximum": 8}, {8}),  # draft 4
        ({"type": "integer", "minimum": 8.2, "maximum": 9.9}, {9}),
        ({"type": ["integer", "null"], "minimum": 4, "maximum": 4}, {4, None}),
    ],
)
def test_replies_keep_to_the_bounds_of_a_schema(engine: Engine, schema: dict[str, Any], right: set[int | None]) -> None:
    asked = {"type": "object", "properties": {"year": schema}, "required": ["year"], "additionalProperties": False}
    sampling = replace(GREEDY, json_schema=json.dumps(asked), max_tokens=40)
    reply = engine.conversation("guest").send([Message("user", "When was it? Answer 1234.")], sampling).result()
    assert json.loads(reply.text)["year"] in right
    root = replace(GREEDY, json_schema=json.dumps(schema), max_tokens=40)
    reply = engine.conversation("guest").send([Message("user", "When was it? Answer 1234.")], root).result()
    assert json.loads(reply.text) in right


def test_bounds_that_leave_nothing_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="no integer is within the bounds"):
        gbnf("", '{"type": "integer", "minimum": 3, "maximum": 2}')
    with pytest.raises(InvalidArgument, match="cannot be made a grammar"):
        gbnf("", '{"type": "integer", "minimum": "three"}')
