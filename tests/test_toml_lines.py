"""The lines of a TOML text on which its keys stand."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from promptd.toml_lines import line_of

TEXTS = st.text(st.sampled_from("abcxyz-_ .[]=#\"'"), max_size=8)
NAMES = st.text(st.sampled_from("abcxyz-_ .[]=#\"'"), min_size=1, max_size=6)
VALUES = st.one_of(
    st.integers(-5, 5),
    st.booleans(),
    TEXTS,
    st.lists(st.integers(0, 3), max_size=3),
)
FILLERS = st.lists(st.sampled_from(["", "# [no] table = 1", "   "]), max_size=2)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, st.dictionaries(NAMES, st.tuples(FILLERS, VALUES), max_size=4), min_size=1, max_size=4))
def test_every_key_is_found_where_it_was_written(tables: dict[str, dict[str, tuple[list[str], object]]]) -> None:
    lines: list[str] = []
    places: dict[tuple[str, ...], int] = {}
    for table, keys in tables.items():
        lines.append(f"[{json.dumps(table)}]")
        places[(table,)] = len(lines)
        for key, (fillers, value) in keys.items():
            lines += fillers
            began = len(lines) + 1
            if isinstance(value, list):
                lines += [f"{json.dumps(key)} = [", *(f"  {item}," for item in value), "]"]
            elif isinstance(value, str) and value.isalpha():
                lines += [f'{json.dumps(key)} = """', "[other]", f'{value}"""']
            else:
                lines.append(f"{json.dumps(key)} = {json.dumps(value)}")
            places.setdefault((table, key), began)
    text = "\n".join(lines)
    for where, line in places.items():
        assert line_of(text, where) == line
