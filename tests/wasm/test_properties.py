"""The properties of a graph: its options as text, checked, and kept to the handle they were set on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptd.backends.base import Configurable
from promptd.backends.echo import EchoGraph
from promptd.config import GraphSettings, GuestLimits
from promptd.errors import InvalidArgument, NotFound, PromptdError, TooLarge, UnsupportedOperation
from promptd.wasm import properties
from promptd.wasm.control import Control
from promptd.wasm.grants import Grant
from promptd.wasm.nn import Nn

SETTINGS = GraphSettings(model="file:/models/secret.gguf", system="You know a secret.", stop=("###",), max_tokens=64)


@pytest.fixture
def graph() -> EchoGraph:
    return EchoGraph(SETTINGS)


def test_properties_tell_the_options_of_the_operator(graph: EchoGraph) -> None:
    told = {name: properties.get(graph, name) for name in properties.names(graph)}
    assert told == {
        "temperature": "0.8",
        "top-k": "40",
        "top-p": "0.95",
        "min-p": "0.05",
        "repeat-penalty": "1.0",
        "seed": None,
        "max-tokens": "64",
        "stop": '["###"]',
        "architecture": "echo",
        "template": "none",
    }


@pytest.mark.parametrize("name", ["model", "system", "overflow", "target", "max_tokens", "__class__", "settings"])
def test_what_is_no_property_can_neither_be_read_nor_set(graph: EchoGraph, name: str) -> None:
    assert properties.get(graph, name) is None
    with pytest.raises(NotFound, match="the graph has no property"):
        properties.changed(graph, name, "1")


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("temperature", "warm", "temperature is a number, not 'warm'"),
        ("temperature", "", "temperature is a number, not ''"),
        ("temperature", "NaN", "temperature is a number, not 'NaN'"),
        ("temperature", "101", "temperature: Input should be less than or equal to 100, got '101'"),
        ("top-k", "1.5", "top-k: Input should be a valid integer"),
        ("top-k", "1" + "0" * 5000, "top-k is a number"),
        ("stop", '["a", 1]', "stop is a JSON list of strings"),
        ("stop", "[" * 60000, "stop is a JSON list of strings"),
    ],
)
def test_a_value_that_is_none_is_refused_with_what_was_wanted(graph: EchoGraph, name: str, text: str, why: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        properties.changed(graph, name, text)
    assert str(refused.value).startswith(why)


def test_facts_can_only_be_read_and_values_are_short(graph: EchoGraph) -> None:
    with pytest.raises(UnsupportedOperation, match="the property 'template' can only be read"):
        properties.changed(graph, "template", "auto")
    with pytest.raises(TooLarge, match="the value of 'stop' has more than 65536 bytes"):
        properties.changed(graph, "stop", "[" + " " * 65536 + "]")


def test_a_graph_without_options_has_no_properties() -> None:
    class Plain:
        """What the graphs of other backends are to a guest: they run tensors and have no options."""

    plain: object = Plain()
    assert not isinstance(plain, Configurable)
    assert properties.names(plain) == []  # type: ignore[arg-type]
    assert properties.get(plain, "seed") is None  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        properties.changed(plain, "seed", "1")  # type: ignore[arg-type]


def test_a_property_holds_for_its_handle_and_the_grants_limits_stay(graph: EchoGraph) -> None:
    grant = Grant(graphs=frozenset({"echo"}), limits=GuestLimits(tokens=10))
    nn = Nn("guest", grant, lambda _name: graph, Control("guest"), lambda _text: None)
    mine, other = nn.load_by_name("echo"), nn.load_by_name("echo")
    properties.set_on(nn, mine, "max-tokens", "1000")
    assert properties.get(mine.graph, "max-tokens") == "1000"
    assert properties.get(other.graph, "max-tokens") == "64"
    assert graph.settings == SETTINGS
    with pytest.raises(TooLarge, match="the token limit of 10 is reached"):
        nn.prompt(nn.open_prompt(mine), "more than ten bytes")


@given(name=st.one_of(st.sampled_from([*properties.OPTIONS, "template"]), st.text()), value=st.text())
def test_whatever_is_set_is_set_or_refused(name: str, value: str) -> None:
    graph = EchoGraph(SETTINGS)
    try:
        changed = properties.changed(graph, name, value)
    except PromptdError:
        return
    text = properties.get(changed, name)
    again = properties.changed(changed, name, text or "")
    assert properties.get(again, name) == text
    assert GraphSettings.model_validate(again.settings.model_dump()) == again.settings  # type: ignore[attr-defined]
