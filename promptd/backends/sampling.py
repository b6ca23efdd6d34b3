"""Where a graph's settings meet the options of a conversation and of one turn: how a reply is sampled."""

from __future__ import annotations

from dataclasses import fields

from pydantic import ValidationError

from promptd.chat import MAX_LOGPROBS, ChatOptions
from promptd.config import GraphSettings
from promptd.engine.options import Sampling
from promptd.errors import InvalidArgument

_OPTIONS = tuple(field.name for field in fields(ChatOptions))
_SETTINGS = tuple(name for name in Sampling.__struct_fields__ if name in GraphSettings.model_fields)
"""What a graph's settings say of sampling; `logprobs` alone is a matter of each call."""


def sampling_of(settings: GraphSettings, *options: ChatOptions) -> Sampling:
    """Return how a reply is sampled: the last of `options` that says something goes first, then the graph's settings.

    Raises InvalidArgument for a value out of range.
    """
    chosen = {name: value for choice in options for name in _OPTIONS if (value := getattr(choice, name)) is not None}
    logprobs = chosen.pop("logprobs", None)
    if logprobs is not None and not 0 <= logprobs <= MAX_LOGPROBS:
        raise InvalidArgument(f"logprobs: a number from 0 to {MAX_LOGPROBS} is needed, got {logprobs}")
    if not chosen:
        return Sampling(**{name: getattr(settings, name) for name in _SETTINGS}, logprobs=logprobs)
    try:
        checked = GraphSettings.model_validate({"model": settings.model, **chosen})
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidArgument(f"{first['loc'][0]}: {first['msg']}, got {first['input']!r}") from error
    return Sampling(
        **{name: getattr(checked if name in chosen else settings, name) for name in _SETTINGS}, logprobs=logprobs
    )
