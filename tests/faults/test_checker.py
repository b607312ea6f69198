"""The checker itself: silent on a clean history, and each planted violation found by the promise it breaks."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from saga_worker.testing.checker import Report, check
from saga_worker.testing.ledgers import Delivery, Ledger, Publication, Views, read_producer, write_dump

COMMAND = Path(__file__).with_name("checker.py")
SHOP = "shop"


@dataclass
class History:
    """A small run that can be spoiled: lists, so that a test may add, change or take away a line."""

    producer: list[Publication] = field(default_factory=list)
    sink: list[Delivery] = field(default_factory=list)
    saga: list[dict[str, Any]] = field(default_factory=list)
    journal: list[dict[str, Any]] = field(default_factory=list)
    inbox: list[dict[str, Any]] = field(default_factory=list)
    outbox: list[dict[str, Any]] = field(default_factory=list)
    timer: list[dict[str, Any]] = field(default_factory=list)

    @property
    def views(self) -> Views:
        return Views(self.saga, self.journal, self.inbox, self.outbox, self.timer)

    def check(self, **limits: int) -> Report:
        return check(self.producer, self.sink, self.views, undoable={"reserve", "charge"}, **limits)

    def publish(self, id: str, *, outcome: str = "ok", source: str = SHOP) -> None:
        for said in ("intent", outcome):
            self.producer.append(Publication(source, id, "order_placed", "body-" + id, said))

    def store(self, id: str, state: str = "done", *, reason: str | None = None, source: str = SHOP) -> None:
        self.inbox.append(
            {"consumer": "checkout", "source": source, "message_id": id, "state": state, "reason": reason,
             "saga_id": id.split("-")[0]}
        )  # fmt: skip

    def apply(
        self, saga: str, input: str, status: str, *, sent: tuple[int, ...] = (), timers: tuple[str, ...] = (),
        source: str = SHOP,
    ) -> None:  # fmt: skip
        row = next((row for row in self.saga if row["saga_id"] == saga), None)
        if row is None:
            row = {"saga_id": saga, "status": None, "attention": None, "unsettled": 0, "revision": 0}
            self.saga.append(row)
        row["revision"] += 1
        self.journal.append(
            {"saga_id": saga, "revision": row["revision"], "consumer": "checkout", "source": source,
             "message_id": input, "from_status": row["status"], "to_status": status,
             "sent_ids": [f"{saga}.{seq}" for seq in sent], "timer_ids": list(timers)}
        )  # fmt: skip
        row["status"] = status
        if source not in ("timer", "local"):
            self.store(input, source=source)

    def deliver(
        self, saga: str, seq: int, type: str, *, undoes: int | None = None, effect: bool = True, to: str = "service"
    ) -> None:
        self.sink.append(
            Delivery(to, type, f"{saga}.{seq}", f"body-{seq}", saga, seq,
                     f"{saga}.{undoes}" if undoes is not None else None, False, effect)
        )  # fmt: skip

    def drop(self, rows: list[dict[str, Any]], **values: object) -> None:
        rows[:] = [row for row in rows if any(row[name] != value for name, value in values.items())]

    def change(self, rows: list[dict[str, Any]], where: dict[str, object], **values: object) -> None:
        found = [row for row in rows if all(row[name] == value for name, value in where.items())]
        assert found, where
        for row in found:
            row.update(values)


def clean() -> History:
    """One saga completed, one compensated after a time-out, one waiting; one event dead, one ignored."""
    history = History()
    for id in ("good-placed", "bad-placed", "open-placed", "poison-placed", "late-cancelled"):
        history.publish(id)
    history.publish("good-placed")  # a second copy
    history.publish("nowhere", outcome="returned")
    history.publish("perhaps", outcome="unknown")

    history.apply("good", "good-placed", "running", sent=(1,), timers=("reserve:1",))
    history.apply("good", "good-reserved", "running", sent=(2,), timers=("charge:2",), source="service")
    history.apply("good", "good-charged", "running", timers=("local:4",), source="service")
    history.apply("good", "local:0000-00:4:4", "completed", sent=(3,), source="local")
    history.deliver("good", 1, "reserve")
    history.deliver("good", 1, "reserve", effect=False)
    history.deliver("good", 2, "charge")
    history.deliver("good", 3, "order_shipped", to="events")

    history.apply("bad", "bad-placed", "running", sent=(1,), timers=("reserve:1",))
    history.apply("bad", "bad-reserved", "running", sent=(2,), timers=("charge:2",), source="service")
    history.apply("bad", "timer:0000-00:charge:2", "compensating", sent=(3,), timers=("undo:3",), source="timer")
    history.apply("bad", "bad-uncharged", "compensating", sent=(4,), source="service")
    history.apply("bad", "bad-released", "compensated", source="service")
    history.deliver("bad", 1, "reserve")
    history.deliver("bad", 2, "charge")
    history.deliver("bad", 3, "cancel_charge", undoes=2)
    history.deliver("bad", 4, "release", undoes=1)

    history.apply("open", "open-placed", "waiting", timers=("review:1",))
    history.timer.append({"saga_id": "open", "name": "review", "epoch": 1})
    history.store("poison-placed", "dead", reason="handler_error")
    history.store("late-cancelled", "ignored", reason="saga_finished")
    return history


def test_a_clean_history_passes() -> None:
    report = clean().check(minimum_acknowledged=5)

    assert [verdict.violations for verdict in report.verdicts] == [()] * 7
    assert report.holds and not (report.lost or report.doubled or report.stuck)
    assert (report.acknowledged, report.repeated, report.deliveries, report.redelivered) == (5, 1, 8, 1)


def lose_an_event(history: History) -> None:
    history.drop(history.inbox, message_id="poison-placed")


def leave_an_event_parked(history: History) -> None:
    history.change(history.inbox, {"message_id": "poison-placed"}, state="parked", reason="early")


def finish_an_event_twice(history: History) -> None:
    history.store("poison-placed", "ignored", reason="saga_finished")


def bury_without_reason(history: History) -> None:
    history.change(history.inbox, {"message_id": "poison-placed"}, reason=None)


def store_an_event_that_nobody_sent(history: History) -> None:
    history.store("ghost-placed", "dead", reason="handler_error")


def store_what_the_broker_returned(history: History) -> None:
    history.store("nowhere", "dead", reason="handler_error")


def apply_an_event_twice(history: History) -> None:
    history.journal.append({**history.journal[0], "revision": 4, "sent_ids": [], "timer_ids": []})
    history.change(history.saga, {"saga_id": "good"}, revision=4)


def leave_a_gap_in_the_journal(history: History) -> None:
    history.change(history.journal, {"saga_id": "open"}, revision=2)
    history.change(history.saga, {"saga_id": "open"}, revision=2)


def forget_a_revision(history: History) -> None:
    history.change(history.saga, {"saga_id": "good"}, revision=5)


def settle_without_applying(history: History) -> None:
    history.store("good-extra", "done", source="service")


def act_twice_on_one_command(history: History) -> None:
    history.deliver("good", 2, "charge")


def lose_a_message(history: History) -> None:
    history.sink[:] = [line for line in history.sink if line.message_id != "good.3"]


def queue_a_message_that_no_step_sent(history: History) -> None:
    history.outbox.append({"message_id": "open.9", "saga_id": "open"})


def fire_a_timer_that_no_step_armed(history: History) -> None:
    history.change(history.journal, {"message_id": "timer:0000-00:charge:2"}, message_id="timer:0000-00:charge:7")


def invent_a_message(history: History) -> None:
    history.deliver("open", 1, "notify")


def send_two_bodies_for_one_id(history: History) -> None:
    history.sink.append(dataclasses.replace(history.sink[0], sha256="another", effect=False))


def strand_an_open_saga(history: History) -> None:
    history.timer.clear()


def leave_a_charge_standing(history: History) -> None:
    history.sink[:] = [line for line in history.sink if line.message_id != "bad.3"]
    history.change(history.journal, {"message_id": "timer:0000-00:charge:2"}, sent_ids=[])


def undo_what_was_never_commanded(history: History) -> None:
    history.change(history.journal, {"message_id": "bad-released"}, sent_ids=["bad.5"])
    history.deliver("bad", 5, "cancel_shipping", undoes=8, effect=False)


def command_after_compensation_began(history: History) -> None:
    history.change(history.journal, {"message_id": "bad-released"}, sent_ids=["bad.5"])
    history.deliver("bad", 5, "notify")


def undo_in_the_wrong_order(history: History) -> None:
    history.sink[:] = [line for line in history.sink if line.undoes is None]
    history.deliver("bad", 3, "release", undoes=1)
    history.deliver("bad", 4, "cancel_charge", undoes=2)


def undo_twice(history: History) -> None:
    history.change(history.journal, {"message_id": "bad-released"}, sent_ids=["bad.5"])
    history.deliver("bad", 5, "release", undoes=1)


PLANTED: list[tuple[Callable[[History], None], str]] = [
    (lose_an_event, "I1"),
    (leave_an_event_parked, "I1"),
    (finish_an_event_twice, "I1"),
    (bury_without_reason, "I1"),
    (store_an_event_that_nobody_sent, "I1"),
    (store_what_the_broker_returned, "I1"),
    (apply_an_event_twice, "I2"),
    (leave_a_gap_in_the_journal, "I2"),
    (forget_a_revision, "I2"),
    (settle_without_applying, "I2"),
    (act_twice_on_one_command, "I2"),
    (lose_a_message, "I3"),
    (queue_a_message_that_no_step_sent, "I3"),
    (fire_a_timer_that_no_step_armed, "I3"),
    (invent_a_message, "I4"),
    (send_two_bodies_for_one_id, "I4"),
    (strand_an_open_saga, "I8"),
    (leave_a_charge_standing, "I9"),
    (undo_what_was_never_commanded, "I9"),
    (command_after_compensation_began, "I9"),
    (undo_in_the_wrong_order, "I9"),
    (undo_twice, "I9"),
]


@pytest.mark.parametrize(("plant", "invariant"), PLANTED, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_planted_violation_is_found_by_its_promise_alone(plant: Callable[[History], None], invariant: str) -> None:
    history = clean()
    plant(history)

    assert history.check().violated == (invariant,)


def test_the_figures_name_what_is_lost_doubled_and_stuck() -> None:
    history = clean()
    lose_an_event(history)
    act_twice_on_one_command(history)
    strand_an_open_saga(history)

    report = history.check()
    assert (report.lost, report.doubled, report.stuck) == (("shop/poison-placed",), ("good.2",), ("open",))


def test_a_strict_saga_may_end_with_the_effects_it_lists_as_unsettled() -> None:
    history = clean()
    leave_a_charge_standing(history)
    history.change(history.saga, {"saga_id": "bad"}, unsettled=1)

    assert history.check().holds


def test_a_success_that_came_after_the_end_may_be_undone_out_of_order() -> None:
    history = clean()
    undo_in_the_wrong_order(history)
    history.apply("bad", "bad-late", "compensated", sent=(4,), source="service")
    history.change(history.journal, {"message_id": "bad-uncharged"}, sent_ids=[])

    assert history.check().holds


def test_an_idle_run_proves_nothing() -> None:
    assert clean().check(minimum_acknowledged=6).violated == ("work",)
    assert clean().check(minimum_faults=3, faults=2).violated == ("work",)


def test_without_being_told_the_checker_learns_from_the_run_which_commands_have_an_undo() -> None:
    history = clean()
    history.apply("worse", "worse-placed", "running", sent=(1,))
    history.publish("worse-placed")
    history.apply("worse", "worse-refused", "compensated", source="service")
    history.deliver("worse", 1, "charge")

    assert check(history.producer, history.sink, history.views).violated == ("I9",)


def test_the_command_reads_ledgers_and_a_dump(tmp_path: Path) -> None:
    history = clean()
    files = save(history, tmp_path)

    passed = run(*files, "--json")
    assert passed.returncode == 0, passed.stderr
    assert json.loads(passed.stdout)["acknowledged"] == 5
    strand_an_open_saga(history)
    write_dump(history.views, tmp_path / "views")
    failed = run(*files)
    assert failed.returncode == 1
    assert "I8   BROKEN" in failed.stdout


def test_a_torn_last_line_is_skipped_and_then_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "producer.jsonl"
    line = dataclasses.asdict(clean().producer[0])
    with Ledger(path) as ledger:
        ledger.append([line])
    with path.open("ab") as file:
        file.write(b'{"source": "sh')

    assert len(read_producer(path)) == 1
    with Ledger(path) as ledger:
        ledger.append([line])
    assert len(read_producer(path)) == 2


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def save(history: History, directory: Path) -> list[str]:
    """The history as files, and the command's options that name them."""
    with Ledger(directory / "producer.jsonl") as ledger:
        ledger.append(dataclasses.asdict(line) for line in history.producer)
    with Ledger(directory / "sink.jsonl") as ledger:
        ledger.append(dataclasses.asdict(line) for line in history.sink)
    write_dump(history.views, directory / "views")
    return [
        f"--producer={directory / 'producer.jsonl'}", f"--sink={directory / 'sink.jsonl'}",
        f"--dump={directory / 'views'}", "--undoable=reserve", "--undoable=charge",
    ]  # fmt: skip
