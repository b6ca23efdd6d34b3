"""A radix tree over the token prefixes of resident sequences: who in the KV cache begins like a given prompt.

Every guest has a tree of its own, so that nobody learns from what is cached what another guest has said. One more tree
holds what the operator lets all guests share. Sequences with other adapters have other trees.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from promptd.engine.adapters import Adapters
from promptd.engine.sequence import Sequence
from promptd.engine.transcript import TOKEN_CODE, common_prefix

Salt = tuple[str | None, Adapters]
"""A guest's identity, or None for what all guests share, and the adapters the cells were computed with."""


class _Node:
    """The tokens of one edge, and the sequences whose path leads through it or ends here."""

    __slots__ = ("children", "edge", "holders", "parent")

    def __init__(self, edge: array[int], parent: _Node | None) -> None:
        self.edge = edge
        self.parent = parent
        self.children: dict[int, _Node] = {}
        self.holders: dict[Sequence, None] = {}


class PrefixTree:
    """Paths of tokens by salt. A sequence has at most one path under each."""

    def __init__(self) -> None:
        self._roots: dict[Salt, _Node] = {}
        self._ends: dict[Sequence, dict[Salt, _Node]] = {}

    def place(self, sequence: Sequence, salt: Salt, tokens: array[int]) -> None:
        """Let the path of `sequence` be `tokens`, whatever it was."""
        self._remove(sequence, salt)
        if not tokens:
            return
        node = self._roots.setdefault(salt, _Node(array(TOKEN_CODE), None))
        node.holders[sequence] = None
        start = 0
        while start < len(tokens):
            child = node.children.get(tokens[start])
            if child is None:
                child = _Node(tokens[start:], node)
                node.children[tokens[start]] = child
            else:
                shared = common_prefix(child.edge, tokens[start : start + len(child.edge)])
                if shared < len(child.edge):
                    child = _split(child, shared)
            child.holders[sequence] = None
            start += len(child.edge)
            node = child
        self._ends.setdefault(sequence, {})[salt] = node

    def remove(self, sequence: Sequence) -> None:
        """Forget all paths of `sequence`."""
        for salt in list(self._ends.get(sequence, ())):
            self._remove(sequence, salt)

    def matches(self, salt: Salt, tokens: array[int]) -> Iterator[tuple[Sequence, int]]:
        """Yield the sequences whose paths begin like `tokens`, with the length they share; the longest first."""
        node = self._roots.get(salt)
        steps: list[tuple[_Node, int]] = []
        start = 0
        while node is not None and start < len(tokens):
            child = node.children.get(tokens[start])
            if child is None:
                break
            shared = common_prefix(child.edge, tokens[start : start + len(child.edge)])
            start += shared
            steps.append((child, start))
            node = child if shared == len(child.edge) else None
        seen: set[Sequence] = set()
        for step, length in reversed(steps):
            for sequence in step.holders:
                if sequence not in seen:
                    seen.add(sequence)
                    yield sequence, length

    def _remove(self, sequence: Sequence, salt: Salt) -> None:
        ends = self._ends.get(sequence, {})
        node: _Node | None = ends.pop(salt, None)
        if not ends:
            self._ends.pop(sequence, None)
        while node is not None:
            del node.holders[sequence]
            if not node.holders:
                if node.parent is None:
                    del self._roots[salt]
                else:
                    del node.parent.children[node.edge[0]]
            node = node.parent


def _split(node: _Node, length: int) -> _Node:
    """Put a new node into the edge of `node`, `length` tokens from its beginning; return the new one."""
    assert node.parent is not None
    upper = _Node(node.edge[:length], node.parent)
    upper.holders = dict(node.holders)
    node.parent.children[upper.edge[0]] = upper
    node.parent, node.edge = upper, node.edge[length:]
    upper.children[node.edge[0]] = node
    return upper
