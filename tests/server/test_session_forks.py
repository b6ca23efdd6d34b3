"""Sessions that are forked and rewound, listed page by page, and limited by key and guest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest
from serving import Served, serving, wait_until

from promptd.config import GraphSettings, GuestSettings, KeySettings, ServerSettings, Settings
from promptd.server.keys import key_hash

QUESTION = "Are dogs real?"


def _post(served: Served, session: str, what: str, body: Any = None) -> httpx2.Response:
    return served.http.post(f"/v1/sessions/{session}/{what}", json=body)


def test_a_fork_of_a_graphs_session_costs_no_prefill(served: Served) -> None:
    session = served.open(graph="chat")
    first = served.say(session, QUESTION).json()["usage"]
    fork = _post(served, session, "fork")
    assert fork.status_code == 201
    assert (fork.json()["graph"], fork.json()["turns"]) == ("chat", 1)
    held = first["prompt_tokens"] + first["completion_tokens"]
    for each in (fork.json()["id"], session):
        usage = served.say(each, "And cats?").json()["usage"]
        assert usage["prompt_tokens"] > held
        assert usage["prompt_tokens_details"]["cached_tokens"] >= held - 1
    assert served.http.get(f"/v1/sessions/{session}").json()["turns"] == 2


def test_a_graphs_session_forgets_the_turns_it_is_rewound_by(served: Served) -> None:
    session = served.open(graph="chat")
    first = served.say(session, QUESTION).json()["usage"]
    served.say(session, "And cats?")
    rewound = _post(served, session, "rewind", {"turns": 2})
    assert (rewound.status_code, rewound.json()["turns"]) == (200, 0)
    again = served.say(session, QUESTION).json()["usage"]
    assert again["prompt_tokens"] == first["prompt_tokens"]
    assert again["prompt_tokens_details"]["cached_tokens"] == again["prompt_tokens"] - 1
    assert _post(served, session, "rewind", {"turns": 2}).status_code == 400


def test_a_fork_of_a_handlers_session_is_another_instance_with_the_same_past(served: Served) -> None:
    session = served.open(guest="handler")
    served.say(session, "a")
    served.say(session, "b")
    fork = _post(served, session, "fork", {"rewind": 1}).json()
    assert fork["turns"] == 1
    assert served.say(fork["id"], "c").json()["content"] == "1/3 c", "its first call; three messages: a, its reply, c"
    assert served.say(session, "d").json()["content"] == "3/5 d", "the first goes its own way"


def test_a_handlers_session_forgets_the_turns_it_is_rewound_by(served: Served) -> None:
    session = served.open(guest="handler")
    served.say(session, "a")
    served.say(session, "b")
    assert _post(served, session, "rewind").json()["turns"] == 1
    assert served.say(session, "c").json()["content"] == "3/3 c"
    assert _post(served, session, "rewind", {"turns": 3}).status_code == 400


def test_a_commands_session_can_be_neither_forked_nor_rewound(served: Served) -> None:
    session = served.open(guest="lines")
    served.say(session, "a")
    for what in ("fork", "rewind"):
        refused = _post(served, session, what)
        assert refused.status_code == 400
        assert "its own memory" in refused.json()["error"]["message"]
    assert served.say(session, "b").json()["content"] == "said: b"
    assert len([each for each in served.http.get("/v1/sessions").json()["data"] if each["guest"] == "lines"]) >= 1


def test_a_session_that_is_answering_can_be_neither_forked_nor_rewound(served: Served) -> None:
    session = served.open(guest="handler")
    with served.streaming(f"/v1/sessions/{session}/messages", {"content": "#looping"}) as stream:
        next(stream)
        assert _post(served, session, "fork").status_code == 409
        assert _post(served, session, "rewind").status_code == 409
        served.http.delete(f"/v1/sessions/{session}")
        assert next(stream)[0] == "error"


@pytest.mark.parametrize(
    ("what", "body"),
    [("fork", {"rewind": -1}), ("rewind", {"turns": 10**12}), ("rewind", {"turns": "1"}), ("fork", [])],
)
def test_bad_bodies_of_fork_and_rewind_are_refused(served: Served, what: str, body: Any) -> None:
    assert _post(served, served.open(guest="handler"), what, body).status_code == 400


@pytest.fixture(scope="module")
def keyed(guest_files: dict[str, Path]) -> Any:
    """Yield a daemon with two keys and an admin's, and clients by the names of the keys."""
    keys = tuple(
        KeySettings(name=name, sha256=key_hash(name), scopes=scopes, max_sessions=limit)
        for name, scopes, limit in (
            ("alice", ("chat",), 3),
            ("bob", ("chat",), None),
            ("root", ("chat", "admin"), None),
        )
    )
    settings = Settings(
        graphs={"echo": GraphSettings(model="echo")},
        guests={"handler": GuestSettings(file=guest_files["handler"], max_sessions=1)},
        server=ServerSettings(keys=keys),
    )
    with serving(settings) as served:
        clients = {
            key.name: httpx2.Client(base_url=served.url, headers={"X-Api-Key": key.name}, trust_env=False)
            for key in keys
        }
        yield clients
        for client in clients.values():
            client.close()


def _open(client: httpx2.Client, **target: str) -> httpx2.Response:
    return client.post("/v1/sessions", json=target)


def test_a_key_has_so_many_sessions_and_sees_only_its_own(keyed: dict[str, httpx2.Client]) -> None:
    ids = [_open(keyed["alice"], graph="echo").json()["id"] for _ in range(3)]
    refused = _open(keyed["alice"], graph="echo")
    assert refused.status_code == 429
    assert refused.headers["retry-after"] and "3 sessions" in refused.json()["error"]["message"]
    assert keyed["alice"].post(f"/v1/sessions/{ids[0]}/fork").status_code == 429
    other = _open(keyed["bob"], graph="echo").json()
    assert other["owner"] == "bob"

    first = keyed["alice"].get("/v1/sessions", params={"limit": 2}).json()
    assert ([each["id"] for each in first["data"]], first["has_more"]) == (ids[:2], True)
    rest = keyed["alice"].get("/v1/sessions", params={"limit": 2, "after": ids[1]}).json()
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == (ids[2:], False)
    assert keyed["alice"].get("/v1/sessions", params={"after": other["id"]}).status_code == 400
    assert keyed["alice"].get("/v1/sessions", params={"limit": 0}).status_code == 400

    for what in ("", "/events"):
        assert keyed["bob"].get(f"/v1/sessions/{ids[0]}{what}").status_code == 404
    for what in ("/cancel", "/fork", "/rewind"):
        assert keyed["bob"].post(f"/v1/sessions/{ids[0]}{what}").status_code == 404
    assert keyed["bob"].delete(f"/v1/sessions/{ids[0]}").status_code == 404

    assert len(keyed["root"].get("/v1/sessions").json()["data"]) == 4
    assert keyed["root"].post(f"/v1/sessions/{ids[0]}/rewind").status_code == 404, "an admin sees, and does not talk"
    assert keyed["root"].delete(f"/v1/sessions/{ids[0]}").status_code == 204
    assert _open(keyed["alice"], graph="echo").status_code == 201


def test_a_guest_runs_so_many_times_at_once(keyed: dict[str, httpx2.Client]) -> None:
    session = _open(keyed["bob"], guest="handler").json()["id"]
    body = {"model": "guest/handler", "messages": [{"role": "user", "content": "hi"}]}
    for refused in (
        _open(keyed["bob"], guest="handler"),
        keyed["bob"].post(f"/v1/sessions/{session}/fork"),
        keyed["bob"].post("/v1/chat/completions", json=body),
    ):
        assert refused.status_code == 429
        assert "max-sessions" in refused.json()["error"]["message"]
    keyed["bob"].delete(f"/v1/sessions/{session}")
    wait_until(lambda: keyed["bob"].post("/v1/chat/completions", json=body).status_code == 200)
