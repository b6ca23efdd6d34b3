"""The graphs of one process by name."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from tiny_model import write_tiny_model

from promptd.backends.ggml import GgmlGraph
from promptd.backends.graphs import Graphs
from promptd.config import GraphSettings, Settings
from promptd.errors import NotFound
from promptd.graphs.store import Store


def test_a_graph_that_is_being_preloaded_is_not_loaded_a_second_time_for_whoever_asks(tmp_path: Path):
    model = write_tiny_model(tmp_path / "tiny.gguf")
    settings = Settings(graphs={"tiny": GraphSettings(model=f"file:{model}")})
    with closing(Graphs(settings, Store())) as graphs:
        graphs.preload(["tiny"])
        graph = graphs.get("tiny")
        assert isinstance(graph, GgmlGraph)
        assert graph.stats().worker_starts == 1
        assert graphs.loaded() == {"tiny": graph}


def test_a_graph_that_cannot_be_preloaded_says_why_to_whoever_asks(tmp_path: Path):
    settings = Settings(graphs={"lost": GraphSettings(model=f"file:{tmp_path}/lost.gguf")})
    with closing(Graphs(settings, Store())) as graphs:
        graphs.preload(["lost"])
        with pytest.raises(NotFound, match=r"lost\.gguf"):
            graphs.get("lost")
