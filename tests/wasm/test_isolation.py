"""What a guest can reach by WASI is what it was granted: no file, no variable, no network beside."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import wat
from guest_host import Host

from promptd.config import DirectoryGrant
from promptd.errors import InvalidArgument
from promptd.wasm.grants import Grant

CORE = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 900) "secret.txt")
  (data (i32.const 920) "../secret.txt")
  (data (i32.const 940) "link")
  (func $print (param $at i32) (param $size i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $size))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $number (param $value i32)
    (i32.store8 (i32.const 16) (i32.add (i32.const 48) (i32.div_u (local.get $value) (i32.const 10))))
    (i32.store8 (i32.const 17) (i32.add (i32.const 48) (i32.rem_u (local.get $value) (i32.const 10))))
    (call $print (i32.const 16) (i32.const 2)))
  BODY)"""
"""A core module that can look around; its numbers are WASI errnos of two digits."""

ERRNO_OK, ERRNO_BAD_FD, ERRNO_NOT_PERMITTED, ERRNO_READ_ONLY = "00", "08", "63", "69"


def looking(body: str) -> str:
    return CORE.replace("BODY", f'(func (export "_start") {body})')


def opening(path_at: int, size: int, flags: int = 0, rights: int = 2) -> str:
    """Open a path below the first granted directory, print the errno, and what the file holds."""
    return f"""
    (call $number (call $open (i32.const 3) (i32.const 1) (i32.const {path_at}) (i32.const {size})
      (i32.const {flags}) (i64.const {rights}) (i64.const 0) (i32.const 0) (i32.const 32)))
    (i32.store (i32.const 40) (i32.const 1024))
    (i32.store (i32.const 44) (i32.const 100))
    (if (i32.eqz (call $read (i32.load (i32.const 32)) (i32.const 40) (i32.const 1) (i32.const 48)))
      (then (call $print (i32.const 1024) (i32.load (i32.const 48)))))"""


def test_nothing_is_granted_by_default(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "from the host")
    body = """
    (drop (call $environ_sizes (i32.const 32) (i32.const 36)))
    (call $number (i32.load (i32.const 32)))
    (call $number (call $prestat (i32.const 3) (i32.const 32)))"""
    assert host.run(looking(body), grant=Grant()) == (0, "00" + ERRNO_BAD_FD)


def test_variables_and_arguments_are_those_of_the_grant(host: Host) -> None:
    body = """
    (drop (call $environ_sizes (i32.const 32) (i32.const 36)))
    (drop (call $environ (i32.const 64) (i32.const 1024)))
    (call $print (i32.const 1024) (i32.load (i32.const 36)))
    (drop (call $args_sizes (i32.const 32) (i32.const 36)))
    (drop (call $args (i32.const 64) (i32.const 1024)))
    (call $print (i32.const 1024) (i32.load (i32.const 36)))"""
    grant = Grant(env={"LANG": "C.UTF-8", "A": "ä=b"}, args=("-v", "two words"))
    assert host.run(looking(body), grant=grant) == (0, "LANG=C.UTF-8\0A=ä=b\0guest.wat\0-v\0two words\0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("not granted")
    folder = tmp_path / "granted"
    folder.mkdir()
    (folder / "secret.txt").write_text("granted")
    (folder / "link").symlink_to(tmp_path / "secret.txt")
    return folder


def test_a_granted_directory_can_be_read_and_nothing_outside_it(host: Host, folder: Path) -> None:
    grant = Grant(dirs=(DirectoryGrant(host=folder, guest="/data"),))
    assert host.run(looking(opening(900, 10)), grant=grant) == (0, ERRNO_OK + "granted")
    assert host.run(looking(opening(920, 13)), grant=grant) == (0, ERRNO_NOT_PERMITTED)
    assert host.run(looking(opening(940, 4)), grant=grant) == (0, ERRNO_NOT_PERMITTED)


def test_a_directory_granted_for_reading_cannot_be_written(host: Host, folder: Path) -> None:
    create, write = 1, 64
    body = opening(940, 3, flags=create, rights=write)
    writable = Grant(dirs=(DirectoryGrant(host=folder, guest="/data"),))
    assert host.run(looking(body), grant=writable) == (0, ERRNO_OK)
    assert (folder / "lin").exists()
    (folder / "lin").unlink()
    read_only = Grant(dirs=(DirectoryGrant(host=folder, guest="/data", writable=False),))
    _code, errno = host.run(looking(body), grant=read_only)
    assert errno in (ERRNO_NOT_PERMITTED, ERRNO_READ_ONLY)
    assert not (folder / "lin").exists()


def test_a_directory_that_is_not_there_cannot_be_granted(host: Host, tmp_path: Path) -> None:
    grant = Grant(dirs=(DirectoryGrant(host=tmp_path / "missing", guest="/data"),))
    with pytest.raises(InvalidArgument, match=r"cannot grant the directory .*missing: it is not a directory"):
        host.run(wat.ECHO_LINES, grant=grant)


SOCKETS = """
  (import "wasi:sockets/network@0.2.0" (instance $network
    (type $code0 (enum "unknown" "access-denied" "not-supported" "invalid-argument" "out-of-memory" "timeout"
      "concurrency-conflict" "not-in-progress" "would-block" "invalid-state" "new-socket-limit" "address-not-bindable"
      "address-in-use" "remote-unreachable" "connection-refused" "connection-reset" "connection-aborted"
      "datagram-too-large" "name-unresolvable" "temporary-resolver-failure" "permanent-resolver-failure"))
    (export "error-code" (type $code (eq $code0)))
    (type $family0 (enum "ipv4" "ipv6"))
    (export "ip-address-family" (type $family (eq $family0)))))
  (alias export $network "error-code" (type $code))
  (alias export $network "ip-address-family" (type $family))
  (import "wasi:sockets/PROTOCOL@0.2.0" (instance $sockets (export "PROTOCOL-socket" (type (sub resource)))))
  (alias export $sockets "PROTOCOL-socket" (type $socket))
  (import "wasi:sockets/PROTOCOL-create-socket@0.2.0" (instance $create
    (alias outer 1 $code (type $c0)) (export "error-code" (type $c (eq $c0)))
    (alias outer 1 $family (type $f0)) (export "ip-address-family" (type $f (eq $f0)))
    (alias outer 1 $socket (type $s0)) (export "PROTOCOL-socket" (type $s (eq $s0)))
    (export "create-PROTOCOL-socket" (func (param "address-family" $f) (result (result (own $s) (error $c)))))))
"""
ACCESS_DENIED = 1


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_guest_gets_no_socket(host: Host, protocol: str) -> None:
    create = wat.command(
        """
    (func $main (result i32)
      (call $create-socket (i32.const 0) (i32.const 64))
      (call $print (i32.const 68) (i32.const 1))
      (i32.load8_u (i32.const 64)))""",
        imports=SOCKETS,
        lowerings="""
  (core func $create-socket (canon lower (func $create "create-PROTOCOL-socket") (memory $memory)))""",
        given="""
    (import "" "create-socket" (func $create-socket (param i32 i32)))""",
    )
    assert host.run(create.replace("PROTOCOL", protocol)) == (1, chr(ACCESS_DENIED))


def test_eight_threads_run_many_sessions_over_one_runtime(host: Host) -> None:
    answering = host.load(wat.prompting("echo", "hello"), "answering")
    refused = host.load(wat.prompting("nope", "hello"), "refused")
    trapping = host.load(wat.command("(func $main (result i32) unreachable)"), "trapping")
    outcomes: list[object] = []

    def work() -> None:
        for i in range(24):
            try:
                outcomes.append(host.run((answering, refused, trapping)[i % 3]))
            except Exception as error:
                outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count((0, "hello")) == 64
    assert outcomes.count((1, "6no graph is named 'nope'")) == 64
    assert outcomes.count("GuestTrap") == 64
