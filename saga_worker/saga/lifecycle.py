"""Events about the life of a saga, for a definition with `lifecycle=True`: it has begun, ended, or needs somebody.

They are effects of the decision that makes them true: stored with it, published after its commit, never without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic_core import to_json

from saga_worker.saga.inputs import PublishEvent
from saga_worker.saga.transitions import Status

if TYPE_CHECKING:
    from saga_worker.saga.draft import Draft

STARTED: Final = "started"
NEEDS_ATTENTION: Final = "needs_attention"
ENDS: Final[dict[Status | None, str]] = {
    Status.COMPLETED: "completed",
    Status.COMPENSATED: "compensated",
    Status.FAILED: "failed",
}
NO_STEP: Final = ""  # of the event: the saga as a whole says it
# Entries of the attention list that come and go with rows and timers, also without a decision: `fold` has them told.
OF_ROWS: Final = ("dead_letter", "sequence_gap", "timer_failed")


def tell(draft: Draft) -> None:
    """What this decision makes true. The type is the name of the definition, a dot, and the word."""
    before = draft.instance
    if draft.is_new:
        _publish(draft, STARTED)
    if draft.status in ENDS and (draft.is_new or draft.status is not before.status):
        _publish(draft, ENDS[draft.status])
    known = before.progress.attention
    if draft.attention and (listed := [e for e in draft.attention if e not in known and not is_of_rows(e)]):
        tell_of(draft, listed)


def tell_of(draft: Draft, listed: list[str]) -> None:
    """These entries have come to the attention list."""
    _publish(draft, NEEDS_ATTENTION, listed)


def is_of_rows(entry: str) -> bool:
    return entry.partition(": ")[0] in OF_ROWS


def _publish(draft: Draft, word: str, listed: list[str] | None = None) -> None:
    assert draft.status is not None
    saga = draft.instance
    draft.seq += 1
    body = {
        "saga_id": str(saga.saga_id),
        "name": saga.definition,
        "version": saga.definition_version,
        "key": saga.key,
        "status": draft.status.label,
        "reason": draft.reason,
        "attention": listed or [],
        "at": draft.given.now.isoformat(),
    }
    type_ = f"{saga.definition}.{word}"
    draft.effects.append(PublishEvent(draft.seq, NO_STEP, type_, to_json(body), draft.trace or None))
