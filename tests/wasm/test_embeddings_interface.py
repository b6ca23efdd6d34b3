"""promptd:prompt/embeddings: lists of texts become lists of vectors, within the guest's grant."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from pathlib import Path

import pytest
import wat
from guest_host import Host

from promptd.backends.base import Embedding
from promptd.backends.echo import EchoGraph
from promptd.backends.ggml import GgmlGraph
from promptd.config import EngineSettings, GraphSettings
from promptd.errors import TooLarge


class Spelling(EchoGraph):
    """A graph whose vectors are the text's own bytes, and that counts each letter as a token."""

    def __init__(self) -> None:
        self.portions: list[int] = []

    def embed(
        self,
        texts: Sequence[str | Sequence[int]],
        *,
        truncate: bool = False,
        tokens: int | None = None,
        deadline: float | None = None,
    ) -> list[Embedding]:
        self.portions.append(len(texts))
        spelt = [text.encode() for text in texts if isinstance(text, str)]
        if tokens is not None and sum(map(len, spelt)) > tokens:
            raise TooLarge("too many letters")
        return [Embedding(array("f", text), len(text)) for text in spelt]


def test_each_text_has_a_vector(host: Host) -> None:
    host.graphs["echo"] = Spelling()
    opened = host.open(wat.embedding("four", "and eight...", ""))
    assert opened.session.run() == 0
    assert opened.stdout == b"four,and eight...,,"
    assert opened.session.usage.prompt == 16


def test_no_texts_have_none(host: Host) -> None:
    host.graphs["echo"] = Spelling()
    assert host.run(wat.embedding()) == (0, "")


def test_many_texts_come_in_portions(host: Host) -> None:
    graph = host.graphs["echo"] = Spelling()
    texts = ["abcd"] * 40 + ["1234" * 2048] * 2
    assert host.run(wat.embedding(*texts)) == (0, "".join(text + "," for text in texts))
    assert graph.portions == [32, 8, 1, 1]


@pytest.mark.parametrize(
    ("texts", "graph", "limits", "said"),
    [
        (("text",), "echo", {}, "makes no embeddings"),
        (("text",), "spelling", {"prompt": 3}, "the prompt has 4 bytes and the limit is 3"),
        (("text",), "spelling", {"tokens": 3}, "too many letters"),
        (("text",) * 2049, "spelling", {}, "2049 texts, and the limit is 2048"),
        (("text",), "other", {}, "no graph is named 'other'"),
    ],
)
def test_what_the_grant_or_the_graph_does_not_allow_is_refused(
    host: Host, texts: tuple[str, ...], graph: str, limits: dict[str, int], said: str
) -> None:
    host.graphs["spelling"] = Spelling()
    code, output = host.run(wat.embedding(*texts, graph=graph), **limits)
    assert (code, said in output) == (1, True), output


def test_embeddings_count_towards_the_tokens_of_a_grant(host: Host) -> None:
    host.graphs["echo"] = Spelling()
    texts = ["abcd"] * 33
    code, output = host.run(wat.embedding(*texts), tokens=32 * 4)
    assert (code, "the token limit of 128 is reached" in output) == (1, True)


def test_a_model_embeds_for_a_guest(host: Host, smollm2: Path) -> None:
    engine = EngineSettings(threads=1, kv_tokens=256)
    graph = host.graphs["echo"] = GgmlGraph(smollm2, GraphSettings(model="smollm2"), engine)
    texts = ("A cat sat on the mat.", "A cat is sitting on a mat.", "Interest rates rose by one percent.")
    opened = host.open(wat.embedding(*texts))
    assert opened.session.run() == 0
    size = 576 * 4
    vectors = [
        struct.unpack("<576f", opened.stdout[index * (size + 1) : index * (size + 1) + size])
        for index in range(len(texts))
    ]
    alike, unlike = (sum(a * b for a, b in zip(vectors[0], other, strict=True)) for other in vectors[1:])
    assert 1.001 > alike > unlike
    assert opened.session.usage.prompt > 15
    graph.close()
