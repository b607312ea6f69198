"""`saga-worker definitions` and `saga graph`: without servers, and for one stored saga."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from saga_worker.saga.instance import Fate
from tests.stages.command_line import Run
from tests.stages.operator_rows import add_saga, command, on, progress

DEFINITIONS: Final = str(Path(__file__).parents[2] / "definitions")
BROKEN: Final = """
from pydantic import BaseModel
from saga_worker import Event, Saga

class Begun(Event):
    key: str

class State(BaseModel):
    key: str

lost = Saga("lost", state=State)
lost.starts_on(Begun, key=lambda e: e.key)(lambda event: State(key=event.key))
nap = lost.wait("nap")
"""


KEPT: Final = BROKEN.replace("lost", "kept").replace(
    'nap = kept.wait("nap")',
    """
from saga_worker import Command, Undo, minutes

class Ask(Command):
    key: str

@kept.command("a", timeout=minutes(1))
def ask(state: State) -> Ask:
    return Ask(key=state.key)

@kept.command("a", timeout=minutes(1), undo=Undo.NONE)
def tell(state: State) -> Ask:
    return Ask(key=state.key)

kept.flow(ask, tell)
""",
)


def test_check_lists_what_a_worker_would_load(run: Run) -> None:
    """features: 136"""
    ran = run("definitions", "check", "--definitions", DEFINITIONS)

    assert ran.code == 0
    assert "step credit has no undo" not in ran.err  # it says undo=Undo.NONE
    assert (
        "Note: " in ran.err
        and "approval_chain publishes claim_paid, decision_wanted, which no definition here" in ran.err
    )
    assert "approval_chain 1: 7 steps, started by expense_claimed, fingerprint " in ran.out


def test_check_says_what_is_wrong_and_where_and_how_to_mend_it(run: Run, tmp_path: Path) -> None:
    """features: 136; L17"""
    (tmp_path / "lost.py").write_text(BROKEN)

    ran = run("definitions", "check", "--definitions", str(tmp_path / "lost.py"))

    assert ran.code == 1
    assert [line.partition("saga ")[2][:4] for line in ran.err.splitlines()] == ["lost"] * len(ran.err.splitlines())
    assert "lost.py:" in ran.err and "call lost.flow(…)" in ran.err


def test_check_hints_at_a_step_whose_undo_nobody_asked_for(run: Run, tmp_path: Path) -> None:
    (tmp_path / "kept.py").write_text(KEPT)

    ran = run("definitions", "check", "--definitions", str(tmp_path / "kept.py"))

    assert ran.code == 0
    assert "Hint: " in ran.err and "step ask has no undo" in ran.err
    assert "step tell" not in ran.err
    assert run("definitions", "check", "--strict", "--definitions", str(tmp_path / "kept.py")).code == 1
    assert run("definitions", "check", "--strict", "--definitions", DEFINITIONS).code == 0


def test_check_hints_at_the_steps_at_which_sagas_stay_under_their_version(run: Run, tmp_path: Path) -> None:
    """features: L19"""
    upgraded = (
        KEPT
        + """
newer = Saga("kept", state=State, version=2)
newer.starts_on(Begun, key=lambda e: e.key)(lambda event: State(key=event.key))
newer.flow(newer.command("a", timeout=minutes(1), name="tell", undo=Undo.NONE)(tell.make))
newer.upgrade_from(kept)(lambda state: state)
"""
    )
    (tmp_path / "kept.py").write_text(upgraded)

    ran = run("definitions", "check", "--definitions", str(tmp_path / "kept.py"))

    stays = [line for line in ran.err.splitlines() if "stays under version 1" in line]
    assert ran.code == 0 and len(stays) == 1
    assert stays[0].endswith(
        "what stands at ask stays under version 1 as long as it does: it stands at ask, which version 2 does not have."
    )


@pytest.mark.parametrize(
    ("format_", "begins"),
    [("mermaid", "%% checkout 1\nflowchart TD"), ("dot", 'digraph "checkout 1"'), ("svg", "<svg ")],
)
def test_a_definition_is_drawn_in_each_format(run: Run, format_: str, begins: str) -> None:
    """features: 136, 156; L29"""
    ran = run("definitions", "graph", "checkout", "--format", format_, "--definitions", DEFINITIONS)

    assert ran.code == 0
    assert ran.out.startswith(begins)


def test_a_definition_that_is_not_there_is_a_usage_error_that_names_the_others(run: Run) -> None:
    """features: 17"""
    ran = run("definitions", "graph", "chekout", "--definitions", DEFINITIONS)

    assert ran.code == 2
    assert "no definition chekout" in ran.err and "checkout 1" in ran.err


def test_a_stored_saga_is_drawn_with_its_steps_as_they_stand(run: Run, database: str) -> None:
    """features: 136, 156; L29"""
    stands = progress(command(1, "score", Fate.DONE), command(2, "reserve", Fate.SENT), active={"reserve": 2})
    on(database, lambda connection: add_saga(connection, "4711", stands))

    ran = run("saga", "graph", "checkout/4711", "--definitions", DEFINITIONS)
    missing = run("saga", "graph", "checkout/4712", "--definitions", DEFINITIONS)

    lines = [line.strip() for line in ran.out.splitlines()]
    score, reserve = (
        next(line.partition("[")[0] for line in lines if f'"{step} ' in line) for step in ("score", "reserve")
    )
    assert (ran.code, f"class {score} done" in lines, f"class {reserve} open" in lines) == (0, True, True)
    assert missing.code == 2 and "no saga checkout/4712" in missing.err
