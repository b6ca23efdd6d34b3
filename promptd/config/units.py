"""Sizes, durations and quotas as people write them, as numbers of bytes, seconds and tokens."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*$", re.IGNORECASE)
_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h)?\s*$")
MAX_SIZE = 2**62
"""Bytes; far from where arithmetic on sizes ends."""
MAX_DURATION_S = 10 * 365 * 86400.0
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def parse_size(text: str | int) -> int:
    """Return bytes for `268435456`, `256MiB`, `1.5G`; K, M, G and T are powers of 1024."""
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise ValueError("a size cannot be negative")
        return min(text, MAX_SIZE)
    match = _SIZE.match(str(text))
    if not match:
        raise ValueError(f"{text!r} is not a size; write for example 256MiB or 1GiB")
    exponent = " kmgt".index(match[2].lower() or " ")
    size = float(match[1]) * 1024**exponent
    if size >= MAX_SIZE:
        raise ValueError(f"{str(text)[:40]!r} is larger than any machine")
    return int(size)


def parse_duration(text: str | float) -> float:
    """Return seconds for `30`, `1.5s`, `250ms`, `5m`, `1h`."""
    match = _DURATION.match(str(text))
    if isinstance(text, bool) or not match:
        raise ValueError(f"{text!r} is not a duration; write for example 60s or 5m")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > MAX_DURATION_S:
        raise ValueError(f"{str(text)[:40]!r} is longer than ten years")
    return seconds


def parse_keep_alive(text: str | float) -> float:
    """Return seconds as parse_duration does, and -1 for `forever` and for anything negative."""
    if text == "forever" or str(text).lstrip().startswith("-"):
        return -1.0
    return parse_duration(text)


def parse_quota(text: str | float) -> float:
    """Return a share of at most 1 for `0.25` and `25%`, and a number of tokens for what is larger than 1."""
    number = str(text).strip()
    try:
        quota = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        quota = 0.0
    whole = quota <= 1 or (quota.is_integer() and not number.endswith("%"))
    if isinstance(text, bool) or not (0 < quota < MAX_SIZE and whole):
        raise ValueError(f"{str(text)[:40]!r} is no quota; write for example 25%, or 4096 for so many tokens")
    return quota


Size = Annotated[int, BeforeValidator(parse_size)]
Duration = Annotated[float, BeforeValidator(parse_duration)]
Quota = Annotated[float, BeforeValidator(parse_quota)]
