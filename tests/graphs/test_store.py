from __future__ import annotations

import json
from pathlib import Path

import pytest
from gguf_files import Gguf, default_metadata, entry, tiny_gguf
from hub_server import COMMIT, HubServer
from store_helpers import TOKEN, MakeStore, Told

from promptd.errors import InvalidArgument, InvalidEncoding, NotFound, RuntimeFailure, UnsupportedOperation
from promptd.folders import data_folder
from promptd.graphs.catalog import CatalogEntry, HubLocation
from promptd.graphs.digest import Digest
from promptd.graphs.store import Store

MODEL = tiny_gguf(1, 1_000_000)
REFERENCE = "hf.co/u/r/m.Q4_0.gguf"


def _entry(hub: HubServer, **changes: object) -> CatalogEntry:
    served = hub.files["u/r", "m.Q4_0.gguf"]
    table: dict[str, object] = {
        "name": "tiny",
        "tag": "1b",
        "description": "A model",
        "licence": "mit",
        "file": "m.Q4_0.gguf",
        "size": len(served.data),
        "sha256": served.digest,
        "source": [{"hub": "u/r", "revision": COMMIT}],
    }
    return CatalogEntry.model_validate(table | changes)


@pytest.fixture(autouse=True)
def _served(hub: HubServer) -> None:
    hub.add("u/r", "m.Q4_0.gguf", MODEL)
    hub.add("u/r", "README.md", b"# A repository")


def test_a_pulled_model_is_found_listed_and_described(store: Store, hub: HubServer) -> None:
    pulled = store.pull(REFERENCE)
    assert pulled.path.read_bytes() == MODEL
    assert str(pulled.digest) == f"sha256:{hub.files['u/r', 'm.Q4_0.gguf'].digest}"
    assert pulled.origin == f"hf.co/u/r/m.Q4_0.gguf@{COMMIT}"
    assert (pulled.size, pulled.quantisation) == (len(MODEL), "Q4_0")
    found = store.resolve(REFERENCE)
    assert (found.path, found.digest) == (pulled.path, pulled.digest)
    assert list(store.list()) == [found]


def test_the_file_lies_in_the_shared_cache_where_huggingface_hub_finds_it(
    store: Store, cache: Path, home: Path
) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir, try_to_load_from_cache

    pulled = store.pull(REFERENCE)
    assert try_to_load_from_cache("u/r", "m.Q4_0.gguf", cache_dir=cache) == str(pulled.path)
    assert hf_hub_download("u/r", "m.Q4_0.gguf", cache_dir=cache, local_files_only=True) == str(pulled.path)
    report = scan_cache_dir(cache)
    assert not report.warnings
    assert report.size_on_disk == len(MODEL)
    assert pulled.path.is_symlink()
    assert pulled.path.resolve().name == pulled.digest.hex if pulled.digest else False
    assert not any(path.stat().st_size > 10_000 for path in home.rglob("*") if path.is_file())


def test_a_file_that_another_tool_downloaded_is_verified_and_not_fetched_again(
    store: Store, hub: HubServer, cache: Path
) -> None:
    from huggingface_hub import hf_hub_download

    path = hf_hub_download("u/r", "m.Q4_0.gguf", cache_dir=cache, endpoint=hub.endpoint, token=TOKEN)
    before = len([seen for seen in hub.seen if seen.method == "GET"])
    assert str(store.pull(REFERENCE).path) == path
    assert len([seen for seen in hub.seen if seen.method == "GET"]) == before


def test_a_model_pinned_by_the_catalog_is_pulled_once_and_then_needs_no_network(
    make_store: MakeStore, hub: HubServer, told: Told
) -> None:
    store = make_store(_entry(hub))
    store.pull("tiny")
    questions = len(hub.seen)
    assert store.pull("tiny:1b", told).reference == "tiny"
    assert len(hub.seen) == questions
    assert told.tasks == ["verifying m.Q4_0.gguf"]


@pytest.mark.parametrize(
    ("change", "cause"),
    [({"sha256": "0" * 64}, "its digest is sha256:"), ({"size": 5}, "bytes instead of 5")],
)
def test_a_hub_file_that_is_not_the_one_the_catalog_means_is_not_even_fetched(
    make_store: MakeStore, hub: HubServer, change: dict[str, object], cause: str
) -> None:
    with pytest.raises(InvalidEncoding, match=cause):
        make_store(_entry(hub, **change)).pull("tiny")
    assert not [seen for seen in hub.seen if seen.cdn]


def test_a_catalog_model_without_a_digest_is_pinned_to_the_one_the_hub_states(
    make_store: MakeStore, hub: HubServer
) -> None:
    store = make_store(_entry(hub, sha256=None, size=None, source=[{"hub": "u/r"}]))
    assert store.pull("tiny").digest == Digest(hub.files["u/r", "m.Q4_0.gguf"].digest)


def test_a_quantisation_is_found_among_the_files_of_a_repository(store: Store, hub: HubServer) -> None:
    for name in ("m.Q8_0.gguf", "m.Q4_K_M.gguf", "m.IQ4_K_M.gguf", "mmproj-Q8_0.gguf", "m.imatrix.gguf"):
        hub.add("u/r", name, tiny_gguf(len(name), 1000))
    assert store.pull("hf.co/u/r:q8_0").origin == f"hf.co/u/r/m.Q8_0.gguf@{COMMIT}"
    assert store.pull("hf.co/u/r").origin == f"hf.co/u/r/m.Q4_K_M.gguf@{COMMIT}"
    assert store.resolve("hf.co/u/r:Q8_0").path.name == "m.Q8_0.gguf"
    with pytest.raises(NotFound, match=r"has no Q5_0 model; it has m\.IQ4_K_M\.gguf, m\.Q4_0"):
        store.pull("hf.co/u/r:Q5_0")


def test_a_repository_without_the_usual_quantisation_gives_its_first_model(store: Store) -> None:
    assert store.pull("hf.co/u/r").path.name == "m.Q4_0.gguf"


def test_a_repository_without_models_or_with_split_ones_says_so(store: Store, hub: HubServer) -> None:
    hub.add("u/docs", "README.md", b"#")
    with pytest.raises(NotFound, match=r"hf\.co/u/docs has no GGUF model"):
        store.pull("hf.co/u/docs")
    for part in (1, 2):
        hub.add("u/large", f"m-0000{part}-of-00002.gguf", MODEL)
    with pytest.raises(UnsupportedOperation, match="split over several files"):
        store.pull("hf.co/u/large")


def test_a_part_of_a_split_model_is_refused_and_not_kept(store: Store, hub: HubServer, cache: Path) -> None:
    hub.add("u/r", "part.gguf", Gguf(metadata=[*default_metadata(), entry("split.count", 2, b"\3\0")]).build())
    with pytest.raises(UnsupportedOperation, match="one of 3 files"):
        store.pull("hf.co/u/r/part.gguf")
    assert not _files(cache)


def test_a_file_that_is_no_model_is_refused_and_not_kept(store: Store, hub: HubServer, cache: Path) -> None:
    hub.add("u/r", "notes.gguf", b"These are my notes.\n" * 100)
    with pytest.raises(InvalidEncoding, match=r"notes\.gguf is not a usable GGUF file: it begins with b'Thes'"):
        store.pull("hf.co/u/r/notes.gguf")
    assert not _files(cache)
    assert not store.list()


def test_a_branch_that_moved_is_followed_at_the_next_pull_and_said(store: Store, hub: HubServer, told: Told) -> None:
    first = store.pull(REFERENCE)
    newer = "f" * 40
    hub.add("u/r", "m.Q4_0.gguf", tiny_gguf(2, 1_000_000), commit=newer)
    second = store.pull(REFERENCE, told)
    assert second.digest != first.digest
    assert second.origin.endswith(newer)
    assert store.resolve(REFERENCE).digest == second.digest
    assert f"it was {first.digest} and is now {second.digest}" in told.notes[-1]


def test_what_is_not_here_is_answered_with_the_command_that_gets_it(store: Store) -> None:
    with pytest.raises(NotFound, match=r"smollm2 is not on this machine; run `promptd pull smollm2`"):
        store.resolve("smollm2:135m")
    with pytest.raises(NotFound, match="the catalog has no model 'nonesuch'"):
        store.resolve("nonesuch")
    with pytest.raises(NotFound, match="nothing to remove"):
        store.remove("hf.co/u/r")
    with pytest.raises(NotFound, match="run `promptd pull hf"):
        store.verify("hf.co/u/r")


def test_echo_and_files_of_the_operator_are_not_the_stores(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "own.gguf"
    path.write_bytes(MODEL)
    found = store.resolve(f"file:{path}")
    assert (found.path, found.size, found.digest) == (path, len(MODEL), None)
    for operation in (store.pull, store.remove, store.verify):
        with pytest.raises(InvalidArgument, match="is a file of yours"):
            operation(f"file:{path}")
        with pytest.raises(InvalidArgument, match="echo is built into promptd"):
            operation("echo")
    with pytest.raises(NotFound, match="there is no file"):
        store.resolve(f"file:{tmp_path}/missing.gguf")
    with pytest.raises(InvalidArgument, match="is not a file"):
        store.resolve(f"file:{tmp_path}")
    assert path.exists()


def test_removing_a_model_frees_its_file_and_leaves_other_files_of_the_snapshot(
    store: Store, hub: HubServer, cache: Path
) -> None:
    hub.add("u/r", "other.gguf", tiny_gguf(9, 1000))
    store.pull(REFERENCE)
    other = store.pull("hf.co/u/r/other.gguf")
    assert store.remove(REFERENCE) == len(MODEL)
    assert other.path.is_file()
    assert [model.reference for model in store.list()] == ["hf.co/u/r/other.gguf"]
    store.remove("hf.co/u/r/other.gguf")
    assert not _files(cache)
    with pytest.raises(NotFound):
        store.resolve(REFERENCE)


def test_a_file_that_two_references_use_goes_with_the_last_of_them(store: Store) -> None:
    path = store.pull(REFERENCE).path
    store.pull("hf.co/u/r:Q4_0")
    assert store.remove(REFERENCE) == 0
    assert path.is_file()
    assert store.remove("hf.co/u/r:Q4_0") == len(MODEL)
    assert not path.exists()


def test_a_blob_that_another_snapshot_points_to_outlives_the_reference(
    store: Store, hub: HubServer, cache: Path
) -> None:
    from huggingface_hub import hf_hub_download

    store.pull(REFERENCE)
    hub.add("u/r", "m.Q4_0.gguf", MODEL, commit="e" * 40)
    theirs = Path(hf_hub_download("u/r", "m.Q4_0.gguf", cache_dir=cache, endpoint=hub.endpoint, token=TOKEN))
    assert store.remove(REFERENCE) == 0
    assert theirs.read_bytes() == MODEL


def test_verify_finds_the_damaged_and_the_missing_file(store: Store, hub: HubServer) -> None:
    hub.add("u/r", "gone.gguf", tiny_gguf(3, 1000))
    hub.add("u/r", "whole.gguf", tiny_gguf(4, 1000))
    damaged, gone = store.pull(REFERENCE), store.pull("hf.co/u/r/gone.gguf")
    store.pull("hf.co/u/r/whole.gguf")
    _flip_a_bit(damaged.path)
    gone.path.resolve().unlink()
    faults = {result.model.reference: result.fault for result in store.verify()}
    assert faults["hf.co/u/r/whole.gguf"] is None
    assert "is gone; run `promptd pull hf.co/u/r/gone.gguf`" in str(faults["hf.co/u/r/gone.gguf"])
    assert "is damaged: its digest is sha256:" in str(faults[REFERENCE])
    assert [result.fault for result in store.verify("hf.co/u/r/whole.gguf")] == [None]


@pytest.mark.parametrize("reference", [REFERENCE, "tiny"])
def test_pulling_again_mends_a_damaged_file(make_store: MakeStore, hub: HubServer, told: Told, reference: str) -> None:
    store = make_store(_entry(hub))
    _flip_a_bit(store.pull(reference).path)
    assert store.pull(reference, told).path.read_bytes() == MODEL
    assert "is damaged and was removed" in told.notes[0]
    assert store.verify(reference)[0].fault is None


def test_a_file_that_changed_its_size_is_not_there(store: Store) -> None:
    path = store.pull(REFERENCE).path
    with path.open("ab") as file:
        file.write(b"x")
    with pytest.raises(NotFound):
        store.resolve(REFERENCE)
    assert not store.list()


def test_offline_takes_what_is_here_and_asks_nobody(make_store: MakeStore, hub: HubServer) -> None:
    entry_ = _entry(hub)
    make_store(entry_).pull("hf.co/u/r:Q4_0")
    questions = len(hub.seen)
    offline = make_store(entry_, offline=True)
    for reference in ("tiny", "hf.co/u/r", REFERENCE, f"{REFERENCE}@{COMMIT}"):
        assert offline.pull(reference).path.read_bytes() == MODEL
    for reference in ("hf.co/u/r:Q8_0", "hf.co/v/s", f"{REFERENCE}@v2"):
        with pytest.raises(NotFound, match="is not on this machine, and promptd is offline"):
            offline.pull(reference)
    assert len(hub.seen) == questions


def test_a_damaged_manifest_is_named(store: Store, home: Path) -> None:
    store.pull(REFERENCE)
    (manifest,) = (home / "manifests").glob("*.json")
    table = json.loads(manifest.read_text())
    for damage in ("", "[]", "{}", json.dumps(table | {"digest": "../x"}), json.dumps(table | {"size": "big"})):
        manifest.write_text(damage)
        with pytest.raises(InvalidEncoding) as refusal:
            store.resolve(REFERENCE)
        assert str(manifest) in str(refusal.value)


def test_a_folder_that_cannot_be_written_is_named(hub: HubServer, make_store: MakeStore, cache: Path) -> None:
    cache.write_text("in the way")
    with pytest.raises(RuntimeFailure, match=f"cannot use {cache}"):
        make_store().pull(REFERENCE)


def test_promptd_keeps_its_data_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROMPTD_HOME", str(tmp_path / "p"))
    assert data_folder() == tmp_path / "p"
    monkeypatch.delenv("PROMPTD_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert data_folder() == tmp_path / "promptd"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert data_folder() == Path.home() / ".local" / "share" / "promptd"


def _flip_a_bit(path: Path) -> None:
    target = path.resolve()
    data = bytearray(target.read_bytes())
    data[-1] ^= 1
    target.write_bytes(data)


def _files(cache: Path) -> list[Path]:
    return [
        path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock" and path.parent.name != "refs"
    ]


def test_catalog_locations_may_name_another_path_in_the_repository(make_store: MakeStore, hub: HubServer) -> None:
    hub.add("u/deep", "sub/folder/m.gguf", MODEL)
    store = make_store(_entry(hub, source=[HubLocation(hub="u/deep", file="sub/folder/m.gguf")]))
    assert store.pull("tiny").path.parts[-3:] == ("sub", "folder", "m.gguf")
