"""Loads a model in the worker: chooses offload, threads and the size of the KV cache, and says what came out of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from promptd.engine import llama
from promptd.engine.draft_model import SEQUENCES, DraftModel, check_draft
from promptd.engine.kv_size import ModelShape, kv_cells
from promptd.engine.messages import Start
from promptd.engine.statistics import EngineInfo
from promptd.errors import InvalidEncoding, NotFound, RuntimeFailure, UnsupportedOperation

if TYPE_CHECKING:
    from promptd.engine.template import JinjaTemplate

GGUF_MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to step."""

    model: llama.Model
    context: llama.Context
    info: EngineInfo
    draft: DraftModel | None = None


def load(start: Start) -> Loaded:
    """Load what `start` names; raises NotFound, InvalidEncoding, UnsupportedOperation or RuntimeFailure with
    llama.cpp's cause.
    """
    path = Path(start.path)
    _check_magic(path)
    llama.start()
    offload = start.target != "cpu" and llama.supports_gpu_offload()
    try:
        with _meanwhile(_import_the_rest):
            model = llama.Model(path, gpu_layers=llama.ALL_LAYERS if offload else 0)
    except llama.LlamaError as error:
        kind = RuntimeFailure if "alloc" in str(error) else InvalidEncoding
        raise kind(f"llama.cpp cannot load {path.name}: {error}") from error
    if not model.generates:
        raise UnsupportedOperation(f"{path.name} ({model.description}) is not a model that continues text")
    cells = kv_cells(start, ModelShape(model.n_ctx_train, model.kv_cell_bytes))
    threads = start.threads or physical_cores()
    try:
        with _meanwhile(lambda: model.vocabulary.special):
            context = llama.Context(
                model,
                cells=cells,
                sequences=start.max_sequences,
                step_tokens=start.step_tokens,
                threads=threads,
                offload=offload,
            )
    except llama.LlamaError as error:
        size = cells * model.kv_cell_bytes // 1024**2
        raise RuntimeFailure(
            f"llama.cpp cannot make a KV cache of {cells} tokens ({size} MiB) for {path.name}: {error};"
            " set a smaller kv-tokens"
        ) from error
    info = _describe(start, model, context, offload=offload, threads=threads)
    if start.draft is None:
        return Loaded(model, context, info)
    draft = _load_draft(start, model, info)
    return Loaded(model, context, msgspec.structs.replace(info, draft_bytes=draft.bytes), draft)


@contextmanager
def _meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """Let `work`, which is else done later, be done on a thread of its own while the block waits for llama.cpp, and
    end with it.
    """
    thread = threading.Thread(target=work)
    try:
        thread.start()
    except RuntimeError:  # there is no memory for a thread
        yield
        return
    try:
        yield
    finally:
        thread.join()


def _import_the_rest() -> None:
    """Import what the worker needs after the model, jinja2 among it."""
    import_module("promptd.engine.core")


def _load_draft(start: Start, model: llama.Model, info: EngineInfo) -> DraftModel:
    """Load the draft model; raises what `load` raises, and InvalidArgument for one that does not fit `model`."""
    path = Path(start.draft or "")
    _check_magic(path)
    offload = info.device == "GPU"
    try:
        draft = llama.Model(path, gpu_layers=llama.ALL_LAYERS if offload else 0)
        check_draft(draft, path, model, Path(start.path))
        cells = min(info.kv_tokens, SEQUENCES * info.context)
        return DraftModel(draft, cells=cells, step_tokens=start.step_tokens, threads=info.threads, offload=offload)
    except llama.LlamaError as error:
        raise RuntimeFailure(f"llama.cpp cannot load draft model {path.name}: {error}") from error


def _describe(start: Start, model: llama.Model, context: llama.Context, *, offload: bool, threads: int) -> EngineInfo:
    warnings = []
    if start.target == "gpu" and not offload:
        warnings.append(
            'target = "gpu", but this llama.cpp was built without a GPU backend, or finds no GPU:'
            " the model runs on the CPU"
        )
    room = min(start.context or model.n_ctx_train, context.cells)
    if start.context and start.context > model.n_ctx_train:
        warnings.append(
            f"context = {start.context} is beyond the tokens the model was trained for: {model.n_ctx_train} is used"
        )
        room = min(room, model.n_ctx_train)
    elif start.context and start.context > context.cells:
        warnings.append(f"context = {start.context} does not fit the KV cache: {context.cells} is used")
    if model.template is None:
        warnings.append("the model has no chat template: prompts are continued as raw text")
    return EngineInfo(
        architecture=model.metadata("general.architecture") or "unknown",
        description=model.description,
        parameters=model.parameters,
        model_bytes=model.size,
        n_ctx_train=model.n_ctx_train,
        n_vocab=model.vocabulary.size,
        context=room,
        kv_tokens=context.cells,
        kv_bytes=context.cells * model.kv_cell_bytes,
        has_template=model.template is not None,
        template=model.template,
        devices=llama.devices(),
        device="GPU" if offload else "CPU",
        gpu_offload=llama.supports_gpu_offload(),
        threads=threads,
        warnings=tuple(warnings),
        takes_tools=_takes_tools(model),
        llama_commit=llama.commit(),
    )


def chat_template(model: llama.Model) -> JinjaTemplate | None:
    """Return the model's own chat template, None where it has none; raises RuntimeFailure for one that is broken."""
    if model.template is None:
        return None
    from promptd.engine.template import JinjaTemplate  # with jinja2: see `_import_the_rest`

    vocabulary = model.vocabulary
    variables = {"bos_token": vocabulary.text(vocabulary.bos), "eos_token": vocabulary.text(vocabulary.eos)}
    return JinjaTemplate(model.template, variables)


def _takes_tools(model: llama.Model) -> bool:
    try:
        template = chat_template(model)
    except RuntimeFailure:  # which whoever uses it is told
        return False
    return template is not None and template.takes_tools


def _check_magic(path: Path) -> None:
    """Refuse what is no GGUF file at all, before llama.cpp sees it."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except FileNotFoundError as error:
        raise NotFound(f"there is no model file {path}") from error
    except OSError as error:
        raise RuntimeFailure(f"cannot read model file {path}: {error.strerror}") from error
    if magic != GGUF_MAGIC:
        raise InvalidEncoding(f"{path.name} is not a GGUF file: it does not begin with the letters GGUF")


def physical_cores() -> int:
    """Return the cores this process may use, hyper-threads counted once: llama.cpp gains nothing from the second."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # macOS
        return os.cpu_count() or 1
    cores = set()
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text().strip())
        except OSError:
            cores.add(str(cpu))
    return max(1, len(cores))
