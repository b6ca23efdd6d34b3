"""The digest of a file: one validated type, from which every path that holds a file is built."""

from __future__ import annotations

import re
from dataclasses import dataclass

from promptd.errors import InvalidArgument

_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PREFIX = "sha256:"


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A SHA-256 digest; `hex` is 64 lowercase hexadecimal digits and therefore safe as a file name.

    Raises InvalidArgument for anything else (CVE-2024-37032 was a digest taken for a path unchecked).
    """

    hex: str

    def __post_init__(self) -> None:
        if not isinstance(self.hex, str) or not _HEX.fullmatch(self.hex):
            raise InvalidArgument(f"{str(self.hex)[:80]!r} is not a SHA-256 digest of 64 lowercase hexadecimal digits")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Return the digest written as `sha256:HEX` or `HEX`."""
        return cls(text.removeprefix(_PREFIX))

    def __str__(self) -> str:
        return _PREFIX + self.hex
