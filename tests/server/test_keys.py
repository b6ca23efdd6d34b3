"""API keys: who gets in, what they may do, how much of it, and that the daemon may then be reached from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest
from openai import OpenAI
from serving import PATIENCE_S, Served, serving

from promptd.chat import Usage
from promptd.config import GraphSettings, KeySettings, ServerSettings, Settings, load_settings
from promptd.errors import InvalidArgument
from promptd.server.keys import KEY_PREFIX, Allowance, Client, key_hash, new_key, scope_of

ALICE, BOB, ROOT, SLOW = (new_key() for _ in range(4))


@pytest.fixture(scope="module")
def keyed() -> Iterator[Served]:
    """Return a daemon that asks for keys."""
    keys = (
        KeySettings(name="alice", sha256=key_hash(ALICE)),
        KeySettings(name="bob", sha256=key_hash(BOB)),
        KeySettings(name="root", sha256=key_hash(ROOT), scopes=("admin",)),
        KeySettings(name="slow", sha256=key_hash(SLOW), requests_per_minute=2),
    )
    server = ServerSettings(keys=keys, hosts=("chat.example.com", "*.example.org"), origins=("https://page.example",))
    with serving(Settings(graphs={"echo": GraphSettings(model="echo")}, server=server)) as running:
        yield running


def _say(keyed: Served, headers: dict[str, str]) -> httpx2.Response:
    body = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
    return keyed.http.post("/v1/chat/completions", json=body, headers=headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer pd-wrong"},
        {"Authorization": f"Basic {ALICE}"},
        {"X-Api-Key": "pd-wrong"},
        {"X-Api-Key": key_hash(ALICE)},
    ],
)
def test_who_has_no_key_is_refused(keyed: Served, headers: dict[str, str]) -> None:
    response = _say(keyed, headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "invalid_api_key"
    wrong = any("pd-wrong" in value for value in headers.values())
    assert ("does not know this API key" if wrong else "API key") in response.json()["error"]["message"]


def test_openais_client_says_what_is_wrong_with_the_key(keyed: Served) -> None:
    url = f"{keyed.url}/v1"
    with OpenAI(base_url=url, api_key="wrong", max_retries=0) as client, pytest.raises(openai.AuthenticationError):
        client.models.list()
    with OpenAI(base_url=url, api_key=ALICE, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["echo"]


@pytest.mark.parametrize("headers", [{"Authorization": f"Bearer {ALICE}"}, {"X-Api-Key": ALICE}])
def test_a_key_is_let_in_either_way(keyed: Served, headers: dict[str, str]) -> None:
    assert _say(keyed, headers).status_code == 200


def test_a_key_without_the_scope_is_refused(keyed: Served) -> None:
    response = _say(keyed, {"X-Api-Key": ROOT})
    assert response.status_code == 403
    assert response.json()["error"]["type"] == "permission_error"
    assert "'chat'" in response.json()["error"]["message"]
    assert scope_of("/metrics") == "admin"
    assert scope_of("/v1/models") == "chat"


def test_too_many_requests_are_told_when_to_come_back(keyed: Served) -> None:
    replies = [_say(keyed, {"X-Api-Key": SLOW}) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert 1 <= int(replies[-1].headers["Retry-After"]) <= 30
    assert replies[-1].json()["error"]["type"] == "rate_limit_error"
    assert _say(keyed, {"X-Api-Key": ALICE}).status_code == 200


def test_an_allowance_grows_back_evenly() -> None:
    now = 0.0
    allowance = Allowance(60, lambda: now)
    assert allowance.wait_s(1) == 0
    allowance.take(90)
    assert allowance.wait_s(1) == 31
    now = 31.0
    assert allowance.wait_s(1) == 0
    now = 1000.0
    assert allowance.wait_s(60) == 0
    assert allowance.wait_s(61) == 1
    assert Allowance(None).wait_s(1e9) == 0


def test_tokens_that_were_cached_are_not_charged() -> None:
    client = Client(KeySettings(name="a", sha256="0" * 64, tokens_per_minute=100))
    client.admit()
    client.charge(Usage(prompt=1000, cached=950, generated=40))
    client.admit()
    client.charge(Usage(prompt=20, cached=0, generated=1))
    with pytest.raises(Exception, match="tokens of this minute"):
        client.admit()


def test_health_needs_no_key(keyed: Served) -> None:
    assert keyed.http.get("/healthz").json() == {"status": "ok"}


def test_a_session_is_only_its_openers(keyed: Served) -> None:
    alice, bob = {"X-Api-Key": ALICE}, {"X-Api-Key": BOB}
    session = keyed.http.post("/v1/sessions", json={"graph": "echo"}, headers=alice).json()["id"]
    assert keyed.http.get(f"/v1/sessions/{session}", headers=alice).status_code == 200
    assert keyed.http.get(f"/v1/sessions/{session}", headers=bob).status_code == 404
    assert keyed.http.delete(f"/v1/sessions/{session}", headers=bob).status_code == 404
    assert keyed.http.get("/v1/sessions", headers=bob).json()["data"] == []
    assert [each["id"] for each in keyed.http.get("/v1/sessions", headers=alice).json()["data"]] == [session]


@pytest.mark.parametrize(
    ("host", "status"),
    [("chat.example.com", 200), ("a.example.org:80", 200), ("example.org", 403), ("evilexample.org", 403)],
)
def test_hosts_of_the_settings_are_answered(keyed: Served, host: str, status: int) -> None:
    assert keyed.http.get("/healthz", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(("origin", "allowed"), [("https://page.example", True), ("https://evil.example", False)])
def test_only_pages_of_listed_origins_may_call(keyed: Served, origin: str, allowed: bool) -> None:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    response = keyed.http.options("/v1/chat/completions", headers=asked)
    assert (response.headers.get("access-control-allow-origin") == origin) is allowed
    response = keyed.http.get("/v1/models", headers={"Origin": origin, "X-Api-Key": ALICE}, timeout=PATIENCE_S)
    assert (response.headers.get("access-control-allow-origin") == origin) is allowed
    assert "access-control-allow-credentials" not in response.headers


def test_keys_are_told_by_their_prefix_and_differ() -> None:
    assert ALICE.startswith(KEY_PREFIX) and len(ALICE) > 30
    assert len({ALICE, BOB, ROOT, SLOW}) == 4


def test_two_keys_of_one_name_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "promptd.toml"
    config.write_text("".join(f'[[server.keys]]\nname = "a"\nsha256 = "{digit * 64}"\n' for digit in "01"))
    with pytest.raises(InvalidArgument, match=r"promptd\.toml.*two keys have the same name"):
        load_settings(config)
