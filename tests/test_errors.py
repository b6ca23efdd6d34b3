"""The one table of error codes covers every exception and keeps its promises."""

from __future__ import annotations

import pytest

from promptd import errors
from promptd.errors import BY_NAME, ERROR_CODES, NotFound, PromptdError, SecurityDenied, code_of, sentence

WIT_CASES = {
    "invalid-argument",
    "invalid-encoding",
    "timeout",
    "runtime-error",
    "unsupported-operation",
    "too-large",
    "not-found",
    "security",
    "unknown",
}


def test_every_kind_of_error_has_a_row_and_its_special_cases_are_of_a_kind_that_has():
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PromptdError)}
    assert {kind for kind in kinds if kind.__base__ is PromptdError} == set(ERROR_CODES)
    assert all(any(base in ERROR_CODES for base in kind.__mro__) for kind in kinds - {PromptdError})


def test_every_wit_case_of_the_standard_is_reachable_and_no_other_is_used():
    assert {code.wit for code in ERROR_CODES.values()} == WIT_CASES


def test_a_denied_name_has_the_core_number_of_an_unknown_one():
    assert code_of(SecurityDenied("x")).errno == code_of(NotFound("x")).errno == 8


def test_subclasses_take_the_code_of_their_kind_and_strangers_are_unknown():
    class Missing(NotFound):
        pass

    assert code_of(Missing("x")).name == "not-found"
    assert code_of(PromptdError("x")).name == "unknown"


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_an_error_string_opens_with_its_code(name: str):
    assert sentence(BY_NAME[name]("what happened")) == f"{name}: what happened"
