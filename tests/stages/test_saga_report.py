"""The answer to "where is order 4711, and why does it not move?" for every reason a saga can have."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import structs

from saga_worker.admin.saga_report import Facts, explain
from saga_worker.saga.instance import Fate, Progress
from saga_worker.saga.routing import command_id, ref_of
from tests.stages.operator_rows import command, progress, undo

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
REF = ref_of("checkout", "4711")
SAGA: dict[str, Any] = {
    "name": "checkout", "key": "4711", "ref": REF, "status": "running", "reason": None, "attention": None,
    "unsettled": 0, "updated_at": NOW - timedelta(minutes=3), "finished_at": None,
}  # fmt: skip


def facts(progress_: Progress | None = None, **saga: Any) -> Facts:
    return Facts(saga=SAGA | saga, progress=progress_ or progress(), now=NOW)


def row(**changes: Any) -> dict[str, Any]:
    return {
        "id": 12, "type": "card_charged", "state": "ready", "reason": None, "next_at": None, "attempts": 0,
        "received_at": NOW - timedelta(minutes=1),
    } | changes  # fmt: skip


def test_a_command_in_flight_names_participant_step_time_and_timeout() -> None:
    waiting = progress(command(3, "reserve", Fate.SENT, attempts=2), timers={"timeout:3": NOW + timedelta(minutes=1)})
    sent = {"sent_ids": [command_id(REF, 3)], "decided_at": NOW - timedelta(minutes=3)}

    first, second = explain(replace(facts(structs.replace(waiting, active={"reserve": 3})), journal=[sent]))

    assert first == "checkout 4711 is running at reserve, last moved 2026-11-20 11:57:00Z."
    assert second == (
        "Waiting for inventory to answer command reserve_it of step reserve, first sent 2026-11-20 11:57:00Z, "
        "sent 2 times; time-out at 2026-11-20 12:01:00Z."
    )


def test_an_undo_in_flight_is_told_as_one() -> None:
    undoing = progress(command(1, "reserve", Fate.DONE), undo(2, "reserve", Fate.SENT, 1))

    first, second = explain(facts(undoing, status="compensating", reason="out of stock"))

    assert first == "checkout 4711 is being taken back (out of stock)."
    assert "to answer undo undo_reserve of step reserve" in second
    assert second.endswith("no time-out is armed.")


def test_a_wait_says_until_when() -> None:
    waiting = structs.replace(
        progress(timers={"wait:fraud review": NOW + timedelta(days=2)}), active={"fraud review": None}
    )

    first, second = explain(facts(waiting, status="waiting"))

    assert "is waiting at fraud review" in first
    assert second == "Waiting for the event that ends fraud review, at most until 2026-11-22 12:00:00Z."


def test_an_overdue_timer_asks_for_a_worker() -> None:
    _, second = explain(facts(progress(timers={"deadline": NOW - timedelta(seconds=40)})))

    assert second == "Deadline of the saga: 2026-11-20 11:59:20Z (40 s ago; does a worker run?)."


@pytest.mark.parametrize(
    ("attention", "words"),
    [
        ("undo_failed: reserve", "the undo of reserve was refused"),
        ("no_answer: charge", "charge is past the pivot"),
        ("undeliverable: shipping", "no queue takes commands for shipping"),
        ("dead_letter", "a message of it died"),
        ("deadline_passed", "its deadline has passed"),
        ("something new: x", "something new: x"),
    ],
)
def test_attention_says_what_to_do(attention: str, words: str) -> None:
    _, second = explain(facts(attention=attention))

    assert second.startswith("Needs somebody: ")
    assert words in second


def test_every_reason_on_the_attention_list_is_told() -> None:
    sentences = explain(facts(attention="undo_failed: reserve; dead_letter"))

    assert len([sentence for sentence in sentences if sentence.startswith("Needs somebody")]) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "Waiting for a worker to take inbox row 12 (card_charged)"),
        ({"next_at": NOW + timedelta(seconds=9), "attempts": 2}, "again after 2 failed tries"),
        ({"state": "held", "reason": "behind_dead"}, "Holding back inbox row 12 (card_charged): behind_dead"),
        ({"state": "dead", "reason": "handler_error"}, "`saga-worker inbox show 12`"),
        ({"state": "parked", "reason": "early"}, "Parked as early: inbox row 12"),
    ],
)
def test_a_message_that_waits_says_why(changes: dict[str, Any], words: str) -> None:
    _, second = explain(replace(facts(), inbox=[row(**changes)]))

    assert words in second


def test_a_message_that_cannot_be_sent_says_why() -> None:
    refused = {"type": "ship_order", "destination": "shipping", "last_error": "NO_ROUTE", "attempts": 4}

    _, second = explain(replace(facts(), outbox=[refused]))

    assert second == "Cannot send ship_order to shipping: NO_ROUTE (4 tries)."


@pytest.mark.parametrize(
    ("status", "words"),
    [("completed", "It has completed"), ("compensated", "was taken back"), ("failed", "effects left in place")],
)
def test_an_ended_saga_says_how_and_what_is_unsettled(status: str, words: str) -> None:
    (first,) = explain(facts(status=status, finished_at=NOW, unsettled=1))

    assert words in first
    assert "at 2026-11-20 12:00:00Z" in first
    assert first.endswith("; 1 effects are not settled.")


def test_names_from_messages_cannot_act_on_the_terminal() -> None:
    sentences = explain(replace(facts(key="\x1b[2J\n"), inbox=[row(type="a\x07b")]))

    assert not any(character < " " for sentence in sentences for character in sentence)
