"""A language model through wasi:nn/inference of components, from a guest that passes the prompt as a tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import wat
from guest_host import Host
from test_tensor_interface import computing

from promptd.backends.ggml import GgmlGraph
from promptd.config import EngineSettings, GraphSettings
from promptd.wasm.traps import LIST_CALL_LIMIT

U8 = 4
"""In the order of the WIT."""


@pytest.mark.parametrize("version", [wat.RELEASED, wat.PHASE_3])
def test_a_component_gets_the_answer_as_its_first_output(host: Host, smollm2: Path, version: str) -> None:
    settings = GraphSettings(model="smollm2", temperature=0, max_tokens=3)
    graph = GgmlGraph(smollm2, settings, EngineSettings(threads=1, kv_tokens=1024))
    host.graphs["echo"] = graph
    opened = host.open(computing(12, (1,), U8, version=version))
    assert opened.session.run() == 0
    assert opened.stdout.startswith(b"0") and len(opened.stdout) > 1
    assert opened.session.usage.generated == 3
    graph.close()


def test_a_prompt_beyond_the_limit_is_refused(host: Host, smollm2: Path) -> None:
    graph = GgmlGraph(smollm2, GraphSettings(model="smollm2"), EngineSettings(threads=1, kv_tokens=1024))
    host.graphs["echo"] = graph
    opened = host.open(computing(LIST_CALL_LIMIT // 2, (1,), U8), prompt=1000)
    assert opened.session.run() == 1
    assert b"the limit is 1000" in opened.stdout
    graph.close()
