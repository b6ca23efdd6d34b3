"""A guest: a WebAssembly program that was validated, compiled and found to ask for nothing promptd does not offer."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wasmtime import Engine, Module, Store, WasiConfig, WasmtimeError
from wasmtime.component import Component, ComponentInstanceType, ResultType, String, VariantType
from wasmtime.component import FuncType as ComponentFuncType
from wasmtime.component import Linker as ComponentLinker

from promptd.errors import UnsupportedOperation
from promptd.wasm.cache import CompileCache
from promptd.wasm.component import FACES
from promptd.wasm.component_lines import SPLICES
from promptd.wasm.control import Stopped
from promptd.wasm.face import Face
from promptd.wasm.guest_file import Format, compile_fault, read_guest
from promptd.wasm.module import CoreImports, inspect_module
from promptd.wasm.unversioned import PREFIX, unversioned

_log = logging.getLogger("promptd.guest")

HANDLER = "promptd:prompt/handler@0.1.0"
_RUN = re.compile(r"wasi:cli/run@0\.2\.\d+$")
_WASI_2 = re.compile(r"wasi:(?:cli|clocks|filesystem|io|random|sockets)/[a-z0-9-]+@0\.2\.\d+$")

MEMORIES_LIMIT = 16
"""Most linear memories one component may have; its memory limit is shared out among them."""

TRIAL_MEMORY = 256 * 1024**2
TRIAL_TICKS = 50
"""Bytes of memory, shared out among its memories, and epoch ticks the start functions of a component may use each time
its imports are tried out."""

Try = Callable[[Callable[[], int]], int]
"""Calls a function that runs a guest's code, for a limited time."""


@dataclass(frozen=True)
class Import:
    """One interface a component imports from promptd, and whether each imported function returns a result."""

    name: str
    face: Face
    functions: dict[str, bool]


@dataclass(frozen=True)
class Guest:
    """Shared by any number of sessions and threads."""

    name: str
    path: Path
    digest: str
    """SHA-256 of the file, of its binary form where it is text."""
    format: Format
    code: Component | Module = field(repr=False)
    run: str | None
    """The export that runs a command: `wasi:cli/run` in its version, or `_start`."""
    is_handler: bool
    """Whether it exports promptd:prompt/handler."""
    imports: tuple[Import, ...] = ()
    memories: int = 1
    """Linear memories its instance has."""
    core: CoreImports | None = None
    """What it imports, where it is a core module."""
    splices: bool = False
    """Whether it can read its standard input in ways that component_lines.py does not answer."""

    @property
    def is_command(self) -> bool:
        """Whether it can be run to its end, with standard input and output."""
        return self.run is not None

    @property
    def graphs_wanted(self) -> bool:
        """Whether it imports anything that leads to a model."""
        return bool(self.imports) or (self.core is not None and self.core.wants_graphs)


def load_guest(engine: Engine, cache: CompileCache | None, settings: str, path: Path, name: str, trial: Try) -> Guest:
    """Read, validate and compile the guest in `path`, or take it from `cache`; `settings` are the engine's, for the
    cache's key.

    Raises NotFound without such a file, InvalidEncoding when it is not valid WebAssembly, UnsupportedOperation when it
    exports nothing to run, or imports what promptd does not offer, and what `trial` raises.
    """
    content, format = read_guest(path)
    code = _compiled(engine, cache, settings, path, content, format)
    digest = hashlib.sha256(content).hexdigest()
    if isinstance(code, Module):
        core = inspect_module(engine, path, code)
        return Guest(name, path, digest, format, code, run="_start", is_handler=False, core=core)
    imports = tuple(_imports(engine, path, code))
    run, is_handler = _exports(engine, path, code)
    memories = trial(lambda: _link(engine, path, code, imports))
    splices = _splices(engine, code)
    return Guest(name, path, digest, format, code, run, is_handler, imports, memories, splices=splices)


LARGE_GUEST = 4_000_000
"""Bytes of a guest from which compiling it is a wait that has to be explained."""


def _compiled(
    engine: Engine, cache: CompileCache | None, settings: str, path: Path, content: bytes, format: Format
) -> Component | Module:
    kind: type[Component] | type[Module] = Component if format == "component" else Module
    key = cache.key(content, settings) if cache else ""
    if cache and (file := cache.find(key)):
        try:
            return kind.deserialize_file(engine, str(file))
        except WasmtimeError:
            cache.remove(file)
    if len(content) > LARGE_GUEST:
        _log.warning("compiling %s, %d MB: this takes seconds, once", path.name, len(content) // 10**6)
    try:
        code = kind(engine, content)
    except WasmtimeError as error:
        raise compile_fault(path, str(error)) from error
    if cache:
        cache.store(key, code.serialize())
    return code


def _imports(engine: Engine, path: Path, code: Component) -> list[Import]:
    imports = {name: _items(engine, extern.ty) for name, extern in code.type.imports(engine).items()}
    faces = {**FACES, **unversioned({name: items for name, items in imports.items() if items is not None})}
    found = []
    for name, items in imports.items():
        if _WASI_2.match(name):
            continue
        face = faces.get(name)
        if face is None or items is None:
            raise UnsupportedOperation(f"{path} imports {name}, which promptd does not offer{_hint(name)}")
        functions = {}
        for function, type in items.items():
            if isinstance(type, ComponentFuncType):
                if function not in face.functions:
                    raise UnsupportedOperation(
                        f"{path} imports {function} of {name}, which that interface does not have"
                    )
                functions[function] = isinstance(type.result, ResultType)
        found.append(Import(name, face, functions))
    return found


def _items(engine: Engine, imported: Any) -> dict[str, Any] | None:
    """Return the types and functions of an imported interface by their names; None where it is no interface."""
    if not isinstance(imported, ComponentInstanceType):
        return None
    return {name: extern.ty for name, extern in imported.exports(engine).items()}


def _splices(engine: Engine, code: Component) -> bool:
    streams = [extern.ty for name, extern in code.type.imports(engine).items() if name.startswith("wasi:io/streams@")]
    return any(not SPLICES.isdisjoint(_items(engine, each) or ()) for each in streams)


def _hint(name: str) -> str:
    package = name.partition("/")[0]
    if package == "wasi:nn":
        served = sorted({known.partition("@")[2] for known in FACES if known.startswith(PREFIX)})
        return f"; it offers wasi:nn at {', '.join(served)}, and without a version"
    if package == "wasi:http":
        return ": a guest has no network; build it without wasi:http"
    if re.search(r"@0\.3\.", name):
        return "; it offers WASI 0.2"
    return f"; it offers WASI 0.2, wasi:nn and {HANDLER.partition('/')[0]}"


def _exports(engine: Engine, path: Path, code: Component) -> tuple[str | None, bool]:
    names = list(code.type.exports(engine))
    run = next((name for name in names if _RUN.match(name)), None)
    if run is None and HANDLER not in names:
        has = f"it exports {', '.join(sorted(names)[:5])}" if names else "it exports nothing"
        raise UnsupportedOperation(f"{path} has nothing to run: promptd calls wasi:cli/run or {HANDLER}, and {has}")
    if HANDLER in names and not _answers(engine, code):
        raise UnsupportedOperation(f"{path} exports {HANDLER} in another form than wit/promptd-prompt.wit; rebuild it")
    return run, HANDLER in names


def _answers(engine: Engine, code: Component) -> bool:
    """Whether the component's handler has `respond`, which returns text or a variant."""
    handler = code.type.exports(engine)[HANDLER].ty
    respond = handler.exports(engine).get("respond") if isinstance(handler, ComponentInstanceType) else None
    result = respond.ty.result if respond and isinstance(respond.ty, ComponentFuncType) else None
    return isinstance(result, ResultType) and isinstance(result.ok, String) and isinstance(result.err, VariantType)


def _link(engine: Engine, path: Path, code: Component, imports: tuple[Import, ...]) -> int:
    """Try out the component's imports with a linker that grants nothing, and return how many linear memories it has.

    Its start functions may run, within small limits; how they end does not matter here.
    """
    linker = ComponentLinker(engine)
    linker.add_wasip2()
    with linker.root() as root:
        for each in imports:
            with root.add_instance(each.name) as instance:
                each.face.declare(instance, each.functions)
    for memories in range(1, MEMORIES_LIMIT + 1):
        with Store(engine) as store:
            store.set_wasi(WasiConfig())
            store.set_limits(TRIAL_MEMORY // memories, memories=memories)
            store.set_epoch_deadline(TRIAL_TICKS)
            try:
                linker.instantiate(store, code)
            except (WasmtimeError, Stopped) as error:
                if "memory count too high" in str(error):
                    continue
                if match := re.search(
                    r"component imports .+? `(.+?)`, but a matching implementation was not found", str(error)
                ):
                    cause = str(error).strip().splitlines()[-1].strip()
                    raise UnsupportedOperation(
                        f"{path} imports {match[1]} in a form promptd does not offer: {re.sub(r'^[0-9]+: ', '', cause)}"
                    ) from error
            return memories
    raise UnsupportedOperation(f"{path} has more than {MEMORIES_LIMIT} linear memories")
