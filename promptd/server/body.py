"""What the bodies of all requests have in common: strict types, text that can be encoded, how replies are sampled."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from promptd.chat import ChatOptions
from promptd.config import MAX_BIASES
from promptd.server.doors import MAX_JSON_DEPTH, is_deeper

MAX_STOP_SEQUENCES = 16
_SEEDS = 2**32


def _encodable(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair is not text") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]

Stop = Text | Annotated[list[Text], Field(max_length=MAX_STOP_SEQUENCES)]


Many = Field(fail_fast=True)
"""Marks every list without a small limit: a body may hold millions of wrong items, and one error says enough."""


def at_most(pairs: int) -> BeforeValidator:
    """Return what refuses an object with more pairs before they are looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > pairs:
            raise ValueError(f"at most {pairs} pairs are taken, and there are {len(value)}")
        return value

    return BeforeValidator(check)


TokenNumber = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]


class Body(BaseModel):
    """A JSON object of a request; unknown fields are ignored, so that newer clients work."""

    model_config = ConfigDict(strict=True, extra="ignore")


class SamplingFields(Body):
    """How a reply is sampled; what is left out is the graph's own setting.

    `top_k`, `min_p` and `repeat_penalty` are beyond OpenAI's, and named as llama-server names them.
    """

    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[TokenNumber, Bias], Field(max_length=MAX_BIASES), at_most(MAX_BIASES)] | None = None
    seed: int | None = None
    stop: Stop | None = None

    def sampling(self, **more: Any) -> ChatOptions:
        """Return these options, and `more`, as promptd's lower floors call them."""
        biases = self.logit_bias or None
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        return ChatOptions(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repeat_penalty=self.repeat_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=biases and tuple((int(token), bias) for token, bias in biases.items()),
            seed=None if self.seed is None else self.seed % _SEEDS,
            stop=None if stop is None else tuple(text for text in stop if text),
            **more,
        )


def json_text(value: Any) -> str:
    """Return `value` as JSON text; raises ValueError for text that cannot be encoded."""
    return _encodable(json.dumps(value, ensure_ascii=False))


def json_object(text: str) -> dict[str, Any]:
    """Return the JSON object that `text` spells, with no more levels than a body may have; raises ValueError."""
    if is_deeper(text.encode("utf-8", "surrogatepass"), MAX_JSON_DEPTH):
        raise ValueError(f"it has more than {MAX_JSON_DEPTH} levels of lists and objects")
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value
