"""Reload: changed settings take effect as a whole while sessions go on, and wrong ones change nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from exact import exact_alone
from lora_files import write_lora
from serving import Served, serving, wait_until
from test_daemon import _daemon, _ended
from wat_guests import HANDLER, LINES

from promptd.backends.ggml import GgmlGraph
from promptd.config import GraphSettings, GuestSettings, KeySettings, LoraSettings, ServerSettings, Settings
from promptd.errors import InvalidArgument
from promptd.server.keys import key_hash

ECHO = GraphSettings(model="echo")
KEYS = {name: KeySettings(name=name, sha256=key_hash(f"pd-{name}"), scopes=("chat", "admin")) for name in "ab"}


class _File:
    """What stands in for promptd.toml."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.error: InvalidArgument | None = None

    def read(self) -> Settings:
        if self.error:
            raise self.error
        return self.settings

    def change(self, **fields: object) -> None:
        self.settings = self.settings.model_copy(update=fields)


def _reload(served: Served, key: str = "") -> list[str]:
    response = served.http.post("/v1/reload", headers={"X-Api-Key": key})
    assert response.status_code == 200, response.text
    return list(response.json()["changes"])


def _models(served: Served, **headers: str) -> list[str]:
    return [model["id"] for model in served.http.get("/v1/models", headers=headers).json()["data"]]


def test_graphs_guests_and_grants_change_under_open_sessions(tmp_path: Path) -> None:
    bot = tmp_path / "bot.wat"
    bot.write_text(HANDLER)
    file = _File(Settings(graphs={"echo": ECHO}, guests={"bot": GuestSettings(file=bot)}))
    with serving(file.settings, file.read) as served:
        assert _reload(served) == []
        session, talk = served.open(guest="bot"), served.open(graph="echo")
        bot.write_text(LINES)
        file.change(graphs={"two": ECHO}, guests={"bot": GuestSettings(file=bot), "other": GuestSettings(file=bot)})
        assert _reload(served) == ["graph echo removed", "graph two added", "guest other added"]
        assert _models(served) == ["two", "guest/bot", "guest/other"]
        assert served.complete("echo", "hi").status_code == 404
        assert served.complete("two", "hi").status_code == 200
        assert served.say(session, "hi").json()["content"] == "1/1 hi", "the session keeps the guest it was opened with"
        assert served.say(talk, "hi").json()["content"] == "hi"
        assert served.complete("guest/bot", "hi").json()["choices"][0]["message"]["content"] == "said: hi"


def test_settings_that_are_wrong_change_nothing(tmp_path: Path) -> None:
    bot = tmp_path / "bot.wat"
    bot.write_text(HANDLER)
    file = _File(Settings(graphs={"echo": ECHO}, guests={"bot": GuestSettings(file=bot)}))
    with serving(file.settings, file.read) as served:
        file.error = InvalidArgument("promptd.toml, line 3: graphs.one.warmth")
        refused = served.http.post("/v1/reload")
        assert (refused.status_code, "line 3" in refused.text) == (400, True)
        file.error = None
        broken = tmp_path / "broken.wasm"
        broken.write_bytes(b"no wasm")
        file.change(graphs={"two": ECHO}, guests={"broken": GuestSettings(file=broken)})
        assert served.http.post("/v1/reload").status_code in (400, 500)
        assert _models(served) == ["echo", "guest/bot"]
        assert served.complete("guest/bot", "hi").status_code == 200


def test_keys_hosts_and_limits_change(tmp_path: Path) -> None:
    file = _File(Settings(graphs={"echo": ECHO}, server=ServerSettings(keys=(KEYS["a"],))))
    with serving(file.settings, file.read) as served:
        a, b = {"X-Api-Key": "pd-a"}, {"X-Api-Key": "pd-b"}
        assert served.http.get("/v1/models", headers=b).status_code == 401
        assert served.http.get("/healthz", headers={"Host": "chat.example"}).status_code == 403
        server = ServerSettings(keys=(KEYS["b"],), hosts=("chat.example",), max_body=100, max_sessions=1)
        file.change(server=server)
        assert _reload(served, "pd-a")[:2] == ["key a removed", "key b added"]
        assert served.http.get("/v1/models", headers=a).status_code == 401
        assert served.http.get("/v1/models", headers=b).status_code == 200
        assert served.http.get("/healthz", headers={"Host": "chat.example"}).status_code == 200
        long = served.http.post("/v1/sessions", json={"graph": "echo", "more": "x" * 200}, headers=b)
        assert long.status_code == 413
        opened = [served.http.post("/v1/sessions", json={"graph": "echo"}, headers=b) for _ in range(2)]
        assert [response.status_code for response in opened] == [201, 503]


def test_a_key_that_stays_gets_no_new_minute() -> None:
    key = KEYS["a"].model_copy(update={"requests_per_minute": 2})
    file = _File(Settings(graphs={"echo": ECHO}, server=ServerSettings(keys=(key,))))
    with serving(file.settings, file.read) as served:
        served.http.post("/v1/reload", headers={"X-Api-Key": "pd-a"})
        served.http.post("/v1/reload", headers={"X-Api-Key": "pd-a"})
        assert served.http.post("/v1/reload", headers={"X-Api-Key": "pd-a"}).status_code == 429


def test_only_an_admin_may_reload() -> None:
    key = KEYS["a"].model_copy(update={"scopes": ("chat",)})
    file = _File(Settings(graphs={"echo": ECHO}, server=ServerSettings(keys=(key,))))
    with serving(file.settings, file.read) as served:
        assert served.http.post("/v1/reload", headers={"X-Api-Key": "pd-a"}).status_code == 403


def test_sessions_go_on_with_a_model_the_settings_have_lost(smollm2: Path, built_guest: Callable[[str], Path]) -> None:
    guest = GuestSettings(file=built_guest("terminal"), graphs=("chat",))
    chat = GraphSettings(model=f"file:{smollm2}", temperature=0, max_tokens=4)
    exact = exact_alone()
    file = _File(Settings(graphs={"chat": chat}, guests={"terminal": guest}, engine=exact))
    with serving(file.settings, file.read) as served:
        session, terminal = served.open(graph="chat"), served.open(guest="terminal")
        assert served.say(session, "Hi").json()["usage"]["completion_tokens"] == 4
        assert served.say(terminal, "Hi").json()["usage"]["completion_tokens"] == 4
        worker = served.stats().worker_pid
        assert worker

        file.change(graphs={"chat": chat.model_copy(update={"max_tokens": 2})})
        assert _reload(served) == ["graph chat changed"]
        assert served.complete("chat", "Hi").json()["usage"]["completion_tokens"] == 2
        assert served.say(session, "Hi").json()["usage"]["completion_tokens"] == 4, "as when it was opened"
        assert served.stats().worker_pid == worker, "other options need no other worker"

        file.change(engine=file.settings.engine.model_copy(update={"kv_quota": 64.0}))
        assert _reload(served) == ["[engine] weights or quotas changed"]
        refused = served.complete("chat", "word " * 100)
        assert 400 <= refused.status_code < 500 and "kv-quota" in refused.text
        assert served.stats().worker_pid == worker, "nor do other quotas"
        file.change(engine=exact)
        assert _reload(served) == ["[engine] weights or quotas changed"]

        file.change(graphs={"echo": ECHO}, guests={})
        assert _reload(served) == ["graph chat removed", "graph echo added", "guest terminal removed"]
        for each in (session, terminal):
            assert served.say(each, "Hi").json()["usage"]["completion_tokens"] == 4
            assert served.http.delete(f"/v1/sessions/{each}").status_code == 204
        wait_until(lambda: not _lives(worker))


def _lives(process: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


def test_graphs_keep_their_engine_when_both_change_at_once(smollm2: Path, tmp_path: Path) -> None:
    chat = GraphSettings(model=f"file:{smollm2}", max_tokens=2)
    file = _File(Settings(graphs={"chat": chat}, engine=exact_alone()))
    with serving(file.settings, file.read) as served:
        before = served.host.graph("chat")
        assert isinstance(before, GgmlGraph)
        worker = before.stats().worker_pid
        del before
        file.change(graphs={"chat": chat, "again": chat.model_copy(update={"temperature": 0.0})})
        assert _reload(served) == ["graph again added"]
        again = served.host.graph("again")
        assert isinstance(again, GgmlGraph) and again.stats().worker_pid == worker
        del again
        lora = LoraSettings(file=write_lora(tmp_path / "pirate.gguf"))
        wrong = LoraSettings(file=write_lora(tmp_path / "wrong.gguf", {"blk.0.attn_q.weight": (8, 8)}))
        file.change(graphs={"chat": chat.model_copy(update={"lora": (lora,)})})
        assert _reload(served) == ["graph again removed", "graph chat changed"]
        adapted = served.host.graph("chat")
        assert isinstance(adapted, GgmlGraph) and adapted.settings.lora == (lora,)
        assert adapted.stats().worker_pid == worker
        file.change(graphs={"chat": chat.model_copy(update={"lora": (lora, wrong)})})
        response = served.http.post("/v1/reload")
        assert response.status_code == 400 and "wrong.gguf does not fit" in response.text
        assert served.host.graph("chat") is adapted


def test_sighup_reloads_promptd_toml_and_a_wrong_one_is_told_of(tmp_path: Path, guest_files: dict[str, Path]) -> None:
    config = tmp_path / "promptd.toml"
    shutil.copy(guest_files["handler"], tmp_path / "bot.wat")
    config.write_text('[graphs.one]\nmodel = "echo"\n')
    with _daemon("--config", str(config)) as (process, http):

        def names() -> list[str]:
            return [model["id"] for model in http.get("/v1/models").json()["data"]]

        assert names() == ["one"]
        config.write_text('[graphs.one]\nmodel = "echo"\nwarmth = 1\n[graphs.two]\nmodel = "echo"\n')
        process.send_signal(signal.SIGHUP)
        assert process.stderr
        line = process.stderr.readline()
        assert "the old ones stay" in line and "line 3" in line and "graphs.one.warmth" in line
        assert names() == ["one"]
        config.write_text('[graphs.one]\nmodel = "echo"\n[guests.bot]\nfile = "bot.wat"\n')
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: names() == ["one", "guest/bot"])
        process.terminate()
        assert _ended(process) == (0, "")


def test_a_daemon_others_can_reach_does_not_lose_its_last_key(tmp_path: Path) -> None:
    config = tmp_path / "promptd.toml"
    config.write_text(f'[graphs.one]\nmodel = "echo"\n[[server.keys]]\nname = "a"\nsha256 = "{key_hash("pd-a")}"\n')
    with _daemon("--config", str(config), "--host", "0.0.0.0", url="http://0.0.0.0:") as (process, http):
        config.write_text('[graphs.one]\nmodel = "echo"\n')
        process.send_signal(signal.SIGHUP)
        assert process.stderr and "without keys" in process.stderr.readline()
        assert http.get("/v1/models").status_code == 401
