"""The JSON configuration WasmEdge's guests send a language model: every key, its type, and what it does here.

Keys, types and spellings are those of WasmEdge's plugins/wasi_nn/GGML/metadata/metadata_parser.cpp; defaults are
llama.cpp's (common/common.h). A key that is not in the table is ignored. A key of it with a value of another type is
refused, also where it has no effect. What names a file, a URL or a token of the host is refused unless it is empty: a
guest's grants decide what it may reach, not its configuration.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import msgspec

from promptd.backends.sampling import sampling_of
from promptd.config import GraphSettings
from promptd.engine.options import Sampling
from promptd.errors import InvalidArgument, InvalidEncoding, TooLarge

_log = logging.getLogger("promptd.grants")

MAX_CONFIG_BYTES = 1024**2
RANDOM_SEED = 0xFFFFFFFF
"""llama.h, LLAMA_DEFAULT_SEED"""

LEAST_TEMPERATURE = 1e-4
"""Less is greedy: logits divided by it would leave the range of 32-bit floats."""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What all contexts of one loaded graph share."""

    context: int = 0
    """Tokens of prompt and reply together; 0 is the model's own limit."""
    batch: int = 2048
    """Most tokens an embedding is made of."""
    embedding: bool = False
    pooling: int = -1
    """llama.h, enum llama_pooling_type; -1 is the model's own."""
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, slots=True)
class ReplyOptions:
    """What each context has for itself."""

    predict: int = -1
    """Most tokens of a reply; negative is no limit."""
    reverse_prompt: str = ""
    stream_stdout: bool = False


class Kind(Enum):
    """A JSON type, as simdjson tells them apart: 1.0 is no integer, but 1 is a number."""

    BOOL = "true or false"
    INT = "an integer"
    NUMBER = "a number"
    TEXT = "a string"


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its type, where its value goes, and between which bounds it is moved."""

    kind: Kind
    field: str = ""
    """`sampling.X`, or a field of ModelOptions or ReplyOptions; nothing for a key without effect."""
    low: float = -math.inf
    high: float = math.inf
    choices: frozenset[str] | None = None
    """The only texts allowed."""
    refused: bool = False
    """Names something of the host, so only an empty text is taken."""


_BIG = 2.0**31 - 1

KEYS: dict[str, Key] = {
    "stream-stdout": Key(Kind.BOOL, "stream_stdout"),
    "n-predict": Key(Kind.INT, "predict"),
    "reverse-prompt": Key(Kind.TEXT, "reverse_prompt"),
    "ctx-size": Key(Kind.INT, "context", 0, _BIG),
    "batch-size": Key(Kind.INT, "batch", 1, _BIG),
    "embedding": Key(Kind.BOOL, "embedding"),
    "pooling-type": Key(Kind.INT, "pooling", -1, 4),
    "temp": Key(Kind.NUMBER, "sampling.temperature", 0, 1000),
    "top-k": Key(Kind.INT, "sampling.top_k", 0, _BIG),
    "top-p": Key(Kind.NUMBER, "sampling.top_p", 0, 1),
    "min-p": Key(Kind.NUMBER, "sampling.min_p", 0, 1),
    "typ-p": Key(Kind.NUMBER, "sampling.typical_p", 0, 1),
    "min-keep": Key(Kind.INT, "sampling.min_keep", 0, _BIG),
    "repeat-penalty": Key(Kind.NUMBER, "sampling.repeat_penalty", 0, 100),
    "presence-penalty": Key(Kind.NUMBER, "sampling.presence_penalty", 0, 1000),
    "frequency-penalty": Key(Kind.NUMBER, "sampling.frequency_penalty", 0, 1000),
    "last-n-penalty": Key(Kind.INT, "sampling.penalty_last_n", -1, _BIG),
    "dry-last-n-penalty": Key(Kind.INT, "sampling.penalty_last_n", -1, _BIG),  # as WasmEdge has it
    "dry-multipier": Key(Kind.NUMBER, "sampling.dry_multiplier", 0, 100),  # spelt so there
    "dry-base": Key(Kind.NUMBER, "sampling.dry_base", 0, 100),
    "dry-allowed-length": Key(Kind.INT, "sampling.dry_allowed_length", 0, _BIG),
    "mirostat": Key(Kind.INT, "sampling.mirostat", 0, 2),
    "mirostat-eta": Key(Kind.NUMBER, "sampling.mirostat_eta", 0, 100),
    "dynatemp-range": Key(Kind.NUMBER, "sampling.dynatemp_range", 0, 1000),
    "dynatemp-exponent": Key(Kind.NUMBER, "sampling.dynatemp_exponent", 0, 100),
    "xtc-probability": Key(Kind.NUMBER, "sampling.xtc_probability", 0, 1),
    "xtc-threshold": Key(Kind.NUMBER, "sampling.xtc_threshold", 0, 1),
    "seed": Key(Kind.INT, "sampling.seed"),
    "ignore-eos": Key(Kind.BOOL, "sampling.ignore_end"),
    "grammar": Key(Kind.TEXT, "sampling.grammar"),
    "json-schema": Key(Kind.TEXT, "sampling.json_schema"),
    "flash-attn": Key(Kind.TEXT, choices=frozenset({"on", "off", "auto", "enabled", "disabled"})),
    "split-mode": Key(Kind.TEXT, choices=frozenset({"none", "layer", "row"})),
    "load-mode": Key(Kind.TEXT, choices=frozenset({"auto", "none", "mmap", "mlock", "mmap+mlock", "dio"})),
    "cvector-dimre-method": Key(Kind.TEXT, choices=frozenset({"DIMRE_METHOD_PCA", "DIMRE_METHOD_MEAN"})),
}
"""Keys with an effect, and keys that take only certain texts."""

_WITHOUT_EFFECT = {
    Kind.BOOL: """
        enable-log enable-debug-log cpu-moe mask-valid strict-cpu mask-valid-batch strict-cpu-batch no-perf-sampling
        timing-per-token always-regenerate-image-embd lora-init-without-apply hellaswag winogrande multiple-choice
        kl-divergence usage use-color special interactive interactive-first prompt-cache-all prompt-cache-ro escape
        multiline-input simple-io cont-batching no-perf ctx-shift input-prefix-bos use-mlock use-mmap verbose-prompt
        display-prompt no-kv-offload warmup check-tensors enable-chat-template webui endpoint-slots endpoint-props
        endpoint-metrics log-json is-pp-shared process-output compute-ppl spm-infill batched-bench-output-jsonl tts
        reranking
    """,
    Kind.INT: """
        main-gpu n-gpu-layers n-cpu-moe ubatch-size n-keep n-chunks n-parallel n-sequences grp-attn-n grp-attn-w n-print
        yarn-orig-ctx priority poll priority-batch poll-batch numa rope-scaling-type attention-type threads
        threads-batch n-prev n-probs n-max-speculative n-min-speculative n-gpu-layers-speculative verbosity
        control-vector-layer-start control-vector-layer-end ppl-stride ppl-output-type hellaswag-tasks winogrande-tasks
        multiple-choice-tasks cache-type-k cache-type-v embd-normalize port timeout-read timeout-write n-threads-http
        n-cache-reuse n-pp n-tg n-pl chunk-size n-junk i-pos n-out-freq n-save-freq i-chunk n-pca-batch n-pca-iterations
    """,
    Kind.NUMBER: """
        rope-freq-base rope-freq-scale yarn-ext-factor yarn-attn-factor yarn-beta-fast yarn-beta-slow
        p-split-speculative p-min-speculative slot-prompt-similarity
    """,
    Kind.TEXT: """
        tensor-split model-alias input-prefix input-suffix embd-out embd-sep hostname chat-template chunk-separator
        tts-output-file
    """,
}
"""Keys whose type is checked and whose value is not used: the operator decides how a model is loaded and run."""

_REFUSED = """
    mmproj image model-vocoder tts-speaker-file hf-repo-vocoder hf-file-vocoder model-url-vocoder model-url hf-token
    hf-repo hf-file prompt-file path-prompt-cache lookup-cache-static lookup-cache-dynamic logits-file public-path
    ssl-file-key ssl-file-cert slot-save-path context-files out-file cvector-positive-file cvector-negative-file
"""

KEYS.update({name: Key(kind) for kind, names in _WITHOUT_EFFECT.items() for name in names.split()})
KEYS.update({name: Key(Kind.TEXT, refused=True) for name in _REFUSED.split()})

OTHER_SPELLINGS = {
    "temperature": "temp",
    "num_context": "ctx-size",
    "num_batch": "batch-size",
    "max_predict": "n-predict",
    "top_k": "top-k",
    "top_p": "top-p",
}
"""How guests of the Wasmtime-based host Hayride spell some keys, in a tensor named `options`; 0 there is the default,
but for the temperature."""


def defaults_of(settings: GraphSettings) -> tuple[ModelOptions, ReplyOptions]:
    """Return the options of a guest that sends none: the operator's for the graph."""
    predict = -1 if settings.max_tokens is None else settings.max_tokens
    return ModelOptions(sampling=sampling_of(settings), embedding=settings.embedding), ReplyOptions(predict=predict)


def read_options(
    config: bytes, model: ModelOptions, reply: ReplyOptions, *, guest: str, other_spellings: bool = False
) -> tuple[ModelOptions, ReplyOptions]:
    """Return the options with what `config` says laid over them; nothing is changed by one that is refused.

    Raises InvalidEncoding for what is not JSON, InvalidArgument for a value that is not of its key's type or not
    allowed. A document that is no object says nothing. Refusals of host names are logged for the operator.
    """
    table = _parse(config)
    if other_spellings:
        table = {OTHER_SPELLINGS.get(key, key): value for key, value in table.items() if not _unset(key, value)}
    ours: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    for name, value in table.items():
        key = KEYS.get(name)
        if key is None:
            continue
        checked = _checked(name, key, value, guest)
        if key.field.startswith("sampling."):
            sampling[key.field.removeprefix("sampling.")] = checked
        elif key.field:
            ours[key.field] = checked
    _refuse_unsupported(table, ours)
    if "grammar" in sampling:
        sampling.setdefault("json_schema", "")  # The later of the two keys counts, and json-schema comes later.
    model = replace(
        model,
        sampling=msgspec.structs.replace(model.sampling, **_mended(sampling)),
        **{field: value for field, value in ours.items() if hasattr(model, field)},
    )
    return model, replace(reply, **{field: value for field, value in ours.items() if hasattr(reply, field)})


def _parse(config: bytes) -> Mapping[str, Any]:
    if len(config) > MAX_CONFIG_BYTES:
        raise TooLarge(f"the configuration has {len(config)} bytes, more than the limit of {MAX_CONFIG_BYTES}")
    try:
        table = json.loads(config.decode(), object_pairs_hook=_first_of_each, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidEncoding(f"the configuration is not valid JSON: {error}") from error
    return table if isinstance(table, dict) else {}


def _first_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object; of keys that stand there twice simdjson finds the first."""
    return dict(reversed(pairs))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _unset(key: str, value: Any) -> bool:
    return key in OTHER_SPELLINGS and key != "temperature" and value == 0


def _checked(name: str, key: Key, value: Any, guest: str) -> Any:
    if name == "flash-attn" and isinstance(value, bool):
        return value  # what it was before WasmEdge 0.16
    if not _is(key.kind, value):
        raise InvalidArgument(f"the option {name} must be {key.kind.value}")
    if key.refused and value:
        _log.warning(
            "guest %s asked for %s in its configuration, which would reach past its grants; refused", guest, name
        )
        raise InvalidArgument(f"the option {name} names something of the host, which a guest cannot")
    if key.choices is not None and value not in key.choices:
        raise InvalidArgument(f"the option {name} must be one of {', '.join(sorted(key.choices))}")
    if key.kind is Kind.INT:
        return int(min(max(value, key.low), key.high))
    if key.kind is Kind.NUMBER:
        return float(min(max(value, key.low), key.high))
    return value


def _is(kind: Kind, value: Any) -> bool:
    if kind is Kind.BOOL:
        return isinstance(value, bool)
    if kind is Kind.TEXT:
        return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return kind is Kind.NUMBER and math.isfinite(value)


def _refuse_unsupported(table: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    if table.get("tts") is True:
        raise InvalidArgument("the option tts asks for speech, which promptd does not make")
    if "reranking" in table or ours.get("pooling") == 4:
        raise InvalidArgument("promptd does not rank texts: no reranking, and no pooling-type 4")


def _mended(sampling: dict[str, Any]) -> dict[str, Any]:
    """Return sampling values as llama.cpp can take them."""
    if "seed" in sampling:
        seed = sampling["seed"] & RANDOM_SEED
        sampling["seed"] = None if seed == RANDOM_SEED else seed
    if sampling.get("temperature", 1) < LEAST_TEMPERATURE:
        sampling["temperature"] = 0.0
    if sampling.get("repeat_penalty", 1) < 0.01:
        sampling["repeat_penalty"] = 1.0
    return sampling
