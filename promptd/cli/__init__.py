"""The `promptd` command: one module per group of commands, and where errors become one line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from promptd.cli import chat, conformance, control, doctor, key, models, run, serve
from promptd.cli.output import open_missing_streams, print_error
from promptd.errors import PromptdError

app = typer.Typer(
    help="Runs WebAssembly guests that talk to local language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(models.pull)
app.command("list")(models.list_)
app.command()(models.show)
app.command()(models.rm)
app.command()(models.verify)
app.command(context_settings={"allow_interspersed_args": False})(run.run)
app.command()(chat.chat)
app.command()(serve.serve)
app.command()(key.key)
app.command()(control.ps)
app.command()(control.stop)
app.command()(control.reload)
app.command()(control.logs)
app.command()(doctor.doctor)
app.command()(conformance.conformance)

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 128 + 2
"""What a shell reports for a process that SIGINT ended."""


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"promptd {version('promptd')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log what happens, with details, to standard error.")
    ] = False,
) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="promptd: %(message)s" if not verbose else "%(asctime)s %(name)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )


def main() -> None:
    """Run the command line; every way out is an exit code and at most one line."""
    open_missing_streams()
    try:
        app()
    except PromptdError as error:
        print_error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has left. Python would complain once more while it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILURE)
    except Exception as error:
        logging.getLogger("promptd").debug("internal error", exc_info=error)
        print_error(f"internal error, {type(error).__name__}: {error}; `promptd --verbose` shows where")
        sys.exit(EXIT_FAILURE)
