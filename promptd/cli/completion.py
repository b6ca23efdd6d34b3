"""The names a shell completes: models, graphs and guests. `promptd --install-completion` sets a shell up."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from promptd.errors import PromptdError

Names = Callable[[str], list[str]]


def _quietly(names: Callable[[], Iterable[str]]) -> Names:
    """Return what the command line calls with the beginning of a word; nothing is completed when something fails."""

    def complete(incomplete: str) -> list[str]:
        try:
            return [name for name in names() if name.startswith(incomplete)]
        except (PromptdError, OSError, KeyError):
            return []

    return complete


def _stored() -> Iterable[str]:
    from promptd.graphs.store import Store

    return [model.reference for model in Store(offline=True).list()]


def _pullable() -> Iterable[str]:
    from promptd.graphs.catalog import shipped_catalog

    catalog = shipped_catalog()
    return [str(catalog.reference(entry)) for entry in catalog.entries()]


def _guests() -> Iterable[str]:
    from promptd.cli.options import DEFAULT_CONFIG
    from promptd.config import load_settings

    return load_settings(DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None).guests


def _loaded() -> Iterable[str]:
    from promptd.cli.control import DEFAULT_PORT, ask

    return [str(engine["graph"]) for engine in ask(DEFAULT_PORT, "GET", "/v1/engine")["data"]]


def _references() -> Iterable[str]:
    return dict.fromkeys(["echo", *_stored(), *_pullable()])


stored_models = _quietly(_stored)
pullable_models = _quietly(_pullable)
references = _quietly(_references)
guests = _quietly(_guests)
loaded_graphs = _quietly(_loaded)


def named_references(incomplete: str) -> list[str]:
    """Complete REF in NAME=REF."""
    name, equals, start = incomplete.partition("=")
    return [f"{name}={reference}" for reference in references(start)] if equals else []
