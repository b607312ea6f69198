"""I9: whatever a saga did before it was compensated is undone, newest first, once; and nothing else is.

Takes `Evidence`, hands a `Verdict` to `checker`. What took effect is known from the participants, what was commanded
and when from the journal.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from saga_worker.testing.evidence import EVENTS, FINAL_SAGAS, UNDOING, Evidence, Tally, Verdict
from saga_worker.testing.ledgers import Delivery, Row


def compensation_complete(evidence: Evidence) -> Verdict:
    sagas = {row["saga_id"]: row for row in evidence.views.saga}
    undone = [saga_id for saga_id, row in sagas.items() if row["status"] in UNDOING]
    tally = Tally("I9", "compensation complete: what was done is undone, nothing else is", len(undone))
    for saga_id, copies in _first_copies(evidence).items():
        row = sagas.get(saga_id)
        if row is None:
            continue  # I4 names it
        tally.add(_forward_after_compensation(evidence, saga_id, copies))
        tally.add(_undone_without_command(evidence, saga_id, copies))
        tally.add(_undone_out_of_order(evidence, saga_id, copies))
        if row["status"] == "compensated":
            tally.add(_left_behind(evidence, row, copies))
    return tally.verdict()


def _first_copies(evidence: Evidence) -> dict[str, list[Delivery]]:
    """Commands and undos of each saga, one delivery per id, in the order of their numbers."""
    found: dict[str, list[Delivery]] = defaultdict(list)
    for copies in evidence.copies.values():
        if copies[0].destination != EVENTS:
            found[copies[0].saga_id].append(copies[0])
    return {saga_id: sorted(copies, key=lambda copy: copy.seq) for saga_id, copies in found.items()}


def _committed_at(evidence: Evidence, saga_id: str, message_id: str) -> int | None:
    revisions = [revision for saga, revision in evidence.committed.get(message_id, ()) if saga == saga_id]
    return min(revisions, default=None)


def _forward_after_compensation(evidence: Evidence, saga_id: str, copies: Sequence[Delivery]) -> Iterator[str]:
    began = next((row["revision"] for row in evidence.journals.get(saga_id, ()) if row["to_status"] in UNDOING), None)
    for copy in copies:
        at = _committed_at(evidence, saga_id, copy.message_id)
        if copy.undoes is None and began is not None and at is not None and at >= began:
            yield f"{copy.message_id} ({copy.type}) was committed at revision {at}, compensation began at {began}."


def _undone_without_command(evidence: Evidence, saga_id: str, copies: Sequence[Delivery]) -> Iterator[str]:
    for copy in copies:
        if copy.undoes is None:
            continue
        undo = _committed_at(evidence, saga_id, copy.message_id)
        forward = _committed_at(evidence, saga_id, copy.undoes)
        if forward is None or (undo is not None and undo <= forward):
            yield f"{copy.message_id} ({copy.type}) undoes {copy.undoes}, which saga {saga_id} had not commanded."


def _undone_out_of_order(evidence: Evidence, saga_id: str, copies: Sequence[Delivery]) -> Iterator[str]:
    """Newest first. An undo that answers a success which came late stands outside the order."""
    numbers = {copy.message_id: copy.seq for copy in copies}
    late = {
        id for row in evidence.journals.get(saga_id, ()) if row["from_status"] in FINAL_SAGAS for id in row["sent_ids"]
    }
    newest: int | None = None
    for copy in copies:
        if copy.undoes is None or copy.message_id in late or copy.undoes not in numbers:
            continue
        if newest is not None and numbers[copy.undoes] > newest:
            yield f"{copy.message_id} undoes step {numbers[copy.undoes]} after step {newest} of saga {saga_id}."
        newest = numbers[copy.undoes]


def _left_behind(evidence: Evidence, saga: Row, copies: Sequence[Delivery]) -> Iterator[str]:
    """Effects without exactly one effective undo; as many as the saga lists as unsettled may still stand."""
    undone = Counter(copy.undoes for copy in copies if copy.undoes is not None and evidence.effects[copy.message_id])
    acted = [
        copy
        for copy in copies
        if copy.undoes is None and evidence.effects[copy.message_id] and copy.type in evidence.undoable_types
    ]
    standing = [copy for copy in acted if not undone[copy.message_id]]
    if len(standing) > int(saga["unsettled"]):
        yield from (f"Saga {saga['saga_id']} is compensated, but {c.message_id} ({c.type}) stands." for c in standing)
    yield from (f"{id} was undone {n} times in effect." for id, n in undone.items() if n > 1)
