"""The face of `promptd:prompt/embeddings`: what texts mean, as vectors, a list of them in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from promptd.backends.base import Embeds
from promptd.chat import Usage
from promptd.errors import TooLarge, UnsupportedOperation
from promptd.wasm.chat import error
from promptd.wasm.face import Face
from promptd.wasm.nn import Nn

MAX_TEXTS = 2048
"""Most texts of one call."""

PORTION_TEXTS = 32
PORTION_CHARACTERS = 8192
"""What the model is given at once: between those the guest can be stopped."""


def embed(nn: Nn, name: str, texts: list[str]) -> list[list[float]]:
    """Return a vector of length 1 for each text, by the granted graph `name`.

    Raises NotFound, UnsupportedOperation where the graph makes none, TooLarge beyond the grant or what the model can
    take, and what the backend raises; what was made until then counts.
    """
    if len(texts) > MAX_TEXTS:
        raise TooLarge(f"there are {len(texts)} texts, and the limit is {MAX_TEXTS}")
    nn.meter.check_size(sum(len(text.encode()) for text in texts))
    graph = nn.load_by_name(name).graph
    if not isinstance(graph, Embeds):
        raise UnsupportedOperation("this graph makes no embeddings")
    vectors: list[list[float]] = []
    for portion in _portions(texts):
        left = nn.meter.tokens_left()
        with nn.host_call():
            made = graph.embed(portion, tokens=left, deadline=nn.deadline)
            nn.meter.count(Usage(prompt=sum(each.tokens for each in made), cached=0, generated=0))
        vectors += [each.vector.tolist() for each in made]
    return vectors


def _portions(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    start = characters = 0
    for index, text in enumerate(texts):
        if index - start == PORTION_TEXTS or (index > start and characters + len(text) > PORTION_CHARACTERS):
            yield texts[start:index]
            start, characters = index, 0
        characters += len(text)
    if texts:
        yield texts[start:]


EMBEDDINGS = Face({"embed": embed}, {}, error)
