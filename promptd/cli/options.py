"""Options that several commands share, and how they and promptd.toml become one `Settings`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, TypeAlias

import typer

from promptd.cli import completion
from promptd.config import (
    GraphSettings,
    GuestSettings,
    Settings,
    graph_settings,
    guest_settings,
    load_settings,
    nn_preload,
)
from promptd.errors import InvalidArgument

DEFAULT_CONFIG = Path("promptd.toml")

Graphs: TypeAlias = Annotated[
    list[str],
    typer.Option(
        "--graph",
        metavar="NAME=REF",
        help="Name a graph and grant it: echo, smollm2, hf.co/USER/REPO, file:PATH.",
        autocompletion=completion.named_references,
    ),
]
Options: TypeAlias = Annotated[
    list[str],
    typer.Option(
        "-o", "--option", metavar="GRAPH.KEY=VALUE", help="Set an option of a graph, e.g. chat.temperature=0."
    ),
]
Config: TypeAlias = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings to read; promptd.toml of this folder when there is one."),
]
Preloads: TypeAlias = Annotated[
    list[str],
    typer.Option(
        "--nn-preload",
        metavar="NAME:ENCODING:TARGET:PATH",
        help="Name a model file and grant it, as in WasmEdge, e.g. default:GGML:AUTO:model.gguf.",
    ),
]
Offline: TypeAlias = Annotated[bool, typer.Option("--offline", help="Use no network: models must have been pulled.")]


def read_settings(
    config: Path | None,
    graphs: Sequence[str],
    options: Sequence[str],
    guests: Sequence[str] = (),
    preloads: Sequence[str] = (),
    defaults: Mapping[str, GraphSettings] = MappingProxyType({}),
) -> Settings:
    """Return the settings of the config file with the command line laid over it; raises InvalidArgument.

    `defaults` are graphs that are there, and options that they have, when neither says otherwise.
    """
    settings = load_settings(config or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None))
    named = {**defaults, **settings.graphs}
    named |= dict(reversed([nn_preload(text) for text in preloads]))  # of two with one name, WasmEdge takes the first
    models = dict(split_pair(pair, "--graph", "NAME=REF") for pair in graphs)
    values: dict[str, dict[str, str]] = defaultdict(dict)
    for option in options:
        key, value = split_pair(option, "-o", "GRAPH.KEY=VALUE")
        graph, dot, field = key.rpartition(".")
        if not dot:
            raise InvalidArgument(f"-o {option!r} does not say of which graph: write -o GRAPH.KEY=VALUE")
        values[graph][field] = value
    for graph in [*models, *values]:
        base = named.get(graph)
        if graph not in models and base is None:
            raise InvalidArgument(
                f"-o sets an option of graph {graph!r}, which is not defined: add --graph {graph}=REF"
            )
        model = models.get(graph) or (base.model if base else "")
        named[graph] = graph_settings(graph, model, values[graph], base)
    told = dict(settings.guests)
    for pair in guests:
        name, file = split_pair(pair, "--guest", "NAME=FILE")
        told[name] = guest_settings(
            name, Path(file), told.get(name) or GuestSettings(file=Path(file), graphs=tuple(named))
        )
    return settings.model_copy(update={"graphs": named, "guests": told})


def split_pair(pair: str, option: str, form: str) -> tuple[str, str]:
    """Return the two sides of `A=B`; raises InvalidArgument that names the option and its form."""
    left, equals, right = pair.partition("=")
    if not equals or not left or not right:
        raise InvalidArgument(f"{option} {pair!r} is not of the form {form}")
    return left, right
