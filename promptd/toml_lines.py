"""Where a key stands in a TOML text, which tomllib does not tell: errors in settings name the line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

Where = tuple[str | int, ...]
"""The keys, and the places in arrays of tables, that lead to a value."""

_LONGEST_STATEMENT = 1000
"""Lines of one value, beyond which nobody needs the line of its key."""


def line_of(text: str, where: Sequence[str | int]) -> int | None:
    """Return the number of the line where the value at `where`, or the last table on the way to it, begins.

    `text` is valid TOML. None when nothing on the way is there.
    """
    best: tuple[int, int] | None = None
    wanted = tuple(where)
    for line, defined in _definitions(text):
        common = 0
        while common < min(len(defined), len(wanted)) and defined[common] == wanted[common]:
            common += 1
        if common and (common == len(defined) or common == len(wanted)) and (best is None or common > best[0]):
            best = (common, line)
    return None if best is None else best[1]


def _definitions(text: str) -> Iterator[tuple[int, Where]]:
    """Yield what each statement of a TOML text defines, with its line: tables, and keys within them."""
    table: Where = ()
    counts: dict[Where, int] = {}
    for line, statement in _statements(text):
        parsed = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            is_array = statement.lstrip().startswith("[[")
            table = _placed(_path(parsed), counts, counts_up=is_array)
            yield line, table
        else:
            for path in _paths(parsed):
                yield line, (*table, *path)


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield each statement of a TOML text, which may have several lines, with the number of its first."""
    began, gathered = 0, ""
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not gathered:
            began = number
        gathered += line
        try:
            is_empty = not tomllib.loads(gathered)
        except tomllib.TOMLDecodeError:
            if number - began < _LONGEST_STATEMENT:
                continue
            is_empty = True
        if not is_empty:
            yield began, gathered
        gathered = ""


def _path(parsed: Any) -> tuple[str, ...]:
    """Return the keys of a table's header."""
    path: list[str] = []
    while parsed:
        if isinstance(parsed, list):
            (parsed,) = parsed
        else:
            ((key, parsed),) = parsed.items()
            path.append(key)
    return tuple(path)


def _paths(parsed: dict[str, Any]) -> Iterator[Where]:
    """Yield the keys of a statement, those of tables within it too."""
    for key, value in parsed.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *path) for path in _paths(value))


def _placed(path: tuple[str, ...], counts: dict[Where, int], *, counts_up: bool) -> Where:
    """Return the keys of a header with the places of the arrays of tables on the way; `counts` holds those so far."""
    placed: Where = ()
    for depth, key in enumerate(path, 1):
        placed = (*placed, key)
        if counts_up and depth == len(path):
            counts[placed] = counts.get(placed, -1) + 1
        if placed in counts:
            placed = (*placed, counts[placed])
    return placed
