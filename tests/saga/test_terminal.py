"""Who may say that an error is final, and in which order they are asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from saga_worker import (
    TerminalError,
    clear_terminal_errors,
    register_terminal_errors,
    resolve_terminal_error,
    set_error_mapper,
    unregister_terminal_errors,
)


class Gone(LookupError): ...


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    clear_terminal_errors()
    yield
    clear_terminal_errors()


def said(reason: str) -> TerminalError:
    return TerminalError(reason)


def test_nobody_says_so() -> None:
    """features: 35"""
    assert resolve_terminal_error(Gone()) is None


def test_a_terminal_error_says_so_itself() -> None:
    """features: 35"""
    error = TerminalError("no use", may_have_worked=True)

    assert resolve_terminal_error(error, mapper=lambda _: said("the step")) is error


def test_a_registered_class_counts_for_its_subclasses_until_it_is_taken_back() -> None:
    """features: 36"""
    register_terminal_errors(LookupError)
    assert resolve_terminal_error(Gone()) is not None
    assert resolve_terminal_error(ValueError()) is None

    unregister_terminal_errors(LookupError, ValueError)
    assert resolve_terminal_error(Gone()) is None


def test_the_step_is_asked_before_the_classes_and_the_process_last() -> None:
    """features: 37, 38"""
    set_error_mapper(lambda error: said("the process"))
    assert resolve_terminal_error(Gone()) is not None
    assert [
        (resolve_terminal_error(Gone(), mapper=mapper, classes=classes) or said("nobody")).reason
        for mapper, classes in (
            (lambda error: said("the step"), (Gone,)),
            (lambda error: None, (Gone,)),
            (None, (ValueError,)),
        )
    ] == ["the step", "", "the process"]

    set_error_mapper(None)
    assert resolve_terminal_error(Gone()) is None


def test_a_mapper_that_raises_or_answers_something_else_has_given_no_answer() -> None:
    """features: 38"""

    def broken(error: Exception) -> TerminalError | None:
        raise ZeroDivisionError

    assert resolve_terminal_error(Gone(), mapper=broken) is None
    assert resolve_terminal_error(Gone(), mapper=lambda error: "no") is None  # type: ignore[arg-type, return-value]


def test_a_class_may_say_that_it_may_have_worked() -> None:
    class Cut(Exception):
        may_have_worked = True

    register_terminal_errors(Cut)
    found = resolve_terminal_error(Cut())

    assert found is not None and found.may_have_worked
