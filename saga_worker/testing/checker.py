"""The promises, verified from outside: what producers sent, what participants received, what the views say.

Takes the two ledgers and a dump of the views, taken when the faults have stopped and the system is quiet. Guarantees
that a passing report means I1, I2, I3, I4, I8 and I9 hold for everything in them, and that the run was not empty.
Hands a `Report` to whoever ran the load. The sink must listen to every destination that the sagas send to, and to
their events (destination `events`): a message that nobody recorded counts as never sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from saga_worker.testing.compensation import compensation_complete
from saga_worker.testing.evidence import FINAL_SAGAS, Event, Evidence, Tally, Verdict
from saga_worker.testing.ledgers import Delivery, Publication, Views

FINAL_ROWS = frozenset({"done", "ignored", "dead"})
NOT_FROM_INBOX = frozenset({"timer", "local", "upgrade"})  # sources of inputs that no row brings about

Applied = tuple[str, str, str]  # consumer, source, message id


@dataclass(frozen=True, slots=True)
class Report:
    """What the checker found. `lost` are events, `doubled` command ids or inputs, `stuck` saga ids."""

    verdicts: tuple[Verdict, ...]
    lost: tuple[str, ...]
    doubled: tuple[str, ...]
    stuck: tuple[str, ...]
    acknowledged: int  # distinct events that the broker confirmed and routed
    repeated: int  # further confirmed copies of the same events
    deliveries: int
    redelivered: int  # deliveries of a command beyond its first

    @property
    def holds(self) -> bool:
        return all(verdict.holds for verdict in self.verdicts)

    @property
    def violated(self) -> tuple[str, ...]:
        return tuple(verdict.invariant for verdict in self.verdicts if not verdict.holds)


def check(
    producer: Sequence[Publication],
    sink: Sequence[Delivery],
    views: Views,
    *,
    minimum_acknowledged: int = 1,
    minimum_faults: int = 0,
    faults: int = 0,
    undoable: Iterable[str] | None = None,
) -> Report:
    """The verdict on every promise. `undoable` names the command types that have an undo."""
    evidence = Evidence(producer, sink, views, frozenset(undoable) if undoable is not None else None)
    lost = list(_lost(evidence))
    stuck = list(_stuck(evidence))
    return Report(
        verdicts=(
            _enough(evidence, acknowledged=minimum_acknowledged, faults=(faults, minimum_faults)),
            _no_loss(evidence, lost),
            _exactly_once(evidence),
            _atomic_step(evidence),
            _nothing_invented(evidence),
            _never_stuck(evidence, stuck),
            compensation_complete(evidence),
        ),
        lost=tuple(f"{source}/{id}" for source, id in lost),
        doubled=tuple(_doubled(evidence)),
        stuck=tuple(stuck),
        acknowledged=len(evidence.acknowledged),
        repeated=sum(max(0, outcomes.count("ok") - 1) for outcomes in evidence.outcomes.values()),
        deliveries=len(sink),
        redelivered=len(sink) - len(evidence.copies),
    )


def _enough(evidence: Evidence, *, acknowledged: int, faults: tuple[int, int]) -> Verdict:
    """A run that did nothing, or met no fault, proves nothing."""
    tally = Tally("work", "enough acknowledged work and injected faults", len(evidence.acknowledged))
    if len(evidence.acknowledged) < acknowledged:
        tally.add([f"Only {len(evidence.acknowledged)} events were acknowledged; {acknowledged} are needed."])
    injected, needed = faults
    if injected < needed:
        tally.add([f"Only {injected} faults were injected; {needed} are needed."])
    return tally.verdict()


def _lost(evidence: Evidence) -> Iterator[Event]:
    for event in evidence.acknowledged:
        rows = evidence.rows.get(event, [])
        if not rows or any(row["state"] not in FINAL_ROWS for row in rows):
            yield event


def _no_loss(evidence: Evidence, lost: Sequence[Event]) -> Verdict:
    tally = Tally("I1", "no loss: every confirmed event has exactly one final row", len(evidence.acknowledged))
    tally.add(f"Event {source}/{id} was confirmed and routed, but has no final row." for source, id in lost)
    for (source, id), rows in evidence.rows.items():
        takers = Counter(row["consumer"] for row in rows)
        tally.add(f"Event {source}/{id} has {n} rows for {name}." for name, n in takers.items() if n > 1)
        unexplained = (row for row in rows if row["state"] in ("ignored", "dead") and not row["reason"])
        tally.add(f"Event {source}/{id} is {row['state']} without a reason." for row in unexplained)
    tally.add(_unexpected(evidence))
    return tally.verdict()


def _unexpected(evidence: Evidence) -> Iterator[str]:
    """Rows that no publish can explain. An intent whose answer is missing may have arrived."""
    sources = {line.source for line in evidence.producer}
    for source, id in evidence.rows:
        if source not in sources:
            continue
        outcomes = evidence.outcomes.get((source, id))
        if outcomes is None:
            yield f"Event {source}/{id} is in the inbox, but was never published."
        elif outcomes[-1] == "returned" and not {"ok", "unknown"} & set(outcomes):
            yield f"Event {source}/{id} is in the inbox, but the broker returned it."


def _applications(evidence: Evidence) -> Counter[Applied]:
    return Counter((row["consumer"], row["source"], row["message_id"]) for row in evidence.views.journal)


def _exactly_once(evidence: Evidence) -> Verdict:
    tally = Tally("I2", "exactly-once effect: one journal row per input, no gap", len(evidence.views.journal))
    applied = _applications(evidence)
    tally.add(f"{'/'.join(key)} was applied {n} times." for key, n in applied.items() if n > 1)
    done = {
        (row["consumer"], row["source"], row["message_id"])
        for row in evidence.views.inbox
        if row["state"] == "done" and row["reason"] != "id_reused"
    }
    tally.add(f"{'/'.join(key)} is done in the inbox, but not in the journal." for key in done - applied.keys())
    from_inbox = {key for key in applied if key[1] not in NOT_FROM_INBOX}
    tally.add(f"{'/'.join(key)} is in the journal, but not done in the inbox." for key in from_inbox - done)
    tally.add(_broken_chains(evidence))
    tally.add(f"{id} had {n} effects at its participant." for id, n in evidence.effects.items() if n > 1)
    return tally.verdict()


def _broken_chains(evidence: Evidence) -> Iterator[str]:
    revisions = {row["saga_id"]: row["revision"] for row in evidence.views.saga}
    for saga_id, journal in evidence.journals.items():
        chain = [row["revision"] for row in journal]
        if chain != list(range(1, len(chain) + 1)):
            yield f"The journal of saga {saga_id} has a gap: {len(chain)} rows up to revision {chain[-1]}."
        elif revisions.get(saga_id) != len(chain):
            yield f"Saga {saga_id} is at revision {revisions.get(saga_id)}, its journal at {len(chain)}."
    for saga_id in revisions.keys() - evidence.journals.keys():
        yield f"Saga {saga_id} has no journal."


def _doubled(evidence: Evidence) -> Iterator[str]:
    yield from (id for id, n in evidence.effects.items() if n > 1)
    yield from ("/".join(key) for key, n in _applications(evidence).items() if n > 1)


def _atomic_step(evidence: Evidence) -> Verdict:
    tally = Tally("I3", "atomic step: journal, messages and timers agree", len(evidence.committed))
    queued = {row["message_id"] for row in evidence.views.outbox}
    gone = evidence.committed.keys() - evidence.copies.keys() - queued
    tally.add(f"{id} is in the journal, but neither delivered nor in the outbox." for id in gone)
    tally.add(f"{id} is in the outbox, but in no journal row." for id in queued - evidence.committed.keys())
    armed = {(row["saga_id"], timer) for row in evidence.views.journal for timer in row["timer_ids"] or ()}
    standing = {(row["saga_id"], f"{row['name']}:{row['epoch']}") for row in evidence.views.timer}
    fired = {(row["saga_id"], _timer(row["message_id"])) for row in evidence.views.journal if row["source"] == "timer"}
    tally.add(f"Timer {name} of saga {saga} stands, but no step armed it." for saga, name in standing - armed)
    tally.add(f"Timer {name} of saga {saga} fired, but no step armed it." for saga, name in fired - armed)
    return tally.verdict()


def _timer(message_id: str) -> str:
    """`timer:<ref>:<name>:<epoch>` -> `<name>:<epoch>`."""
    return message_id.split(":", 2)[2]


def _nothing_invented(evidence: Evidence) -> Verdict:
    tally = Tally("I4", "nothing invented: committed ids only, one body each", len(evidence.copies))
    for id, copies in evidence.copies.items():
        if id not in evidence.committed:
            tally.add([f"{id} was delivered to {copies[0].destination}, but no step committed it."])
        if len({copy.sha256 for copy in copies}) > 1:
            tally.add([f"{id} was delivered with different bodies."])
    return tally.verdict()


def _stuck(evidence: Evidence) -> Iterator[str]:
    moving = {row["saga_id"] for row in evidence.views.timer}
    moving |= {row["saga_id"] for row in evidence.views.outbox}
    moving |= {row["saga_id"] for row in evidence.views.inbox if row["state"] in ("ready", "held")}
    for row in evidence.views.saga:
        if row["status"] in FINAL_SAGAS or row["status"] == "paused":
            continue
        if row["attention"] is None and row["saga_id"] not in moving:
            yield row["saga_id"]


def _never_stuck(evidence: Evidence, stuck: Sequence[str]) -> Verdict:
    tally = Tally("I8", "never silently stuck: every open saga has a reason to move", len(evidence.views.saga))
    tally.add(f"Saga {saga_id} is open and nothing will move it." for saga_id in stuck)
    return tally.verdict()
