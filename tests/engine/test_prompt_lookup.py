from __future__ import annotations

from array import array

from promptd.engine.prompt_lookup import PromptLookup


def tokens(text: str) -> array[int]:
    return array("i", list(text.encode()))


def draft(lookup: PromptLookup, text: str, most: int = 16) -> str:
    return bytes(lookup.draft(tokens(text), most)).decode()


def test_what_followed_the_last_three_tokens_is_the_draft() -> None:
    assert draft(PromptLookup(), "one two; one t") == "wo; one t"
    assert draft(PromptLookup(), "one two; one t", most=3) == "wo;"


def test_the_latest_place_is_followed() -> None:
    assert draft(PromptLookup(), "abc1 abc2 abc", most=1) == "2"


def test_nothing_is_drafted_where_the_tokens_were_not_seen_before() -> None:
    for text in ("", "a", "abc", "abcabd", "abc ab"):
        assert draft(PromptLookup(), text) == ""


def test_a_sequence_that_grows_is_looked_up_as_if_it_were_new() -> None:
    text = "the cat sat on the mat; the cat sat on the hat; the hat sat on the cat"
    growing = PromptLookup()
    for length in range(len(text)):
        assert draft(growing, text[:length]) == draft(PromptLookup(), text[:length])
