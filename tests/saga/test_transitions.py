"""The statuses: which changes are legal, and that the page in the documents says the same."""

from __future__ import annotations

import runpy
from itertools import product
from pathlib import Path

import pytest

from saga_worker.saga.errors import IllegalTransition
from saga_worker.saga.transitions import FINAL, TRANSITIONS, Status, move

DOCS = Path(__file__).parents[2] / "docs"
ILLEGAL = [pair for pair in product([None, *Status], Status) if pair not in TRANSITIONS]


@pytest.mark.parametrize("pair", TRANSITIONS)
def test_a_legal_change_gives_the_target(pair: tuple[Status | None, Status]) -> None:
    assert move(*pair) is pair[1]


@pytest.mark.parametrize("pair", ILLEGAL)
def test_an_illegal_change_is_refused_and_names_both_ends(pair: tuple[Status | None, Status]) -> None:
    current, target = pair
    with pytest.raises(IllegalTransition) as refused:
        move(current, target)

    assert (refused.value.current, refused.value.target) == (current.label if current else "absent", target.label)


def test_a_final_status_is_left_by_an_operator_or_by_a_parent_that_goes_back() -> None:
    """features: 18; 117; L6"""
    left = {(current, target) for current, target in TRANSITIONS if current in FINAL and target is not current}

    assert left == {
        (Status.COMPLETED, Status.COMPENSATING), (Status.COMPLETED, Status.COMPENSATED),
        (Status.FAILED, Status.RUNNING), (Status.FAILED, Status.WAITING),
    }  # fmt: skip


def test_every_status_can_be_reached_and_every_open_one_can_end() -> None:
    reached: set[Status | None] = {None}
    while grown := {t for c, t in TRANSITIONS if c in reached} - reached:
        reached |= grown
    can_end: set[Status | None] = set(FINAL)
    while grown_back := {c for c, t in TRANSITIONS if t in can_end} - can_end:
        can_end |= grown_back

    assert reached == {None, *Status}
    assert can_end == {None, *Status}


def test_what_went_back_never_goes_forward() -> None:
    assert {t for c, t in TRANSITIONS if c is Status.COMPENSATING} <= {
        Status.COMPENSATING, Status.COMPENSATED, Status.FAILED, Status.PAUSED,
    }  # fmt: skip


def test_the_numbers_are_those_in_the_database() -> None:
    """features: 117"""
    assert [(status.value, status.label) for status in Status] == [
        (0, "running"), (1, "waiting"), (2, "compensating"), (3, "completed"), (4, "compensated"), (5, "failed"),
        (6, "paused"),
    ]  # fmt: skip


def test_the_page_is_the_one_printed_from_the_tables() -> None:
    printed = runpy.run_path(str(DOCS / "print_state_machine.py"))["page"]()

    assert (DOCS / "state_machine.md").read_text() == printed, "run: python docs/print_state_machine.py"
