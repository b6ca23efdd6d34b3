"""promptd's settings: promptd.toml and command-line options become validated, typed values here and nowhere else."""

from __future__ import annotations

import contextlib
import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from promptd.errors import InvalidArgument
from promptd.suggestions import did_you_mean
from promptd.toml_lines import line_of

T = TypeVar("T", bound=BaseModel)

NAME_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,79}$"
"""What a graph or guest may be called: it stands in URLs, logs and file names."""

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*$", re.IGNORECASE)
_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h)?\s*$")
MAX_SIZE = 2**62
"""Bytes; far from where arithmetic on sizes ends."""
MAX_DURATION_S = 10 * 365 * 86400.0
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def parse_size(text: str | int) -> int:
    """Return bytes for `268435456`, `256MiB`, `1.5G`; K, M, G and T are powers of 1024."""
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise ValueError("a size cannot be negative")
        return min(text, MAX_SIZE)
    match = _SIZE.match(str(text))
    if not match:
        raise ValueError(f"{text!r} is not a size; write for example 256MiB or 1GiB")
    exponent = " kmgt".index(match[2].lower() or " ")
    size = float(match[1]) * 1024**exponent
    if size >= MAX_SIZE:
        raise ValueError(f"{str(text)[:40]!r} is larger than any machine")
    return int(size)


def parse_duration(text: str | float) -> float:
    """Return seconds for `30`, `1.5s`, `250ms`, `5m`, `1h`."""
    match = _DURATION.match(str(text))
    if isinstance(text, bool) or not match:
        raise ValueError(f"{text!r} is not a duration; write for example 60s or 5m")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > MAX_DURATION_S:
        raise ValueError(f"{str(text)[:40]!r} is longer than ten years")
    return seconds


def parse_keep_alive(text: str | float) -> float:
    """Return seconds as parse_duration does, and -1 for `forever` and for anything negative."""
    if text == "forever" or str(text).lstrip().startswith("-"):
        return -1.0
    return parse_duration(text)


def parse_quota(text: str | float) -> float:
    """Return a share of at most 1 for `0.25` and `25%`, and a number of tokens for what is larger than 1."""
    number = str(text).strip()
    try:
        quota = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        quota = 0.0
    whole = quota <= 1 or (quota.is_integer() and not number.endswith("%"))
    if isinstance(text, bool) or not (0 < quota < MAX_SIZE and whole):
        raise ValueError(f"{str(text)[:40]!r} is no quota; write for example 25%, or 4096 for so many tokens")
    return quota


Size = Annotated[int, BeforeValidator(parse_size)]
Duration = Annotated[float, BeforeValidator(parse_duration)]
Quota = Annotated[float, BeforeValidator(parse_quota)]
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


def _pairs(table: Any) -> Any:
    """Return a table (on the command line it is JSON) as pairs, so that settings with it can be told apart by hash."""
    if isinstance(table, str):
        with contextlib.suppress(ValueError, RecursionError):
            table = json.loads(table)
    return tuple(table.items()) if isinstance(table, dict) else table


MAX_BIASES = 1024
LogitBias = tuple[tuple[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=-100, le=100)]], ...]


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=_kebab, populate_by_name=True)


class LoraSettings(_Settings):
    """One LoRA adapter of a graph: a GGUF file, and how strongly it acts."""

    file: Path
    scale: Annotated[float, Field(ge=-100, le=100)] = 1.0


def _loras(given: Any) -> Any:
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


class GraphSettings(_Settings):
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
    logit_bias: Annotated[LogitBias, BeforeValidator(_pairs), Field(max_length=MAX_BIASES)] = ()
    """A table by token number: what is added to the token's logit. On the command line it is JSON: `{"1234": -100}`."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    grammar: str = ""
    """GBNF that replies keep to: https://github.com/ggml-org/llama.cpp/tree/master/grammars"""
    json_schema: str = ""
    """A JSON schema, as text, that replies keep to; it goes before a grammar."""
    lora: Annotated[tuple[LoraSettings, ...], BeforeValidator(_loras)] = ()
    """LoRA adapters on the model, which graphs without them share; `FILE[:SCALE],...` on the command line."""
    draft: str | None = None
    """A small model with the same vocabulary, which guesses what this one says next: a reference like `model`."""
    embedding: bool = False
    """Through the tensor interface, answer with the embedding of the text in place of a reply."""


class EngineSettings(_Settings):
    """`[engine]`: how a worker process uses the machine."""

    kv_tokens: Annotated[int, Field(ge=256)] | None = None
    """Cells of the shared KV cache; None lets the engine choose from the model."""
    max_sequences: Annotated[int, Field(ge=1, le=256)] = 64
    """Conversations that can be resident in the KV cache at once (llama.cpp's LLAMA_MAX_SEQ is 256)."""
    step_tokens: Annotated[int, Field(ge=8)] = 512
    """Most tokens one llama_decode takes: the budget shared by decode and chunked prefill."""
    threads: Annotated[int, Field(ge=1)] | None = None
    keep_alive: Annotated[float, BeforeValidator(parse_keep_alive)] = 300.0
    """Seconds after which a model nobody uses is unloaded until it is used again; `forever`, or less than 0, is never.
    """
    memory: Size | None = None
    """Bytes all loaded models and their KV caches may take together: idle ones are unloaded for another, the least
    recently used first. None is what the machine, or the control group, has available.
    """
    speculation: Literal["auto", "on", "off"] = "auto"
    """Whether tokens are guessed from what a conversation has said, and verified together; `auto`: where that was
    measured to pay.
    """
    queue: Annotated[int, Field(ge=1)] = 512
    """Most prompts that wait for a place in the batch; one more is refused as busy."""
    spill_memory: Size = 1024**3
    """Bytes of memory for conversations that wait outside of the KV cache."""
    spill_disk: Size = 4 * 1024**3
    """Bytes of temporary files for those that do not fit there either; 0 writes none."""
    weights: Annotated[tuple[tuple[str, Annotated[float, Field(gt=0)]], ...], BeforeValidator(_pairs)] = ()
    """A table by guest: how large its share of the model is against that of others, who have 1."""
    kv_quota: Quota | None = None
    """How much of the KV cache one guest may hold: a share (0.25, `25%`) or, above 1, tokens; None is all of it."""
    kv_quotas: Annotated[tuple[tuple[str, Quota], ...], BeforeValidator(_pairs)] = ()
    """A table by guest of quotas other than `kv_quota`."""

    @property
    def of_worker(self) -> EngineSettings:
        """What cannot change while a worker runs: all but how guests share it."""
        return self.model_copy(update={"weights": (), "kv_quota": None, "kv_quotas": ()})


WASM_PAGE = 64 * 1024
"""Bytes: the least memory a guest can have."""


class GuestLimits(_Settings):
    """What one running guest may use at most."""

    memory: Size = 256 * 1024**2
    deadline: Duration | None = None
    """Wall-clock seconds a run, or one turn of a session, may take; None is no limit."""
    contexts: Annotated[int, Field(ge=0)] = 64
    tokens: Annotated[int, Field(ge=0)] | None = None
    """Prompt and generated tokens together, over the life of the instance; None is no limit."""
    output: Size = 16 * 1024**2
    """Bytes of standard output and standard error together."""
    prompt: Size = 16 * 1024**2
    """Bytes of one prompt."""
    own_model: Size = 32 * 1024**2
    """Bytes of a model the guest brings itself, with `load`; 0 lets it bring none."""


class DirectoryGrant(_Settings):
    """A host directory a guest sees: `HOST::GUEST[::ro]`."""

    host: Path
    guest: str
    writable: bool = True


class GuestSettings(GuestLimits):
    """`[guests.NAME]`: a guest file, and what it is granted."""

    file: Path
    graphs: tuple[Name, ...] = ()
    env: dict[str, str] = {}
    dirs: tuple[DirectoryGrant, ...] = ()
    args: tuple[str, ...] = ()
    max_sessions: Annotated[int, Field(ge=1)] | None = None
    """Instances of it the daemon runs at once, for sessions and other requests together; None is the server's limit."""
    wasmedge: bool = False
    """Answer a core module as WasmEdge does, also one that imports none of WasmEdge's extensions; `--nn-preload` sets
    this."""


class KeySettings(_Settings):
    """`[[server.keys]]`: one API key, known by its hash; `promptd key` makes both."""

    name: Name
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    scopes: tuple[Literal["chat", "admin"], ...] = ("chat",)
    """`chat` talks to graphs and guests, `admin` reads metrics and changes what is served."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Prompt tokens that were decoded, and generated ones."""
    max_sessions: Annotated[int, Field(ge=1)] | None = None
    """Sessions that may be open at once; None is the server's limit."""


class ServerSettings(_Settings):
    """`[server]`: where the daemon listens, and to whom."""

    host: str = "127.0.0.1"
    """An address or name of this machine, or `unix:PATH`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8040
    keys: tuple[KeySettings, ...] = ()
    """When there are any, every request needs one of them."""
    hosts: tuple[str, ...] = ()
    """Names the Host header may carry, beside addresses and localhost; `*.example.com` is all below example.com."""
    origins: tuple[str, ...] = ()
    """Origins whose web pages may call the daemon (CORS), for example `https://chat.example.com`."""
    max_body: Size = 16 * 1024**2
    max_connections: Annotated[int, Field(ge=1)] = 4096
    session_idle: Duration = 1800.0
    """Seconds after which a session nobody talks to is closed."""
    session_life: Duration | None = None
    """Seconds after which a session is closed however busy it is; None is no limit."""
    session_grace: Duration = 10.0
    """Seconds a session's reply goes on for a client that has broken off; when it has not come back by then, the reply
    is cancelled."""
    session_buffer: Size = 256 * 1024
    """Bytes of the last events of each session that are kept for a client that comes back."""
    log: Literal["console", "json"] = "console"
    preload: bool = False
    """Load every graph at the start rather than when it is first asked for; `/readyz` answers 503 meanwhile."""
    max_sessions: Annotated[int, Field(ge=1)] = 1024
    """Sessions of all clients that may be open at once; also how many instances of guests may run."""

    @model_validator(mode="after")
    def _keys_differ(self) -> ServerSettings:
        for kind, values in (("name", [key.name for key in self.keys]), ("sha256", [key.sha256 for key in self.keys])):
            if len(set(values)) < len(values):
                raise ValueError(f"two keys have the same {kind}")
        return self


class UploadSettings(_Settings):
    """`[uploads]`: guests that admins send to the daemon."""

    folder: Path | None = None
    """Where they are kept; None is promptd's folder in $XDG_STATE_HOME."""
    max_guests: Annotated[int, Field(ge=0)] = 100
    """How many; 0 takes none."""
    max_size: Size = 64 * 1024**2
    """Bytes of one."""
    compile_time: Duration = 60.0
    """Seconds one may take to compile."""
    compile_memory: Size = 2 * 1024**3
    """Bytes of memory one may take to compile."""


class Settings(_Settings):
    """A whole promptd.toml."""

    graphs: dict[Name, GraphSettings] = {}
    guests: dict[Name, GuestSettings] = {}
    engine: EngineSettings = EngineSettings()
    server: ServerSettings = ServerSettings()
    uploads: UploadSettings = UploadSettings()


def load_settings(path: Path | None) -> Settings:
    """Return the settings in the TOML file `path`, or defaults for None.

    Relative `file`, `dirs`, `folder` and `lora` paths are taken from the folder of the TOML file. Raises
    InvalidArgument with a sentence that names the file, and the line and key.
    """
    if path is None:
        return Settings()
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        raise InvalidArgument(f"cannot read settings {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"settings {path} are not valid TOML: {error}") from error
    return _validated(Settings, _rooted(table, path.parent), str(path), text)


def graph_settings(name: str, model: str, options: dict[str, Any], base: GraphSettings | None = None) -> GraphSettings:
    """Return settings of graph `name` from the command line, where `options` maps what follows `-o NAME.` to its text,
    or from a request, where values have types; raises InvalidArgument.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise InvalidArgument(f"{name!r} cannot be a graph's name: letters, digits, '.', '_' and '-' only, at most 80")
    table: dict[str, Any] = base.model_dump(by_alias=True, exclude_unset=True) if base else {}
    table["model"] = model
    for key, value in options.items():
        table[_kebab(key)] = [value] if key == "stop" and isinstance(value, str) else value
    return _validated(GraphSettings, table, f"graph {name}")


PRELOAD_ENCODINGS = frozenset({"ggml", "onnx", "autodetect"})
"""Encodings of `--nn-preload` that promptd executes; what a file is, its first bytes say."""

PRELOAD_TARGETS: dict[str, Literal["cpu", "gpu", "auto"]] = {"cpu": "cpu", "gpu": "gpu", "tpu": "auto", "auto": "auto"}


def nn_preload(text: str) -> tuple[str, GraphSettings]:
    """Return name and settings of the graph that `NAME:ENCODING:TARGET:PATH` preloads, WasmEdge's way to name one.

    ENCODING and TARGET are case-insensitive, PATH may hold colons. Raises InvalidArgument.
    """
    parts = text.split(":", 3)
    if len(parts) < 4 or not parts[3]:
        raise InvalidArgument(f"--nn-preload {text!r} is not of the form NAME:ENCODING:TARGET:PATH")
    name, encoding, target, path = parts
    if encoding.lower() not in PRELOAD_ENCODINGS:
        raise InvalidArgument(
            f"--nn-preload {text!r}: promptd does not execute {encoding!r}; ENCODING is GGML, ONNX or AutoDetect"
        )
    if target.lower() not in PRELOAD_TARGETS:
        raise InvalidArgument(f"--nn-preload {text!r}: {target!r} is no TARGET; it is CPU, GPU, TPU or AUTO")
    return name, graph_settings(name, f"file:{path}", {"target": PRELOAD_TARGETS[target.lower()]})


def _validated(kind: type[T], table: dict[str, Any], where: str, text: str = "") -> T:
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
            known = sorted(_kebab(field) for field in _model_at(kind, location[:-1]).model_fields)
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


def _rooted(table: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the relative paths of adapters, guests and uploads absolute, from the folder that holds the settings."""
    for graph in table.get("graphs", {}).values() if isinstance(table.get("graphs"), dict) else ():
        if isinstance(graph, dict) and "lora" in graph:
            graph["lora"] = _loras(graph["lora"])
            for adapter in graph["lora"] if isinstance(graph["lora"], list) else ():
                if isinstance(adapter, dict) and isinstance(adapter.get("file"), str):
                    adapter["file"] = folder / adapter["file"]
    for guest in table.get("guests", {}).values() if isinstance(table.get("guests"), dict) else ():
        if isinstance(guest, dict):
            if isinstance(guest.get("file"), str):
                guest["file"] = folder / guest["file"]
            for grant in guest["dirs"] if isinstance(guest.get("dirs"), list) else ():
                if isinstance(grant, dict) and isinstance(grant.get("host"), str):
                    grant["host"] = folder / grant["host"]
    if isinstance(uploads := table.get("uploads"), dict) and isinstance(uploads.get("folder"), str):
        uploads["folder"] = folder / uploads["folder"]
    return table


def guest_settings(name: str, file: Path, base: GuestSettings) -> GuestSettings:
    """Return `base` for a guest `name` in `file`; raises InvalidArgument when it cannot be called that."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise InvalidArgument(f"{name!r} cannot be a guest's name: letters, digits, '.', '_' and '-' only, at most 80")
    return base.model_copy(update={"file": file})


def guest_limits(**texts: str | None) -> dict[str, Any]:
    """Return the limits among `texts` (as typed on the command line) as values of `GuestLimits`; None is left out."""
    given = {key: text for key, text in texts.items() if text is not None}
    limits = _validated(GuestLimits, given, "the command line")
    if limits.memory < WASM_PAGE:
        raise InvalidArgument(f"--memory {texts['memory']} is less than a page of 64KiB; write for example 256MiB")
    return {key: getattr(limits, key) for key in given}
