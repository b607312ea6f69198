"""Prints `docs/state_machine.md` from the tables of the code: statuses, fates of commands, states of inbox rows.

Run `python docs/print_state_machine.py` after a change of a table; a test compares the page with the tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from saga_worker.saga.commands import FATES
from saga_worker.saga.instance import CommandKind
from saga_worker.saga.transitions import TRANSITIONS, Status

PAGE = Path(__file__).with_name("state_machine.md")

OPENING = """\
# The state machine

Printed from the tables in `saga_worker/saga/transitions.py` and `saga_worker/saga/commands.py` by
`python docs/print_state_machine.py`; do not edit it by hand.

A saga has one *status*; each of its commands has a *fate*. Whether somebody should look at the saga (`attention`) and
how many effects nobody has taken back (`unsettled`) are columns of their own: a saga can have ended and still wait for
the answer to a command. It is *settled* when its status is final and `unsettled` is 0.
"""

FATE_OPENING = """\
The first definite answer decides; what comes after it is recorded as a duplicate or a contradiction and changes
nothing. A command whose tries ran out becomes unknown: with hybrid undo it is taken back at once, with strict undo it
is watched until somebody says what happened, also after the saga has ended. Pairs that are not in the table cannot
occur.
"""

MEANINGS = {
    Status.RUNNING: "something of ours is in flight",
    Status.WAITING: "only an outside event or a timer moves it",
    Status.COMPENSATING: "taking back what was done or may have been done, newest first",
    Status.COMPLETED: "ended, keeping what was done",
    Status.COMPENSATED: "ended, everything that was known to be done is taken back",
    Status.FAILED: "ended with effects left, by an operator or by the definition; with open steps it can be retried",
    Status.PAUSED: "held by an operator, or by the definition: neither events nor timers move it",
}


def page() -> str:
    """The whole page."""
    sections = [
        OPENING,
        _section("Statuses", _statuses()),
        _section("Changes", _changes()),
        _section("Fates", _fates()),
    ]
    return "\n".join(sections)


def _section(title: str, lines: Iterable[str]) -> str:
    return "\n".join([f"## {title}", "", *lines, ""])


def _statuses() -> Iterator[str]:
    yield from ["| status | number | meaning | final |", "|---|---|---|---|"]
    for status in Status:
        yield f"| `{status.label}` | {status.value} | {MEANINGS[status]} | {'yes' if status.is_final else ''} |"


def _changes() -> Iterator[str]:
    yield from ["```mermaid", "stateDiagram-v2"]
    for current, target in TRANSITIONS:
        if current is not target:
            yield f"    {current.label if current is not None else '[*]'} --> {target.label}"
    for status in Status:
        if status.is_final:
            yield f"    {status.label} --> [*]"
    yield from ["```", "", "| from | to | by |", "|---|---|---|"]
    for (current, target), cause in TRANSITIONS.items():
        yield f"| {f'`{current.label}`' if current is not None else '(absent)'} | `{target.label}` | {cause} |"


def _fates() -> Iterator[str]:
    yield FATE_OPENING
    yield from ["| command | fate | what is said | new fate | what follows |", "|---|---|---|---|---|"]
    for (kind, fate, answer), (after, then) in FATES.items():
        what = "step" if kind is CommandKind.FORWARD else "undo"
        yield f"| {what} | {fate.value} | {answer.value.replace('_', ' ')} | {after.value} | {then.value} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
