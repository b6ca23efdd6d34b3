"""`promptd doctor`, and what a shell completes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import promptd

from promptd.engine.build import features_of


def _findings(folder: Path, code: int, **env: str) -> dict[tuple[str, str], dict[str, str]]:
    done = promptd("doctor", "--offline", "--json", "--port", "1", cwd=folder, **env)
    assert done.returncode == code, (done.stdout, done.stderr)
    return {(each["part"], each["name"]): each for each in json.loads(done.stdout)}


def test_doctor_tells_what_is_built_in_and_granted(tmp_path: Path, guest_file: Path) -> None:
    (tmp_path / "promptd.toml").write_text(
        f'[graphs.chat]\nmodel = "echo"\n[guests.bot]\nfile = "{guest_file}"\ngraphs = ["chat"]\ndeadline = "5s"\n'
    )
    found = _findings(tmp_path, 0, PROMPTD_CACHE_HOME=str(tmp_path / "cache"))
    assert "ggml" in found["built in", "llama.cpp"]["value"]
    assert found["built in", "llama.cpp"]["state"] == "ok", "it is the patched one"
    assert found["built in", "CPU features"]["value"]
    assert found["settings", "graph chat"]["state"] == "ok"
    bot = found["guests", "bot"]
    assert "graphs chat" in bot["value"] and "deadline 5 s" in bot["value"]
    assert bot["state"] == "note" and "not compiled yet" in bot["value"]
    assert found["store", "hub"]["value"] == "not asked: offline"
    assert found["daemon", "port 1"]["value"] == "none runs"


def test_what_is_broken_shows_in_the_exit_code(tmp_path: Path) -> None:
    config = tmp_path / "promptd.toml"
    config.write_text('[graphs.chat]\nmodel = "file:nothing.gguf"\n[guests.bot]\nfile = "nothing.wasm"\n')
    found = _findings(tmp_path, 1)
    for name, said in ((("settings", "graph chat"), "nothing.gguf"), (("guests", "bot"), "nothing.wasm")):
        assert found[name]["state"] == "problem" and said in found[name]["value"] and found[name]["advice"]
    config.write_text('[graphs.chat]\nmodel = "echo"\nwarmth = 1\n')
    assert "line 3" in _findings(tmp_path, 1)["settings", "file"]["value"]


def test_features_are_read_from_llama_cpps_line() -> None:
    line = "CUDA : ARCHS = 890 | USE_GRAPHS = 1 | CPU : SSE3 = 1 | AVX512 = 0 | FMA = 1 | REPACK = 1 | "
    assert features_of(line) == {"CUDA": ["ARCHS", "USE_GRAPHS"], "CPU": ["SSE3", "FMA", "REPACK"]}


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("pull smol", ["smollm2", "smollm2:360m", "smollm2:1.7b"]),
        ("run --graph chat=ec", ["chat=echo"]),
        ("run bo", ["bot"]),
        ("stop any", []),
    ],
)
def test_a_shell_completes_names(tmp_path: Path, words: str, completed: list[str]) -> None:
    (tmp_path / "promptd.toml").write_text('[guests.bot]\nfile = "bot.wasm"\n')
    done = promptd(
        cwd=tmp_path,
        _PROMPTD_COMPLETE="complete_bash",
        COMP_WORDS=f"promptd {words}",
        COMP_CWORD=str(len(words.split())),
    )
    assert [line for line in done.stdout.splitlines() if line] == completed


def test_a_misspelt_name_is_answered_with_the_one_that_was_meant(tmp_path: Path, guest_file: Path) -> None:
    (tmp_path / "promptd.toml").write_text(
        f'[guests.helper]\nfile = "{guest_file}"\ngraphs = ["chta"]\n[graphs.chat]\nmodel="echo"\n'
    )
    assert "did you mean helper?" in promptd("run", "helpr", cwd=tmp_path).stderr
    assert "did you mean smollm2?" in promptd("show", "smolm2").stderr
    assert "did you mean chat?" in promptd("serve", "--check", cwd=tmp_path).stderr


@pytest.fixture
def guest_file(tmp_path: Path) -> Path:
    path = tmp_path / "bot.wat"
    path.write_text('(module (memory (export "memory") 1) (func (export "_start")))')
    return path
