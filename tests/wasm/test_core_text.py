"""Language models behind the core ABI, used as WasmEdge's published example guests use them, on SmolLM2."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from exact import exact_alone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from puppet import SPECIFIED, U8, Errno, Puppet, errno_of
from waiting import wait_until

from promptd.backends.ggml import GgmlGraph
from promptd.config import EngineSettings, GraphSettings
from promptd.wasm.runtime import Runtime

ENGINE = EngineSettings(threads=1, step_tokens=64, kv_tokens=8192)
GREEDY = json.dumps({"temp": 0, "n-predict": 24, "ctx-size": 1024})
OPEN_END = json.dumps({"temp": 0, "n-predict": 12, "ignore-eos": True})


def chatml(question: str, *before: tuple[str, str]) -> str:
    """Return a prompt as guests make it: they know the model's template themselves."""
    turns = [("system", "You are a helpful assistant."), *before, ("user", question)]
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns) + "<|im_start|>assistant\n"


TOKYO = chatml("What is the capital of Japan?")


@pytest.fixture(scope="module")
def graph(smollm2: Path) -> Iterator[GgmlGraph]:
    graph = GgmlGraph(smollm2, GraphSettings(model="smollm2", temperature=0), ENGINE)
    yield graph
    graph.close()


@pytest.fixture
def make(runtime: Runtime, graph: GgmlGraph) -> Iterator[Callable[..., Puppet]]:
    made: list[Puppet] = []

    def make(**options: Any) -> Puppet:
        made.append(Puppet(runtime, {"default": graph}, **options))
        return made[-1]

    yield make
    for puppet in made:
        puppet.close()


@pytest.fixture
def guest(make: Callable[..., Puppet]) -> Puppet:
    return make()


def metadata(guest: Puppet, context: int) -> dict[str, Any]:
    return json.loads(guest.get(context, 1))


def ask(guest: Puppet, prompt: str = TOKYO, config: str = GREEDY) -> str:
    context = guest.init(guest.load("default", config))
    guest.set(context, prompt)
    guest.compute(context)
    return guest.get(context).decode()


def test_the_reply_keeps_the_text_of_the_token_that_ended_it(guest: Puppet) -> None:
    assert ask(guest) == "The capital of Japan is Tokyo.<|im_end|>"


def test_metadata_can_be_read_before_any_input_and_count_tokens_after_it(guest: Puppet) -> None:
    context = guest.init(guest.load("default", GREEDY))
    first = guest.get(context, 1).decode()
    assert first.startswith('{"input_tokens": 0, "output_tokens": 0, "llama_build_number": ')
    assert isinstance(json.loads(first)["llama_build_number"], int) and isinstance(
        json.loads(first)["llama_commit"], str
    )
    guest.set(context, TOKYO)
    tokens = metadata(guest, context)["input_tokens"]
    assert 20 < tokens < 50
    assert guest.get(context, 0) == b"", "there is no reply yet, and that is no error"
    guest.compute(context)
    assert (metadata(guest, context)["input_tokens"], metadata(guest, context)["output_tokens"]) == (tokens, 8)


def test_special_tokens_in_the_prompt_are_parsed(guest: Puppet) -> None:
    context = guest.init(guest.load("default", GREEDY))
    guest.set(context, "<|im_start|>")
    assert metadata(guest, context)["input_tokens"] == 1


def test_type_and_dimensions_of_the_prompt_mean_nothing(guest: Puppet) -> None:
    context = guest.init(guest.load("default", GREEDY))
    for kind, dims in ((U8, (1,)), (2, (1,)), (1, (1,)), (0, (7, 7)), (77, ()), (5, (len(TOKYO),))):
        guest.set(context, TOKYO, kind=kind, dims=dims)
        guest.compute(context)
        assert guest.get(context) == b"The capital of Japan is Tokyo.<|im_end|>"


def test_an_image_in_the_prompt_is_refused(guest: Puppet) -> None:
    context = guest.init(guest.load("default", GREEDY))
    assert errno_of(lambda: guest.set(context, 'Look: <img src="data:image/png;base64,iVBORw0KGgo=">')) == 1


def test_every_index_but_1_is_the_prompt_and_the_reply(guest: Puppet) -> None:
    context = guest.init(guest.load("default", GREEDY))
    guest.set(context, TOKYO, index=5)
    guest.compute(context)
    assert guest.get(context, 2**32 - 1) == guest.get(context, 0) != b""


def test_a_second_prompt_replaces_the_first_and_each_compute_begins_afresh(guest: Puppet) -> None:
    context = guest.init(guest.load("default", GREEDY))
    guest.set(context, chatml("Tell me about the sea."))
    guest.set(context, TOKYO)
    replies = []
    for _ in range(2):
        guest.compute(context)
        replies.append(guest.get(context))
    assert replies == [b"The capital of Japan is Tokyo.<|im_end|>"] * 2


def test_a_history_that_is_sent_again_comes_from_the_cache(guest: Puppet, graph: GgmlGraph) -> None:
    context = guest.init(guest.load("default", GREEDY))
    question = "Name a colour of the rainbow, please, and nothing else."
    guest.set(context, chatml(question))
    guest.compute(context)
    reply = guest.get(context).decode().removesuffix("<|im_end|>")
    before = graph.stats()
    guest.set(context, chatml("And another one?", ("user", question), ("assistant", reply)))
    guest.compute(context)
    after = graph.stats()
    decoded, cached = after.prompt_tokens - before.prompt_tokens, after.cached_tokens - before.cached_tokens
    assert decoded + cached == metadata(guest, context)["input_tokens"]
    assert decoded <= 25 < cached


def test_the_cache_of_one_guest_is_not_another_guests(make: Callable[..., Puppet], graph: GgmlGraph) -> None:
    secret = chatml("My secret word is shibboleth and I shall say it twice: shibboleth.")
    first, second = make(), make()
    second.nn._identity = "another"
    ask(first, secret)
    before = graph.stats().cached_tokens
    ask(second, secret)
    assert graph.stats().cached_tokens == before


def test_without_a_reply_asked_for_there_is_none(guest: Puppet) -> None:
    assert ask(guest, config='{"n-predict": 0}') == ""


def test_a_reply_is_as_long_as_n_predict(guest: Puppet) -> None:
    context = guest.init(guest.load("default", OPEN_END))
    guest.set(context, chatml("Tell me a story."))
    guest.compute(context)
    assert metadata(guest, context)["output_tokens"] == 12


def test_a_negative_n_predict_is_no_limit(guest: Puppet) -> None:
    assert ask(guest, config='{"temp": 0, "n-predict": -2}') == "The capital of Japan is Tokyo.<|im_end|>"


def test_a_reply_ends_with_the_reverse_prompt_in_it(guest: Puppet) -> None:
    assert ask(guest, config='{"temp": 0, "reverse-prompt": "Japan is"}') == "The capital of Japan is"


def test_stream_stdout_prints_the_pieces_as_they_are_made(make: Callable[..., Puppet]) -> None:
    guest = make()
    reply = ask(guest, config='{"temp": 0, "stream-stdout": true}')
    assert guest.printed.decode() == reply != ""


def test_the_configuration_of_a_context_can_be_changed_by_input_1(guest: Puppet) -> None:
    context = guest.init(guest.load("default", '{"temp": 0, "n-predict": 2}'))
    guest.set(context, TOKYO)
    guest.compute(context)
    assert metadata(guest, context)["output_tokens"] == 2
    guest.set(context, '{"n-predict": 4}', index=1)
    guest.compute(context)
    assert metadata(guest, context)["output_tokens"] == 4


def test_configurations_that_are_wrong(guest: Puppet) -> None:
    for config, errno in (("{", 2), ('{"temp": "hot"}', 1), ('{"temp": null}', 1), ('{"mmproj": "/etc/passwd"}', 1)):
        assert errno_of(lambda config=config: guest.load("default", config)) == errno
        context = guest.init(guest.load("default", "{}"))
        assert errno_of(lambda config=config, context=context: guest.set(context, config, index=1)) == errno


# Token by token


def test_a_reply_made_token_by_token_ends_with_its_own_errno(guest: Puppet) -> None:
    context = guest.init(
        guest.load("default", '{"temp": 0, "stream-stdout": true, "n-predict": 1, "reverse-prompt": "is"}')
    )
    guest.set(context, TOKYO)
    assert guest.get(context, function="get_output_single") == b"", "no token yet"
    pieces = guest.single(context)
    assert b"".join(pieces) == b"The capital of Japan is Tokyo."
    assert guest.get(context, function="get_output_single") == b"<|im_end|>"
    assert guest.get(context, 0) == b"The capital of Japan is Tokyo.<|im_end|>"
    assert metadata(guest, context)["output_tokens"] == 8
    assert json.loads(guest.get(context, 1, function="get_output_single")) == metadata(guest, context)
    assert not guest.printed
    assert guest.call("fini_single", context) == 0
    assert (metadata(guest, context)["output_tokens"], metadata(guest, context)["input_tokens"] > 0) == (0, True)
    assert guest.get(context, 0) == b""


def test_the_next_token_after_the_end_or_fini_is_the_first_again(guest: Puppet) -> None:
    context = guest.init(guest.load("default", '{"temp": 0}'))
    guest.set(context, TOKYO)
    first = guest.single(context)
    assert guest.single(context) == first
    assert guest.call("compute_single", context) == 0
    guest.call("fini_single", context)
    guest.call("fini_single", context)
    assert guest.single(context) == first


def test_a_new_prompt_or_a_whole_compute_ends_the_reply_made_token_by_token(guest: Puppet) -> None:
    context = guest.init(guest.load("default", '{"temp": 0}'))
    guest.set(context, TOKYO)
    assert guest.call("compute_single", context) == 0
    guest.set(context, TOKYO)
    assert b"".join(guest.single(context)) == b"The capital of Japan is Tokyo."
    assert guest.call("compute_single", context) == 0
    guest.compute(context)
    assert guest.get(context) == b"The capital of Japan is Tokyo.<|im_end|>"


def test_a_reply_made_token_by_token_is_not_far_ahead_of_its_guest(runtime: Runtime, smollm2: Path) -> None:
    def fresh() -> tuple[GgmlGraph, Puppet]:
        graph = GgmlGraph(smollm2, GraphSettings(model="smollm2", temperature=0), exact_alone())
        return graph, Puppet(runtime, {"default": graph})

    graph, guest = fresh()
    with closing(graph), closing(guest):
        context = guest.init(guest.load("default", '{"temp": 0, "ignore-eos": true}'))
        guest.set(context, TOKYO)
        pieces = []
        for count in range(100):
            assert guest.call("compute_single", context) == 0
            pieces.append(guest.get(context, function="get_output_single"))
            if count == 2:
                wait_until(lambda: graph.stats().running == 0)
                assert graph.stats().generated_tokens <= 40
    graph, guest = fresh()
    with closing(graph), closing(guest):
        whole = guest.init(guest.load("default", '{"temp": 0, "ignore-eos": true, "n-predict": 100}'))
        guest.set(whole, TOKYO)
        guest.compute(whole)
        assert guest.get(whole) == b"".join(pieces), "it goes on as if it had never paused"


def test_without_a_prompt_nothing_is_computed(guest: Puppet) -> None:
    context = guest.init(guest.load("default", "{}"))
    assert guest.call("compute", context) == 1
    assert guest.call("compute_single", context) == 1
    assert guest.call("fini_single", context) == 0


# Limits of the context


LONG = "word " * 400


def test_a_prompt_that_does_not_fit_the_context_is_too_long(guest: Puppet, make: Callable[..., Puppet]) -> None:
    context = guest.init(guest.load("default", '{"temp": 0, "ctx-size": 200}'))
    guest.set(context, LONG)
    assert guest.call("compute", context) == 102
    assert guest.call("compute_single", context) == 102
    assert guest.get(context) == b""
    guest.set(context, TOKYO)
    guest.compute(context)
    assert guest.get(context) == b"The capital of Japan is Tokyo.<|im_end|>"
    plain = make(names=SPECIFIED)
    context = plain.init(plain.load("default"))
    plain.set(context, LONG * 40)
    assert plain.call("compute", context) == 7, "a guest that does not know WasmEdge's errnos gets none"


def test_a_prompt_far_beyond_any_context_is_too_long(guest: Puppet) -> None:
    context = guest.init(guest.load("default", "{}"))
    guest.set(context, b"\xff\x00" * 4_000_000)
    assert metadata(guest, context)["input_tokens"] > 8192
    assert guest.call("compute", context) == 102


def test_a_reply_that_fills_the_context_can_be_read_so_far(guest: Puppet, make: Callable[..., Puppet]) -> None:
    config = '{"temp": 0, "ctx-size": 256, "ignore-eos": true}'
    context = guest.init(guest.load("default", config))
    guest.set(context, "word " * 230)
    assert guest.call("compute", context) == 101
    counts = metadata(guest, context)
    assert counts["input_tokens"] + counts["output_tokens"] == 256
    assert len(guest.get(context)) > 0
    guest.set(context, "word " * 240)
    with pytest.raises(Errno, match="101"):
        guest.single(context)
    plain = make(names=SPECIFIED)
    context = plain.init(plain.load("default"))
    plain.set(context, config, index=1)
    plain.set(context, "word " * 240)
    assert plain.call("compute", context) == 0, (
        "what there is of the reply is the reply, for a guest that knows no other"
    )


# Reading with little room


def test_llamaedges_guests_give_a_buffer_and_say_that_it_is_empty(guest: Puppet, make: Callable[..., Puppet]) -> None:
    context = guest.init(guest.load("default", GREEDY))
    guest.set(context, TOKYO)
    guest.compute(context)
    buffer, written = guest.put(bytes(64)), guest.out()
    assert guest.call("get_output", context, 0, buffer, 0, written) == 0
    assert guest.read(buffer, guest.word(written)) == b"The capital of Japan is Tokyo.<|im_end|>"
    assert guest.call("get_output", context, 0, 4, 0, written) == 7, "where no buffer can be, the size is asked for"
    assert guest.word(written) == 40
    assert guest.call("get_output", context, 0, buffer, 39, written) == 7
    assert guest.call("get_output", context, 0, 16 * 65536 - 8, 0, written) == 1
    plain = make(names=SPECIFIED)
    context = plain.init(plain.load("default"))
    assert plain.call("get_output", context, 1, buffer, 0, plain.out()) == 7


# Grammars


def test_a_reply_keeps_to_a_grammar(guest: Puppet) -> None:
    config = json.dumps({"temp": 0, "n-predict": 40, "grammar": 'root ::= "[" ("x" | "y") ("," [xy]){3} "]"'})
    reply = ask(guest, chatml("List letters."), config).removesuffix("<|im_end|>")
    assert reply[0] == "[" and reply[-1] == "]" and len(reply) == 9 and set(reply) <= set("[]xy,")


def test_an_empty_grammar_is_none(guest: Puppet) -> None:
    assert ask(guest, config='{"temp": 0, "grammar": ""}') == "The capital of Japan is Tokyo.<|im_end|>"


def test_a_reply_keeps_to_a_json_schema(guest: Puppet) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
        "required": ["city", "people"],
    }
    config = json.dumps({"temp": 0, "n-predict": 64, "json-schema": json.dumps(schema)})
    reply = json.loads(ask(guest, chatml("Describe Tokyo in JSON."), config).removesuffix("<|im_end|>"))
    assert isinstance(reply["city"], str) and isinstance(reply["people"], int)


@pytest.mark.parametrize(
    "config",
    [
        {"grammar": "root ::= ("},
        {"grammar": "root ::= root"},
        {"grammar": "start ::= [a]"},
        {"grammar": "root ::= missing"},
        {"grammar": "(" * 60_000},
        {"grammar": "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1} | r{i + 1}\n" for i in range(60)) + "r60 ::= [a]"},
        {"grammar": "root ::= [a] " + "[b]" * 30_000},
        {"grammar": "\0"},
        {"json-schema": "{"},
        {"json-schema": '{"$ref": "https://example.com/schema.json"}'},
        {"json-schema": '{"$ref": "#/nowhere"}'},
        {"json-schema": '{"type": "nonsense"}'},
        {"json-schema": '{"items":' * 2000 + "{}" + "}" * 2000},
    ],
)
def test_a_grammar_that_is_none_or_too_much_is_refused(guest: Puppet, graph: GgmlGraph, config: dict[str, str]) -> None:
    worker = graph.stats().worker_pid
    context = guest.init(guest.load("default", json.dumps(config)))
    guest.set(context, TOKYO)
    assert guest.call("compute", context) in (1, 7)
    assert guest.call("compute_single", context) in (1, 7)
    assert graph.stats().worker_pid == worker, "and nobody else notices"


def test_a_grammar_is_kept_over_many_tokens_beside_other_replies(make: Callable[..., Puppet]) -> None:
    first, second = make(), make()
    config = json.dumps({"temp": 0.8, "seed": 1, "n-predict": 30, "grammar": 'root ::= ("ab" | "cd")+'})
    one = first.init(first.load("default", config))
    two = second.init(second.load("default", '{"temp": 0}'))
    first.set(one, TOKYO)
    second.set(two, TOKYO)
    made = b""
    for _ in range(6):
        assert first.call("compute_single", one) in (0, 100)
        made += first.get(one, function="get_output_single")
        second.compute(two)
    text = made.decode().removesuffix("<|im_end|>")
    assert text.replace("ab", "").replace("cd", "") in ("", "a", "c")
    assert second.get(two) == b"The capital of Japan is Tokyo.<|im_end|>"


# Embeddings


def embedding(guest: Puppet, text: str, config: str = '{"embedding": true}') -> list[float]:
    context = guest.init(guest.load("default", config))
    guest.set(context, text)
    guest.compute(context)
    answer = guest.get(context)
    assert answer.startswith(b'{"n_embedding": 576, "embedding": [') and b", " not in answer[40:]
    assert metadata(guest, context)["output_tokens"] == 0
    values = json.loads(answer)["embedding"]
    assert len(values) == json.loads(answer)["n_embedding"] == 576
    return values


def test_embeddings_of_like_texts_are_alike_and_of_length_1(guest: Puppet) -> None:
    cat, kitten, court = (
        embedding(guest, text) for text in ("A cat sat.", "A cat sat.", "The court adjourned until Monday.")
    )
    assert math.isclose(math.fsum(value * value for value in cat), 1, rel_tol=1e-4)
    assert cat == kitten != court


def test_an_embedding_takes_as_many_tokens_as_a_batch(guest: Puppet) -> None:
    context = guest.init(guest.load("default", '{"embedding": true, "batch-size": 16}'))
    guest.set(context, "word " * 40)
    assert guest.call("compute", context) == 102
    assert guest.call("compute_single", context) in (1, 102)


def test_an_embedding_of_many_steps_is_that_of_one(guest: Puppet) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 20
    whole = embedding(guest, text, '{"embedding": true, "pooling-type": 3}')
    assert all(math.isclose(a, b, abs_tol=2e-2) for a, b in zip(whole, embedding(guest, text), strict=True))


# Handles and lifetimes


def test_a_model_is_loaded_and_unloaded_five_times(guest: Puppet, graph: GgmlGraph) -> None:
    starts = graph.stats().worker_starts
    for _ in range(5):
        handle = guest.load("default", GREEDY)
        context = guest.init(handle)
        guest.set(context, TOKYO)
        guest.compute(context)
        assert guest.get(context) == b"The capital of Japan is Tokyo.<|im_end|>"
        assert guest.call("unload", handle) == 0
    assert graph.stats().worker_starts == starts


def test_a_context_of_an_unloaded_model_drains(guest: Puppet) -> None:
    handle = guest.load("default", GREEDY)
    context = guest.init(handle)
    guest.set(context, TOKYO)
    guest.compute(context)
    guest.call("unload", handle)
    assert guest.get(context) == b"The capital of Japan is Tokyo.<|im_end|>"
    assert metadata(guest, context)["output_tokens"] == 8
    assert guest.get(context, function="get_output_single") == b"<|im_end|>"
    assert guest.call("compute", context) == guest.call("compute_single", context) == 1
    assert errno_of(lambda: guest.set(context, "x")) == 1
    assert guest.call("fini_single", context) == 0
    assert guest.call("finalize_execution_context", context) == 0


def test_the_tokens_of_a_guest_are_counted_and_limited(make: Callable[..., Puppet]) -> None:
    guest = make(tokens=80)
    context = guest.init(guest.load("default", GREEDY))
    guest.set(context, TOKYO)
    prompt = metadata(guest, context)["input_tokens"]
    guest.compute(context)
    assert guest.nn.meter.tokens_used == prompt + 8
    assert guest.call("compute", context) in (0, 7)
    assert guest.call("compute", context) == 7
    assert guest.nn.meter.tokens_used <= 80


def test_a_prompt_that_is_larger_than_the_limit_is_refused(make: Callable[..., Puppet]) -> None:
    guest = make(prompt=100)
    context = guest.init(guest.load("default", "{}"))
    assert errno_of(lambda: guest.set(context, bytes(101))) == 7


def test_an_operators_options_are_the_defaults_of_a_guest(runtime: Runtime, smollm2: Path, graph: GgmlGraph) -> None:
    brief = GgmlGraph(smollm2, GraphSettings(model="smollm2", temperature=0, max_tokens=3), ENGINE)
    guest = Puppet(runtime, {"default": brief})
    context = guest.init(guest.load("default"))
    guest.set(context, TOKYO)
    guest.compute(context)
    assert metadata(guest, context)["output_tokens"] == 3
    guest.close()
    brief.close()


# A model of the guest's own


def test_a_guest_brings_a_small_model(
    make: Callable[..., Puppet], tiny_model: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    guest = make()
    handle = guest.load_bytes(tiny_model, b'{"temp": 0, "n-predict": 5, "ignore-eos": true}', encoding=6)
    context = guest.init(handle)
    guest.set(context, "hello")
    guest.compute(context)
    assert metadata(guest, context)["output_tokens"] == 5
    assert guest.call("unload", handle) == 0
    assert errno_of(lambda: guest.load_bytes(tiny_model[:-100], encoding=6)) == 2
    assert errno_of(lambda: guest.load_bytes(tiny_model, b"{", encoding=6)) == 2
    with caplog.at_level(logging.WARNING, "promptd.grants"):
        assert errno_of(lambda: guest.load_bytes(tiny_model, b'{"image": "x.png"}', encoding=6)) == 1
    assert errno_of(lambda: guest.load_bytes(tiny_model, encoding=1)) == 2, "it is no ONNX model"
    assert not guest.nn._graphs._own or len(guest.nn._graphs._own) == 1, "what failed to load is not kept"


def test_a_model_whose_cache_would_be_too_large_is_refused(
    guest: Puppet, tiny_model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("promptd.backends.from_bytes.GUEST_MODEL_KV_BYTES", 1000)
    assert errno_of(lambda: guest.load_bytes(tiny_model, encoding=6)) == 7


def test_what_a_guest_brought_leaves_nothing_in_the_temporary_folder(
    guest: Puppet, tiny_model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    handle = guest.load_bytes(tiny_model, encoding=6)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not left, "its conversations may be spilled there, its model may not stay"
    guest.call("unload", handle)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    from tiny_model import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf").read_bytes()


# Anything


texts = st.one_of(st.binary(max_size=40), st.text(max_size=20).map(str.encode), st.just(TOKYO.encode()))
KEYS = """
    temp top-k top-p min-p typ-p repeat-penalty presence-penalty frequency-penalty last-n-penalty mirostat mirostat-eta
    dynatemp-range dynatemp-exponent xtc-probability xtc-threshold dry-multipier dry-base dry-allowed-length min-keep
    seed ignore-eos ctx-size grammar stream-stdout reverse-prompt
"""
settings_values = st.one_of(
    st.integers(-3, 300),
    st.floats(allow_nan=False, width=32),
    st.booleans(),
    st.sampled_from(["", "root ::= [ab]+", "x"]),
)
configs = st.dictionaries(st.sampled_from(KEYS.split()), settings_values, max_size=5)


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(texts, configs)
def test_any_prompt_and_configuration_end_in_a_reply_or_an_errno(
    make: Callable[..., Puppet], graph: GgmlGraph, text: bytes, config: dict[str, Any]
) -> None:
    guest = make()
    starts = graph.stats().worker_starts
    context = guest.init(guest.load("default", '{"n-predict": 4}'))
    for data, index in ((json.dumps(config).encode(), 1), (text, 0), (text, 1)):
        try:
            guest.set(context, data, index)
        except Errno as error:
            assert error.number in (1, 2)
    assert guest.call("compute", context) in (0, 1, 5, 101, 102)
    assert guest.call("compute_single", context) in (0, 1, 5, 100, 101, 102)
    guest.get(context)
    guest.close()
    assert graph.stats().worker_starts == starts
