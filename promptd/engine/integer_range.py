"""Writes the integers between two bounds as a GBNF rule, for JSON schemas."""

from __future__ import annotations

MAX_DIGITS = 16
"""As many as llama-cpp-python's converter lets an integer without bounds have."""
_LARGEST = 10**MAX_DIGITS - 1


def integer_rule(low: int | None, high: int | None) -> str:
    """Return alternatives that match each integer from `low` to `high`, both included, as JSON spells it, and no other.

    None is no bound; integers of more than MAX_DIGITS digits are never matched. Raises ValueError when none is left.
    """
    low = -_LARGEST if low is None else max(low, -_LARGEST)
    high = _LARGEST if high is None else min(high, _LARGEST)
    if low > high:
        raise ValueError("no integer is within the bounds")
    rules = []
    if low < 0:
        rules.append(f'"-" ({_natural(max(1, -high), -low)})')
    if high >= 0:
        rules.append(_natural(max(0, low), high))
    return " | ".join(rules)


def _natural(low: int, high: int) -> str:
    """Return alternatives for numbers that are not negative, by how many digits they have."""
    rules = []
    for digits in range(len(str(low)), len(str(high)) + 1):
        first = low if digits == len(str(low)) else 10 ** (digits - 1)
        last = high if digits == len(str(high)) else 10**digits - 1
        rules += _same_length(str(first), str(last))
    return " | ".join(rules)


def _same_length(low: str, high: str) -> list[str]:
    """Return alternatives for the digits from `low` to `high`, which are as many."""
    if not low:
        return [""]
    rest = len(low) - 1
    if low[0] == high[0]:
        return [_then(low[0], low[0], tails) for tails in [_same_length(low[1:], high[1:])]]
    rules = []
    first, last = low[0], high[0]
    if low[1:] != "0" * rest:
        rules.append(_then(first, first, _same_length(low[1:], "9" * rest)))
        first = chr(ord(first) + 1)
    upper = []
    if high[1:] != "9" * rest:
        upper.append(_then(last, last, _same_length("0" * rest, high[1:])))
        last = chr(ord(last) - 1)
    if first <= last:
        rules.append(_then(first, last, ["[0-9]" if rest == 1 else f"[0-9]{{{rest}}}" if rest else ""]))
    return rules + upper


def _then(first: str, last: str, tails: list[str]) -> str:
    """Return the rule for one digit and what may follow it."""
    digit = f"[{first}-{last}]" if first != last else f'"{first}"'
    tail = tails[0] if len(tails) == 1 else f"({' | '.join(tails)})"
    return f"{digit} {tail}".strip()
