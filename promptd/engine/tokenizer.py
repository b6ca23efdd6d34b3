"""Turns a rendered conversation into tokens such that template markup is parsed and nothing a guest wrote can
become a control token.

llama.cpp parses special tokens in a whole text or not at all. So each special-token text that a message spells is
first broken by a marker character (`guard`), the template is rendered around the guarded messages, the rendered
text is split at the special-token texts that are still whole, as llama.cpp does it (`fragments`), and only the
plain text in between is given to llama_tokenize, which is told not to parse special tokens (`encode`).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from promptd.engine.llama import (
    ATTR_CONTROL,
    ATTR_LSTRIP,
    ATTR_RSTRIP,
    ATTR_UNKNOWN,
    Vocabulary,
)
from promptd.engine.transcript import TOKEN_CODE
from promptd.errors import InvalidArgument

Fragment = int | str
"""A special token, or plain text between such tokens."""

_MARKERS = range(0xF0000, 0xFFFFE)
"""Private-use characters of plane 15: one code point, so that no slicing in a template can leave half a marker
behind.
"""


_MANY_SPOTS = 20_000
"""Where more characters of a text than this could begin a special token, each special token is searched for instead."""


@dataclass(frozen=True, slots=True)
class _Special:
    token: int
    text: str
    attributes: int

    @property
    def is_control(self) -> bool:
        """Whether llama_tokenize leaves it alone when told not to parse special tokens."""
        return bool(self.attributes & (ATTR_CONTROL | ATTR_UNKNOWN))


def choose_marker(texts: Iterable[str]) -> str:
    """Return a character that occurs in none of `texts`; InvalidArgument when they hold all there are."""
    used = set().union(*texts)
    for code in _MARKERS:
        if chr(code) not in used:
            return chr(code)
    raise InvalidArgument("the text uses every private-use character of Unicode plane 15; leave one out")


class Tokenizer:
    """The tokenizer of one model."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        specials = [_Special(*entry) for entry in vocabulary.special]
        self._specials = sorted(
            (special for special in specials if special.text), key=lambda special: -len(special.text.encode())
        )
        self._lengths: dict[str, set[int]] = {}
        for special in self._specials:
            self._lengths.setdefault(special.text[0], set()).add(len(special.text))
        self._openers = re.compile("|".join(map(re.escape, self._lengths)) or r"(?!)")
        self._soft = {
            special.text for special in self._specials if not special.is_control and _looks_special(special.text)
        }
        guarded = [special.text for special in self._specials if special.is_control or special.text in self._soft]
        self._guarded = frozenset(guarded)
        self._longest = max(map(len, guarded), default=0)
        self._beginnings = {text[:length] for text in guarded for length in range(1, len(text))}
        self._ends = {text[length:] for text in guarded for length in range(1, len(text))}
        self._all_guarded = "\n".join(guarded)
        self._lead = self._space_prefix()

    def count(self, text: str) -> int:
        """Return how many tokens `text` is by itself."""
        return len(self._vocabulary.tokenize(text))

    def guard(self, text: str, marker: str) -> str:
        """Return a message's `text` with `marker` inside every guarded text it spells, and where an end of it could
        complete one.

        The ends matter because a template may put text, or another message, directly beside it. Surrounding white
        space stays outside of the markers, so that a template can still trim it.
        """
        core = text.strip()
        if not core or not self._guarded:
            return text
        breaks = {0} if self._could_complete(core) else set()
        if any(core[-length:] in self._beginnings for length in range(1, self._longest)):
            breaks.add(len(core))
        for special in self._present(core):
            start = core.find(special.text) if special.text in self._guarded else -1
            while start >= 0:
                breaks.update((start + 1, start) if len(special.text) == 1 else (start + 1,))
                start = core.find(special.text, start + 1)
        if not breaks:
            return text
        edges = [0, *sorted(breaks), len(core)]
        guarded = marker.join(core[start:end] for start, end in pairwise(edges))
        head = len(text) - len(text.lstrip())
        return text[:head] + guarded + text[head + len(core) :]

    def fragments(self, text: str, marker: str) -> list[Fragment]:
        """Split rendered `text` at its unbroken special-token texts, longest first, as llama.cpp's
        tokenizer_st_partition does.
        """
        parts: list[Fragment] = [text] if text else []
        for special in self._present(text):
            parts = [piece for part in parts for piece in ((part,) if isinstance(part, int) else _split(part, special))]
        return [piece for part in parts for piece in self._without(part, marker)]

    def encode(self, fragments: Sequence[Fragment], *, begins: bool) -> array[int]:
        """Return the tokens of `fragments`.

        `begins` tells that they begin a conversation: then the model's BOS token is put before them, if the model
        wants one and the template has not put it itself. Otherwise they continue one.
        """
        tokens = array(TOKEN_CODE)
        for index, fragment in enumerate(fragments):
            if isinstance(fragment, int):
                tokens.append(fragment)
            else:
                tokens.extend(self._plain(fragment, continues=index == 0 and not begins))
        vocabulary = self._vocabulary
        if begins and vocabulary.add_bos and vocabulary.bos >= 0 and tokens[:1] != array(TOKEN_CODE, [vocabulary.bos]):
            tokens.insert(0, vocabulary.bos)
        return tokens

    def _plain(self, text: str, *, continues: bool) -> array[int]:
        """Tokenise plain text; when it `continues` other text, without the space some models put before a text's
        first word.
        """
        if continues and self._lead:
            tokens = self._vocabulary.tokenize("\n" + text)
            if tokens[: len(self._lead)] == self._lead:
                return tokens[len(self._lead) :]
        return self._vocabulary.tokenize(text)

    def _space_prefix(self) -> array[int] | None:
        """Return the tokens of a newline where the model puts a space before it (SentencePiece's add_dummy_prefix),
        else None.
        """
        tokens = self._vocabulary.tokenize("\n")
        return tokens if len(tokens) > 1 and self._vocabulary.piece(tokens[0]).startswith(b" ") else None

    def _present(self, text: str) -> list[_Special]:
        """Return the special tokens whose text occurs in `text`, longest first. There may be thousands of them."""
        spelt: set[str] = set()
        for count, match in enumerate(self._openers.finditer(text)):
            if count == _MANY_SPOTS:
                return [special for special in self._specials if special.text in text]
            start = match.start()
            spelt.update(text[start : start + length] for length in self._lengths[match.group()])
        return [special for special in self._specials if special.text in spelt]

    def _could_complete(self, core: str) -> bool:
        """Tell whether `core` begins with the end of a guarded text, or is a part of one."""
        if any(core[:length] in self._ends for length in range(1, self._longest)):
            return True
        return len(core) < self._longest and core in self._all_guarded

    def _without(self, part: Fragment, marker: str) -> list[Fragment]:
        """Remove the markers from a fragment.

        llama_tokenize parses user-defined tokens even in plain text; those that look like control tokens are kept
        apart by tokenising their halves separately.
        """
        if isinstance(part, int) or marker not in part:
            return [part]
        whole = part.replace(marker, "")
        if not any(text in whole for text in self._soft):
            return [whole] if whole else []
        return [piece for piece in part.split(marker) if piece]


def _split(text: str, special: _Special) -> list[Fragment]:
    """Split `text` at each occurrence of `special`, stripping white space beside it where its attributes say so."""
    pieces = text.split(special.text)
    parts: list[Fragment] = []
    for index, piece in enumerate(pieces):
        if index > 0:
            parts.append(special.token)
            if special.attributes & ATTR_RSTRIP:
                piece = piece.lstrip(" \t\n\v\f\r")
        if index < len(pieces) - 1 and special.attributes & ATTR_LSTRIP:
            piece = piece.rstrip(" \t\n\v\f\r")
        if piece:
            parts.append(piece)
    return parts


def _looks_special(text: str) -> bool:
    """Tell a control token that a conversion mislabelled as user-defined, as convert_hf_to_gguf's
    does_token_look_special does.
    """
    return (
        text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]", "<start_of_turn>", "<end_of_turn>")
        or (text.startswith("<|") and text.endswith("|>"))
        or (text.startswith("<｜") and text.endswith("｜>"))
        or (text.startswith("<unused") and text.endswith(">"))
    )
