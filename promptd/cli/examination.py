"""What `promptd doctor` looks at: one function for each part, which returns what it finds and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from promptd.cli.options import DEFAULT_CONFIG
from promptd.config import Settings, load_settings
from promptd.errors import NotFound, PromptdError
from promptd.folders import data_folder
from promptd.graphs.sizes import human_size

State = Literal["ok", "note", "problem"]

HUB = "https://huggingface.co"
HUB_TIMEOUT_S = 3.0
LOW_DISK_BYTES = 2 * 1024**3
BUSY_SHARE = 0.25
"""Of all cores, used by others: then steps wait for threads that have no core."""
BUSY_WINDOW_S = 0.5

FAST_FEATURES = {"avx2": "AVX2", "fma": "FMA", "f16c": "F16C", "avx512f": "AVX512", "avx512_vnni": "AVX512_VNNI"}
"""Flags of /proc/cpuinfo that make llama.cpp faster, and its names for them."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. A `problem` keeps promptd from working, a `note` makes it slower or smaller."""

    part: str
    name: str
    value: str
    state: State = "ok"
    advice: str = ""


def look_at_all(config: Path | None, port: int, *, offline: bool) -> Iterator[Finding]:
    """Yield all findings, part by part, as they come."""
    yield from built_in()
    yield from machine()
    yield from store(offline=offline)
    settings = yield from configuration(config)
    yield from guests(settings)
    yield from daemon(port)


def built_in() -> Iterator[Finding]:
    """Look at what promptd is made of."""
    from promptd.engine.build import read_build

    yield Finding("built in", "promptd", f"{version('promptd')}, Python {platform.python_version()}")
    try:
        build = read_build()
    except PromptdError as error:
        yield Finding("built in", "llama.cpp", str(error), "problem", "reinstall llama-cpp-python with a C++ compiler")
    else:
        commit = f"llama-cpp-python {build['version']}, ggml {build['ggml']} ({build['commit']})"
        if "+promptd" in build["version"]:
            yield Finding("built in", "llama.cpp", commit)
        else:
            advice = "promptd's scripts/install builds it faster for many conversations on a CPU"
            yield Finding("built in", "llama.cpp", f"{commit}, as released", "note", advice)
        features = build["features"].get("CPU", [])
        yield Finding("built in", "CPU features", ", ".join(features) or "none")
        if missing := [name for flag, name in FAST_FEATURES.items() if flag in _cpu_flags() and name not in features]:
            advice = "build llama.cpp on this machine: install promptd here anew"
            yield Finding("built in", "unused CPU features", ", ".join(missing), "note", advice)
        if build["gpu"]:
            yield Finding("built in", "GPU", ", ".join(name for name in build["features"] if name != "CPU") or "yes")
        else:
            advice = 'to use one, install with CMAKE_ARGS="-DGGML_CUDA=on"' if shutil.which("nvidia-smi") else ""
            yield Finding("built in", "GPU", "not built in", "note" if advice else "ok", advice)
    for package in ("wasmtime", "onnxruntime"):
        try:
            yield Finding("built in", package, version(package))
        except PackageNotFoundError:
            yield Finding("built in", package, "missing", "problem", f"pip install {package}")


def machine() -> Iterator[Finding]:
    """Look at the cores, and who else uses them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("machine", "cores", f"{cores} for this process, of {os.cpu_count()}; {platform.machine()}")
    share = _busy_share()
    if share is None:
        return
    value = f"{share:.0%} of all cores are used by others"
    if share > BUSY_SHARE:
        advice = "replies are slower while others use the cores; each step waits for the thread that gets none"
        yield Finding("machine", "neighbours", value, "note", advice)
    else:
        yield Finding("machine", "neighbours", value)


def store(*, offline: bool) -> Iterator[Finding]:
    """Look at the models, and where they come from."""
    from promptd.graphs.store import Store

    home = data_folder()
    try:
        models = Store(offline=True).list()
    except (PromptdError, OSError) as error:
        yield Finding("store", "models", str(error), "problem", f"look at {home}")
        return
    yield Finding("store", "folder", str(home))
    size = human_size(sum(model.size for model in models))
    if models:
        yield Finding("store", "models", f"{len(models)}, {size}")
    else:
        yield Finding("store", "models", "none", "note", "get one with: promptd pull smollm2")
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        yield Finding(
            "store", "access", f"{existing} cannot be written", "problem", "set PROMPTD_HOME to a folder that can"
        )
    free = shutil.disk_usage(existing).free
    low = free < LOW_DISK_BYTES
    advice = "remove models with: promptd rm NAME" if low else ""
    yield Finding("store", "free disk", human_size(free), "note" if low else "ok", advice)
    if offline:
        yield Finding("store", "hub", "not asked: offline")
    else:
        yield _hub(os.environ.get("HF_ENDPOINT", HUB))


def configuration(config: Path | None) -> Generator[Finding, None, Settings | None]:
    """Look at promptd.toml, and what it serves; the generator returns the settings, None where they are wrong."""
    from promptd.graphs.store import Store

    path = config or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)
    if path is None:
        yield Finding("settings", "file", "none; graphs and guests come from the command line")
        return Settings()
    try:
        settings = load_settings(path)
    except PromptdError as error:
        yield Finding("settings", "file", str(error), "problem", "mend that line, then: promptd serve --check")
        return None
    yield Finding("settings", "file", f"{path}, valid")
    for name, graph in settings.graphs.items():
        try:
            if graph.model != "echo":
                Store(offline=True).resolve(graph.model)
        except PromptdError as error:
            if isinstance(error, NotFound) and not graph.model.startswith("file:"):
                yield Finding("settings", f"graph {name}", str(error), "note", "promptd serve fetches it at its start")
            else:
                yield Finding("settings", f"graph {name}", str(error), "problem", f"mend graphs.{name}.model")
        else:
            yield Finding("settings", f"graph {name}", graph.model)
    if not settings.server.keys and settings.server.host not in ("127.0.0.1", "localhost", "::1"):
        advice = "make one with: promptd key NAME"
        yield Finding("settings", "keys", f"none, though it listens on {settings.server.host}", "note", advice)
    return settings


def guests(settings: Settings | None) -> Iterator[Finding]:
    """Look at what is granted to whom, and whether guests have to be compiled at the next start."""
    from promptd.wasm.cache import CompileCache
    from promptd.wasm.guest_file import read_guest
    from promptd.wasm.runtime import SETTINGS

    cache = CompileCache.open()
    if cache is None:
        yield Finding(
            "guests", "compile cache", "not used", "note", "guests are compiled at each start; --verbose says why"
        )
    else:
        files = list(cache.folder.glob("*.cwasm"))
        size = human_size(sum(file.stat().st_size for file in files))
        yield Finding("guests", "compile cache", f"{cache.folder}: {len(files)} guests, {size}")
    for name, guest in (settings.guests if settings else {}).items():
        missing = [graph for graph in guest.graphs if settings and graph not in settings.graphs]
        try:
            content, _ = read_guest(guest.file)
        except PromptdError as error:
            yield Finding("guests", name, str(error), "problem", f"guests.{name}.file has to be a WebAssembly file")
            continue
        if missing:
            advice = f"add [graphs.{missing[0]}], or take it out of guests.{name}.graphs"
            yield Finding("guests", name, f"is granted graph {missing[0]}, which is not defined", "problem", advice)
            continue
        granted = [
            f"graphs {', '.join(guest.graphs)}" if guest.graphs else "no graph",
            *(f"{grant.host} as {grant.guest}{'' if grant.writable else ' (read only)'}" for grant in guest.dirs),
            *(f"environment {', '.join(guest.env)}" for _ in (1,) if guest.env),
            f"memory {human_size(guest.memory)}",
            f"deadline {guest.deadline:g} s" if guest.deadline else "no deadline",
        ]
        if cache and cache.find(cache.key(content, SETTINGS)) is None:
            advice = "it is compiled when promptd next starts, once"
            yield Finding("guests", name, "; ".join([*granted, "not compiled yet"]), "note", advice)
        else:
            yield Finding("guests", name, "; ".join(granted))


def daemon(port: int) -> Iterator[Finding]:
    """Look at the daemon that runs, and what makes its replies slow."""
    from promptd.cli.control import ask

    try:
        answer = ask(port, "GET", "/v1/engine")
    except PromptdError:
        yield Finding("daemon", f"port {port}", "none runs")
        return
    yield Finding("daemon", f"port {port}", f"runs, with {answer['sessions']} sessions open")
    for engine in answer["data"]:
        yield from _engine(engine)


def _engine(engine: dict[str, Any]) -> Iterator[Finding]:
    cores = os.cpu_count() or 1
    kv = engine["kv"]
    value = (
        f"{engine['device']}, {engine['threads']} threads, {engine['running']} replies, {engine['queue']} waiting, "
        f"{kv['used']} of {kv['cells']} KV cells"
    )
    slow: list[str] = []
    if engine["threads"] > cores:
        slow.append(f"it has more threads than the {cores} cores: lower engine.threads")
    if engine["queue"]:
        slow.append("prompts wait for a place in the batch: raise engine.max-sequences, or ask less at once")
    if kv["cells"] and kv["used"] > 0.95 * kv["cells"]:
        slow.append("the KV cache is full, so conversations leave it: raise engine.kv-tokens")
    yield Finding("daemon", f"graph {engine['graph']}", value, "note" if slow else "ok", "; ".join(slow))


def _hub(endpoint: str) -> Finding:
    began = time.perf_counter()
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=HUB_TIMEOUT_S):
            pass
    except urllib.error.HTTPError:
        pass  # it has answered
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        advice = "models that are here work; --offline saves the wait"
        return Finding("store", "hub", f"{endpoint} does not answer: {reason}", "note", advice)
    return Finding("store", "hub", f"{endpoint} answers, after {time.perf_counter() - began:.1f} s")


def _cpu_flags() -> frozenset[str]:
    """Return the features Linux names of the first core; none elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(flags.split())


def _busy_share() -> float | None:
    """Return the share of all cores that is used, over half a second in which this process does nothing."""
    if sys.platform != "linux":
        return None

    def times() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(fields) - fields[3] - fields[4], sum(fields)

    busy, total = times()
    time.sleep(BUSY_WINDOW_S)
    later_busy, later_total = times()
    return (later_busy - busy) / max(1, later_total - total)
