"""The files in deploy/: what they name is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "deploy/promptd.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd to check units with")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "promptd.service"
    unit.write_text(UNIT.read_text().replace("/opt/promptd/bin/promptd", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "promptd.service:" in line] == []


def test_the_unit_reloads_and_gives_the_drain_its_time() -> None:
    from promptd.server.daemon import DRAIN_S

    text = UNIT.read_text()
    assert "ExecReload=/bin/kill -HUP $MAINPID" in text
    assert int(re.findall(r"TimeoutStopSec=(\d+)", text)[0]) > 2 * DRAIN_S


def test_commands_of_unit_and_image_are_options_promptd_has() -> None:
    from typer.main import get_command

    from promptd.cli.application import application

    options = {option for parameter in get_command(application()).commands["serve"].params for option in parameter.opts}
    for file in (UNIT, ROOT / "deploy/Dockerfile"):
        line = next(line for line in file.read_text().splitlines() if line.startswith(("ExecStart", "CMD")))
        used = re.findall(r"--[a-z-]+", line)
        assert used and set(used) <= options
