from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptd.errors import InvalidArgument
from promptd.graphs.reference import (
    CatalogReference,
    EchoReference,
    FileReference,
    HubReference,
    Reference,
    parse_reference,
)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("echo", EchoReference()),
        ("smollm2", CatalogReference("smollm2")),
        ("SmolLM2:1.7B", CatalogReference("smollm2", "1.7b")),
        ("qwen2.5:0.5b", CatalogReference("qwen2.5", "0.5b")),
        ("hf.co/bartowski/Llama-3.2-1B", HubReference("bartowski/Llama-3.2-1B")),
        ("huggingface.co/u/r", HubReference("u/r")),
        ("hf.co/u/r:q4_k_m", HubReference("u/r", quant="Q4_K_M")),
        ("hf.co/u/r@v1.0", HubReference("u/r", revision="v1.0")),
        ("hf.co/u/r:Q8_0@refs/pr/1", HubReference("u/r", quant="Q8_0", revision="refs/pr/1")),
        ("hf.co/u/r/m.gguf", HubReference("u/r", file="m.gguf")),
        ("hf.co/u/r/sub/a model (1).GGUF@main", HubReference("u/r", file="sub/a model (1).GGUF", revision="main")),
        ("file:model.gguf", FileReference(Path("model.gguf"))),
        ("file:/srv/../models/a b.gguf", FileReference(Path("/srv/../models/a b.gguf"))),
    ],
)
def test_a_reference_parses_to_what_it_names_and_prints_as_itself(text: str, reference: Reference) -> None:
    assert parse_reference(text) == reference
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a b",
        "../x",
        "smollm2:",
        ":x",
        "smollm2:a:b",
        "smollm2/..",
        "a\0b",
        "a\nb",
        "C:\\models\\x.gguf",
        "\\\\server\\share",
        "-rf",
        "x" * 81,
        "file:",
        "file:a\0b",
        "file:" + "x" * 5000,
        "hf.co/",
        "hf.co/u",
        "hf.co/u/",
        "hf.co//r",
        "hf.co/../r",
        "hf.co/u/..",
        "hf.co/u--v/r",
        "hf.co/u/r--s",
        "hf.co/.u/r",
        "hf.co/u/r.git",
        "hf.co/u/r:",
        "hf.co/u/r:../x",
        "hf.co/u/r:Q4/x.gguf",
        "hf.co/u/r@",
        "hf.co/u/r@../x",
        "hf.co/u/r@a//b",
        "hf.co/u/r@a..b",
        "hf.co/u/r/",
        "hf.co/u/r/../x.gguf",
        "hf.co/u/r/a/../x.gguf",
        "hf.co/u/r//x.gguf",
        "hf.co/u/r/.hidden.gguf",
        "hf.co/u/r/C:x.gguf",
        "hf.co/u/r/a\\x.gguf",
        "hf.co/u/r/a\0.gguf",
        "hf.co/u/r/model.bin",
        "hf.co/u/r/%2e%2e/x.gguf",
        "hf.co/u/r/x?.gguf",
        "hf.co/u/r/x#.gguf",
        "hf.co/u/r/" + "x" * 600 + ".gguf",
        "hf.co/" + "u" * 97 + "/r",
        "https://huggingface.co/u/r",
        "http://127.0.0.1/x",
        "sha256:" + "0" * 65,
    ],
)
def test_a_hostile_or_mistyped_reference_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        parse_reference(text)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("./m.gguf", "file:./m.gguf"),
        ("/srv/m.gguf", "file:/srv/m.gguf"),
        ("m.gguf", "file:m.gguf"),
        ("https://huggingface.co/u/r", "hf.co/USER/REPO without https://"),
    ],
)
def test_a_near_miss_is_told_how_it_is_written(text: str, hint: str) -> None:
    with pytest.raises(InvalidArgument, match=hint):
        parse_reference(text)


@given(
    st.text(alphabet=st.characters(), max_size=60), st.sampled_from(["", "hf.co/", "hf.co/u/r", "hf.co/u/r/", "file:"])
)
def test_any_text_is_refused_or_parses_to_something_that_prints_as_itself(text: str, prefix: str) -> None:
    try:
        reference = parse_reference(prefix + text)
    except InvalidArgument:
        return
    assert parse_reference(str(reference)) == reference
    if isinstance(reference, HubReference):
        assert ".." not in str(reference).split("/")
        assert "\\" not in str(reference)
