"""A graph's settings: which model it is, how its replies are sampled, and what else is loaded with it."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from promptd.config.table import NAME_PATTERN, Table, as_pairs, kebab
from promptd.config.validation import validated
from promptd.errors import InvalidArgument

MAX_BIASES = 1024
LogitBias = tuple[tuple[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=-100, le=100)]], ...]


class LoraSettings(Table):
    """One LoRA adapter of a graph: a GGUF file, and how strongly it acts."""

    file: Path
    scale: Annotated[float, Field(ge=-100, le=100)] = 1.0


def parse_loras(given: Any) -> Any:
    """Return the adapters that `FILE[:SCALE],...`, as on the command line, names."""
    if not isinstance(given, str):
        return given
    adapters: list[dict[str, Any]] = []
    for text in filter(None, given.split(",")):
        file, _, scale = text.rpartition(":")
        try:
            adapters.append({"file": file, "scale": float(scale)} if file else {"file": text})
        except ValueError:
            adapters.append({"file": text})
    return adapters


class GraphSettings(Table):
    """What a graph is and how it answers: `[graphs.NAME]`, or `--graph NAME=REF` with `-o NAME.KEY=VALUE`.

    Sampling defaults are llama.cpp's own (common/common.h, common_params_sampling).
    """

    model: str
    target: Literal["cpu", "gpu", "auto"] = "auto"
    template: Literal["auto", "none"] = "auto"
    """`auto` is the model's own chat template, if it has one; `none` appends raw text."""
    system: str | None = None
    share_system: bool = False
    """Whether guests may share the KV cells of `system` and of the template around it. What a guest says is never
    shared; but whether another guest has lately used the graph shows in how fast a first reply begins.
    """
    overflow: Literal["shift", "error"] | None = None
    """When a conversation is full; None means `shift` with a template, `error` without."""
    context: Annotated[int, Field(ge=64)] | None = None
    """Tokens one conversation can hold; None is the model's own limit, or the engine's if that is smaller."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.8
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 40
    top_p: Annotated[float, Field(ge=0, le=1)] = 0.95
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.05
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    penalty_last_n: Annotated[int, Field(ge=-1)] = 64
    """How many tokens back the three penalties look; -1 is the whole context."""
    typical_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    dynatemp_range: Annotated[float, Field(ge=0, le=100)] = 0.0
    dynatemp_exponent: Annotated[float, Field(ge=0, le=100)] = 1.0
    mirostat: Annotated[int, Field(ge=0, le=2)] = 0
    """1 or 2 is that version of Mirostat, in place of all samplers but the temperature; 0 is off."""
    mirostat_tau: Annotated[float, Field(ge=0, le=100)] = 5.0
    mirostat_eta: Annotated[float, Field(ge=0, le=100)] = 0.1
    xtc_probability: Annotated[float, Field(ge=0, le=1)] = 0.0
    xtc_threshold: Annotated[float, Field(ge=0, le=1)] = 0.1
    dry_multiplier: Annotated[float, Field(ge=0, le=100)] = 0.0
    """0 turns DRY off."""
    dry_base: Annotated[float, Field(ge=0, le=100)] = 1.75
    dry_allowed_length: Annotated[int, Field(ge=0, lt=2**31)] = 2
    dry_penalty_last_n: Annotated[int, Field(ge=-1)] = -1
    """How many tokens back DRY looks; -1 is the whole context."""
    logit_bias: Annotated[LogitBias, BeforeValidator(as_pairs), Field(max_length=MAX_BIASES)] = ()
    """A table by token number: what is added to the token's logit. On the command line it is JSON: `{"1234": -100}`."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    grammar: str = ""
    """GBNF that replies keep to: https://github.com/ggml-org/llama.cpp/tree/master/grammars"""
    json_schema: str = ""
    """A JSON schema, as text, that replies keep to; it goes before a grammar."""
    lora: Annotated[tuple[LoraSettings, ...], BeforeValidator(parse_loras)] = ()
    """LoRA adapters on the model, which graphs without them share; `FILE[:SCALE],...` on the command line."""
    draft: str | None = None
    """A small model with the same vocabulary, which guesses what this one says next: a reference like `model`."""
    embedding: bool = False
    """Through the tensor interface, answer with the embedding of the text in place of a reply."""


def graph_settings(name: str, model: str, options: dict[str, Any], base: GraphSettings | None = None) -> GraphSettings:
    """Return settings of graph `name` from the command line, where `options` maps what follows `-o NAME.` to its text,
    or from a request, where values have types; raises InvalidArgument.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise InvalidArgument(f"{name!r} cannot be a graph's name: letters, digits, '.', '_' and '-' only, at most 80")
    table: dict[str, Any] = base.model_dump(by_alias=True, exclude_unset=True) if base else {}
    table["model"] = model
    for key, value in options.items():
        table[kebab(key)] = [value] if key == "stop" and isinstance(value, str) else value
    return validated(GraphSettings, table, f"graph {name}")
