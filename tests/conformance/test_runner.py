"""The runner of the conformance suite on other hosts: good ones, and those that fail, trap, hang, or talk nonsense."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from typer.testing import CliRunner, Result

from promptd.cli.conformance import conformance

OTHER_PROMPTD = f"{sys.executable} -c 'from promptd.cli import main; main()' run --graph echo=echo"

# The first three checks of guest core-wamr, as a host would have them said.
FIRST, SECOND, THIRD = "wamr/echo", "wamr/echo-i32", "wamr/compute-again"
CHECKS = ("core-wamr:wamr/echo", "core-wamr:wamr/echo-i32", "core-wamr:wamr/compute-again")
CHOICE = "core-wamr:wamr/unknown-name"
TRAP = "2024-10-28:handles/graph-zero"

HostMaker = Callable[[str], str]


@pytest.fixture
def host(tmp_path: Path) -> HostMaker:
    """Return a function that makes a host of a few lines of Python: `file` and `names` are what it is to run."""

    def make(body: str) -> str:
        script = tmp_path / "host.py"
        script.write_text(f"import os, signal, sys, time\nfile, *names = sys.argv[1:]\nsay = print\n{body}\n")
        return shlex.join([sys.executable, "-u", str(script)])

    return make


def run(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command()(conformance)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def verdicts(*arguments: str | Path) -> dict[str, tuple[str, str]]:
    """Return verdict and reason by check."""
    results = json.loads(run("--json", *arguments).stdout)["results"]
    return {result["check"]: (result["verdict"], result["why"]) for result in results}


PASS_ALL = "say(f'1..{len(names)}')\nfor name in names: say('# running', name); say('ok', name)"


def test_a_host_that_passes_exits_with_0(host: HostMaker) -> None:
    result = run("--host", host(PASS_ALL), *CHECKS)
    assert result.exit_code == 0
    assert "3 passed" in result.stdout


def test_a_real_guest_passes_on_promptd_as_on_any_command() -> None:
    result = run("--host", OTHER_PROMPTD, "phase-3-prompt:prompt/echo", "phase-3-prompt:prompt-handles/context-zero")
    assert result.exit_code == 0, result.output
    assert "2 passed" in result.stdout


def test_a_whole_guest_is_given_no_names_and_a_part_of_it_is(host: HostMaker) -> None:
    command = host("sys.exit(f'named: {names}')")
    assert verdicts("--host", command, "core-wamr")[FIRST] == ("unsupported", "named: []")
    assert verdicts("--host", command, CHECKS[0])[FIRST] == ("unsupported", f"named: ['{FIRST}']")


def test_a_check_that_fails_makes_exit_code_1_and_says_why(host: HostMaker) -> None:
    body = f"say('1..2'); say('not ok {FIRST}: the sky fell'); say('ok {SECOND}'); sys.exit(1)"
    result = run("--host", host(body), *CHECKS[:2])
    assert result.exit_code == 1
    assert "core-wamr: wamr/echo failed: the sky fell" in result.stdout
    assert "1 passed, 1 failed" in result.stdout


def test_a_choice_never_fails_another_host(host: HostMaker) -> None:
    body = "say('1..1'); say('not ok wamr/unknown-name: errno 5'); say('ok wamr/echo'); sys.exit(1)"
    command = host(body)
    assert verdicts("--host", command, CHOICE) == {"wamr/unknown-name": ("differs", "errno 5")}
    assert run("--host", command, CHOICE, CHECKS[0]).exit_code == 0


def test_a_trap_midway_fails_the_check_that_ran_and_leaves_the_rest_not_run(host: HostMaker) -> None:
    body = f"say('1..3'); say('ok {FIRST}'); say('# running {SECOND}'); say('boom', file=sys.stderr); sys.exit(134)"
    assert verdicts("--host", host(body), *CHECKS) == {
        FIRST: ("passed", ""),
        SECOND: ("failed", "the guest was ended with exit code 134: boom"),
        THIRD: ("not run", "the guest had ended"),
    }


def test_isolated_checks_run_each_by_itself(host: HostMaker) -> None:
    body = f"say('1..1'); say('# running', *names)\nif names == ['{SECOND}']: sys.exit(134)\nsay('ok', *names)"
    assert [verdict for verdict, _ in verdicts("--isolate", "--host", host(body), *CHECKS).values()] == [
        "passed",
        "failed",
        "passed",
    ]


def test_a_host_that_cannot_load_the_guest_does_not_support_it(host: HostMaker) -> None:
    result = run("--host", host("say('unknown import wasi_nn::load', file=sys.stderr); sys.exit(1)"), *CHECKS, TRAP)
    assert "core-wamr: 3 checks unsupported: unknown import wasi_nn::load" in result.stdout
    assert "4 unsupported" in result.stdout
    assert result.exit_code == 1, "a host that supports nothing conforms to nothing"


def test_an_unsupported_guest_is_no_failure_beside_one_that_passes(host: HostMaker) -> None:
    body = f"if 'core-wamr' in file: sys.exit('cannot load')\n{PASS_ALL}"
    result = run("--host", host(body), CHECKS[0], "core:graph/echo")
    assert result.exit_code == 0
    assert "1 passed, 1 unsupported" in result.stdout


def test_a_host_without_an_echo_graph_fails_one_check_and_runs_no_other(host: HostMaker) -> None:
    body = f"say('1..2'); say('not ok {FIRST}: not-found'); say('Bail out! No graph named echo'); sys.exit(1)"
    assert verdicts("--host", host(body), *CHECKS[:2]) == {
        FIRST: ("failed", "not-found"),
        SECOND: ("not run", "No graph named echo"),
    }


def test_a_host_that_hangs_is_stopped(host: HostMaker) -> None:
    body = f"say('1..2'); say('# running {FIRST}'); time.sleep(1000)"
    seen = verdicts("--timeout", "2s", "--host", host(body), *CHECKS[:2])
    assert seen[FIRST] == ("failed", "the time was over: it was not done after 2 s")
    assert seen[SECOND][0] == "not run"


def test_what_a_hanging_host_started_is_stopped_too(host: HostMaker, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    body = f"child = os.fork()\nif child: open({str(pid)!r}, 'w').write(str(child))\ntime.sleep(1000)"
    verdicts("--timeout", "2s", "--host", host(body), CHECKS[0])
    child = Path(f"/proc/{pid.read_text()}/stat")
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("garbage", ["say('hello')", "sys.stdout.buffer.write(bytes(range(256)))", "pass"])
def test_a_host_that_says_no_tap_fails(host: HostMaker, garbage: str) -> None:
    seen = verdicts("--host", host(garbage), *CHECKS[:2])
    assert seen[FIRST] == ("failed", "the guest said nothing that is TAP, and the host says that all went well")
    assert seen[SECOND][0] == "not run"


def test_a_host_that_does_not_stop_talking_is_stopped(host: HostMaker) -> None:
    assert verdicts("--host", host("while True: say('x' * 65536)"), CHECKS[0])[FIRST] == (
        "failed",
        "the guest said nothing that is TAP, and signal 9 ended the host",
    )


def test_lines_of_the_host_between_those_of_the_guest_do_no_harm(host: HostMaker) -> None:
    body = (
        f"say('[INFO] loading'); say('1..1'); say('[WARN] ok?'); say('# running {FIRST}'); say('ok {FIRST}'); say('ok')"
    )
    assert verdicts("--host", host(body), CHECKS[0])[FIRST] == ("passed", "")


def test_a_host_that_ends_badly_after_the_last_check_fails_that(host: HostMaker) -> None:
    body = f"say('1..2'); say('ok {FIRST}'); say('ok {SECOND}'); sys.exit(139)"
    seen = verdicts("--host", host(body), *CHECKS[:2])
    assert seen[FIRST] == ("passed", "")
    assert seen[SECOND] == ("failed", "the guest had said its last, but the guest was ended with exit code 139")


def test_a_trap_that_is_asked_for_passes(host: HostMaker) -> None:
    seen = verdicts("--host", host("say('1..1'); say('# running', *names); sys.exit(134)"), TRAP)
    assert seen == {"handles/graph-zero": ("passed", "")}


@pytest.mark.parametrize(
    "body",
    [
        "say('1..1'); say('# running', *names); say('not ok', names[0] + ': went on'); sys.exit(1)",
        "say('1..1'); say('# running', *names)",
        "say('1..1'); say('# running', *names); os.kill(os.getpid(), signal.SIGSEGV)",
        "say('1..1'); sys.exit(134)",
        "say('1..1'); say('# running', *names); time.sleep(1000)",
    ],
    ids=["goes on", "exits with 0", "crashes itself", "traps before the check", "hangs"],
)
def test_a_trap_that_is_asked_for_and_does_not_come_fails(host: HostMaker, body: str) -> None:
    assert verdicts("--timeout", "500ms", "--host", host(body), TRAP)["handles/graph-zero"][0] == "failed"


def test_junit_has_every_check_and_is_valid_xml(host: HostMaker, tmp_path: Path) -> None:
    body = (
        f"say('1..3'); say('ok {FIRST}'); say('not ok {SECOND}: <&\"]]> \\x1b[31m \\ufffe \\u202e'); "
        "say('not ok wamr/unknown-name: 5'); sys.exit(1)"
    )
    file = tmp_path / "results.xml"
    run("--host", host(body), "--junit", file, *CHECKS[:2], CHOICE, "core:graph/echo")
    suites = {suite.get("name"): suite for suite in ElementTree.parse(file).getroot()}
    assert set(suites) == {"core", "core-wamr"}
    wamr = suites["core-wamr"]
    assert (wamr.get("tests"), wamr.get("failures"), wamr.get("skipped")) == ("3", "1", "1")
    children = {case.get("name"): [child.tag for child in case] for case in wamr}
    assert children == {FIRST: [], SECOND: ["failure"], "wamr/unknown-name": ["skipped"]}


def test_the_table_has_a_row_for_each_check_and_a_column_for_each_version(host: HostMaker) -> None:
    result = run("--host", host(PASS_ALL), "graph/echo", "10-28*:drops/left-open", "2024-*-28:drops/left-open")
    assert result.exit_code == 2, "10-28* names nothing"
    lines = run("--host", host(PASS_ALL), "graph/echo", "2024-10-28:drops/left-open").stdout.splitlines()
    assert lines[0].split() == ["check", "06-25", "08-19", "10-28", "phase-3", "u1", "u2", "u3", "core"]
    assert lines[1].split() == ["graph/echo", *["ok"] * 8]
    assert lines[2].split() == ["drops/left-open", "ok"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-guest"],
        ["core:no-such-check"],
        ["--host", ""],
        ["--host", "'unclosed"],
        ["--host", "there-is-no-such-command"],
        ["--timeout", "soon"],
        ["--junit", "/no/such/folder/results.xml"],
        ["--no-such-option"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_exits_with_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_promptd_fails_where_it_makes_another_choice_than_its_own(host: HostMaker) -> None:
    from promptd.conformance.hosts import Run
    from promptd.conformance.runner import Verdict, run_guest
    from promptd.conformance.suite import load_suite, select

    class Contradictory:
        name = "promptd"
        is_promptd = True

        def run(self, file, arguments):
            return Run("1..1\nnot ok wamr/unknown-name: errno 5\n", 1)

    [guest] = select(load_suite(), [CHOICE])
    assert [result.verdict for result in run_guest(Contradictory(), guest)] == [Verdict.FAILED]
