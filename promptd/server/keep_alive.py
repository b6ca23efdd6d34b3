"""How long Ollama's clients want a model to stay loaded: seconds, or a duration of Go's, below 0 for ever.

https://github.com/ollama/ollama/blob/main/docs/faq.mdx#how-do-i-keep-a-model-loaded-in-memory-or-make-it-unload-immediately
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

from promptd.config import MAX_DURATION_S
from promptd.server.conversations import Conversations
from promptd.server.keys import current_client

FOREVER = -1.0

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)"
_DURATION = re.compile(rf"[+-]?(?:{_PART})+")
_BARE = re.compile(r"[+-]?(\d+(?:\.\d*)?|\.\d+)")
_LONGEST = 64
"""Characters of a duration; few are needed."""


def _seconds(value: Any) -> Any:
    """Return the seconds of a number, which a string may be as well, or of `1h30m`; FOREVER for negative ones."""
    seconds = value
    if isinstance(value, str):
        text = value.strip()
        if len(text) <= _LONGEST and _DURATION.fullmatch(text):
            seconds = sum(float(number) * _UNITS_S[unit] for number, unit in re.findall(_PART, text))
            seconds *= -1 if text.startswith("-") else 1
        elif len(text) <= _LONGEST and _BARE.fullmatch(text):
            seconds = float(text)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ValueError("this is no duration; send seconds as a number, or for example '5m'")
    return float(seconds) if 0 <= seconds <= MAX_DURATION_S else FOREVER


KeepAlive = Annotated[float, BeforeValidator(_seconds)]


def keep_alive(conversations: Conversations, model: str, seconds: float | None) -> None:
    """Keep the model of a graph for as long as its client wants, if that has the scope `admin`.

    For all others models stay as the settings say, so that no client keeps them from another, or has them loaded anew.
    """
    if seconds is not None and "admin" in current_client().scopes:
        conversations.keep_alive(model, seconds)
