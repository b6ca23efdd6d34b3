"""POST /api/pull, through Ollama's own client, from a hub on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import ollama
import pytest
from gguf_files import tiny_gguf
from hub_server import Fault, HubServer
from serving import Served, serving

from promptd.config import GraphSettings, KeySettings, ServerSettings, Settings
from promptd.graphs.hub_client import HubClient
from promptd.graphs.manifest import StoredModel
from promptd.graphs.store import Store
from promptd.server.keys import key_hash
from promptd.server.pull import Pull

MODEL = tiny_gguf(1, 1_500_000)
REFERENCE = "hf.co/u/r/m.Q4_K_M.gguf"


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with pytest.MonkeyPatch.context() as patch, HubServer().running() as server:
        patch.setenv("NO_PROXY", "*")
        yield server


@pytest.fixture(scope="module")
def store(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    return Store(folder / "home", False, hub=HubClient(hub.endpoint, "hf_secret", folder / "cache"))


@pytest.fixture(scope="module")
def pulling(store: Store) -> Iterator[Served]:
    """Return a daemon that knows two keys, a graph whose model is on the hub, and one whose is not."""
    keys = (
        KeySettings(name="boss", sha256=key_hash("boss"), scopes=("chat", "admin")),
        KeySettings(name="guest", sha256=key_hash("guest")),
    )
    graphs = {"mine": GraphSettings(model=REFERENCE), "echo": GraphSettings(model="echo")}
    with serving(Settings(graphs=graphs, server=ServerSettings(keys=keys)), store=store) as running:
        yield running


@pytest.fixture
def client(pulling: Served, hub: HubServer, store: Store) -> Iterator[ollama.Client]:
    """Return a client that may pull, on a machine without models."""
    for model in store.list():
        store.remove(model.reference)
    hub.add("u/r", "m.Q4_K_M.gguf", MODEL)
    yield _client(pulling, "boss")
    hub.behave()


def _client(pulling: Served, key: str) -> ollama.Client:
    return ollama.Client(host=pulling.url, headers={"Authorization": f"Bearer {key}"})


@pytest.mark.parametrize("name", [REFERENCE, "mine", "mine:latest"])
def test_a_pull_tells_how_far_it_is(client: ollama.Client, hub: HubServer, store: Store, name: str) -> None:
    parts = list(client.pull(name, stream=True))
    statuses = [part.status for part in parts]
    assert (statuses[0], statuses[-1]) == ("pulling manifest", "success")
    digest = f"sha256:{hub.files['u/r', 'm.Q4_K_M.gguf'].digest}"
    told = [part for part in parts if part.digest]
    assert {part.digest for part in told} == {digest} and {part.total for part in told} == {len(MODEL)}
    done = [part.completed or 0 for part in told]
    assert done == sorted(done) and done[-1] == len(MODEL)
    assert store.resolve(REFERENCE).path.stat().st_size == len(MODEL)


def test_a_pull_may_be_waited_for(client: ollama.Client, store: Store) -> None:
    assert client.pull(REFERENCE).status == "success"
    assert [str(model.reference) for model in store.list()] == [REFERENCE]
    assert client.pull(REFERENCE).status == "success", "what is here is not pulled again"


def test_a_pull_that_fails_says_so_and_the_next_succeeds(client: ollama.Client, hub: HubServer) -> None:
    hub.misbehave(Fault.WRONG_BYTES, 1)
    with pytest.raises(ollama.ResponseError, match="wrong content"):
        list(client.pull(REFERENCE, stream=True))
    hub.misbehave(Fault.HEAD_404, 1)
    with pytest.raises(ollama.ResponseError, match="the hub has no") as caught:
        client.pull(REFERENCE)
    assert caught.value.status_code == 404
    hub.behave()
    assert client.pull(REFERENCE).status == "success"


@pytest.mark.parametrize("name", ["echo", "file:/etc/passwd", "../../etc", "http://example.com/x.gguf"])
def test_only_what_the_store_manages_can_be_pulled(client: ollama.Client, hub: HubServer, name: str) -> None:
    before = len(hub.seen)
    with pytest.raises(ollama.ResponseError) as caught:
        client.pull(name)
    assert caught.value.status_code in (400, 404)
    assert len(hub.seen) == before


def test_only_admins_pull(pulling: Served, client: ollama.Client, hub: HubServer) -> None:
    before = len(hub.seen)
    for key, status in (("guest", 403), ("nobody", 401)):
        with pytest.raises(ollama.ResponseError) as caught:
            _client(pulling, key).pull(REFERENCE)
        assert caught.value.status_code == status
    assert len(hub.seen) == before


def test_a_client_that_leaves_ends_its_pull(tmp_path: Path) -> None:
    async def scenario() -> bool:
        pull = Pull()
        went_on = False

        def work(progress: Pull) -> StoredModel:
            nonlocal went_on
            progress.start("pulling", 10)
            progress.leave()
            progress.advance(5)
            went_on = True
            raise AssertionError

        await asyncio.to_thread(pull.run, work)
        lines = pull.lines()
        assert [await anext(lines), await anext(lines)] == [
            {"status": "pulling manifest"},
            {"status": "pulling", "completed": 0, "total": 10},
        ]
        return went_on

    assert not asyncio.run(scenario())
