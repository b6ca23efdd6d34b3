"""References: what a graph's model is, as the operator writes it (DESIGN 4.1).

`echo` | `NAME[:TAG]` | `hf.co/USER/REPO[:QUANT | /FILE.gguf][@REVISION]` | `file:PATH`. A parsed reference is safe to
build paths and URLs from, and `str()` of it parses to itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeAlias

from promptd.errors import InvalidArgument

MAX_REFERENCE = 512
"""Characters of the longest reference; a path of `file:` may have PATH_MAX more."""
MAX_PATH = 4096

_HUB_PREFIXES = ("hf.co/", "huggingface.co/")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
_TAG = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
_REPO_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_QUANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_REVISION_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_FILE_PART = re.compile(r"[\w(\[+][\w+()\[\],=~ .-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class EchoReference:
    """The built-in echo graph."""

    def __str__(self) -> str:
        return "echo"


@dataclass(frozen=True, slots=True)
class CatalogReference:
    """A model of models/catalog.toml; no tag means the default one."""

    name: str
    tag: str | None = None

    def __str__(self) -> str:
        return self.name if self.tag is None else f"{self.name}:{self.tag}"


@dataclass(frozen=True, slots=True)
class HubReference:
    """A GGUF file of a Hugging Face repository: a `file`, or the one with quantisation `quant`, or the repository's
    usual one.
    """

    repo: str
    file: str | None = None
    quant: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        which = f"/{self.file}" if self.file else f":{self.quant}" if self.quant else ""
        return f"hf.co/{self.repo}{which}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True, slots=True)
class FileReference:
    """A file of the operator's; relative paths are taken from the working directory, `~` is the home directory."""

    path: Path

    def __str__(self) -> str:
        return f"file:{self.path}"


Reference: TypeAlias = EchoReference | CatalogReference | HubReference | FileReference


def parse_reference(text: str) -> Reference:
    """Return the reference that `text` writes; raises InvalidArgument with a sentence that says what is wrong with
    it.
    """
    if not text:
        raise InvalidArgument("a model reference is empty; write for example smollm2, hf.co/USER/REPO or file:PATH")
    if len(text) > (MAX_PATH if text.startswith("file:") else MAX_REFERENCE):
        raise InvalidArgument(f"the model reference {text[:40]!r}... is too long")
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        _refuse(text, "it holds a control character")
    if text == "echo":
        return EchoReference()
    if text.startswith("file:"):
        return _file(text)
    for prefix in _HUB_PREFIXES:
        if text.startswith(prefix):
            return _hub(text, text.removeprefix(prefix))
    return _catalog(text)


def is_commit(revision: str) -> bool:
    """Whether `revision` is a whole commit hash, which can never come to mean something else."""
    return _COMMIT.fullmatch(revision) is not None


def check_hub_file(file: str) -> str:
    """Return `file`, the path of a GGUF file inside a hub repository, if it is safe below any folder; raises
    InvalidArgument.
    """
    for part in file.split("/"):
        if not _FILE_PART.fullmatch(part) or part.endswith((".", " ")):
            raise InvalidArgument(f"{file[:200]!r} is not an acceptable name for a file of a hub repository")
    if not file.lower().endswith(".gguf"):
        raise InvalidArgument(f"{file[:200]!r} does not end in .gguf, the only kind of file promptd pulls")
    return file


def _file(text: str) -> FileReference:
    path = text.removeprefix("file:")
    if not path:
        _refuse(text, "no path follows file:")
    return FileReference(Path(path))


def _hub(text: str, rest: str) -> HubReference:
    rest, at, revision = rest.rpartition("@") if "@" in rest else (rest, "", "")
    if at and not all(_REVISION_PART.fullmatch(part) and ".." not in part for part in revision.split("/")):
        _refuse(text, f"{revision!r} is not a branch, tag or commit")
    user, _, rest = rest.partition("/")
    repo, slash, file = rest.partition("/")
    repo, colon, quant = repo.partition(":")
    for part in (user, repo):
        if not _REPO_PART.fullmatch(part) or "--" in part or ".." in part or part.endswith(".git"):
            _refuse(text, f"{part!r} cannot be part of a repository name; write hf.co/USER/REPO")
    if slash:
        if colon:
            _refuse(text, "it names both a quantisation and a file")
        try:
            check_hub_file(file)
        except InvalidArgument as error:
            _refuse(text, str(error))
    if colon and not _QUANT.fullmatch(quant):
        _refuse(text, f"{quant!r} is not a quantisation; write for example :Q4_K_M")
    return HubReference(f"{user}/{repo}", file or None, quant.upper() or None, revision or None)


def _catalog(text: str) -> CatalogReference:
    name, colon, tag = text.lower().partition(":")
    if not _NAME.fullmatch(name) or (colon and not _TAG.fullmatch(tag)) or name.endswith(".gguf"):
        hint = "write NAME[:TAG] of the catalog, hf.co/USER/REPO or file:PATH"
        if text.startswith(("http://", "https://")):
            hint = "write hf.co/USER/REPO without https://"
        elif text.startswith((".", "/", "~")) or text.lower().endswith(".gguf"):
            hint = f"a file is written file:{text}"
        _refuse(text, hint)
    return CatalogReference(name, tag or None)


def _refuse(text: str, reason: str) -> NoReturn:
    raise InvalidArgument(f"{text[:120]!r} is not a model reference: {reason}")
