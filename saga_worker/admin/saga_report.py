"""Why a saga stands where it stands, in plain words. Pure: rows of the views in, sentences out.

Hands its sentences to `saga show`; the first says where the saga is, the others what it waits for and who has to act.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from saga_worker.admin.output import cell
from saga_worker.saga.instance import NEVER, CommandKind, CommandRecord, Fate, Progress, Timer
from saga_worker.saga.routing import command_id, ref_of
from saga_worker.telemetry import escape_controls

Row = Mapping[str, Any]

FINAL: Final = {
    "completed": "It has completed",
    "compensated": "It has ended, and what it had done was taken back",
    "failed": "It has ended with effects left in place",
}
# What `saga.attention` may say, and what to do about it; the part after the colon names a step or destination.
ADVICE: Final = {
    "undo_failed": "the undo of {} was refused or unanswered until its tries ran out; mend the participant, then retry",
    "no_answer": "{} is past the pivot and was not answered until its tries ran out; ask the participant, then retry",
    "rejected_after_pivot": "{} was rejected past the pivot, where nothing can be undone; mend the cause, then retry",
    "cannot_compensate": "the reply of {} asked to compensate, but the pivot is passed",
    "local_failed": "the local step {} raised until its tries ran out, or killed its workers; mend it, then retry",
    "undeliverable": "no queue takes commands for {}; start its participant or bind its queue",
    "deadline_passed": "its deadline has passed, but so has its pivot: it can only go forward",
    "wait_expired": "the wait {} ended without its event past the pivot; publish the event that it waits for",
    "rounds_exhausted": "the loop {} went through all its rounds past the pivot, and the saga went on",
    "rollbacks_exhausted": "it was rolled back to {} too often, and pauses; resume it, or have it compensated",
    "items_failed": "more items of {} failed than may, past the pivot, and the saga went on",
    "unsettled_expired": "nobody ever said whether {} had an effect; ask the participant",
    "dead_letter": "a message of it died; see the dead rows, mend the cause, then replay the row",
    "no_upgrade": "{}; start a worker that has its version, or mend the upgrade",
    "timer_failed": "the handler of timer {} keeps raising, or kills its workers; mend the definition, then retry",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything the database knows of one saga, read in one snapshot."""

    saga: Row
    progress: Progress
    now: datetime
    journal: Sequence[Row] = field(default_factory=tuple)
    inbox: Sequence[Row] = field(default_factory=tuple)
    outbox: Sequence[Row] = field(default_factory=tuple)
    children: Sequence[Row] = field(default_factory=tuple)  # how many of a step stand where
    runs: Sequence[Row] = field(default_factory=tuple)  # earlier ones of its key

    def sent_at(self, seq: int) -> datetime | None:
        """When the step that first sent the command with number `seq` was decided."""
        wanted = command_id(ref_of(self.saga["name"], self.saga["key"]), seq)  # of an earlier run, too
        return next((row["decided_at"] for row in self.journal if wanted in (row["sent_ids"] or ())), None)


def explain(facts: Facts) -> list[str]:
    """The answer to "where is it, and why does it not move?", most important first."""
    return [escape_controls(text) for text in (_position(facts), *_run(facts), *_attention(facts), *_waits(facts))]


def _position(facts: Facts) -> str:
    saga = facts.saga
    name = f"{saga['name']} {saga['key']}"
    reason = f" ({saga['reason']})" if saga["reason"] else ""
    if saga["status"] in FINAL:
        unsettled = f"; {saga['unsettled']} effects are not settled" if saga["unsettled"] else ""
        again = "; `saga-worker saga retry` goes on from there" if facts.progress.active else ""
        return f"{name}: {FINAL[saga['status']]} at {cell(saga['finished_at'])}{reason}{unsettled}{again}."
    steps = ", ".join(facts.progress.active) or "no step"
    if saga["status"] == "compensating":
        return f"{name} is being taken back{reason}."
    return f"{name} is {saga['status']} at {steps}{reason}, last moved {cell(saga['updated_at'])}."


def _run(facts: Facts) -> Iterator[str]:
    """Whether this is the present run of its key."""
    if facts.saga.get("ref", ...) is None:
        name = f"{facts.saga['name']}/{facts.saga['key']}"
        yield f"This is an earlier run of its key; `saga-worker saga show {name}` shows the present one."


def _attention(facts: Facts) -> Iterator[str]:
    for entry in filter(None, str(facts.saga["attention"] or "").split("; ")):
        reason, _, subject = entry.partition(": ")
        yield f"Needs somebody: {ADVICE.get(reason, entry).format(subject or 'a step')}."


def _waits(facts: Facts) -> Iterator[str]:
    yield from _rows(facts)
    for seq, command in sorted(facts.progress.commands.items()):
        if command.fate is Fate.SENT:
            yield _outstanding(facts, command)
        elif command.fate is Fate.UNKNOWN and f"watch:{seq}" in facts.progress.timers:
            yield f"Whether {command.type} of step {command.step} had an effect is unknown; its answer is watched for."
    for name, timer in sorted(facts.progress.timers.items(), key=lambda item: item[1].due_at):
        if sentence := _timer(facts, name, timer):
            yield sentence


def _rows(facts: Facts) -> Iterator[str]:
    for row in facts.inbox:
        what = f"inbox row {row['id']} ({row['type']})"
        if row["state"] == "ready" and row["next_at"] is not None and row["next_at"] > facts.now:
            yield f"Waiting until {cell(row['next_at'])} to try {what} again after {row['attempts']} failed tries."
        elif row["state"] == "ready":
            yield f"Waiting for a worker to take {what}, stored at {cell(row['received_at'])}; does one run?"
        elif row["state"] == "held":
            yield f"Holding back {what}: {row['reason']}."
        elif row["state"] == "dead":
            yield f"Dead letter: {what}: {row['reason']}; `saga-worker inbox show {row['id']}` says more."
        elif row["state"] == "parked":
            yield f"Parked as early: {what}."
    for row in facts.outbox:
        if row["last_error"]:
            yield f"Cannot send {row['type']} to {row['destination']}: {row['last_error']} ({row['attempts']} tries)."
        else:
            yield f"Waiting to send {row['type']} to {row['destination']}; does a worker with the relay role run?"


def _outstanding(facts: Facts, command: CommandRecord) -> str:
    if not command.destination:
        return _own_work(facts, command)
    undo = command.kind is CommandKind.UNDO
    subject = f"undo {command.type}" if undo else f"command {command.type}"
    tries = f", sent {command.attempts} times" if command.attempts > 1 else ""
    timers = facts.progress.timers
    then = "no time-out is armed"
    if timer := timers.get(f"timeout:{command.seq}"):
        then = "its time-out does not pass by itself" if timer.due_at == NEVER else f"time-out at {cell(timer.due_at)}"
    elif timer := timers.get(f"resend:{command.seq}"):
        then = f"sent again at {cell(timer.due_at)}"
    return (
        f"Waiting for {command.destination} to answer {subject} of step {command.step}, "
        f"first sent {cell(facts.sent_at(command.seq))}{tries}; {then}."
    )


def _own_work(facts: Facts, command: CommandRecord) -> str:
    what = f"undo of step {command.step}" if command.kind is CommandKind.UNDO else f"step {command.step}"
    if timer := facts.progress.timers.get(f"local:{command.seq}"):
        return (
            f"Waiting for a worker to run the local {what}, after {timer.failures} failures, at {cell(timer.due_at)}."
        )
    if command.undoes is not None and (told := _children(facts, command.undoes)):
        return f"Waiting for the children of step {command.step} to be taken back: {told}."
    if told := _children(facts, command.seq):
        return f"Waiting for the children of step {command.step}: {told}."
    if command.is_given_up or f"local_failed: {command.step}" in facts.progress.attention:
        return f"The {what} has no try left."
    return f"Waiting for a worker to run the {what}; `v_activity` says which one does, and how the last try ended."


def _children(facts: Facts, seq: int) -> str:
    rows = [row for row in facts.children if row["seq"] == seq]
    return "; ".join(f"{row['count']} {row['status']}, such as {row['definition']}/{row['example']}" for row in rows)


def _timer(facts: Facts, name: str, timer: Timer) -> str | None:
    kind, _, subject = name.partition(":")
    if timer.due_at == NEVER:
        return f"The timer {name} does not fire by itself; `saga-worker saga timer fire` lets it fire."
    due = cell(timer.due_at)
    late = timer.due_at < facts.now
    is_held = "dead_letter" in str(facts.saga["attention"] or "")
    why = "held back by its dead letter" if is_held else "does a worker run?"
    overdue = f" ({(facts.now - timer.due_at).total_seconds():.0f} s ago; {why})" if late else ""
    match kind:
        case "wait":
            return f"Waiting for the event that ends {subject}, at most until {due}{overdue}."
        case "sleep":
            return f"Sleeping at {subject} until {due}{overdue}."
        case "every":
            return f"Next reminder of {subject} at {due}{overdue}."
        case "deadline":
            return f"Deadline of the saga: {due}{overdue}."
        case "undo":
            command = facts.progress.commands.get(int(subject))
            step = command.step if command else subject
            return f"The refused undo of step {step} is tried again at {due}{overdue}."
        case "again":
            return f"The rejected step {subject} is tried again at {due}{overdue}."
        case "watch":
            return f"The watch over command {subject} ends at {due}{overdue}."
        case _:  # timeout and resend are told with their command
            return None
