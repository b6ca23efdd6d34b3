"""The whole promptd.toml: read, its relative paths taken from its folder, and validated."""

import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field

from promptd.config.engine import EngineSettings
from promptd.config.graph import GraphSettings, parse_loras
from promptd.config.guest import GuestSettings
from promptd.config.server import ServerSettings, UploadSettings
from promptd.config.table import Name, Table
from promptd.config.validation import validated
from promptd.errors import InvalidArgument


class Settings(Table):
    """A whole promptd.toml."""

    graphs: dict[Name, GraphSettings] = Field(default_factory=dict)
    guests: dict[Name, GuestSettings] = Field(default_factory=dict)
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
    return validated(Settings, _rooted(table, path.parent), str(path), text)


def _rooted(table: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the relative paths of adapters, guests and uploads absolute, from the folder that holds the settings."""
    for graph in table.get("graphs", {}).values() if isinstance(table.get("graphs"), dict) else ():
        if isinstance(graph, dict) and "lora" in graph:
            graph["lora"] = parse_loras(graph["lora"])
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
