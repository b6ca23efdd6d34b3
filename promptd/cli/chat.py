"""`promptd chat`: the built-in chat guest on a model."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from promptd.cli import completion
from promptd.cli.options import Config, Offline, Options, read_settings
from promptd.cli.run import check_text, run_guest
from promptd.config import GraphSettings, GuestSettings
from promptd.errors import InvalidArgument
from promptd.shipped import shipped

GRAPH_NAME = "chat"
DEFAULT_GRAPH = GraphSettings(
    model="smollm2",
    system="You are a helpful assistant.",
    temperature=0.2,
    top_p=0.9,
    repeat_penalty=1.1,
    max_tokens=512,
)
"""What is chatted with when nobody says otherwise, sampled as the model's card recommends.

So small a model can fall into repeating itself: replies need a penalty for that, and an end.
"""
BUILT_IN_GUEST = "guests/terminal/chat.wasm"


def chat(
    prompt: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]", help="One question; none opens a chat.")
    ] = None,
    graph: Annotated[
        str | None,
        typer.Option(
            metavar="REF", help="The model; smollm2 when there is no other.", autocompletion=completion.references
        ),
    ] = None,
    option: Options = [],
    config: Config = None,
    offline: Offline = False,
) -> None:
    """Chat with a model in this terminal, or print one streamed answer to PROMPT.

    The chat itself is a WebAssembly guest that is granted this one graph and nothing else. Ctrl-C stops a reply; at the
    prompt it leaves.
    """
    if graph and "=" in graph:
        raise InvalidArgument(f"--graph {graph!r} is not a model: promptd chat takes --graph REF, without a name")
    check_text("the words of the prompt", prompt or [])
    options = [text if "." in text.partition("=")[0] else f"{GRAPH_NAME}.{text}" for text in option]
    graphs = [f"{GRAPH_NAME}={graph}"] if graph else []
    settings = read_settings(config, graphs, options, defaults={GRAPH_NAME: DEFAULT_GRAPH})
    interactive = not prompt and sys.stdin.isatty() and sys.stdout.isatty()
    guest = GuestSettings(
        file=shipped(BUILT_IN_GUEST),
        graphs=(GRAPH_NAME,),
        args=tuple(prompt or ()),
        env={"PROMPTD_TTY": "1", "PROMPTD_MODEL": settings.graphs[GRAPH_NAME].model} if interactive else {},
    )
    run_guest(settings, guest, offline=offline, ctrl_c_stops_replies=interactive)
