"""The llama.cpp that `scripts/install` has built: it has promptd's patches, and they change no result."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BUILD = ROOT / "scripts/build-llama"
SHARED_CACHE = ROOT / "tests/engine/shared_cache.py"


def _setting(name: str) -> str:
    found = re.search(rf"^{name}=(\S+)", BUILD.read_text(), re.MULTILINE)
    assert found
    return found[1]


def test_the_installed_llama_cpp_is_the_patched_one() -> None:
    assert version("llama-cpp-python") == f"{_setting('version')}+{_setting('label')}"


def test_a_sequence_gets_the_same_logits_alone_as_among_others(smollm2: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SHARED_CACHE), str(smollm2)], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[], [], [], []]


@pytest.mark.parametrize(
    ("arguments", "path", "said"), [((), None, "usage"), ((sys.executable,), "/none", "needs patch")]
)
def test_what_is_missing_is_told(arguments: tuple[str, ...], path: str | None, said: str, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "env"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    environment = {**os.environ, "PATH": str(tools) if path else os.environ["PATH"]}
    done = subprocess.run([BUILD, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and said in done.stderr


def test_a_patch_that_does_not_fit_ends_the_build(tmp_path: Path) -> None:
    """With a stand-in for pip, which gives a source that is not the one the patches are for."""
    pip = tmp_path / "pip"
    pip.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        f'"-m pip cache dir") echo {tmp_path}/kept ;;\n'
        "*download*) mkdir -p s/vendor/llama.cpp/ggml/src/ggml-cpu\n"
        "  echo >s/vendor/llama.cpp/ggml/src/ggml-cpu/ops.cpp; echo >s/vendor/llama.cpp/ggml/src/ggml-cpu/ggml-cpu.c\n"
        '  while [ "$1" != --dest ]; do shift; done; tar -czf "$2/llama_cpp_python-0.tar.gz" s ;;\n'
        f'-c*) exec {sys.executable} "$@" ;;\n'
        "*) echo built >&2 ;;\n"
        "esac\n"
    )
    pip.chmod(0o755)
    done = subprocess.run([BUILD, pip], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "FAILED" in done.stdout + done.stderr
    assert "built" not in done.stderr and not list((tmp_path / "kept").rglob("*"))
