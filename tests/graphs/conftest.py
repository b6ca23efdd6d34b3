"""Fixtures of the store's tests: a local hub, and stores that know no other."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer
from store_helpers import TOKEN, MakeStore, Told

from promptd.graphs.catalog import Catalog, CatalogEntry
from promptd.graphs.hub_client import HubClient
from promptd.graphs.store import Store


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub on this machine; clients wait for it one second, not ten."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    monkeypatch.setenv("NO_PROXY", "*")
    with HubServer().running() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The Hugging Face cache of `make_store`."""
    return tmp_path / "cache"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The data folder of `make_store`."""
    return tmp_path / "home"


@pytest.fixture
def make_store(hub: HubServer, cache: Path, home: Path) -> MakeStore:
    def make(*entries: CatalogEntry, offline: bool = False, endpoint: str | None = None) -> Store:
        catalog = Catalog(entries) if entries else None
        client = HubClient(endpoint or hub.endpoint, TOKEN, cache)
        return Store(home, offline, catalog=catalog, hub=client)

    return make


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    return make_store()


@pytest.fixture(scope="session")
def ggml() -> ctypes.CDLL:
    """The library of the installed llama.cpp that reads GGUF files."""
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None and spec.submodule_search_locations
    library = next(Path(spec.submodule_search_locations[0]).glob("lib/libggml-base.*"))
    loaded = ctypes.CDLL(str(library))
    loaded.ggml_type_name.restype = ctypes.c_char_p
    loaded.ggml_type_size.restype = ctypes.c_size_t
    loaded.ggml_blck_size.restype = ctypes.c_int64
    return loaded
