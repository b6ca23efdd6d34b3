"""The daemon's settings: where it listens, who may use it and how much, and what guests it takes from admins."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from promptd.config.table import Name, Table
from promptd.config.units import Duration, Size


class KeySettings(Table):
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


class ServerSettings(Table):
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
    def _keys_differ(self) -> Self:
        for kind, values in (("name", [key.name for key in self.keys]), ("sha256", [key.sha256 for key in self.keys])):
            if len(set(values)) < len(values):
                raise ValueError(f"two keys have the same {kind}")
        return self


class UploadSettings(Table):
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
