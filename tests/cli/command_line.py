"""Runs the installed `promptd` command as a person would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROMPTD = Path(sys.executable).parent / "promptd"
TIME_LIMIT_S = 120


def promptd(
    *arguments: str | Path, stdin: str = "", cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run `promptd ARGUMENTS` to its end and return what it printed."""
    return subprocess.run(
        [PROMPTD, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
        cwd=cwd,
        env={**os.environ, **env},
    )


def assert_one_sentence(done: subprocess.CompletedProcess[str], *said: str, code: int = 1) -> None:
    """Check that a command failed as it should: with its exit code and one line on standard error."""
    assert done.returncode == code, done
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("promptd: ")
    for text in said:
        assert text in lines[0]
