from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from promptd.engine.textstream import TextStream


def stream_all(pieces: list[bytes], stops: list[str] | None = None) -> tuple[list[str], TextStream]:
    stream = TextStream(stops or [])
    given = []
    for piece in pieces:
        given.append(stream.feed(piece))
        if stream.stopped:
            break
    given.append(stream.finish())
    return given, stream


def test_a_character_split_over_tokens_comes_whole() -> None:
    emoji = "🦙".encode()
    given, stream = stream_all([b"a", emoji[:1], emoji[1:3], emoji[3:] + b"b"])
    assert given == ["a", "", "", "🦙b", ""]
    assert stream.text == "a🦙b"


def test_bytes_that_are_no_utf8_become_replacement_characters() -> None:
    assert stream_all([b"a\xff", b"b"])[1].text == "a�b"


def test_an_unfinished_character_at_the_end_becomes_one_replacement_character() -> None:
    assert stream_all([b"a", "🦙".encode()[:3]])[1].text == "a�"


def test_a_stop_string_across_tokens_ends_the_text_before_it() -> None:
    given, stream = stream_all([b"Hello\n", b"Us", b"er", b": more"], ["User:"])
    assert stream.stopped
    assert "".join(given) == "Hello\n"
    assert given[1:3] == ["", ""], "what may become the stop string is held back"


def test_text_that_only_began_like_a_stop_string_is_given_after_all() -> None:
    given, stream = stream_all([b"Us", b"ed ", b"Use"], ["User:"])
    assert not stream.stopped
    assert given == ["", "Used ", "", "Use"]


def test_the_earliest_of_several_stop_strings_counts() -> None:
    assert stream_all([b"one two three"], ["three", "two"])[1].text == "one "


def test_tokens_of_a_stop_string_are_not_within_the_text() -> None:
    assert stream_all([b"ab", b"c", b"ST", b"OP"], ["STOP"])[1].tokens_within(4) == (2, True)


def test_a_token_cut_by_a_stop_string_makes_the_tokens_inexact() -> None:
    assert stream_all([b"ab", b"cST", b"OP"], ["STOP"])[1].tokens_within(3) == (1, False)


def test_a_token_that_begins_a_stop_characters_bytes_is_not_within_the_text() -> None:
    emoji = "🦙".encode()
    assert stream_all([b"ab", emoji[:2], emoji[2:]], ["🦙"])[1].tokens_within(3) == (1, True)


def test_a_stop_string_at_the_very_beginning_leaves_nothing() -> None:
    _, stream = stream_all([b"STOP"], ["STOP"])
    assert stream.text == ""
    assert stream.tokens_within(1) == (0, True)


@given(st.text(), st.lists(st.integers(0, 200)), st.lists(st.text(min_size=1, max_size=4), max_size=3))
def test_however_text_is_cut_it_comes_out_up_to_the_first_stop(text: str, cuts: list[int], stops: list[str]) -> None:
    data = text.encode()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges)]
    given, stream = stream_all(pieces, stops)
    assert "".join(given) == stream.text
    assert not any(stop in stream.text for stop in stops)
    if stream.stopped:
        assert any(text.startswith(stream.text + stop) for stop in stops)
    else:
        assert stream.text == text


def test_a_token_counts_as_given_with_the_first_of_its_text() -> None:
    stream = TextStream(["stop"])
    assert stream.feed(b"as") == "a"
    assert stream.tokens_given(1) == 1
    assert stream.feed(b"s") == "s"
    assert stream.tokens_given(2) == 1, "all of the second may be a stop string"
    assert stream.feed(b"top") == ""
    assert stream.tokens_given(3) == 1
    unfinished = TextStream(["stop"])
    assert unfinished.feed(b"\xe2\x80") == ""
    assert unfinished.tokens_given(1) == 0
    assert unfinished.feed(b"\x94 s") == "\N{EM DASH} "
    assert unfinished.tokens_given(2) == 2
