"""`promptd pull`, `list`, `show`, `rm` and `verify`: the models on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from promptd.backends import encoding_of
from promptd.cli import completion
from promptd.cli.output import ProgressLines, print_error, print_json, print_line, print_table
from promptd.errors import NotFound
from promptd.graphs.blob import hash_file
from promptd.graphs.gguf import GgufInfo, read_gguf
from promptd.graphs.manifest import StoredModel
from promptd.graphs.reference import EchoReference, FileReference, parse_reference
from promptd.graphs.sizes import human_count, human_size
from promptd.graphs.store import Store

NAME_HELP = "A name of the catalog, hf.co/USER/REPO or hf.co/USER/REPO/FILE.gguf."
Name = Annotated[str, typer.Argument(metavar="NAME", help=NAME_HELP, autocompletion=completion.stored_models)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help=NAME_HELP, autocompletion=completion.pullable_models)],
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is on this machine.")] = False,
) -> None:
    """Get a model, or make sure that it is here and whole."""
    with ProgressLines() as progress:
        model = Store(offline=offline or None).pull(name, progress)
    print_line(f"{model.reference}: {model.quantisation}, {human_size(model.size)}, {model.digest}")


def list_(as_json: AsJson = False) -> None:
    """List the models on this machine."""
    models = Store().list()
    if as_json:
        print_json([_as_table(model) for model in models])
        return
    if not models:
        print_line("no models are here yet; get one with: promptd pull smollm2")
        return
    rows = [
        (
            model.reference,
            human_size(model.size),
            model.quantisation or "",
            model.origin.partition("@")[0],
            _age(model.modified),
        )
        for model in models
    ]
    print_table(("NAME", "SIZE", "QUANT", "SOURCE", "MODIFIED"), rows)


def show(name: Name, as_json: AsJson = False) -> None:
    """Show what a model is: architecture, size, template, licence, digest, source."""
    store = Store()
    model = store.resolve(name)
    info = read_gguf(model.path)
    if model.digest is None:
        with ProgressLines() as progress:
            digest = hash_file(model.path, progress, f"hashing {model.path.name}")
        model = dataclasses.replace(model, digest=digest, quantisation=info.quantisation)
    description, licence = store.describe(name)
    if as_json:
        about = {
            "description": description,
            "licence": info.licence or licence,
            "vouched_for_by": store.vouched_for(name),
        }
        print_json({**_as_table(model), **about, **_without(dataclasses.asdict(info), "size", "licence")})
        return
    for heading, value in _sheet(model, info, description, info.licence or licence, store.vouched_for(name)):
        if value:
            print_line(f"{heading:<16}{value}")


def rm(name: Name) -> None:
    """Remove a model."""
    freed = Store().remove(name)
    print_line(f"removed {name}" + (f", {human_size(freed)} freed" if freed else "; its file is still in use"))


def verify(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="All models when left out.", autocompletion=completion.stored_models),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hash the files of one model, or all models, again."""
    with ProgressLines() as progress:
        verifications = Store().verify(name, progress)
    if as_json:
        print_json([{**_as_table(each.model), "fault": each.fault} for each in verifications])
    else:
        for verification in verifications:
            if verification.fault is None:
                print_line(f"{verification.model.reference}: whole, {verification.model.digest}")
            else:
                print_error(verification.fault)
    if any(verification.fault for verification in verifications):
        raise typer.Exit(1)


def pull_missing(store: Store, references: Iterable[str], *, check_files: bool = True) -> None:
    """Pull those of `references` that the store manages and that are not here yet, showing progress.

    Raises a PromptdError; with `check_files` also for a file that is not there or is no model.
    """
    for reference in dict.fromkeys(references):
        parsed = parse_reference(reference)
        if isinstance(parsed, EchoReference):
            continue
        if isinstance(parsed, FileReference):
            if check_files:
                encoding_of(store.resolve(reference).path)
            continue
        try:
            store.resolve(reference)
        except NotFound:
            with ProgressLines() as progress:
                store.pull(reference, progress)


def _as_table(model: StoredModel) -> dict[str, Any]:
    return {
        "name": model.reference,
        "size": model.size,
        "quantisation": model.quantisation,
        "digest": str(model.digest),
        "source": model.origin,
        "path": str(model.path),
        "modified": model.modified.isoformat(timespec="seconds"),
    }


def _without(table: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Return `table` without `keys`, and with the name a model calls itself apart from the one it is stored under."""
    return {("title" if key == "name" else key): value for key, value in table.items() if key not in keys}


def _sheet(
    model: StoredModel, info: GgufInfo, description: str | None, licence: str | None, vouched_for: str | None
) -> list[tuple[str, str | None]]:
    types = ", ".join(f"{count} {name}" for name, count in info.tensor_types.items())
    template = f"built in, {len(info.chat_template)} characters" if info.chat_template else "none"
    tokenizer = info.tokenizer and f"{info.tokenizer}" + (f", {info.vocabulary} tokens" if info.vocabulary else "")
    return [
        ("name", model.reference),
        ("description", description),
        ("title", info.name),
        ("architecture", info.architecture),
        ("parameters", human_count(info.parameters)),
        ("quantisation", f"{info.quantisation} ({types})"),
        ("context", f"{info.context_length} tokens" if info.context_length else None),
        ("embedding", f"{info.embedding_length} dimensions" if info.embedding_length else None),
        ("tokenizer", tokenizer),
        ("template", template),
        ("licence", licence),
        ("size", human_size(model.size)),
        ("digest", str(model.digest)),
        ("vouched for by", vouched_for),
        ("source", model.origin),
        ("path", str(model.path)),
    ]


def _age(when: datetime) -> str:
    """Return how long ago something was, in the largest unit that fits."""
    seconds = max(0, int((datetime.now(UTC) - when).total_seconds()))
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
