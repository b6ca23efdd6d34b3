"""An ONNX file is looked at before onnxruntime sees it: it may reach for files of its own folder and no others."""

from __future__ import annotations

from pathlib import Path

import onnx_models as models
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto

from promptd.backends.onnx import OnnxGraph
from promptd.backends.onnx_model import MESSAGES, ORT_MEMORY_MARKER, read_facts
from promptd.errors import InvalidArgument, InvalidEncoding, NotFound, PromptdError, SecurityDenied
from promptd.tensor import Tensor, TensorType

PLACES = ["initializer", "constant", "branch", "function"]


def test_the_table_of_messages_leads_to_every_tensor_of_onnx():
    """Walks onnx's own schema; a new way to a tensor in a later onnx fails here."""
    children = {}
    waiting = [ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        if message.name not in children:
            children[message.name] = {
                field.number: field.message_type.name for field in message.fields if field.message_type
            }
            waiting += [field.message_type for field in message.fields if field.message_type]
    leading = {"TensorProto"}
    while more := {name for name, fields in children.items() if leading & set(fields.values())} - leading:
        leading |= more
    expected = {
        name: {number: child for number, child in children[name].items() if child in leading} for name in leading
    }
    assert expected == MESSAGES


@pytest.mark.parametrize("where", PLACES)
def test_every_place_of_a_tensor_is_looked_at(where: str):
    assert read_facts(models.external("weights.bin", where=where)).external == {"weights.bin"}
    assert read_facts(models.identity(["n"])).external == frozenset()


@pytest.mark.parametrize("where", PLACES)
def test_a_model_given_as_bytes_may_not_reach_for_files(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "weights.bin").write_bytes(b"abcd")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgument, match=r"keeps weights in another file, 'weights\.bin'"):
        OnnxGraph(models.external("weights.bin", where=where))


def test_a_model_file_may_reach_for_weights_beside_it(tmp_path: Path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "weights.bin").write_bytes(b"abcd")
    (tmp_path / "model.onnx").write_bytes(models.external("parts/weights.bin"))
    outputs = OnnxGraph(tmp_path / "model.onnx").execution_context("guest").compute([])
    assert outputs == [("y", Tensor((4,), TensorType.U8, b"abcd"))]


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize(
    "location",
    [
        "../secret",
        "sub/../../secret",
        "link",
        "folder/secret",
        "{outside}",
        "/etc/passwd",
        "",
        ".",
        "a\0b",
        f"*/{ORT_MEMORY_MARKER}/*",
    ],
)
def test_a_model_file_may_not_reach_outside_its_folder(location: str, where: str, tmp_path: Path):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "*" / ORT_MEMORY_MARKER).mkdir(parents=True)
    (folder / "*" / ORT_MEMORY_MARKER / "*").write_bytes(b"abcd")
    (tmp_path / "secret").write_bytes(b"abcd")
    (folder / "link").symlink_to("../secret")
    (folder / "folder").symlink_to("..")
    path = folder / "model.onnx"
    path.write_bytes(models.external(location.format(outside=tmp_path / "secret"), where=where))
    with pytest.raises((SecurityDenied, NotFound)) as caught:
        OnnxGraph(path)
    assert "folder" in str(caught.value)


def test_missing_weights_are_named(tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(models.external("gone.bin"))
    with pytest.raises(NotFound, match=r"keeps weights in 'gone\.bin', and its folder has no such file"):
        OnnxGraph(tmp_path / "model.onnx")


def test_inputs_without_a_rank_are_told_from_scalars():
    assert read_facts(models.subtract(None, [])).unranked == {"a"}


def test_messages_nested_too_deep_are_refused():
    message = b""
    for field in (0x32, 0x2A, 0x0A) * 2000:  # attribute.g in node.attribute in graph.node
        message = bytes([field]) + _varint(len(message)) + message
    with pytest.raises(InvalidEncoding, match="nested more than"):
        read_facts(bytes([0x3A]) + _varint(len(message)) + message)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes):
    try:
        read_facts(content)
    except PromptdError as error:
        assert "ONNX model" in str(error)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 2**16), st.integers(0, 255))
def test_a_changed_byte_never_hides_that_a_tensor_is_elsewhere(position: int, value: int):
    content = bytearray(models.external("weights.bin"))
    content[position % len(content)] = value
    try:
        external = read_facts(bytes(content)).external
    except InvalidEncoding:
        return
    proto = ModelProto()
    try:
        proto.ParseFromString(bytes(content))
    except Exception:
        return
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in proto.graph.initializer):
        assert external


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
