"""The ggml backend: graphs' settings, conversations' options, and one engine for graphs of one model."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from promptd.backends.ggml import GgmlGraph
from promptd.backends.sampling import sampling_of
from promptd.chat import ChatOptions, Completion, Message, StopReason
from promptd.config import EngineSettings, GraphSettings
from promptd.engine import crashes, process
from promptd.engine.options import Sampling
from promptd.errors import InvalidArgument, InvalidEncoding, PromptdError, RuntimeFailure

ENGINE = EngineSettings(threads=1, step_tokens=48, kv_tokens=4096)
Open = Callable[..., GgmlGraph]


@pytest.fixture
def open_graph(smollm2: Path) -> Iterator[Open]:
    """Return a function that opens a graph on SmolLM2 with given settings, greedy and brief unless they say
    otherwise.
    """
    graphs: list[GgmlGraph] = []

    def open_graph(**settings: object) -> GgmlGraph:
        defaults = {"model": "smollm2", "temperature": 0, "max_tokens": 8}
        graphs.append(GgmlGraph(smollm2, GraphSettings.model_validate({**defaults, **settings}), ENGINE))
        return graphs[-1]

    yield open_graph
    for graph in graphs:
        graph.close()


def ask(graph: GgmlGraph, text: str, options: ChatOptions = ChatOptions()) -> Completion:
    return graph.prompt_context("guest").send([Message("user", text)], options).result()


def test_a_graph_answers_with_its_settings(open_graph: Open) -> None:
    graph = open_graph()
    reply = ask(graph, "Name a fruit.")
    assert reply.text
    assert reply.usage.generated <= 8
    assert ask(graph, "Name a fruit.").text == reply.text, "greedy"


def test_a_conversation_and_a_turn_can_override_the_graphs_settings(open_graph: Open) -> None:
    graph = open_graph(max_tokens=8)
    context = graph.prompt_context("guest", ChatOptions(max_tokens=3))
    tell = [Message("user", "Tell a story.")]
    assert context.send(tell).result().usage.generated == 3
    assert context.send(tell, ChatOptions(max_tokens=5)).result().usage.generated == 5
    assert ask(graph, "Tell a story.").usage.generated == 8


def test_a_graph_with_other_options_is_the_same_model(open_graph: Open) -> None:
    graph = open_graph(max_tokens=8)
    brief = graph.configured(graph.settings.model_copy(update={"max_tokens": 2}))
    assert ask(brief, "Tell a story.").usage.generated == 2
    assert ask(graph, "Tell a story.").usage.generated == 8
    assert brief.info is graph.info


def test_a_graph_tells_what_it_is_and_not_where_it_comes_from(open_graph: Open, smollm2: Path) -> None:
    facts = open_graph(context=512).facts
    assert facts == {"architecture": "llama", "context": "512", "template": "auto"}
    assert open_graph(template="none").facts["template"] == "none"


def test_a_system_prompt_comes_before_every_conversation(open_graph: Open) -> None:
    plain = open_graph(system="")
    long = open_graph(system="You are a pirate. " * 10)
    difference = ask(long, "Hi").usage.prompt - ask(plain, "Hi").usage.prompt
    assert difference == long.count_tokens("You are a pirate. " * 10)


def test_without_a_template_text_is_continued_until_the_context_is_full(open_graph: Open) -> None:
    graph = open_graph(template="none", context=64, max_tokens=None)
    context = graph.prompt_context("guest")
    reply = context.send([Message("user", "One, two, three, four,")]).result()
    assert reply.stop_reason is StopReason.CONTEXT_FULL
    assert reply.usage.prompt + reply.usage.generated == 64
    with pytest.raises(PromptdError, match="can hold 64"):
        context.send([Message("user", " more")])


def test_fork_and_rewind_reach_the_engine(open_graph: Open) -> None:
    context = open_graph().prompt_context("guest")
    for text in ("Name a fruit.", "Another one."):
        context.send([Message("user", text)]).result()
    fork = context.fork()
    context.rewind(1)
    after_one = context.send([Message("user", "And?")]).result().usage
    after_two = fork.send([Message("user", "And?")]).result().usage
    assert 0 < after_one.cached < after_two.cached
    context.close()
    with pytest.raises(InvalidArgument):
        context.send([Message("user", "And?")])


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (ChatOptions(temperature=-1), "temperature"),
        (ChatOptions(temperature=float("nan")), "temperature"),
        (ChatOptions(top_p=1.5), "top_p"),
        (ChatOptions(top_k=-1), "top_k"),
        (ChatOptions(max_tokens=0), "max_tokens"),
        (ChatOptions(repeat_penalty=0), "repeat_penalty"),
        (ChatOptions(seed=2**32), "seed"),
        (ChatOptions(stop=("",)), "stop"),
        (ChatOptions(presence_penalty=2.5), "presence_penalty"),
        (ChatOptions(frequency_penalty=-3), "frequency_penalty"),
        (ChatOptions(logprobs=21), "logprobs"),
        (ChatOptions(logprobs=-1), "logprobs"),
        (ChatOptions(logit_bias=((1, 101.0),)), "logit_bias"),
        (ChatOptions(logit_bias=((-1, 1.0),)), "logit_bias"),
        (ChatOptions(logit_bias=((1, float("nan")),)), "logit_bias"),
        (ChatOptions(logit_bias=((1, 1.0),) * 1025), "logit_bias"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options: ChatOptions, key: str) -> None:
    with pytest.raises(InvalidArgument, match=key):
        sampling_of(GraphSettings(model="m"), options)


def test_options_go_before_settings_and_later_options_before_earlier() -> None:
    settings = GraphSettings(model="m", temperature=0.1, top_k=3, stop=("a",))
    assert sampling_of(settings) == Sampling(temperature=0.1, top_k=3, stop=("a",))
    chosen = sampling_of(settings, ChatOptions(temperature=0.2, stop=()), ChatOptions(temperature=0.0, seed=5))
    assert chosen == Sampling(temperature=0.0, top_k=3, seed=5, stop=())


def test_what_a_graph_says_of_sampling_reaches_the_samplers() -> None:
    said = {"typical_p": 0.9, "dynatemp_range": 0.5, "mirostat": 2, "dry_multiplier": 0.8, "xtc_probability": 0.1}
    settings = GraphSettings.model_validate({"model": "m", "penalty_last_n": -1, "presence_penalty": 0.5, **said})
    assert sampling_of(settings) == Sampling(penalty_last_n=-1, presence_penalty=0.5, **said)
    chosen = sampling_of(settings, ChatOptions(frequency_penalty=1.0, logprobs=2, logit_bias=((7, -100.0),)))
    expected = {"frequency_penalty": 1.0, "logprobs": 2, "logit_bias": ((7, -100.0),)}
    assert chosen == Sampling(penalty_last_n=-1, presence_penalty=0.5, **said, **expected)


def test_graphs_of_one_model_share_a_worker_until_the_last_is_closed(open_graph: Open) -> None:
    graphs: list[GgmlGraph] = []
    openers = [
        threading.Thread(target=lambda number=number: graphs.append(open_graph(temperature=number / 10)))
        for number in range(4)
    ]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join()
    (pid,) = {graph.stats().worker_pid for graph in graphs}
    assert pid is not None
    for graph in graphs[1:]:
        graph.close()
        graph.close()
    assert ask(graphs[0], "Hi").text
    graphs[0].close()
    assert graphs[0].stats().worker_pid is None
    with pytest.raises(RuntimeFailure):
        ask(graphs[0], "Hi")


def test_graphs_that_load_a_model_differently_do_not_share(open_graph: Open) -> None:
    one, other = open_graph(), open_graph(context=128)
    assert one.stats().worker_pid != other.stats().worker_pid
    assert (one.info.context, other.info.context) == (4096, 128)


def test_a_model_that_cannot_be_loaded_can_be_tried_again(tmp_path: Path, smollm2: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_text("not a model")
    settings = GraphSettings(model="m", temperature=0, max_tokens=4)
    for _ in range(2):
        with pytest.raises(InvalidEncoding, match=r"model\.gguf is not a GGUF file"):
            GgmlGraph(path, settings, ENGINE)
    path.unlink()
    path.symlink_to(smollm2)
    graph = GgmlGraph(path, settings, ENGINE)
    assert ask(graph, "Hi").text
    graph.close()


def test_a_model_that_crashes_whenever_it_is_loaded_is_given_up(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, engine = GraphSettings(model="smollm2"), ENGINE.model_copy(update={"queue": 7})
    monkeypatch.setattr(crashes, "BACK_OFF_S", (0.0, 0.0, 0.0))
    with monkeypatch.context() as crashing:
        crashing.setattr(process, "_BOOT", "import os; os.abort()")
        for _ in range(crashes.MAX_CRASHES):
            with pytest.raises(RuntimeFailure, match="was killed by SIGABRT while it loaded"):
                GgmlGraph(smollm2, settings, engine)
    with pytest.raises(RuntimeFailure, match="ended 3 times within 30 s, and was killed by SIGABRT at last"):
        GgmlGraph(smollm2, settings, engine)
    monkeypatch.setattr(crashes, "CRASH_WINDOW_S", 0.0)
    graph = GgmlGraph(smollm2, settings, engine)
    graph.close()


def test_a_reply_keeps_to_a_json_schema(open_graph: Open) -> None:
    schema = '{"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}'
    context = open_graph().prompt_context("test", ChatOptions(json_schema=schema, temperature=0, max_tokens=64))
    reply = context.send([Message("user", "Name a colour.")]).result().text
    assert json.loads(reply)["colour"] in ("red", "blue")


def test_a_grammar_that_is_none_is_refused(open_graph: Open) -> None:
    with pytest.raises(InvalidArgument):
        open_graph().prompt_context("test").send([Message("user", "hi")], ChatOptions(grammar="root ::= ("))
