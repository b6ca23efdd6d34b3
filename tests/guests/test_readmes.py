"""What the README of each guest says is so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
GUESTS = sorted({script.parent.name for script in (ROOT / "guests").glob("*/build")} - {"conformance"})
GUESTS_OF_THE_STANDARD = ["chat-c", "chat-js", "chat-py", "hello"]


def imports(component: Path) -> list[str]:
    """Return what a component imports, as `wasm-tools component wit` shows it."""
    tool = Path(sys.executable).parent / "wasm-tools"
    shown = subprocess.run([tool, "component", "wit", component, "--json"], capture_output=True, text=True, check=True)
    wit = json.loads(shown.stdout)
    (world,) = [world for world in wit["worlds"] if world["name"] == "root"]
    interfaces = [wit["interfaces"][item["interface"]["id"]] for item in world["imports"].values()]
    packages = [wit["packages"][interface["package"]]["name"].partition("@") for interface in interfaces]
    return [f"{name}/{of['name']}@{version}" for of, (name, _, version) in zip(interfaces, packages, strict=True)]


@pytest.mark.parametrize("name", GUESTS)
def test_a_guest_imports_what_its_readme_says_and_nothing_else(name: str, built_guest: Callable[[str], Path]) -> None:
    component = built_guest(name)
    readme = (ROOT / "guests" / name / "README.md").read_text()
    (listed,) = re.findall(r"It imports:\n\n```\n(.*?)\n```", readme, re.DOTALL)
    assert sorted(listed.splitlines()) == sorted(imports(component))


@pytest.mark.parametrize("name", GUESTS_OF_THE_STANDARD)
def test_a_guest_for_the_standard_uses_its_prompt_interface_and_no_extension(
    name: str, built_guest: Callable[[str], Path]
) -> None:
    used = imports(built_guest(name))
    assert any(interface.startswith("wasi:nn/prompt@0.2.0-rc-") for interface in used)
    assert not any(interface.startswith("promptd:") for interface in used)


@pytest.mark.parametrize("name", GUESTS)
def test_a_readme_shows_how_to_build_and_run_the_guest(name: str) -> None:
    readme = (ROOT / "guests" / name / "README.md").read_text()
    assert f"scripts/build-guests {name}\n" in readme
    assert re.search(r"^promptd (run|serve|chat)\b", readme, re.MULTILINE)
