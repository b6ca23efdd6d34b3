"""A small model that guesses for a large one; here SmolLM2 guesses for itself, so that nearly every guess holds."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from exact import EXACT

from promptd.chat import ChatOptions, Message
from promptd.config import GraphSettings, Settings
from promptd.engine import llama
from promptd.engine.client import Engine
from promptd.engine.draft_model import SEQUENCES, DraftModel
from promptd.engine.options import Sampling
from promptd.errors import InvalidArgument, NotFound
from promptd.wasm.host import Host

GUESSING = EXACT.model_copy(update={"speculation": "on", "kv_tokens": 2048})
STORY = Sampling(temperature=0, max_tokens=24, ignore_end=True)


def test_a_draft_model_saves_steps_on_text_that_repeats_nothing(smollm2: Path) -> None:
    with Engine(smollm2, GUESSING, context=512, draft=smollm2) as guessing:
        assert guessing.info.draft_bytes > guessing.info.model_bytes, "its weights, and its KV cache"
        conversation = guessing.conversation("guest")
        before = guessing.stats()
        reply = conversation.send([Message("user", "Tell me a story.")], STORY).result()
        after = guessing.stats()
        again = conversation.send([Message("user", "Go on.")], STORY).result()
    assert reply.usage.generated == again.usage.generated == 24
    assert after.generated_tokens - before.generated_tokens == 24
    assert after.accepted_tokens > 10
    assert after.steps - before.steps < 24 - 10
    assert again.usage.cached >= reply.usage.prompt + reply.usage.generated - 1


@pytest.fixture
def small(tiny: Callable[..., Path]) -> Iterator[llama.Model]:
    llama.start()
    yield llama.Model(tiny(context=256), gpu_layers=0)


def test_what_is_guessed_for_one_reply_does_not_depend_on_others(small: llama.Model) -> None:
    replies = [array("i", [10 + number, 20, 30 + number, 40]) for number in range(SEQUENCES + 2)]

    def fresh() -> DraftModel:
        return DraftModel(small, cells=256, step_tokens=64, threads=1, offload=False)

    alone = [fresh().draft(0, reply, 5) for reply in replies]
    together = fresh()
    assert [together.draft(number, reply, 5) for number, reply in enumerate(replies)] == alone
    assert together.draft(len(replies) - 1, replies[-1], 5) == alone[-1], "from what is computed already"
    assert together.draft(0, replies[0], 5) == alone[0], "though it was forgotten for others"


def test_a_reply_that_is_too_long_for_the_draft_model_gets_no_guesses(small: llama.Model) -> None:
    draft = DraftModel(small, cells=256, step_tokens=64, threads=1, offload=False)
    assert draft.draft("reply", array("i", [20] * 250), 16) == ()
    assert len(draft.draft("reply", array("i", [20] * 200), 4)) <= 4
    assert len(draft.draft("other", array("i", [30] * 200), 4)) <= 4, "the first is forgotten to make room"


def test_a_draft_model_of_another_vocabulary_is_refused(smollm2: Path, tiny: Callable[..., Path]) -> None:
    with pytest.raises(InvalidArgument, match=r"tiny\.gguf has a vocabulary of \d+ tokens, and .* same family"):
        Engine(smollm2, GUESSING, draft=tiny())


def test_a_draft_model_that_is_missing_is_told(tiny: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no model file .*none\.gguf"):
        Engine(tiny(), GUESSING, draft=tmp_path / "none.gguf")


def test_a_graph_names_its_draft_model_by_a_reference(smollm2: Path) -> None:
    graph = GraphSettings(model=f"file:{smollm2}", draft=f"file:{smollm2}", context=256)
    bad = GraphSettings(model=f"file:{smollm2}", draft="echo")
    with closing(Host(Settings(graphs={"chat": graph, "bad": bad}, engine=GUESSING))) as host:
        context = host.graph("chat").prompt_context("guest")
        context.send([Message("user", "Tell me a story.")], ChatOptions(max_tokens=8)).result()
        assert host.graph("chat").stats().drafted_tokens > 0
        with pytest.raises(InvalidArgument, match="draft: echo is no model"):
            host.graph("bad")
