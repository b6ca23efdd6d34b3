"""Compiled guests on disk: found again, and never trusted when someone could have touched them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import wat

from promptd.folders import cache_folder
from promptd.wasm.cache import SUFFIX, CompileCache
from promptd.wasm.runtime import Runtime


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    path = tmp_path / "guest.wat"
    path.write_text(wat.ECHO_LINES)
    return path


def opened(folder: Path) -> CompileCache:
    cache = CompileCache.open(folder)
    assert cache is not None
    return cache


def files(folder: Path) -> list[Path]:
    return sorted((folder / "guests").glob(f"*{SUFFIX}"))


def test_a_guest_is_compiled_once_and_then_taken_from_the_cache(tmp_path: Path, guest: Path) -> None:
    folder = tmp_path / "cache"
    Runtime(opened(folder)).load(guest)
    (file,) = files(folder)
    os.utime(file, (1, 1))
    assert Runtime(opened(folder)).load(guest).is_command
    assert file.stat().st_mtime > 1
    assert files(folder) == [file]


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_file_is_compiled_again(tmp_path: Path, guest: Path, damage: str) -> None:
    folder = tmp_path / "cache"
    Runtime(opened(folder)).load(guest)
    (file,) = files(folder)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes({"flipped": content, "cut": content[:1000], "empty": b""}[damage])
    assert Runtime(opened(folder)).load(guest).is_command
    assert files(folder) == [file]
    assert file.stat().st_size == len(content)


def test_what_wasmtime_does_not_take_is_compiled_again(tmp_path: Path, guest: Path) -> None:
    folder = tmp_path / "cache"
    Runtime(opened(folder)).load(guest)
    (file,) = files(folder)
    key = file.stem.partition("-")[0]
    file.unlink()
    opened(folder).store(key, b"\x7fELF of another engine")
    assert Runtime(opened(folder)).load(guest).is_command
    assert [each.name.startswith(key) for each in files(folder)] == [True]


def test_the_key_depends_on_content_and_settings(tmp_path: Path) -> None:
    cache = opened(tmp_path / "cache")
    keys = {cache.key(content, settings) for content in (b"a", b"b") for settings in ("x", "y")}
    assert len(keys) == 4


def test_the_folder_is_made_for_this_user_alone(tmp_path: Path) -> None:
    opened(tmp_path / "cache")
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "cache" / "guests").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("part", ["", "guests"])
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_others_can_write_to_is_not_used(
    tmp_path: Path, guest: Path, caplog: pytest.LogCaptureFixture, part: str, mode: int
) -> None:
    folder = tmp_path / "cache"
    opened(folder)
    (folder / part).chmod(mode)
    with caplog.at_level(logging.WARNING, "promptd.cache"):
        assert CompileCache.open(folder) is None
    assert f"can be written by others (mode {mode:o})" in caplog.text
    assert Runtime(None).load(guest).is_command
    assert files(folder) == []


def test_a_symbolic_link_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "cache").symlink_to(tmp_path / "real")
    with caplog.at_level(logging.WARNING, "promptd.cache"):
        assert CompileCache.open(tmp_path / "cache") is None
    assert "is a symbolic link" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened(tmp_path / "cache")
    os.chown(tmp_path / "cache", 12345, 12345)
    with caplog.at_level(logging.WARNING, "promptd.cache"):
        assert CompileCache.open(tmp_path / "cache") is None
    assert "belongs to another user" in caplog.text


def test_a_file_in_the_way_is_no_reason_to_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("not a folder")
    with caplog.at_level(logging.WARNING, "promptd.cache"):
        assert CompileCache.open(tmp_path / "cache") is None
    assert "compiled without the cache" in caplog.text


def test_a_link_in_the_place_of_a_cache_file_is_not_followed(tmp_path: Path) -> None:
    cache = opened(tmp_path / "cache")
    key = cache.key(b"content", "settings")
    cache.store(key, b"compiled")
    (file,) = files(tmp_path / "cache")
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    assert cache.find(key) is None


def test_the_least_recently_used_files_go_when_the_cache_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = opened(tmp_path / "cache")
    monkeypatch.setattr("promptd.wasm.cache.CACHE_BYTES_LIMIT", 25)
    for age, key in enumerate(("newest", "middle", "oldest")):
        cache.store(key, bytes(10))
        for file in files(tmp_path / "cache"):
            if file.name.startswith(key):
                os.utime(file, (1000 - age, 1000 - age))
    cache.store("another", bytes(10))
    assert {file.name.partition("-")[0] for file in files(tmp_path / "cache")} == {"newest", "another"}


def test_the_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/xdg")
    monkeypatch.delenv("PROMPTD_CACHE_HOME", raising=False)
    assert cache_folder() == Path("/var/xdg/promptd")
    monkeypatch.setenv("PROMPTD_CACHE_HOME", "/var/mine")
    assert cache_folder() == Path("/var/mine")
