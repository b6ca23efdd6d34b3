"""`promptd key`: a new API key for the daemon, and the lines of promptd.toml that let it in."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from promptd.cli.output import print_json, print_line


def key(
    name: Annotated[str, typer.Argument(help="What logs, metrics and limits call its holder.")] = "client",
    scope: Annotated[list[str], typer.Option(help="chat, admin, or both.")] = ["chat"],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make an API key. It is printed once and kept nowhere; promptd.toml holds its hash."""
    from pydantic import ValidationError

    from promptd.config import KeySettings
    from promptd.errors import InvalidArgument
    from promptd.server.keys import key_hash, new_key

    secret = new_key()
    try:
        settings = KeySettings.model_validate({"name": name, "sha256": key_hash(secret), "scopes": scope})
    except ValidationError as error:
        if error.errors()[0]["loc"][0] == "scopes":
            raise InvalidArgument("--scope is chat or admin") from error
        raise InvalidArgument(
            f"{name!r} cannot be a key's name: letters, digits, '.', '_' and '-' only, at most 80"
        ) from error
    if as_json:
        print_json({"key": secret, **settings.model_dump(include={"name", "sha256", "scopes"})})
        return
    print_line(f"key: {secret}")
    print_line()
    print_line("[[server.keys]]")
    print_line(f'name = "{settings.name}"')
    print_line(f'sha256 = "{settings.sha256}"')
    print_line(f"scopes = {json.dumps(settings.scopes)}")
