"""GET /metrics, /readyz and /v1/engine: what the daemon counted is what happened."""

from __future__ import annotations

import json
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from serving import Served, serving, wait_until

from promptd.config import EngineSettings, GraphSettings, ServerSettings, Settings

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def _samples(served: Served) -> Samples:
    response = served.http.get("/metrics")
    assert response.status_code == 200
    families = text_string_to_metric_families(response.text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def _value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def test_a_reply_is_counted_with_its_tokens_and_times(served: Served) -> None:
    served.complete("chat", "hello", max_tokens=1)
    before = _samples(served)
    usage = served.complete("chat", "Are cats real?", max_tokens=12).json()["usage"]
    after = _samples(served)

    def grown(name: str, **labels: str) -> float:
        return _value(after, name, **labels) - _value(before, name, **labels)

    who = {"model": "chat", "client": ""}
    assert grown("promptd_tokens_total", **who, kind="prompt") == usage["prompt_tokens"]
    assert grown("promptd_tokens_total", **who, kind="generated") == 12
    assert grown("promptd_tokens_total", **who, kind="cached") == usage["prompt_tokens_details"]["cached_tokens"]
    assert grown("promptd_turns_total", **who, outcome="max-tokens") == 1
    assert grown("promptd_requests_total", method="POST", route="/v1/chat/completions", status="200") == 1
    assert grown("promptd_time_to_first_token_seconds_count", model="chat") == 1
    assert 1 <= grown("promptd_inter_token_seconds_count", model="chat") <= 11
    assert grown("promptd_engine_generated_tokens_total", graph="chat") == 12
    assert _value(after, "promptd_memory_bytes", graph="chat", kind="model") > 50e6


def test_a_guest_that_traps_is_counted(served: Served) -> None:
    before = _samples(served)
    assert served.complete("guest/handler", "*").status_code == 500
    assert served.complete("guest/handler", "!").status_code == 503
    after = _samples(served)
    for kind in ("trap", "error"):
        labels = {"guest": "handler", "kind": kind}
        name = "promptd_guest_failures_total"
        assert _value(after, name, **labels) - _value(before, name, **labels) == 1
    name = "promptd_guest_start_seconds_count"
    assert _value(after, name, guest="handler") - _value(before, name, guest="handler") == 2


def test_what_an_operator_watches_is_there(served: Served) -> None:
    """Requests, tokens, times, queue, width, KV resident and spilled, guests, sessions, memory."""
    served.complete("chat", "hello", max_tokens=4)
    served.complete("guest/handler", "*")
    samples = _samples(served)
    names = {name for name, _ in samples}
    assert names >= {
        "promptd_requests_total", "promptd_turns_total", "promptd_tokens_total", "promptd_sessions",
        "promptd_time_to_first_token_seconds_bucket", "promptd_inter_token_seconds_bucket",
        "promptd_engine_queue", "promptd_engine_batch_width", "promptd_engine_kv_cells_used", "promptd_engine_kv_cells",
        "promptd_engine_spills_total", "promptd_engine_restores_total", "promptd_engine_evictions_total",
        "promptd_guest_start_seconds_count", "promptd_guest_failures_total", "promptd_guest_instances",
        "process_resident_memory_bytes",
    }  # fmt: skip
    kinds = {dict(labels)["kind"] for name, labels in samples if name == "promptd_memory_bytes"}
    assert kinds >= {"model", "kv", "kv_spilled_memory", "kv_spilled_disk", "worker_resident"}


def test_paths_that_do_not_exist_make_no_labels(served: Served) -> None:
    before = _value(_samples(served), "promptd_requests_total", method="GET", route="none", status="404")
    for number in range(3):
        served.http.get(f"/nothing/{number}")
    assert _value(_samples(served), "promptd_requests_total", method="GET", route="none", status="404") == before + 3


def test_the_engine_view_shows_who_holds_the_kv_cells(served: Served) -> None:
    session = served.open(graph="chat")
    served.say(session, "Hi")
    (engine,) = served.http.get("/v1/engine").json()["data"]
    assert engine["graph"] == "chat"
    assert 0 < engine["kv"]["used"] <= engine["kv"]["cells"]
    assert max(each["cells"] for each in engine["kv"]["conversations"]) > 10
    assert engine["running"] == 0
    body = {"content": "Tell me a story."}
    with served.streaming(f"/v1/sessions/{session}/messages", body) as events:
        next(events)
        (engine,) = served.http.get("/v1/engine").json()["data"]
        assert engine["running"] == 1 and [each for each in engine["kv"]["conversations"] if each["running"]]
    wait_until(lambda: served.stats().running == 0)


def test_the_daemon_is_ready_when_its_graphs_are_loaded(smollm2: Path) -> None:
    graphs = {"chat": GraphSettings(model=f"file:{smollm2}")}
    of_its_own = EngineSettings(step_tokens=256)
    with serving(Settings(graphs=graphs, engine=of_its_own, server=ServerSettings(preload=True))) as served:
        statuses = []

        def ready() -> bool:
            response = served.http.get("/readyz")
            statuses.append((response.status_code, response.json()["status"]))
            return response.status_code == 200

        wait_until(ready)
        assert statuses[-1] == (200, "ready")
        assert set(statuses[:-1]) <= {(503, "loading")}
        assert [each["graph"] for each in served.http.get("/v1/engine").json()["data"]] == ["chat"]


def test_the_dashboard_asks_only_for_metrics_there_are(served: Served) -> None:
    served.complete("chat", "hello", max_tokens=4)
    served.complete("guest/handler", "*")
    names = {name for name, _ in _samples(served)}
    dashboard = json.loads((Path(__file__).parents[2] / "deploy/grafana-dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    words = {word for expr in asked for word in expr.replace("(", " ").replace("{", " ").replace("[", " ").split()}
    metrics = {word.strip(")") for word in words if word.startswith("promptd_")}
    assert len(metrics) > 10
    assert metrics <= names
