from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptd.engine.prefix_tree import PrefixTree
from promptd.engine.sequence import Sequence
from promptd.engine.transcript import common_prefix


def tokens(*values: int) -> array[int]:
    return array("i", values)


@pytest.fixture
def tree() -> PrefixTree:
    return PrefixTree()


def test_the_longest_common_beginning_comes_first(tree: PrefixTree) -> None:
    short, long, other = (Sequence("guest") for _ in range(3))
    tree.place(short, "guest", tokens(1, 2))
    tree.place(long, "guest", tokens(1, 2, 3, 4))
    tree.place(other, "guest", tokens(9))
    assert list(tree.matches("guest", tokens(1, 2, 3, 5))) == [(long, 3), (short, 2)]


def test_nothing_is_found_under_another_salt(tree: PrefixTree) -> None:
    tree.place(Sequence("one"), "one", tokens(1, 2))
    assert list(tree.matches("two", tokens(1, 2))) == []
    assert list(tree.matches(None, tokens(1, 2))) == []


def test_a_path_takes_the_place_of_the_one_before(tree: PrefixTree) -> None:
    sequence = Sequence("guest")
    tree.place(sequence, "guest", tokens(1, 2, 3))
    tree.place(sequence, "guest", tokens(1, 7))
    assert list(tree.matches("guest", tokens(1, 2, 3))) == [(sequence, 1)]
    tree.remove(sequence)
    assert list(tree.matches("guest", tokens(1, 7))) == []


PATHS = st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 2), max_size=8)), max_size=20)


@given(PATHS, st.lists(st.integers(0, 2), max_size=8))
def test_it_finds_what_comparing_with_every_sequence_finds(
    paths: list[tuple[int, list[int]]], wanted: list[int]
) -> None:
    tree, sequences = PrefixTree(), [Sequence("guest") for _ in range(6)]
    placed: dict[Sequence, array[int]] = {}
    for number, path in paths:
        placed[sequences[number]] = tokens(*path)
        tree.place(sequences[number], "guest", tokens(*path))
    expected = {sequence: common_prefix(path, tokens(*wanted)) for sequence, path in placed.items()}
    found = list(tree.matches("guest", tokens(*wanted)))
    assert dict(found) == {sequence: length for sequence, length in expected.items() if length}
    assert [length for _, length in found] == sorted((length for _, length in found), reverse=True)
