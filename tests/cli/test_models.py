"""`promptd pull`, `list`, `show`, `rm` and `verify`, run as a person runs them."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gguf_files import Gguf, default_metadata, string, tiny_gguf
from hub_server import COMMIT, Fault, HubServer

MODEL = tiny_gguf(1, 1_500_000)
FILE = "m.Q4_0.gguf"
REFERENCE = f"hf.co/u/r/{FILE}"
PROMPTD = [sys.executable, "-c", "from promptd.cli import main; main()"]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer().running() as server:
        server.add("u/r", FILE, MODEL)
        yield server


@pytest.fixture
def environment(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PROMPTD_", "PIP_"))}
    return kept | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "PROMPTD_HOME": str(tmp_path / "home"),
        "NO_PROXY": "*",
        "TERM": "xterm",
        "COLUMNS": "100",
    }


@pytest.fixture
def promptd(environment: dict[str, str], tmp_path: Path) -> Run:
    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*PROMPTD, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == code, done.stderr
        return done

    return run


def test_a_model_is_pulled_listed_shown_verified_and_removed(promptd: Run, hub: HubServer, tmp_path: Path) -> None:
    digest = hub.files["u/r", FILE].digest
    pulled = promptd("pull", REFERENCE)
    assert pulled.stdout == f"{REFERENCE}: Q4_0, 1.5 MB, sha256:{digest}\n"
    assert pulled.stderr == f"pulling {FILE} from hf.co/u/r (1.5 MB)\n"

    headings, row = promptd("list").stdout.splitlines()
    assert headings.split() == ["NAME", "SIZE", "QUANT", "SOURCE", "MODIFIED"]
    assert re.split(r" {2,}", row) == [REFERENCE, "1.5 MB", "Q4_0", REFERENCE, "just now"]

    sheet = dict(line.split(maxsplit=1) for line in promptd("show", REFERENCE).stdout.splitlines())
    assert sheet["architecture"] == "llama"
    assert sheet["parameters"] == "375.0k"
    assert sheet["quantisation"] == "Q4_0 (1 F32)"
    assert sheet["context"] == "2048 tokens"
    assert sheet["size"] == "1.5 MB"
    assert sheet["template"] == "built in, 14 characters"
    assert sheet["licence"] == "mit"
    assert sheet["digest"] == f"sha256:{digest}"
    assert sheet["source"] == f"{REFERENCE}@{COMMIT}"
    assert sheet["vouched"].startswith("for by  the hub, when the model was first pulled")
    assert Path(sheet["path"]).read_bytes() == MODEL

    assert promptd("verify").stdout == f"{REFERENCE}: whole, sha256:{digest}\n"
    assert promptd("rm", REFERENCE).stdout == f"removed {REFERENCE}, 1.5 MB freed\n"
    assert len(promptd("list").stdout.splitlines()) == 1
    assert "nothing to remove" in promptd("rm", REFERENCE, code=1).stderr


def test_the_real_model_is_shown(promptd: Run, smollm2: Path) -> None:
    table = json.loads(promptd("show", f"file:{smollm2}", "--json").stdout)
    assert table["architecture"] == "llama"
    assert table["parameters"] == 134_515_008
    assert table["quantisation"] == "Q4_1"
    assert table["context_length"] == 8192
    assert table["digest"] == "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert "<|im_start|>" in table["chat_template"]


def test_lists_and_sheets_are_printed_as_json_too(promptd: Run, hub: HubServer) -> None:
    promptd("pull", REFERENCE)
    (listed,) = json.loads(promptd("list", "--json").stdout)
    shown = json.loads(promptd("show", REFERENCE, "--json").stdout)
    assert listed["name"] == shown["name"] == REFERENCE
    assert listed["digest"] == shown["digest"] == f"sha256:{hub.files['u/r', FILE].digest}"
    assert listed["size"] == shown["size"] == len(MODEL)
    assert listed["path"] == shown["path"]
    assert shown["title"] == "A tiny model"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("pull", "nonesuch"), "the catalog has no model 'nonesuch'"),
        (("pull", "hf.co/u/r/../x.gguf"), "is not a model reference"),
        (("pull", "hf.co/u/nothing"), "the hub has no hf.co/u/nothing"),
        (("pull", "echo"), "echo is built into promptd"),
        (("pull", "file:x.gguf"), "is a file of yours"),
        (("pull", REFERENCE, "--offline"), "is not on this machine, and promptd is offline"),
        (("show", "smollm2"), "run `promptd pull smollm2`"),
        (("show", "file:notes.gguf"), "notes.gguf is not a usable GGUF file: it begins with b'Thes'"),
        (("show", "file:cut.gguf"), "cut.gguf is not a usable GGUF file: it is cut short"),
        (("show", "file:nothing.gguf"), "there is no file"),
        (("verify", "smollm2"), "run `promptd pull smollm2`"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_exit_code_1(
    promptd: Run, tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    (tmp_path / "notes.gguf").write_text("These are my notes.\n")
    (tmp_path / "cut.gguf").write_bytes(MODEL[:1000])
    failed = promptd(*arguments, code=1)
    assert sentence in failed.stderr
    assert failed.stderr.startswith("promptd: ")
    assert len(failed.stderr.splitlines()) == 1
    assert failed.stdout == ""


@pytest.mark.parametrize("arguments", [("pull",), ("pull", REFERENCE, "--fast"), ("list", "extra"), ("show", "a", "b")])
def test_a_wrong_command_line_is_exit_code_2(promptd: Run, arguments: tuple[str, ...]) -> None:
    assert "Usage: " in promptd(*arguments, code=2).stderr


def test_verify_says_which_file_is_damaged_and_what_to_do(promptd: Run) -> None:
    promptd("pull", REFERENCE)
    path = Path(json.loads(promptd("list", "--json").stdout)[0]["path"])
    path.write_bytes(MODEL[:-1] + b"?")
    failed = promptd("verify", code=1)
    assert f"{path} is damaged" in failed.stderr.splitlines()[-1]
    assert f"run `promptd pull {REFERENCE}`" in failed.stderr
    (listed,) = json.loads(promptd("verify", "--json", code=1).stdout)
    assert listed["path"] == str(path) and "is damaged" in listed["fault"]
    assert f"{path.resolve()} is damaged and was removed" in promptd("pull", REFERENCE).stderr
    promptd("verify", REFERENCE)


def test_ctrl_c_is_exit_code_130_and_the_next_pull_continues(
    promptd: Run, hub: HubServer, environment: dict[str, str], tmp_path: Path
) -> None:
    hub.misbehave(Fault.STALL)
    process = subprocess.Popen([*PROMPTD, "pull", REFERENCE], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size for path in tmp_path.rglob("*.incomplete")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=20)[1]
    assert process.returncode == 130
    assert "Traceback" not in error
    hub.behave()
    assert re.search(
        r"pulling m\.Q4_0\.gguf from hf\.co/u/r \(1\.5 MB, .* are here\)", promptd("pull", REFERENCE).stderr
    )
    assert re.fullmatch(r"bytes=[1-9]\d+-", str(hub.seen[-1].range))


def _on_a_terminal(arguments: tuple[str, ...], environment: dict[str, str]) -> str:
    """Run promptd with a terminal for output, and return what it wrote there."""
    main, other = pty.openpty()
    process = subprocess.Popen([*PROMPTD, *arguments], env=environment, stdin=other, stdout=other, stderr=other)
    os.close(other)
    written = b""
    try:
        while chunk := os.read(main, 65536):
            written += chunk
    except OSError:
        pass
    os.close(main)
    assert process.wait(30) == 0, written
    return written.decode()


def test_a_terminal_sees_a_bar_with_speed_that_ends_as_one_line(environment: dict[str, str], hub: HubServer) -> None:
    written = _on_a_terminal(("pull", REFERENCE), environment)
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in written
    assert re.search(r"MB/s|kB/s|\? ", written)
    last = re.split(r"\x1b\[\d*[A-Za-z]|\r|\n", written.rstrip())[-1]
    assert last == f"{REFERENCE}: Q4_0, 1.5 MB, sha256:{hub.files['u/r', FILE].digest}"


def test_control_characters_of_a_model_file_do_not_reach_the_terminal(
    environment: dict[str, str], promptd: Run, tmp_path: Path
) -> None:
    metadata = [string("general.architecture", "llama"), *default_metadata()[2:]]
    metadata.append(string("general.name", "\x1b]0;owned\x07\x9b2J\nname  x"))
    path = tmp_path / "evil.gguf"
    path.write_bytes(Gguf(metadata=metadata).build())
    written = _on_a_terminal(("show", f"file:{path}"), environment)
    assert "\x1b]0;" not in written and "\x9b" not in written and "\x07" not in written
    assert "title           \\x1b]0;owned\\x07\\x9b2J name  x" in written
    assert json.loads(promptd("show", f"file:{path}", "--json").stdout)["title"].startswith("\x1b]0;owned")


def test_the_command_line_starts_without_the_hub_client(environment: dict[str, str]) -> None:
    late = {"huggingface_hub", "httpx2", "llama_cpp"}
    code = "import sys; from promptd.cli.application import application; application();"
    code += f"print([*({late} & {{*sys.modules}})])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
