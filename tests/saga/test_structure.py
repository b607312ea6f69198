"""The structure of a definition: the same in every process, and compared as it was stored."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import from_json, to_json

from saga_worker import (
    Command,
    Event,
    Message,
    Saga,
    UndoOf,
    days,
    minutes,
    parallel,
    pivot,
    repeat_until,
    upcast,
    when,
)
from saga_worker.loading import load
from saga_worker.saga.structure import breaks, fingerprint, structure
from saga_worker.saga.upcast import UPCASTERS

ROOT = Path(__file__).parents[2]
PRINT = """
import sys
from saga_worker.loading import load
from saga_worker.saga.structure import fingerprint, structure
for saga in load(sys.argv[1]).sagas():
    print(saga.name, fingerprint(structure(saga)))
"""


def test_a_fingerprint_is_the_same_in_every_process_and_on_every_python() -> None:
    """features: 80, 158"""
    printed = {
        subprocess.run(
            [sys.executable, "-c", PRINT, str(ROOT / "definitions")], check=True, capture_output=True, text=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(printed) == 1
    here = [f"{saga.name} {fingerprint(structure(saga))}" for saga in load(ROOT / "definitions").sagas()]
    assert printed.pop().splitlines() == here
    assert "checkout be74e7246a01" in here  # what other versions of Python and pydantic have to find, too


class Begun(Event):
    key: str


class Went(Event):
    key: str


class Yes(Message):
    note: str = ""


class No(Message):
    why: str


class Ask(Command[Yes, No]):
    key: str


class Unask(UndoOf[Ask]):
    key: str


class Inner(BaseModel):
    cents: int
    more: list[Inner] = []


class State(BaseModel):
    key: str
    price: Inner | None = None


def saga(change: str = "") -> Saga[Any]:
    """ask → wait → (tell, if …) → ship; `change` says what is otherwise."""
    model: Any = State
    if change == "state: new field":
        model = type("Other", (State,), {"__annotations__": {"extra": int}, "__module__": __name__})
    elif change == "state: new default":
        model = type("Other", (State,), {"__annotations__": {"extra": int}, "extra": 3, "__module__": __name__})
    elif change == "state: another type":
        model = type("Other", (State,), {"__annotations__": {"price": str}, "price": "", "__module__": __name__})
    found = Saga("made", state=model, deadline=days(3 if change == "numbers" else 2))
    found.starts_on(Begun, key=lambda e: e.key)(lambda event: model(key=event.key))
    if change == "new handler":

        class Other(Event):
            key: str

        found.on(Other, key=lambda e: e.key)(lambda state, event: None)

    def make(state: Any) -> Ask:
        return Ask(key=state.key)

    def take_back(state: Any) -> Unask:
        return Unask(key=state.key)

    def command(name: str) -> Any:
        step = found.command("elsewhere" if change == "numbers" else "dest", timeout=minutes(1), name=name)(make)
        if not (change == "no undo" and name == "ask"):
            step.undo(take_back)
        return step

    ask, tell, ship = command("ask"), command("tell"), command("ship")
    wait = found.wait("answer")
    if change != "other arm":
        wait.on(Went, key=lambda e: e.key)(lambda state, event: None)
    if change in ("other arm", "new arm"):

        class Came(Event):
            key: str

        wait.on(Came, key=lambda e: e.key)(lambda state, event: None)
    test = (lambda state: True) if change == "numbers" else (lambda state: False)
    match change:
        case "order":
            found.flow(ask, when(test, tell), wait, ship)
        case "pivot":
            found.flow(ask, wait, when(test, tell), pivot(ship))
        case "new step":
            found.flow(ask, wait, when(test, tell), command("more"), ship)
        case "gone":
            found.flow(ask, wait, ship)
            del found.steps["tell"]
        case "kind":
            del found.steps["tell"]
            found.flow(ask, wait, when(test, found.sleep("tell", days(1))), ship)
        case "branches":
            found.flow(ask, wait, parallel(tell, ship))
        case "loop":
            found.flow(ask, wait, repeat_until(test, tell, times=2, name="again"), ship)
        case _:
            found.flow(ask, wait, when(test, tell), ship)
    return found


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("", ()),
        ("new handler", ()),
        ("new arm", ()),
        ("state: new default", ()),
        ("state: new field", ("the state has a new field extra without a default",)),
        ("state: another type", ("field price of the state holds something else",)),
        ("order", ("the order of the steps is another",)),
        ("pivot", ("the order of the steps is another",)),
        ("branches", ("the order of the steps is another",)),
        ("loop", ("the order of the steps is another",)),
        ("new step", ("step more came in",)),
        ("gone", ("step tell is gone",)),
        ("kind", ("step tell was a command and is a sleep",)),
        ("no undo", ("step ask has no undo any more",)),
        ("other arm", ("nothing ends wait answer by went any more",)),
    ],
)
def test_a_change_is_told_by_what_it_does_to_sagas_that_began_before(change: str, found: tuple[str, ...]) -> None:
    """features: 80"""
    before, now = structure(saga()), structure(saga(change))
    stored = from_json(to_json(before))

    assert (fingerprint(now) == fingerprint(stored)) is (change == "")
    assert breaks(stored, now) == found


def test_numbers_functions_and_destinations_are_no_structure() -> None:
    assert fingerprint(structure(saga("numbers"))) == fingerprint(structure(saga()))


def test_what_has_an_upcaster_may_have_another_shape() -> None:
    """features: 165"""
    changed = saga("state: another type")
    upcast(changed.state_model)(lambda payload: payload)
    try:
        assert breaks(structure(saga()), structure(changed)) == ()
    finally:
        del UPCASTERS[changed.state_model]


def test_a_contract_that_takes_fewer_answers_breaks_what_is_in_flight() -> None:
    before = structure(saga())
    now = from_json(to_json(before))
    contract = now["steps"]["ask"]["sends"]
    del contract["rejections"]["no"]
    contract["replies"]["yes"]["fields"]["code"] = {"is": {"type": "integer"}, "required": True}
    now["steps"]["ask"]["undo"]["types"] = ["forget"]

    assert breaks(before, now) == (
        "the answer yes has a new field code without a default",
        "the command of step ask is not answered by no any more",
        "the undo of step ask is called otherwise",
    )


def test_a_model_that_no_schema_can_tell_of_is_taken_as_it_is() -> None:
    class Own:
        pass

    class Odd(BaseModel, arbitrary_types_allowed=True):
        key: str
        own: Own | None = None

    odd = Saga("odd", state=Odd)

    assert structure(odd)["state"] == {"fields": {}}
