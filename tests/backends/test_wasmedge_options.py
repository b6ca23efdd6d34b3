from __future__ import annotations

import contextlib
import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptd.backends.wasmedge_options import (
    KEYS,
    Kind,
    ModelOptions,
    ReplyOptions,
    defaults_of,
    read_options,
)
from promptd.config import GraphSettings
from promptd.errors import InvalidArgument, InvalidEncoding, PromptdError, TooLarge


def read(config: str | bytes | dict[str, Any], **options: Any) -> tuple[ModelOptions, ReplyOptions]:
    data = (
        json.dumps(config).encode()
        if isinstance(config, dict)
        else config.encode()
        if isinstance(config, str)
        else config
    )
    return read_options(data, ModelOptions(), ReplyOptions(), guest="guest", **options)


def test_what_guests_of_the_examples_send_is_understood() -> None:
    model, reply = read(
        {"ctx-size": 512, "enable-log": False, "n-gpu-layers": 0, "n-predict": 512, "stream-stdout": True, "temp": 0.1}
    )
    assert (model.context, model.sampling.temperature) == (512, 0.1)
    assert (reply.predict, reply.stream_stdout) == (512, True)


def test_what_llamaedge_sends_is_understood() -> None:
    sent = {
        "enable-log": False,
        "enable-debug-log": False,
        "embedding": False,
        "n-predict": -1,
        "n-gpu-layers": 100,
        "split-mode": "layer",
        "ctx-size": 4096,
        "batch-size": 2048,
        "ubatch-size": 512,
        "threads": 2,
        "temp": 1.0,
        "top-p": 1.0,
        "repeat-penalty": 1.1,
        "presence-penalty": 0.0,
        "frequency-penalty": 0.0,
        "grammar": "",
        "json_schema": None,
        "include_usage": False,
        "use-mmap": True,
    }
    model, _ = read(sent)
    assert (model.sampling.repeat_penalty, model.sampling.grammar, model.sampling.json_schema) == (1.1, "", "")


def test_unknown_keys_are_ignored() -> None:
    assert read({"llama3": True, "include_usage": 3, "": None}) == (ModelOptions(), ReplyOptions())


@pytest.mark.parametrize("document", ["[]", "3", '"text"', "null", "true"])
def test_a_document_that_is_no_object_says_nothing(document: str) -> None:
    assert read(document) == (ModelOptions(), ReplyOptions())


@pytest.mark.parametrize("document", ["", "{", "{'a': 1}", "{} x", '{"temp": NaN}', b"\xff{}", "[" * 100_000])
def test_what_is_not_json_is_refused_as_an_encoding(document: str | bytes) -> None:
    with pytest.raises(InvalidEncoding, match="not valid JSON"):
        read(document)


def test_every_known_key_is_refused_with_a_value_of_another_type_or_null() -> None:
    assert len(KEYS) >= 180
    wrong: dict[Kind, list[str]] = {
        Kind.BOOL: ["0", "1", '"true"', "null", "[]"],
        Kind.INT: ["1.0", "true", '"1"', "null", "{}", "9223372036854775808"],
        Kind.NUMBER: ["true", '"1"', "null", "[]", "1e999"],
        Kind.TEXT: ["1", "null", "[]", '"\\ud800"'],
    }
    for name, key in KEYS.items():
        for value in wrong[key.kind]:
            with pytest.raises((InvalidArgument, InvalidEncoding)):
                read(f'{{"{name}": {value}}}')


def test_a_number_may_be_written_as_an_integer() -> None:
    assert read({"temp": 1})[0].sampling.temperature == 1.0


def test_flash_attn_is_a_text_or_as_it_was_before_a_boolean() -> None:
    read({"flash-attn": "on"})
    read({"flash-attn": True})
    with pytest.raises(InvalidArgument, match="one of auto, disabled, enabled, off, on"):
        read({"flash-attn": "yes"})
    with pytest.raises(InvalidArgument, match="split-mode"):
        read({"split-mode": "column"})


HOST_NAMES = (
    "mmproj",
    "image",
    "model-url",
    "slot-save-path",
    "hf-token",
    "hf-repo",
    "path-prompt-cache",
    "tts-speaker-file",
    "logits-file",
)


@pytest.mark.parametrize("name", HOST_NAMES)
def test_a_configuration_cannot_name_anything_of_the_host(name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert read({name: ""}) == (ModelOptions(), ReplyOptions())
    with caplog.at_level(logging.WARNING, "promptd.grants"), pytest.raises(InvalidArgument, match=name):
        read({name: "/etc/passwd"})
    assert f"guest guest asked for {name}" in caplog.text
    assert "/etc/passwd" not in caplog.text


def test_a_configuration_that_is_refused_changes_nothing() -> None:
    model, reply = ModelOptions(), ReplyOptions()
    with pytest.raises(InvalidArgument):
        read_options(b'{"temp": 0.5, "n-predict": 3, "threads": "two"}', model, reply, guest="guest")
    assert (model, reply) == (ModelOptions(), ReplyOptions())


def test_values_are_moved_to_where_llama_cpp_takes_them() -> None:
    sampling = read({"temp": -1, "top-p": 7, "repeat-penalty": 0, "presence-penalty": -3, "top-k": -5, "min-p": 2})[
        0
    ].sampling
    assert (sampling.temperature, sampling.top_p, sampling.repeat_penalty) == (0, 1, 1)
    assert (sampling.presence_penalty, sampling.top_k, sampling.min_p) == (0, 0, 1)


@pytest.mark.parametrize(("seed", "expected"), [(-1, None), (0xFFFFFFFF, None), (0, 0), (7, 7), (2**32 + 7, 7)])
def test_a_seed_of_all_ones_is_random(seed: int, expected: int | None) -> None:
    assert read({"seed": seed})[0].sampling.seed == expected


def test_wasmedges_odd_spellings_have_their_effect() -> None:
    sampling = read({"dry-multipier": 0.8, "dry-last-n-penalty": 17, "typ-p": 0.5})[0].sampling
    assert (sampling.dry_multiplier, sampling.penalty_last_n, sampling.typical_p) == (0.8, 17, 0.5)
    assert read({"dry-multiplier": 0.8})[0] == ModelOptions()


def test_the_schema_counts_where_both_it_and_a_grammar_are_given_and_a_later_grammar_takes_its_place() -> None:
    both = read({"json-schema": "{}", "grammar": "root ::= [a]"})[0]
    assert both.sampling.json_schema == "{}"
    later, _ = read_options(b'{"grammar": "root ::= [b]"}', both, ReplyOptions(), guest="guest")
    assert (later.sampling.grammar, later.sampling.json_schema) == ("root ::= [b]", "")


@pytest.mark.parametrize("config", [{"tts": True}, {"reranking": False}, {"pooling-type": 4}])
def test_what_promptd_does_not_make_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        read(config)


def test_of_two_equal_keys_the_first_counts() -> None:
    assert read('{"n-predict": 1, "n-predict": 2}')[1].predict == 1


def test_other_spellings_are_taken_only_where_they_are_asked_for() -> None:
    hayride = {
        "temperature": 0,
        "num_context": 0,
        "num_batch": 0,
        "max_predict": 20,
        "top_k": 0,
        "top_p": 0.5,
        "seed": 3,
    }
    assert read({"temperature": 0.3, "max_predict": 20}) == (ModelOptions(), ReplyOptions())
    model, reply = read(hayride, other_spellings=True)
    assert (model.sampling.temperature, model.sampling.top_p, model.sampling.top_k, model.batch) == (0, 0.5, 40, 2048)
    assert reply.predict == 20


def test_the_operators_settings_are_the_defaults() -> None:
    model, reply = defaults_of(GraphSettings(model="echo", temperature=0, max_tokens=9, seed=4, embedding=True))
    assert (model.sampling.temperature, model.sampling.seed, model.embedding, reply.predict) == (0, 4, True, 9)


def test_samplers_the_operator_has_chosen_hold_for_tensors_too() -> None:
    model, _ = defaults_of(GraphSettings(model="echo", typical_p=0.5, grammar='root ::= "a"'))
    assert (model.sampling.typical_p, model.sampling.grammar) == (0.5, 'root ::= "a"')


def test_a_large_configuration_is_refused() -> None:
    with pytest.raises(TooLarge):
        read(b" " * (1024**2 + 1))


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(KEYS)), values, max_size=5))
def test_any_object_is_taken_or_refused(config: dict[str, Any]) -> None:
    with contextlib.suppress(PromptdError):
        read(config)


@given(st.binary(max_size=50))
def test_any_bytes_are_taken_or_refused(config: bytes) -> None:
    with contextlib.suppress(PromptdError):
        read(config)
