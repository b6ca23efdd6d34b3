"""What is granted to a guest, as typed and as written in promptd.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptd.config import DirectoryGrant, GuestLimits, GuestSettings
from promptd.errors import InvalidArgument
from promptd.wasm.grants import Grant, directory_grant


def test_a_grant_grants_nothing_by_default() -> None:
    assert Grant() == Grant(graphs=frozenset(), limits=GuestLimits(), env={}, dirs=(), args=())


def test_a_grant_is_what_the_settings_of_its_guest_say() -> None:
    directory = DirectoryGrant(host=Path("/srv/data"), guest="/data", writable=False)
    settings = GuestSettings(
        file=Path("guest.wasm"),
        graphs=("chat", "code"),
        env={"A": "b"},
        dirs=(directory,),
        args=("-v",),
        memory=1024,
        tokens=5,
    )
    assert Grant.of(settings) == Grant(
        frozenset({"chat", "code"}), GuestLimits(memory=1024, tokens=5), {"A": "b"}, (directory,), ("-v",)
    )


@pytest.mark.parametrize(
    ("text", "grant"),
    [
        ("/srv::/data", DirectoryGrant(host=Path("/srv"), guest="/data")),
        (".::.", DirectoryGrant(host=Path(), guest=".")),
        ("/a:b::/data::ro", DirectoryGrant(host=Path("/a:b"), guest="/data", writable=False)),
        ("/data:/srv", DirectoryGrant(host=Path("/srv"), guest="/data")),
        (".:.", DirectoryGrant(host=Path(), guest=".")),
        ("/data:/srv:readonly", DirectoryGrant(host=Path("/srv"), guest="/data", writable=False)),
        ("/srv", DirectoryGrant(host=Path("/srv"), guest="/srv")),
    ],
)
def test_a_directory_is_granted_as_host_and_guest(text: str, grant: DirectoryGrant) -> None:
    assert directory_grant(text) == grant


@pytest.mark.parametrize("text", ["", "::/data", "/srv::", "/srv::/data::rw", "/srv::/data::ro::ro"])
def test_anything_else_is_not_a_directory_grant(text: str) -> None:
    with pytest.raises(InvalidArgument, match="write HOST::GUEST, or HOST::GUEST::ro for reading only"):
        directory_grant(text)
