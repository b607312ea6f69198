"""The end of a decision: from the working copy to the new instance, with all that follows from where it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import UNSET, Raw
from msgspec.structs import replace

from saga_worker.saga import family, lifecycle, recording, starters
from saga_worker.saga.inputs import Applied, Decision, Outcome, Postponed
from saga_worker.saga.instance import CommandKind, CommandRecord, Fate, Progress
from saga_worker.saga.names import UNDO_AGAIN, UNDO_FAILED, UNSETTLED_EXPIRED, WATCH
from saga_worker.saga.records import at_hand
from saga_worker.saga.transitions import Status, move

if TYPE_CHECKING:
    from saga_worker.saga.draft import Draft

AFRESH: Final = 0  # in `undo_failures`: an operator wants this undo to be tried again when its turn comes
_APPLIED: Final = Applied()


def finish(draft: Draft, outcome: Outcome | None = None) -> Decision:
    """The decision: the saga one revision on (not when merely postponed), with what it has to say."""
    assert draft.status is not None
    if draft.saga.flow_root.has_loops and not draft.has_failed_for_good:
        _list_again(draft)
    now, before = draft.given.now, draft.instance
    if draft.status.is_final and (draft.is_new or not before.status.is_final):
        starters.keep_result(draft, draft.status)
        family.tell_end(draft, draft.status)
        starters.answer(draft, draft.status)
    if draft.saga.lifecycle:
        lifecycle.tell(draft)
    move(None if draft.is_new else before.status, draft.status)
    outcome = outcome or _APPLIED
    progress = Progress(
        active=draft.active, commands=draft.commands, timers=draft.timers, epoch=draft.epoch,
        undo_failures=draft.undo_failures, pivoted=draft.pivoted, attention=tuple(draft.attention),
        sequences=draft.sequences, rounds=dict(draft.rounds), withdrawn=_still_withdrawn(draft),
        savepoints=dict(draft.savepoints), trace=draft.trace, recorded=recording.still_recorded(draft),
        begun=draft.begun or UNSET, items=draft.items or UNSET, parent=draft.parent or UNSET, since=draft.since,
        starters=draft.starters or UNSET, result=draft.result,
        before=Raw(draft.before) if draft.before is not None else UNSET,
    )  # fmt: skip
    instance = replace(
        before, status=draft.status, revision=before.revision + (not isinstance(outcome, Postponed)), seq=draft.seq,
        unsettled=_unsettled(draft), attention="; ".join(draft.attention) or None, reason=draft.reason,
        state=draft.state_bytes, progress=progress, updated_at=now,
        finished_at=(before.finished_at or now) if draft.status.is_final else None,
    )  # fmt: skip
    return Decision(instance, tuple(draft.effects), outcome)


def _list_again(draft: Draft) -> None:
    """An entry names a step, which in a loop has several commands: the answer to one does not speak for another."""
    tried = {c.undoes for c in draft.commands.values()}
    for record in draft.commands.values():
        if record.fate is Fate.UNKNOWN and not draft.must_be_undone(record) and draft.step(record).has_undo:
            if not record.undone and f"{WATCH}:{record.seq}" not in draft.timers:
                draft.attend(UNSETTLED_EXPIRED, record.step)
        elif record.seq in tried and draft.must_be_undone(record) and _is_out_of_tries(draft, record):
            draft.attend(UNDO_FAILED, record.step)


def _is_out_of_tries(draft: Draft, record: CommandRecord) -> bool:
    if draft.undo_failures.get(record.seq) == AFRESH or f"{UNDO_AGAIN}:{record.seq}" in draft.timers:
        return False
    return not any(c.undoes == record.seq and draft.is_under_way(c) for c in draft.in_flight(CommandKind.UNDO))


def _unsettled(draft: Draft) -> int:
    """How many effects may stand that nobody has taken back: unknown ones, and after the end late successes.

    What a failed saga leaves behind is left by decision, and nobody waits to hear of it.
    """
    if draft.has_failed_for_good:
        return 0
    is_over = draft.status is Status.COMPENSATED
    everything = is_over or draft.withdrawn
    standing = [
        c
        for c in (draft.commands.values() if everything else at_hand(draft.commands))
        if c.fate is Fate.UNKNOWN or (c.fate is Fate.DONE and (is_over or c.seq in draft.withdrawn))
        if c.kind is CommandKind.FORWARD
    ]
    return sum(not c.undone and draft.step(c).has_undo for c in standing)


def _still_withdrawn(draft: Draft) -> tuple[int, ...]:
    """Those of which something may still have to be taken back."""
    if not draft.withdrawn:
        return ()
    records = [draft.commands[seq] for seq in sorted(draft.withdrawn)]
    stand = [c for c in records if c.fate in (Fate.DONE, Fate.UNKNOWN) and not c.undone]
    return tuple(c.seq for c in stand if draft.step(c).has_undo)
