"""The names a shell completes: models, graphs and guests. `promptd --install-completion` sets a shell up."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout, suppress

import typer
from typer import _completion_shared

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


_BREAKS = (":", "=")
"""What of bash's COMP_WORDBREAKS stands within promptd's words: NAME=REF, and a model's NAME:TAG."""


def complete_for_bash(run: Callable[[], None]) -> None:
    """Answer what bash asks, by `run`, which is the command line.

    bash ends words at `:` and `=`, and Typer takes them as they come. So they are put together again, fish's form of
    the question, which has the whole line, is asked in place of bash's, and what bash holds for earlier words is cut
    off the answers.
    """
    pieces = os.environ["COMP_WORDS"].split("\n")[: int(os.environ["COMP_CWORD"]) + 1]
    words: list[str] = []
    for piece in pieces:
        if words and (piece.startswith(_BREAKS) or words[-1].endswith(_BREAKS)):
            words[-1] += piece
        else:
            words.append(piece)
    last = "" if pieces[-1].startswith(_BREAKS) else pieces[-1]
    os.environ["_TYPER_COMPLETE_ARGS"] = " ".join(words)
    os.environ["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    os.environ["_PROMPTD_COMPLETE"] = "complete_fish"
    answers = io.StringIO()
    with redirect_stdout(answers), suppress(SystemExit):
        run()
    for line in answers.getvalue().splitlines():
        value, _, _help = line.partition("\t")
        typer.echo(value[len(words[-1]) - len(last) :])


def mend_zsh_script() -> None:
    """Let the script that `--install-completion` gives zsh answer the first Tab too, with which zsh loads it.

    Typer's (checked with 0.29.2) only defines the function then; click's own script calls it so.
    """
    scripts = _completion_shared._completion_scripts
    if "loadautofunc" not in scripts["zsh"]:
        scripts["zsh"] += '\n[[ $zsh_eval_context[-1] != loadautofunc ]] || %(complete_func)s "$@"\n'
