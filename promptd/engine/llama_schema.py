"""The fence around llama-cpp-python's converter of JSON schemas, with what the version 0.3.36 of it lacks.

It is older than llama.cpp's own (common/json-schema-to-grammar.cpp), which the library does not export.
"""

from __future__ import annotations

import json
import math
from typing import Any

from promptd.engine.integer_range import integer_rule
from promptd.engine.llama_bindings import submodule

_ANY_CHARACTER = r'char ::= [^"\\] |'
_JSON_CHARACTER = r'char ::= [^"\\\x7F\x00-\x1F] |'
"""The converter lets line breaks into strings, which JSON does not allow."""

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_CHOSEN_OTHERWISE = ("$ref", "oneOf", "anyOf", "const", "enum")
"""What makes the converter look at nothing else in a schema."""


def schema_to_grammar(schema: str) -> str:
    """Return the GBNF of a JSON schema; raises whatever the converter raises for one it does not understand."""
    library = submodule("llama_grammar")

    class Converter(library.SchemaConverter):  # type: ignore[misc, name-defined]
        """With bounds of integers (TODO in its `visit`)."""

        def visit(self, schema: Any, name: str) -> str:
            bounded = any(bound in schema for bound in _BOUNDS) and not any(key in schema for key in _CHOSEN_OTHERWISE)
            kind = schema.get("type") if bounded else None
            if isinstance(kind, list):
                return str(self.visit({"anyOf": [{**schema, "type": each} for each in kind]}, name))
            if kind != "integer":
                return str(super().visit(schema, name))
            rule_name = f"{name}-" if name in library.RESERVED_NAMES else name or "root"
            return str(self._add_rule(rule_name, f"({integer_rule(*_bounds(schema))}) space"))

    converter = Converter(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
    converter.visit(converter.resolve_refs(json.loads(schema), "stdin"), "")
    return str(converter.format_grammar()).replace(_ANY_CHARACTER, _JSON_CHARACTER)


def _bounds(schema: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return the least and the largest integer a schema allows.

    Exclusive bounds are numbers, as in draft 6 and later, or say whether the other bound is, as in draft 4.
    """
    low, high = schema.get("minimum"), schema.get("maximum")
    over, under = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if over is True:
        low, over = None, low
    if under is True:
        high, under = None, high
    lows = [] if low is None else [math.ceil(low)]
    lows += [] if isinstance(over, bool) or over is None else [math.floor(over) + 1]
    highs = [] if high is None else [math.floor(high)]
    highs += [] if isinstance(under, bool) or under is None else [math.ceil(under) - 1]
    return max(lows, default=None), min(highs, default=None)
