"""The command line: one module per group of commands, and where errors become one line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from promptd.cli import completion
from promptd.cli.output import open_missing_streams, print_error
from promptd.errors import PromptdError

_COMMANDS: dict[str, str] = {
    "pull": "models.pull",
    "list": "models.list_",
    "show": "models.show",
    "rm": "models.rm",
    "verify": "models.verify",
    "run": "run.run",
    "chat": "chat.chat",
    "serve": "serve.serve",
    "key": "key.key",
    "ps": "control.ps",
    "stop": "control.stop",
    "reload": "control.reload",
    "logs": "control.logs",
    "doctor": "doctor.doctor",
    "conformance": "conformance.conformance",
}
"""Where each command is: module and function."""
_CONTEXTS: dict[str, dict[str, Any]] = {"run": {"allow_interspersed_args": False}}

EXIT_FAILURE = 1


def application(words: Sequence[str] = ()) -> typer.Typer:
    """Return the command line for these words. Where they begin with a command, it has that one alone: what the others
    import takes a good part of the time in which a model is started.
    """
    app = typer.Typer(
        help="Runs WebAssembly guests that talk to local language models.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    command = next((word for word in words if word not in ("-v", "--verbose")), "")
    for name in (command,) if command in _COMMANDS else _COMMANDS:
        module, _, function = _COMMANDS[name].partition(".")
        register = app.command(name, context_settings=_CONTEXTS.get(name))
        register(getattr(import_module(f"promptd.cli.{module}"), function))
    return app


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"promptd {version('promptd')}")
        raise typer.Exit


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


def run(words: Sequence[str]) -> None:
    """Run the command line; every way out is an exit code and at most one line."""
    open_missing_streams()
    try:
        completion.mend_zsh_script()
        if os.environ.get("_PROMPTD_COMPLETE") == "complete_bash":
            completion.complete_for_bash(application())
        else:
            application(words)(args=words)
    except PromptdError as error:
        print_error(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has left. Python would complain once more while it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILURE)
    except Exception as error:
        logging.getLogger("promptd").debug("internal error", exc_info=error)
        print_error(f"internal error, {type(error).__name__}: {error}; `promptd --verbose` shows where")
        sys.exit(EXIT_FAILURE)
