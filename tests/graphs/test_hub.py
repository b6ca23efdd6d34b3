"""The real hub client against a hub that misbehaves.

Whatever happens: one sentence, nothing half-written taken for whole, and the next pull succeeds.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from gguf_files import tiny_gguf
from hub_server import Fault, HubServer
from store_helpers import TOKEN, MakeStore, Told

from promptd.errors import (
    Busy,
    InvalidEncoding,
    NotFound,
    PromptdError,
    RuntimeFailure,
    SecurityDenied,
    TimedOut,
    TooLarge,
)
from promptd.graphs.store import Store

MODEL = tiny_gguf(1, 1_500_000)
FILE = "m.Q4_K_M.gguf"
REFERENCE = f"hf.co/u/r/{FILE}"
REPOSITORY = "hf.co/u/r"

FAULTS: dict[Fault, tuple[type[PromptdError], str]] = {
    Fault.TRUNCATE: (RuntimeFailure, "broke while pulling m.Q4_K_M.gguf"),
    Fault.SHORT: (RuntimeFailure, "m.Q4_K_M.gguf of hf.co/u/r broke off"),
    Fault.WRONG_BYTES: (InvalidEncoding, "has the wrong content and was removed"),
    Fault.TOO_MANY: (InvalidEncoding, "has more than its 1.5 MB"),
    Fault.RANGE_404: (NotFound, "the hub has no m.Q4_K_M.gguf"),
    Fault.GET_403: (SecurityDenied, "refuses m.Q4_K_M.gguf"),
    Fault.GET_429: (Busy, "try again in 3600 seconds"),
    Fault.GET_503: (RuntimeFailure, "answered HTTP 503 for m.Q4_K_M.gguf"),
    Fault.STALL: (TimedOut, "stopped sending m.Q4_K_M.gguf"),
    Fault.GET_LOOP: (RuntimeFailure, "redirects m.Q4_K_M.gguf of hf.co/u/r in a circle"),
    Fault.HEAD_LOOP: (RuntimeFailure, "redirects m.Q4_K_M.gguf of hf.co/u/r in a circle"),
    Fault.HEAD_401: (NotFound, "set HF_TOKEN"),
    Fault.HEAD_403_GATED: (SecurityDenied, "is gated: accept its terms"),
    Fault.HEAD_404: (NotFound, "the hub has no m.Q4_K_M.gguf of hf.co/u/r"),
    Fault.HEAD_404_REVISION: (NotFound, "no such revision of m.Q4_K_M.gguf"),
    Fault.HEAD_429: (Busy, "limits how often it may be asked, also for m.Q4_K_M.gguf"),
    Fault.HEAD_503: (RuntimeFailure, "answered HTTP 503 for m.Q4_K_M.gguf"),
    Fault.HEAD_STALL: (TimedOut, "stopped sending m.Q4_K_M.gguf"),
    Fault.COMMIT_PATH: (RuntimeFailure, "does not answer like a Hugging Face hub"),
    Fault.ETAG_PATH: (RuntimeFailure, "states no SHA-256 of m.Q4_K_M.gguf"),
    Fault.ETAG_65: (RuntimeFailure, "states no SHA-256 of m.Q4_K_M.gguf"),
    Fault.ETAG_GIT: (RuntimeFailure, "states no SHA-256 of m.Q4_K_M.gguf"),
    Fault.NO_COMMIT: (RuntimeFailure, "does not answer like a Hugging Face hub"),
    Fault.NO_SIZE: (RuntimeFailure, "does not say how large m.Q4_K_M.gguf"),
    Fault.HUGE: (TooLarge, r"m.Q4_K_M.gguf of hf.co/u/r needs 1000.0 TB, but only .* are free in /"),
    Fault.API_PATHS: (SecurityDenied, "'../../x.Q4_K_M.gguf' is not an acceptable name"),
    Fault.API_503: (RuntimeFailure, "answered HTTP 503 for hf.co/u/r"),
    Fault.API_NOT_JSON: (RuntimeFailure, "pulling hf.co/u/r from http://.* failed"),
}
HARMLESS = (Fault.IGNORE_RANGE, Fault.WRONG_RANGE)


def test_every_fault_is_covered() -> None:
    assert set(Fault) == {*FAULTS, *HARMLESS}


@pytest.fixture(autouse=True)
def _served(hub: HubServer) -> None:
    hub.add("u/r", FILE, MODEL)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_one_sentence_and_the_next_pull_succeeds(
    store: Store, hub: HubServer, cache: Path, tmp_path: Path, fault: Fault
) -> None:
    kind, sentence = FAULTS[fault]
    reference = REPOSITORY if fault.name.startswith("API") else REFERENCE
    hub.misbehave(fault)
    with pytest.raises(kind, match=sentence) as refusal:
        store.pull(reference)
    assert "\n" not in str(refusal.value)
    assert TOKEN not in str(refusal.value)
    assert not [path for path in cache.rglob("*") if path.parent.name in ("blobs", "snapshots") and not path.suffix]
    assert not list(tmp_path.rglob("x*"))
    with pytest.raises(NotFound):
        store.resolve(reference)
    hub.behave()
    assert store.pull(reference).path.read_bytes() == MODEL


def test_a_hub_that_nobody_answers_for_costs_seconds_and_says_so(make_store: MakeStore) -> None:
    with pytest.raises(RuntimeFailure, match=f"cannot reach 127.0.0.1 for {FILE} of hf.co/u/r: .*refused"):
        make_store(endpoint="http://127.0.0.1:1").pull(REFERENCE)


def test_a_dropped_connection_is_picked_up_within_one_pull(store: Store, hub: HubServer) -> None:
    hub.misbehave(Fault.TRUNCATE, times=1)
    assert store.pull(REFERENCE).path.read_bytes() == MODEL
    ranges = [seen.range for seen in hub.seen if seen.cdn]
    assert ranges[0] is None
    assert re.fullmatch(r"bytes=[1-9]\d+-", str(ranges[1]))


def _interrupted(store: Store, hub: HubServer, cache: Path) -> Path:
    """Have a pull fail in the middle, and return the partial file."""
    hub.misbehave(Fault.SHORT)
    with pytest.raises(RuntimeFailure):
        store.pull(REFERENCE)
    hub.behave()
    hub.seen.clear()
    (partial,) = cache.rglob("*.incomplete")
    assert 0 < partial.stat().st_size < len(MODEL)
    return partial


def test_the_next_pull_continues_where_the_last_one_ended(
    store: Store, hub: HubServer, cache: Path, told: Told
) -> None:
    held = _interrupted(store, hub, cache).stat().st_size
    assert store.pull(REFERENCE, told).path.read_bytes() == MODEL
    assert [seen.range for seen in hub.seen if seen.cdn] == [f"bytes={held}-"]
    assert (told.done, told.total) == (len(MODEL), len(MODEL))
    assert not list(cache.rglob("*.incomplete"))


def test_a_server_that_ignores_the_range_makes_the_pull_start_over(
    store: Store, hub: HubServer, cache: Path, told: Told
) -> None:
    _interrupted(store, hub, cache)
    hub.misbehave(Fault.IGNORE_RANGE)
    assert store.pull(REFERENCE, told).path.read_bytes() == MODEL
    assert told.done == len(MODEL)


def test_a_server_that_sends_another_range_is_found_out(store: Store, hub: HubServer, cache: Path) -> None:
    _interrupted(store, hub, cache)
    hub.misbehave(Fault.WRONG_RANGE)
    with pytest.raises(InvalidEncoding, match="has the wrong content and was removed"):
        store.pull(REFERENCE)
    hub.behave()
    assert store.pull(REFERENCE).path.read_bytes() == MODEL


def test_a_partial_file_whose_bytes_changed_is_found_out_and_thrown_away(
    store: Store, hub: HubServer, cache: Path
) -> None:
    partial = _interrupted(store, hub, cache)
    data = bytearray(partial.read_bytes())
    data[100] ^= 1
    partial.write_bytes(data)
    with pytest.raises(InvalidEncoding, match="has the wrong content and was removed"):
        store.pull(REFERENCE)
    assert not list(cache.rglob("*.incomplete"))
    assert store.pull(REFERENCE).path.read_bytes() == MODEL


def test_a_partial_file_that_is_too_long_is_thrown_away(store: Store, hub: HubServer, cache: Path) -> None:
    with _interrupted(store, hub, cache).open("ab") as file:
        file.write(bytes(len(MODEL)))
    assert store.pull(REFERENCE).path.read_bytes() == MODEL
    assert [seen.range for seen in hub.seen if seen.cdn] == [None]


def test_a_whole_partial_file_needs_no_more_bytes(store: Store, hub: HubServer, cache: Path) -> None:
    _interrupted(store, hub, cache).write_bytes(MODEL)
    assert store.pull(REFERENCE).path.read_bytes() == MODEL
    assert not [seen for seen in hub.seen if seen.cdn]


def test_a_file_that_changed_on_the_hub_is_not_glued_to_the_old_beginning(
    store: Store, hub: HubServer, cache: Path
) -> None:
    _interrupted(store, hub, cache)
    newer = tiny_gguf(2, 1_500_000)
    hub.add("u/r", FILE, newer, commit="f" * 40)
    assert store.pull(REFERENCE).path.read_bytes() == newer


def test_a_file_in_xet_storage_comes_over_plain_http(store: Store, hub: HubServer) -> None:
    hub.add("u/r", FILE, MODEL, xet=True)
    assert store.pull(REFERENCE).path.read_bytes() == MODEL


def test_the_token_goes_to_the_hub_and_nowhere_else(store: Store, hub: HubServer) -> None:
    hub.token = TOKEN
    for xet in (False, True):
        hub.add("u/r", FILE, tiny_gguf(int(xet), 1000), xet=xet)
        store.pull(REPOSITORY)
    asked = [seen for seen in hub.seen if not seen.cdn]
    fetched = [seen for seen in hub.seen if seen.cdn]
    assert asked and all(seen.authorization == f"Bearer {TOKEN}" for seen in asked)
    assert fetched and all(seen.authorization is None for seen in fetched)


def test_nothing_is_asked_of_the_hub_but_the_file(store: Store, hub: HubServer) -> None:
    store.pull(REFERENCE)
    digest = hub.files["u/r", FILE].digest
    assert [(seen.method, seen.path) for seen in hub.seen] == [
        ("HEAD", f"/u/r/resolve/main/{FILE}"),
        ("GET", f"/cdn/{digest}"),
    ]


def test_parallel_pulls_of_threads_fetch_the_file_once(store: Store, hub: HubServer) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(store.pull(REFERENCE).path)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() == MODEL for path in paths] == [True] * 6
    assert len([seen for seen in hub.seen if seen.cdn]) == 1


PULL = "import sys; from promptd.graphs.store import Store; Store().pull(sys.argv[1])"


def _environment(hub: HubServer, cache: Path, home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PROMPTD_"))}
    return kept | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN": TOKEN,
        "PROMPTD_HOME": str(home),
        "NO_PROXY": "*",
    }


def test_parallel_pulls_of_processes_fetch_the_file_once(store: Store, hub: HubServer, cache: Path, home: Path) -> None:
    environment = _environment(hub, cache, home)
    processes = [subprocess.Popen([sys.executable, "-c", PULL, REFERENCE], env=environment) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert store.resolve(REFERENCE).path.read_bytes() == MODEL
    assert len([seen for seen in hub.seen if seen.cdn]) == 1
    assert all(seen.authorization == f"Bearer {TOKEN}" for seen in hub.seen if not seen.cdn)


def test_a_pull_that_is_killed_is_continued_by_the_next(store: Store, hub: HubServer, cache: Path, home: Path) -> None:
    hub.misbehave(Fault.STALL)
    process = subprocess.Popen([sys.executable, "-c", PULL, REFERENCE], env=_environment(hub, cache, home))
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size for path in cache.rglob("*.incomplete")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    hub.behave()
    hub.seen.clear()
    with pytest.raises(NotFound):
        store.resolve(REFERENCE)
    assert store.pull(REFERENCE).path.read_bytes() == MODEL
    assert re.fullmatch(r"bytes=[1-9]\d+-", str(hub.seen[-1].range))


NO_SOCKETS = """
import sys
def forbid(event, arguments):
    if event in ("socket.__new__", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.posix_spawn"):
        raise SystemExit(f"offline, but {event} {arguments}")
sys.addaudithook(forbid)
from promptd.errors import NotFound
from promptd.graphs.store import Store
store = Store(offline=True) if "--offline" in sys.argv else Store()
print(store.pull(sys.argv[1]).path)
for reference in ("smollm2", "hf.co/v/s"):
    try:
        store.pull(reference)
    except NotFound as error:
        assert "offline" in str(error)
"""


@pytest.mark.parametrize(("variable", "option"), [({"HF_HUB_OFFLINE": "1"}, ()), ({}, ("--offline",))])
def test_offline_opens_no_socket(
    store: Store, hub: HubServer, cache: Path, home: Path, variable: dict[str, str], option: tuple[str, ...]
) -> None:
    pulled = store.pull(REFERENCE)
    done = subprocess.run(
        [sys.executable, "-c", NO_SOCKETS, REFERENCE, *option],
        env=_environment(hub, cache, home) | variable,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.stdout.strip() == str(pulled.path)


def test_finding_and_listing_models_does_not_import_the_hub_client(
    store: Store, hub: HubServer, cache: Path, home: Path
) -> None:
    store.pull(REFERENCE)
    code = (
        "import sys; from promptd.graphs.store import Store; s = Store(); s.resolve(sys.argv[1]); s.list();"
        "print([name for name in ('huggingface_hub', 'httpx2', 'tqdm') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, REFERENCE], env=_environment(hub, cache, home), capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_hub_with_encryption_may_not_send_its_clients_elsewhere_without() -> None:
    import httpx2

    from promptd.graphs.hub_client import _Guard

    guard = _Guard(("https", "hub.example", 443), None, None)
    moved = httpx2.Request("GET", "https://cdn.example/x", headers={"authorization": "Bearer x"})
    guard.check(moved)
    assert "authorization" not in moved.headers
    with pytest.raises(SecurityDenied, match=r"redirects to hub\.example without encryption"):
        guard.check(httpx2.Request("GET", "http://hub.example/x"))


def test_upstream_still_takes_wrong_bytes_for_right_and_starts_over_instead_of_continuing(
    hub: HubServer, cache: Path
) -> None:
    """The two reasons for `hub_client` to exist; when this fails, `hf_hub_download` may do its work."""
    from huggingface_hub import hf_hub_download

    hub.misbehave(Fault.SHORT)
    with pytest.raises(OSError):
        hf_hub_download("u/r", FILE, cache_dir=cache, endpoint=hub.endpoint, token=TOKEN)
    hub.seen.clear()
    hub.misbehave(Fault.WRONG_BYTES)
    path = Path(hf_hub_download("u/r", FILE, cache_dir=cache, endpoint=hub.endpoint, token=TOKEN))
    assert path.read_bytes() != MODEL
    assert [seen.range for seen in hub.seen if seen.cdn] == [None]
