"""Every fault of wasmtime-py that promptd mends: that the mending works, and that upstream still needs it.

Each program below prints "fault" or "sound" and is run twice, by an interpreter of its own: as upstream is, and mended.
When a program is sound without the mending, upstream has mended the fault: remove its fix from promptd/wasm/fixes.py
and its program from here.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from importlib.metadata import version

import pytest

from promptd.wasm import fixes

COMMON = """
import sys, threading
from wasmtime import Engine, FuncType, Linker as CoreLinker, Module, Store, ValType
from wasmtime.component import Component, Linker, Variant, _enter, _types
engine = Engine()

def guest(result="", core_result="", body="call $h", function=None, params="", core_params=""):
    '''Return a function that calls a host function h of that type and lets what it returns through.'''
    component = Component(engine, f'''(component
      (import "h" (func $h {params} {result}))
      (core module $libc (memory (export "memory") 1) (global $top (mut i32) (i32.const 1024))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
          (global.get $top) (global.set $top (i32.add (global.get $top) (local.get 3)))))
      (core instance $libc (instantiate $libc))
      (alias core export $libc "memory" (core memory $memory))
      (alias core export $libc "realloc" (core func $realloc))
      (core func $h (canon lower (func $h) (memory $memory) (realloc $realloc)))
      (core module $m (import "" "memory" (memory 1)) (import "" "h" (func $h {core_params} {core_result}))
        (func (export "run") {body}))
      (core instance $m (instantiate $m (with "" (instance (export "h" (func $h)) (export "memory" (memory $memory))))))
      (func (export "run") (canon lift (core func $m "run"))))''')
    linker = Linker(engine)
    with linker.root() as root:
        root.add_func("h", function)
    def call():
        store = Store(engine)
        linker.instantiate(store, component).get_func(store, "run")(store)
    return call

def race(call_of):
    '''Say "fault" when one of four threads, each failing with an exception of its own, gets another one.'''
    sys.setswitchinterval(1e-6)
    wrong, own = [], [type(f"Own{i}", (Exception,), {}) for i in range(4)]
    def work(mine):
        call = call_of(mine)
        for _ in range(1500):
            try:
                call()
            except mine:
                continue
            except BaseException as error:
                wrong.append(error)
            if wrong:
                return
    threads = [threading.Thread(target=work, args=(each,)) for each in own]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return "fault" if wrong else "sound"
"""

PROGRAMS = {
    "a failing thread gets its own exception, through a component": """
def call_of(mine):
    def fail(store):
        raise mine
    return guest(function=fail)
print(race(call_of))
""",
    "a failing thread gets its own exception, through a core module": """
module = Module(engine, '(module (import "" "h" (func $h)) (func (export "run") call $h))')
def call_of(mine):
    def fail():
        raise mine
    linker = CoreLinker(engine)
    linker.define_func("", "h", FuncType([], []), fail)
    def call():
        store = Store(engine)
        linker.instantiate(store, module).exports(store)["run"](store)
    return call
print(race(call_of))
""",
    "a KeyboardInterrupt in a host function reaches the caller": """
def fail(store):
    raise KeyboardInterrupt
try:
    guest(function=fail)()
except KeyboardInterrupt:
    print("sound")
""",
    "an exception of an instantiation does not come out of a later call": """
class First(Exception): pass
def fail(store):
    raise First
component = Component(engine, '''(component (import "h" (func $h)) (core func $h (canon lower (func $h)))
  (core module $m (import "" "h" (func $h)) (start $h))
  (core instance (instantiate $m (with "" (instance (export "h" (func $h)))))))''')
linker = Linker(engine)
with linker.root() as root:
    root.add_func("h", fail)
try:
    linker.instantiate(Store(engine), component)
except Exception:
    pass
try:
    guest(body="unreachable", function=lambda store: None)()
except First:
    print("fault")
except Exception:
    print("sound")
""",
    "lowering a result uses no scratch set that threads share": """
class Poison(set):
    def clear(self):
        raise RuntimeError("shared")
_types.case_test_cache = Poison()
try:
    guest(result="(result (result u32 (error string)))", core_result="(param i32)", body="(call $h (i32.const 64))",
          function=lambda store: 7)()
    print("sound")
except RuntimeError:
    print("fault")
""",
    "an error can be returned where the ok case is an option": """
from promptd.wasm.fixes import Case
try:
    guest(result="(result (result (option string) (error u32)))", core_result="(param i32)",
          body="(call $h (i32.const 64)) (if (i32.ne (i32.load8_u (i32.const 64)) (i32.const 1)) (then unreachable))",
          function=lambda store: Case("err", 7) if MENDED else 7)()
    print("sound")
except Exception:
    print("fault")
""",
    "options and results leave no memory behind": """
import ctypes, gc
class Allocated(ctypes.Structure):
    _fields_ = [(f"field{number}", ctypes.c_size_t) for number in range(10)]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Allocated  # of glibc; its field 7 is the bytes in use
got, calls = [], 300
def bytes_left_by(type, tag):
    call = guest(params=f'(param "l" (list {type}))', core_params="(param i32 i32)",
      body=f'''(local i32) (i32.store (i32.const 64) (i32.const {tag})) (i32.store (i32.const 68) (i32.const 7))
        (loop (call $h (i32.const 64) (i32.const 1))
          (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const {calls}))))''',
      function=lambda store, value: got.append(value[0]))
    def in_use():
        got.clear()
        gc.collect()
        return libc.mallinfo2().field7
    call()
    before = in_use()
    call()
    assert got == [7] * calls, got
    return in_use() - before
left = [bytes_left_by("(option u32)", 1), bytes_left_by("(result u32)", 0)]
print("sound" if max(left) < 16 * calls else "fault")
""",
    "bytes are converted without an object for each byte": """
count = 0
def counting(of):
    def method(*args):
        global count
        count += 1
        return of(*args)
    return method
_types.U8.convert_from_c = counting(_types.U8.convert_from_c)
_types.U8.convert_to_c = counting(_types.U8.convert_to_c)
got = []
def echo(store, data):
    got.append(data)
    return data
guest(params='(param "d" (list u8))', result="(result (list u8))", core_params="(param i32 i32 i32)",
      body='''(i32.store (i32.const 0) (i32.const 0x64636261)) (call $h (i32.const 0) (i32.const 4) (i32.const 64))
        (if (i32.ne (i32.load (i32.load (i32.const 64))) (i32.const 0x64636261)) (then unreachable))''',
      function=echo)()
assert got == [b"abcd"], got
print("fault" if count else "sound")
""",
}


def outcome(program: str, *, mended: bool) -> str:
    start = "from promptd.wasm import fixes\n" + ("fixes.apply()\n" if mended else "") + f"MENDED = {mended}\n"
    done = subprocess.run(
        [sys.executable, "-c", start + COMMON + program], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode == -signal.SIGSEGV:
        return "fault"
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_the_fix_works(program: str) -> None:
    assert outcome(program, mended=True) == "sound"


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_upstream_still_has_the_fault(program: str) -> None:
    assert outcome(program, mended=False) == "fault"


def test_the_fixes_were_checked_against_the_installed_wasmtime() -> None:
    assert version("wasmtime") == fixes.CHECKED_VERSION
