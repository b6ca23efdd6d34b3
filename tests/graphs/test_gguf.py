from __future__ import annotations

import ctypes
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf_files import ARRAY, STRING, UINT64, Gguf, Tensor, default_metadata, entry, number, string, strings, text

from promptd.errors import InvalidEncoding, NotFound, PromptdError, RuntimeFailure
from promptd.graphs.gguf import read_gguf


def test_the_real_model_is_described(smollm2: Path) -> None:
    info = read_gguf(smollm2)
    assert (info.version, info.architecture, info.quantisation) == (3, "llama", "Q4_1")
    assert info.parameters == 134_515_008
    assert (info.context_length, info.embedding_length, info.vocabulary) == (8192, 576, 49152)
    assert (info.licence, info.tokenizer, info.parts) == ("apache-2.0", "gpt2", 1)
    assert info.chat_template is not None and "<|im_start|>" in info.chat_template
    assert info.tensor_types == {"Q4_1": 210, "F32": 61, "Q8_0": 1}
    assert info.size == 98_362_432


def test_a_small_file_is_described(tmp_path: Path) -> None:
    info = read_gguf(_written(tmp_path, Gguf().build()))
    assert (info.name, info.licence, info.quantisation) == ("A tiny model", "mit", "Q4_0")
    assert info.parameters == 32 * 4 + 64
    assert info.tensor_types == {"Q4_0": 1, "F32": 1}
    assert (info.vocabulary, info.chat_template) == (4, "{{ messages }}")


def test_without_a_file_type_the_quantisation_is_the_type_of_most_bytes(tmp_path: Path) -> None:
    metadata = [string("general.architecture", "llama")]
    info = read_gguf(_written(tmp_path, Gguf(metadata=metadata).build()))
    assert info.quantisation == "F32"
    assert info.context_length is info.chat_template is info.name is info.vocabulary is None


def test_a_part_of_a_split_model_says_of_how_many(tmp_path: Path) -> None:
    metadata = [*default_metadata(), entry("split.count", 2, struct.pack("<H", 3))]
    assert read_gguf(_written(tmp_path, Gguf(metadata=metadata).build())).parts == 3


def test_metadata_may_be_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    words = [f"{word:0{word % 50}}" for word in range(60_000)]
    metadata = [
        *default_metadata(),
        strings("tokenizer.ggml.merges", words),
        string("general.license.link", "x" * 3_000_000),
    ]
    metadata.append(string("tokenizer.chat_template.long", "x" * 5_000_000))
    assert read_gguf(_written(tmp_path, Gguf(metadata=metadata).build())).parameters == 192


def test_a_name_that_is_not_utf_8_is_mended(tmp_path: Path) -> None:
    metadata = [string("general.architecture", "llama"), string("general.name", b"\xff\xfeName")]
    assert read_gguf(_written(tmp_path, Gguf(metadata=metadata).build())).name == "\ufffd\ufffdName"


HUGE = 1 << 62
ARCHITECTURE = string("general.architecture", "llama")

BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "text": (b"This is not a model.\n", "begins with b'This'"),
    "two bytes": (b"GG", "begins with b'GG'"),
    "bad magic": (Gguf().build(magic=b"GGML"), "begins with b'GGML'"),
    "version 1": (Gguf().build(version=1), "version is 1"),
    "version 4": (Gguf().build(version=4), "version is 4"),
    "version 0": (Gguf().build(version=0), "version is 0"),
    "big-endian": (Gguf().build(version=3 << 24), "big-endian"),
    "too many tensors": (Gguf().build(count=HUGE), "claims 4611686018427387904 tensors"),
    "too many entries": (Gguf().build(entries=(1 << 64) - 1), "claims 18446744073709551615 metadata entries"),
    "fewer entries than claimed": (Gguf().build(entries=60_000), "cut short|twice|unknown type|UTF-8|bytes long|empty"),
    "key longer than the file": (Gguf(metadata=[struct.pack("<Q", HUGE)]).build(), "cut short at metadata key 0"),
    "key too long": (Gguf(metadata=[string("k" * 70_000, "v")]).build(), "metadata key 0 is 70000 bytes long"),
    "empty key": (Gguf(metadata=[string("", "v")]).build(), "metadata key 0 is empty"),
    "key not UTF-8": (Gguf(metadata=[entry(b"\xff", 4, b"abcd")]).build(), "metadata key 0 is not UTF-8"),
    "NUL in key": (Gguf(metadata=[string("general.architecture\0x", "llama")]).build(), "holds a NUL"),
    "duplicate key": (Gguf(metadata=[ARCHITECTURE, ARCHITECTURE]).build(), "'general.architecture' twice"),
    "unknown value type": (Gguf(metadata=[entry("k", 13, b"")]).build(), "unknown type 13"),
    "negative value type": (Gguf(metadata=[entry("k", -1, b"")]).build(), "unknown type -1"),
    "array of arrays": (Gguf(metadata=[entry("k", ARRAY, struct.pack("<iQ", ARRAY, 1))]).build(), "element type 9"),
    "array longer than the file": (
        Gguf(metadata=[entry("k", ARRAY, struct.pack("<iQ", UINT64, HUGE))]).build(),
        "cut short at the array 'k'",
    ),
    "array of too many strings": (
        Gguf(metadata=[entry("k", ARRAY, struct.pack("<iQ", STRING, HUGE))]).build(),
        "claims 4611686018427387904 strings",
    ),
    "array of a string longer than the file": (
        Gguf(metadata=[entry("k", ARRAY, struct.pack("<iQQ", STRING, 1, HUGE))]).build(),
        "cut short at the array 'k'",
    ),
    "value longer than the file": (
        Gguf(metadata=[entry("k", STRING, struct.pack("<Q", HUGE))]).build(),
        "value of 'k'",
    ),
    "no architecture": (Gguf(metadata=[string("general.name", "x")]).build(), "does not say general.architecture"),
    "architecture is a number": (Gguf(metadata=[number("general.architecture", 1)]).build(), "not a string"),
    "context is a string": (
        Gguf(metadata=[ARCHITECTURE, string("llama.context_length", "long")]).build(),
        "llama.context_length is not a count",
    ),
    "context is negative": (
        Gguf(metadata=[ARCHITECTURE, entry("llama.context_length", 5, struct.pack("<i", -1))]).build(),
        "not a count",
    ),
    "alignment 0": (Gguf(metadata=[ARCHITECTURE, number("general.alignment", 0)]).build(), "alignment is 0"),
    "alignment 24": (Gguf(metadata=[ARCHITECTURE, number("general.alignment", 24)]).build(), "alignment is 24"),
    "alignment 2^31": (Gguf(metadata=[ARCHITECTURE, number("general.alignment", 1 << 31)]).build(), "power of two"),
    "alignment of 64 bits": (
        Gguf(metadata=[ARCHITECTURE, entry("general.alignment", UINT64, struct.pack("<Q", 32))]).build(),
        "not a 32-bit unsigned number",
    ),
    "tensor name too long": (Gguf(tensors=[Tensor("n" * 64, (1,))]).build(), "a tensor's name is 64 bytes long"),
    "NUL in tensor name": (Gguf(tensors=[Tensor("a\0b", (1,))]).build(), "holds a NUL"),
    "duplicate tensor": (Gguf(tensors=[Tensor("a", (8,)), Tensor("a", (8,))]).build(), "two tensors called 'a'"),
    "five dimensions": (Gguf(tensors=[Tensor("a", (1, 1, 1, 1, 1))]).build(), "has 5 dimensions"),
    "negative dimension": (Gguf(tensors=[Tensor("a", (-4,))]).build(), "a dimension of -4"),
    "zero dimension": (Gguf(tensors=[Tensor("a", (0, HUGE))]).build(), "a dimension of 0"),
    "too many elements": (Gguf(tensors=[Tensor("a", (1 << 31, 1 << 31, 2, 1))]).build(), "too many elements"),
    "elements that overflow": (Gguf(tensors=[Tensor("a", (1 << 32, 1 << 32))]).build(), "too many elements"),
    "unknown tensor type": (Gguf(tensors=[Tensor("a", (32,), kind=43)]).build(), "unknown type 43"),
    "removed tensor type": (Gguf(tensors=[Tensor("a", (32,), kind=4)]).build(), "unknown type 4"),
    "ragged rows": (Gguf(tensors=[Tensor("a", (33,), kind=2)]).build(), "not a multiple of the 32 of Q4_0"),
    "gap between tensors": (Gguf(tensors=[Tensor("a", (8,)), Tensor("b", (8,), offset=64)]).build(), "begin at 64"),
    "overlapping tensors": (Gguf(tensors=[Tensor("a", (8,)), Tensor("b", (8,), offset=0)]).build(), "begin at 0"),
    "offset beyond the file": (Gguf(tensors=[Tensor("a", (8,), offset=(1 << 64) - 32)]).build(), "begin at"),
    "tensor larger than the file": (Gguf(tensors=[Tensor("a", (1 << 40,), size=32)]).build(), "cut short: tensor 'a'"),
    "data cut short": (Gguf().build()[:-33], "cut short: tensor 'output_norm.weight'"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused_in_one_sentence_with_its_name_and_the_cause(kind: str, tmp_path: Path) -> None:
    data, cause = BROKEN[kind]
    path = _written(tmp_path, data)
    with pytest.raises(InvalidEncoding, match=cause) as refusal:
        read_gguf(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    whole = Gguf().build()
    end_of_last_tensor = len(whole)
    for length in range(end_of_last_tensor):
        with pytest.raises(InvalidEncoding):
            read_gguf(_written(tmp_path, whole[:length]))


def test_directories_devices_and_pipes_are_refused_without_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    with pytest.raises(InvalidEncoding, match="is a directory"):
        read_gguf(tmp_path)
    for path in (pipe, Path(os.devnull)):
        with pytest.raises(InvalidEncoding, match="not a regular file"):
            read_gguf(path)


def test_a_missing_or_unreadable_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        read_gguf(tmp_path / "missing.gguf")
    with pytest.raises(RuntimeFailure, match="cannot read"):
        read_gguf(Path("a\0b"))
    with pytest.raises(RuntimeFailure, match="cannot read"):
        read_gguf(_written(tmp_path, b"x") / "below")


@pytest.fixture(scope="module")
def llama_cpp_accepts(ggml: ctypes.CDLL) -> Callable[[Path], bool]:
    class Parameters(ctypes.Structure):
        _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))

    ggml.gguf_init_from_file.restype = ctypes.c_void_p
    ggml.gguf_init_from_file.argtypes = (ctypes.c_char_p, Parameters)
    ggml.gguf_free.argtypes = (ctypes.c_void_p,)
    quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    ggml.ggml_log_set(quiet, None)

    def accepts(path: Path) -> bool:
        context = ggml.gguf_init_from_file(os.fsencode(path), Parameters(True, None))
        if context:
            ggml.gguf_free(context)
        return bool(context)

    accepts.keep = quiet  # type: ignore[attr-defined]
    return accepts


def test_whatever_mutated_file_is_accepted_llama_cpp_accepts_too(
    tmp_path: Path, llama_cpp_accepts: Callable[[Path], bool]
) -> None:
    noise = random.Random(2024)
    metadata = [*default_metadata(), entry("k", ARRAY, struct.pack("<iQ", UINT64, 2) + bytes(16))]
    whole = Gguf(metadata=metadata).build()
    header = len(whole) - 512
    accepted = 0
    assert llama_cpp_accepts(_written(tmp_path, whole))
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(noise.choice((1, 1, 2, 4))):
            at = noise.randrange(header)
            match noise.randrange(4):
                case 0:
                    data[at] ^= 1 << noise.randrange(8)
                case 1:
                    data[at : at + 8] = struct.pack("<Q", noise.choice((0, 1, 1 << 31, 1 << 32, HUGE, (1 << 64) - 1)))
                case 2:
                    del data[at : at + noise.choice((1, 4, 8))]
                case 3:
                    data[at:at] = text("x" * noise.randrange(9))
        path = _written(tmp_path, bytes(data))
        try:
            read_gguf(path)
        except PromptdError as refusal:
            assert "\n" not in str(refusal)
        else:
            accepted += 1
            assert llama_cpp_accepts(path)
    assert accepted


def _written(folder: Path, data: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(data)
    return path
