"""The guest filetype names the kind of a granted file as Magika itself does, and reads no other file."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import magika
import pytest

from promptd.config import DirectoryGrant, GraphSettings, GuestSettings, Settings
from promptd.wasm.host import Host
from promptd.wasm.stdio import Stdin, Stdio

ROOT = Path(__file__).parent.parent.parent
GUEST = ROOT / "guests" / "filetype" / "filetype.wasm"
MODEL = Path(magika.__file__).parent / "models" / magika.Magika().get_model_name()

CONTENTS = {
    "program": b"import os\n\n\ndef main() -> None:\n    print(os.getcwd())\n" * 200,
    "page.txt": b"  \n<!DOCTYPE html>\n<html><head><title>x</title></head><body><p>hello</p></body></html>\n\n",
    "data": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40,
    "table": b"name,age,city\n" + b"alice,30,berlin\nbob,25,paris\n" * 300 + b" " * 5000,
}


@pytest.fixture(scope="session", autouse=True)
def guest() -> None:
    """Build the guest when its sources are newer."""
    subprocess.run([sys.executable, ROOT / "scripts" / "build-guests", "filetype"], check=True)


def run(folder: Path, *arguments: str, directories: tuple[str, ...] = ("/files", "/model")) -> tuple[int, str, str]:
    """Run the guest with these arguments; return its exit code, output and errors."""
    output, errors = bytearray(), bytearray()
    hosts = {"/files": folder, "/model": MODEL}
    settings = Settings(
        graphs={"filetype": GraphSettings(model=f"file:{MODEL / 'model.onnx'}")},
        guests={
            "filetype": GuestSettings(
                file=GUEST,
                graphs=("filetype",),
                args=arguments,
                dirs=tuple(DirectoryGrant(host=hosts[name], guest=name, writable=False) for name in directories),
            )
        },
    )
    stdio = Stdio(Stdin.CLOSED, output.extend, errors.extend)
    with closing(Host(settings)) as host, host.open_session("filetype", stdio=stdio, identity="test") as session:
        code = session.run()
    return code, output.decode(), errors.decode()


def test_files_are_what_magika_says_they_are(tmp_path: Path):
    expected = []
    for name, content in CONTENTS.items():
        (tmp_path / name).write_bytes(content)
        prediction = magika.Magika().identify_bytes(content).prediction
        expected.append(f"/files/{name}: {prediction.dl.label} ({100 * prediction.score:.1f}%)")
    code, output, errors = run(tmp_path, *(f"/files/{name}" for name in CONTENTS))
    assert (code, output.splitlines(), errors) == (0, expected, "")


@pytest.mark.parametrize("content", [b"", b"short", b" " * 100 + b"short\n"])
def test_a_file_with_too_little_in_it_is_not_guessed_at(content: bytes, tmp_path: Path):
    (tmp_path / "file").write_bytes(content)
    assert run(tmp_path, "/files/file") == (0, "/files/file: too short to tell\n", "")


@pytest.mark.parametrize("path", ["/files/none", "/etc/passwd", "/files/../secret", "/files", "/files/link", "none"])
def test_what_is_not_a_granted_file_is_not_read(path: str, tmp_path: Path):
    (tmp_path / "secret").write_bytes(CONTENTS["program"])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to("../secret")
    assert run(tmp_path / "folder", path) == (1, "", f"filetype: {path}: not a file of a granted directory\n")


def test_the_labels_are_asked_for(tmp_path: Path):
    code, output, errors = run(tmp_path, "/files/file", directories=("/files",))
    assert (code, output) == (1, "")
    assert "grant the model's directory as /model" in errors
