"""Events that their producer numbers: applied in that order, once each, however they come in."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from msgspec.structs import replace
from pydantic import BaseModel

from saga_worker import Event, Saga, Verdict, days
from saga_worker.saga.errors import DefinitionError
from saga_worker.saga.fold import Limits, fold
from saga_worker.saga.inputs import Given
from saga_worker.saga.instance import Instance
from saga_worker.saga.messages import encode
from saga_worker.saga.records import dump_progress, load_progress
from saga_worker.saga.routing import ref_of
from saga_worker.saga.rows import InboxRow, Role, RowState
from saga_worker.saga.transitions import Status
from saga_worker.testing.one_saga import SAGA_ID, START

REF = ref_of("counter", "k")
BROKEN: set[int] = set()


class Opened(Event):
    key: str = "k"
    n: int = 1


class Counted(Event):
    key: str = "k"
    n: int


class Closed(Event):
    key: str = "k"
    n: int


class Counter(BaseModel):
    seen: list[int] = []


counter = Saga("counter", state=Counter, deadline=days(1))


@counter.starts_on(Opened, key=lambda e: e.key, sequence=lambda e: e.n)
def opened(event: Opened) -> Counter:
    return Counter()


@counter.on(Counted, key=lambda e: e.key, sequence=lambda e: e.n)
def counted(state: Counter, event: Counted) -> Verdict:
    if event.n in BROKEN:
        raise ValueError("broken")
    state.seen.append(event.n)
    return None


closing = counter.wait("closing", timeout=days(1))


@closing.on(Closed, key=lambda e: e.key, sequence=lambda e: e.n)
def closed(state: Counter, event: Closed) -> Verdict: ...


counter.flow(closing)


class Inbox:
    """The rows of one saga, as the database keeps them between transactions."""

    def __init__(self) -> None:
        self.rows: dict[int, InboxRow] = {}
        self.instance: Instance | None = None
        self.now = START
        self.decided = 0

    def arrive(self, *events: Event, source: str = "shop") -> None:
        for event in events:
            id_ = len(self.rows) + 1
            self.rows[id_] = InboxRow(
                id=id_, dedup=SAGA_ID, consumer="counter", source=source, message_id=f"m{id_}", type=event.wire_type,
                role=Role.EVENT, ref=REF, saga_key="k", correlation_id=None, state=RowState.READY, reason=None,
                suspect=False, attempts=0, crashes=0, first_failed_at=None, next_at=None, expires_at=None,
                received_at=self.now, body=encode(event),
            )  # fmt: skip

    def fold(self, *, alone: bool = False) -> None:
        """Transactions until nothing is left that could run now."""
        again = True
        while again:
            rows = [r for r in self.rows.values() if r.state not in (RowState.DONE, RowState.IGNORED)]
            given = Given(self.now, 0.0, SAGA_ID)
            change = fold(counter, REF, self.instance, rows, given, Limits(parking=timedelta(hours=1)), alone=alone)
            for c in change.rows:
                self.rows[c.id] = replace(
                    self.rows[c.id], state=c.state, reason=c.reason, expires_at=c.expires_at, next_at=c.next_at,
                    attempts=c.attempts, sequence=c.sequence,
                )  # fmt: skip
            assert len({c.id for c in change.rows}) == len(change.rows), "a row was written twice"
            self.decided += len(change.journal)
            self.instance = change.after
            if self.instance is not None:
                progress = load_progress(dump_progress(self.instance.progress))
                self.instance = replace(self.instance, progress=progress)
            again = change.again

    @property
    def seen(self) -> list[int]:
        return Counter.model_validate_json(self.instance.state).seen if self.instance is not None else []

    def state(self, id_: int) -> str:
        row = self.rows[id_]
        return f"{row.state.label}: {row.reason}" if row.reason else row.state.label


@pytest.mark.parametrize("alone", [False, True], ids=["together", "alone"])
@pytest.mark.parametrize("seed", range(20))
def test_numbered_events_are_applied_in_order_and_once_in_whatever_order_and_batches_they_come(
    seed: int, alone: bool
) -> None:
    rng = random.Random(seed)
    inbox = Inbox()
    events: list[Event] = [Opened(), *(Counted(n=n) for n in range(2, 40))]
    events += rng.sample(events[1:], 5)  # numbers that come twice, under other ids
    rng.shuffle(events)
    while events:
        size = rng.randint(1, 9)
        batch, events = events[:size], events[size:]
        inbox.arrive(*batch)
        inbox.fold(alone=alone)
    assert inbox.seen == list(range(2, 40))
    assert [inbox.state(id_) for id_ in inbox.rows].count("ignored: already_passed") == 5
    assert {row.state for row in inbox.rows.values()} == {RowState.DONE, RowState.IGNORED}


def test_an_event_that_comes_too_soon_waits_until_the_gap_before_it_closes() -> None:
    inbox = Inbox()
    inbox.arrive(Opened(), Counted(n=4), Counted(n=3))
    inbox.fold()
    assert [inbox.state(id_) for id_ in (2, 3)] == ["parked: out_of_sequence"] * 2
    assert [inbox.rows[id_].sequence for id_ in (2, 3)] == [4, 3]
    inbox.arrive(Counted(n=2))
    inbox.fold()
    assert inbox.seen == [2, 3, 4]


def test_the_start_says_from_which_number_its_source_counts_and_other_sources_count_from_one() -> None:
    inbox = Inbox()
    inbox.arrive(Counted(n=6), Counted(n=9), Opened(n=8))
    inbox.arrive(Counted(n=2), Counted(n=1), source="other")
    inbox.fold()
    assert inbox.seen == [9, 1, 2]
    assert inbox.state(1) == "ignored: already_passed"


def test_a_number_whose_event_has_no_effect_is_passed_all_the_same() -> None:
    inbox = Inbox()
    inbox.arrive(Opened(), Counted(n=3), Opened(n=2))
    inbox.fold()
    assert (inbox.seen, inbox.state(3)) == ([3], "done: duplicate_start")


def test_a_gap_that_stays_open_ends_with_the_parking_period_and_asks_for_attention() -> None:
    inbox = Inbox()
    inbox.arrive(Opened(), Counted(n=3))
    inbox.fold()
    inbox.now += timedelta(hours=2)
    inbox.fold()
    assert inbox.state(2) == "dead: not_expected"
    assert inbox.instance is not None and inbox.instance.attention == "sequence_gap: shop"
    inbox.arrive(Counted(n=2))
    inbox.fold()
    assert inbox.seen == [2]
    assert not inbox.instance.attention


def test_nothing_overtakes_a_numbered_event_whose_handler_raises() -> None:
    inbox = Inbox()
    BROKEN.add(3)
    try:
        inbox.arrive(Opened(), Counted(n=4), Counted(n=3), Counted(n=2))
        inbox.fold()
        assert inbox.seen == [2]
    finally:
        BROKEN.clear()
    inbox.now += timedelta(minutes=10)
    inbox.fold()
    assert inbox.seen == [2, 3, 4]


def test_a_numbered_event_that_is_early_for_the_flow_keeps_those_behind_it_and_the_end_ignores_the_rest() -> None:
    inbox = Inbox()
    inbox.arrive(Opened(), Counted(n=4), Closed(n=2), Counted(n=3))
    inbox.fold()
    assert inbox.instance is not None and inbox.instance.status is Status.COMPLETED
    assert [inbox.state(id_) for id_ in (2, 4)] == ["ignored: saga_finished"] * 2


def test_an_event_without_its_number_is_a_dead_letter() -> None:
    inbox = Inbox()
    inbox.arrive(Opened(), Counted(n=2))
    inbox.rows[2] = replace(inbox.rows[2], body=b'{"key":"k","n":"two"}')
    inbox.fold()
    assert inbox.state(2) == "dead: bad_sequence"


def test_thousands_that_wait_are_taken_up_in_one_go_each_decided_once() -> None:
    inbox = Inbox()
    inbox.arrive(Opened(), *(Counted(n=n) for n in range(3000, 2, -1)))
    inbox.fold()
    inbox.decided = 0
    inbox.arrive(Counted(n=2))
    inbox.fold()
    assert inbox.seen == list(range(2, 3001))
    assert inbox.decided == 2999


def test_a_type_has_one_numbering_in_a_saga() -> None:
    saga = Saga("twice", state=Counter)
    saga.starts_on(Counted, key=lambda e: e.key, sequence=lambda e: e.n)(lambda event: Counter())
    with pytest.raises(DefinitionError, match="another sequence"):
        saga.on(Counted, key=lambda e: e.key)(lambda state, event: None)
    with pytest.raises(DefinitionError, match="int field"):
        saga.on(Closed, key=lambda e: e.key, sequence=lambda e: len(e.key))(lambda state, event: None)
