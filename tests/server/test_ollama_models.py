"""Ollama's routes that keep, make, copy and delete models, through Ollama's own client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ollama
import pytest
from hub_server import HubServer
from serving import Served, serving, wait_until
from tiny_model import write_tiny_model

from promptd.backends.ggml import GgmlGraph
from promptd.config import EngineSettings, GraphSettings, KeySettings, ServerSettings, Settings, UploadSettings
from promptd.errors import InvalidArgument
from promptd.graphs.hub_client import HubClient
from promptd.graphs.store import Store
from promptd.server.keys import key_hash

REFERENCE = "hf.co/u/r/m.Q4_K_M.gguf"
KEYS = (
    KeySettings(name="boss", sha256=key_hash("boss"), scopes=("chat", "admin")),
    KeySettings(name="guest", sha256=key_hash("guest")),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Return a store with one model that was pulled."""
    folder = tmp_path_factory.mktemp("store")
    model = write_tiny_model(folder / "model.gguf", context=512).read_bytes()
    with pytest.MonkeyPatch.context() as patch, HubServer().running() as hub:
        patch.setenv("NO_PROXY", "*")
        hub.add("u/r", "m.Q4_K_M.gguf", model)
        pulling = Store(folder / "home", False, hub=HubClient(hub.endpoint, "hf_secret", folder / "cache"))
        pulling.pull(REFERENCE)
        yield pulling


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Return settings with two keys, a tiny model of the operator's, which is kept for ever, and the echo graph."""
    folder = tmp_path_factory.mktemp("models")
    tiny = GraphSettings(model=f"file:{write_tiny_model(folder / 'tiny.gguf')}", max_tokens=4, temperature=0)
    return Settings(
        graphs={"tiny": tiny, "echo": GraphSettings(model="echo")},
        engine=EngineSettings(keep_alive=-1.0),
        server=ServerSettings(keys=KEYS),
        uploads=UploadSettings(folder=folder / "uploads"),
    )


@pytest.fixture(scope="module")
def models(settings: Settings, store: Store) -> Iterator[Served]:
    with serving(settings, store=store) as running:
        yield running


@pytest.fixture
def boss(models: Served) -> ollama.Client:
    return _client(models, "boss")


def _client(served: Served, key: str) -> ollama.Client:
    return ollama.Client(host=served.url, headers={"Authorization": f"Bearer {key}"})


def _loaded(client: ollama.Client) -> dict[str, float]:
    """Return the seconds that each loaded model stays if nobody uses it."""
    now = datetime.now(UTC)
    return {str(each.model): (each.expires_at - now).total_seconds() for each in client.ps().models if each.expires_at}


def _worker(served: Served) -> int | None:
    graph = served.host.graph("tiny")
    assert isinstance(graph, GgmlGraph)
    return graph.stats().worker_pid


YEAR_S = 365 * 86400


@pytest.mark.parametrize(
    ("keep_alive", "least", "most"),
    [("5m", 200, 300), (60, 30, 60), ("1h30m", 5000, 5400), ("90", 60, 90), (-1, YEAR_S, None), ("-1m", YEAR_S, None)],
)
def test_a_request_says_how_long_its_model_is_kept(
    boss: ollama.Client, keep_alive: float | str, least: float, most: float | None
) -> None:
    assert boss.generate("tiny", "hello", keep_alive=keep_alive).done
    kept = _loaded(boss)["tiny"]
    assert least < kept and (most is None or kept <= most)
    assert boss.generate("tiny", "hello").done
    assert (_loaded(boss)["tiny"] > 2 * (most or 1)) == (most is None), "until another request says otherwise"


@pytest.mark.parametrize("route", ["chat", "generate", "stream", "embed"])
def test_a_model_that_is_kept_for_no_time_is_unloaded_after_its_reply(
    boss: ollama.Client, models: Served, route: str
) -> None:
    message = {"role": "user", "content": "hello"}
    if route == "chat":
        assert boss.chat("tiny", [message], keep_alive=0).eval_count == 4
    elif route == "generate":
        assert boss.generate("tiny", "hello", keep_alive="0s").eval_count == 4
    elif route == "stream":
        assert list(boss.chat("tiny", [message], keep_alive=0, stream=True))[-1].eval_count == 4
    else:
        assert len(boss.embed("tiny", ["hello", "hi"], keep_alive=0).embeddings) == 2
    wait_until(lambda: _worker(models) is None)
    assert "tiny" not in _loaded(boss)
    assert boss.generate("tiny", "hello").eval_count == 4, "the next request loads it"
    assert _loaded(boss)["tiny"] > YEAR_S, "and it is kept as the settings say"


def test_an_empty_prompt_loads_and_unloads(boss: ollama.Client, models: Served) -> None:
    assert boss.generate("tiny", "", keep_alive="10m").done_reason == "load"
    assert 500 < _loaded(boss)["tiny"] <= 600
    assert boss.chat("tiny", [], keep_alive=0).done_reason == "unload"
    wait_until(lambda: _worker(models) is None)
    assert boss.generate("tiny", keep_alive=0).done_reason == "unload", "though it is not loaded"
    assert _worker(models) is None
    with pytest.raises(ollama.ResponseError, match="nobody"):
        boss.generate("nobody", keep_alive=0)


def test_only_admins_decide_how_long_a_model_is_kept(boss: ollama.Client, models: Served) -> None:
    boss.generate("tiny", "", keep_alive=-1)
    guest = _client(models, "guest")
    assert guest.generate("tiny", "hello", keep_alive=1).eval_count == 4
    assert _loaded(boss)["tiny"] > YEAR_S
    with pytest.raises(ollama.ResponseError, match="admin"):
        guest.generate("tiny", keep_alive=0)


@pytest.mark.parametrize("keep_alive", ["", "soon", "5 minutes", "5m-1s", "1e3", True, [], "9" * 100])
def test_what_is_no_duration_is_refused(models: Served, keep_alive: object) -> None:
    for path in ("generate", "chat", "embed", "embeddings"):
        body = {"model": "echo", "keep_alive": keep_alive}
        response = models.http.post(f"/api/{path}", json=body, headers={"X-Api-Key": "boss"})
        assert response.status_code == 400 and "duration" in response.json()["error"], response.text


def test_a_graph_is_made_of_another_with_a_system_message_and_parameters(boss: ollama.Client, models: Served) -> None:
    before = boss.generate("tiny", "hello").prompt_eval_count or 0
    made = boss.create(
        "mario", from_="tiny:latest", system="you are mario", parameters={"num_predict": 2, "stop": ["q"]}
    )
    assert made.status == "success"
    assert "mario" in [model.model for model in boss.list().models]
    reply = boss.chat("mario:latest", [{"role": "user", "content": "hello"}])
    assert reply.eval_count == 2 and (reply.prompt_eval_count or 0) > before
    assert _worker(models) is not None and len(models.host.loaded_graphs()) >= 2
    lines = list(boss.create("mario", from_="mario", parameters={"num_predict": 3}, stream=True))
    assert [line.status for line in lines] == ["success"]
    reply = boss.chat("mario", [{"role": "user", "content": "hello"}])
    assert reply.eval_count == 3 and (reply.prompt_eval_count or 0) > before, "the rest stays as it was"
    assert boss.delete("mario").status == "success"
    with pytest.raises(ollama.ResponseError, match="mario"):
        boss.chat("mario", [{"role": "user", "content": "hello"}])


def test_a_model_that_was_pulled_is_served_by_a_copy_and_deleted_with_the_last_name(
    boss: ollama.Client, store: Store
) -> None:
    path = store.resolve(REFERENCE).path
    assert boss.copy(REFERENCE, "mine").status == "success"
    boss.copy("mine", "other")
    assert boss.generate("other", "hello", options={"num_predict": 3}).eval_count == 3
    for name in ("mine", "other"):
        with pytest.raises(ollama.ResponseError, match="is the model of the graph"):
            boss.delete(REFERENCE)
        boss.delete(name)
    assert path.exists(), "the model has a name of its own"
    assert boss.delete(REFERENCE).status == "success"
    assert not path.exists() and store.list() == []
    with pytest.raises(ollama.ResponseError) as caught:
        boss.copy(REFERENCE, "mine")
    assert caught.value.status_code == 404


def test_made_graphs_are_there_after_a_restart_and_a_reload(settings: Settings, tmp_path: Path, store: Store) -> None:
    kept = settings.model_copy(update={"uploads": UploadSettings(folder=tmp_path)})
    with serving(kept, lambda: kept, store=store) as served:
        boss = _client(served, "boss")
        boss.create("loud", from_="echo", system="shout")
        boss.copy("echo", "gone")
        boss.delete("gone")
        reloaded = served.http.post("/v1/reload", headers={"X-Api-Key": "boss"})
        assert reloaded.json()["changes"] == []
        assert boss.generate("loud", "hello").response == "hello"
    (tmp_path / "damaged.json").write_text("{")
    (tmp_path / "tiny.json").write_text('{"model": "echo"}')
    with serving(kept, lambda: kept.model_copy(update={"graphs": {"loud": GraphSettings(model="echo")}})) as served:
        boss = _client(served, "boss")
        assert {"loud", "tiny", "echo"} == {model.model for model in boss.list().models}
        assert served.host.settings.graphs["loud"].system == "shout"
        assert served.host.settings.graphs["tiny"] == kept.graphs["tiny"]
        with pytest.raises(InvalidArgument, match="loud"):
            served.host.update(kept.model_copy(update={"graphs": {"loud": GraphSettings(model="echo")}}))


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"from": ""}, 400, "from"),
        ({"from": "nobody"}, 404, "nobody"),
        ({"from": "smollm2"}, 404, "promptd pull"),
        ({"from": "file:/etc/passwd"}, 403, "file"),
        ({"from": "guest/lines"}, 404, "guest/lines"),
        ({"model": "a/b"}, 400, "name"),
        ({"model": "mario:7b"}, 400, "name"),
        ({"model": "tiny"}, 403, "settings"),
        ({"template": "{{ .Prompt }}"}, 400, "template"),
        ({"messages": [{"role": "user", "content": "hi"}]}, 400, "messages"),
        ({"files": {"a.gguf": "sha256:0"}}, 400, "files"),
        ({"adapters": {"a.gguf": "sha256:0"}}, 400, "adapters"),
        ({"quantize": "q4_0"}, 400, "quantize"),
        ({"modelfile": "FROM echo"}, 400, "modelfile"),
        ({"parameters": {"num_gpu": 1}}, 400, "num_gpu"),
        ({"parameters": {"temperature": "hot"}}, 400, "temperature"),
        ({"parameters": {"stop": [""]}}, 400, "stop"),
        ({"parameters": {"num_ctx": 1}}, 400, "context"),
    ],
)
def test_what_cannot_be_made_is_refused_with_a_sentence(
    models: Served, fields: dict[str, Any], status: int, words: str
) -> None:
    body = {"model": "new", "from": "echo", **fields}
    response = models.http.post("/api/create", json=body, headers={"X-Api-Key": "boss"})
    assert response.status_code == status and words in response.json()["error"], response.text
    assert "new" not in models.host.graph_names()


@pytest.mark.parametrize(
    ("name", "status"),
    [("echo", 403), ("tiny", 403), ("nobody", 404), ("file:/etc/passwd", 403), ("guest/lines", 404)],
)
def test_what_was_not_made_or_pulled_is_not_deleted(boss: ollama.Client, name: str, status: int) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        boss.delete(name)
    assert caught.value.status_code == status


def test_only_admins_change_what_models_there_are(models: Served) -> None:
    guest = _client(models, "guest")
    changes: list[Callable[[], object]] = [
        lambda: guest.create("new", from_="echo"), lambda: guest.copy("echo", "new"), lambda: guest.delete("echo")
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(ollama.ResponseError, match="admin") as caught:
            change()
        assert caught.value.status_code == 403
    assert models.host.graph_names() == ["echo", "tiny"]
