"""Validates tables of settings; what is wrong with one is a sentence that names the key, and its line in a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from promptd.config.table import kebab
from promptd.errors import InvalidArgument
from promptd.suggestions import did_you_mean
from promptd.toml_lines import line_of

T = TypeVar("T", bound=BaseModel)


def validated(kind: type[T], table: dict[str, Any], where: str, text: str = "") -> T:
    """Return the settings in `table`; raises InvalidArgument, which names the line where the TOML `text` is given."""
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        errors = error.errors()
        first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
        location = [part for part in first["loc"] if part != "[key]"]
        key = ".".join(map(str, location))
        if line := line_of(text, location):
            where = f"{where}, line {line}"
        if first["type"] == "extra_forbidden":
            known = sorted(kebab(field) for field in _model_at(kind, location[:-1]).model_fields)
            hint = did_you_mean(str(location[-1]), known) or f"; known keys are {', '.join(known)}"
            raise InvalidArgument(f"{where}: there is no setting {key!r}{hint}") from error
        if first["type"] == "missing":
            raise InvalidArgument(f"{where}: {key} is missing") from error
        reason = first["msg"].removeprefix("Value error, ").removeprefix("Input ").partition(", unable to parse")[0]
        got = "" if first["type"] == "value_error" else f", not {first['input']!r}"
        raise InvalidArgument(f"{where}: {key}: {reason}{got}") from error


def _model_at(kind: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel]:
    """Return the model of the settings at `location` within those of `kind`."""
    for part in location:
        field = kind.model_fields.get(str(part).replace("-", "_"))
        if field is not None:  # what is no field is the name of a graph or guest, or a place in a list
            models = [each for each in _types_in(field.annotation) if issubclass(each, BaseModel)]
            kind = models[0] if models else kind
    return kind


def _types_in(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for part in get_args(annotation):
        yield from _types_in(part)
