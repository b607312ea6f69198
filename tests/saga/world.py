"""One saga that checks the promises after every transaction: what random histories run on.

Takes steps from a history, guarantees to fail at the first transaction that breaks I2, I8, I9 or I10, the chain of
revisions, the order of numbers, the sameness of resends, or the purity of `fold`. `settle_down` checks that nothing is
stuck: when faults end and everybody answers, every saga ends, settled.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from itertools import combinations
from typing import Any

from msgspec.structs import replace

from saga_worker import Retry, Saga, days, seconds
from saga_worker.saga.changes import JournalRow, SagaChange
from saga_worker.saga.draft import AFRESH
from saga_worker.saga.fold import NOT_NOW, Limits
from saga_worker.saga.inputs import MESSAGES, PublishEvent, SendCommand
from saga_worker.saga.instance import NEVER, CommandKind, CommandRecord, Fate, Instance
from saga_worker.saga.messages import Message, encode
from saga_worker.saga.retry import Undo
from saga_worker.saga.routing import command_id
from saga_worker.saga.rows import InboxRow, Role, RowChange, RowState
from saga_worker.saga.steps import CommandOf, SavepointStep, SleepStep, WaitStep
from saga_worker.saga.transitions import TRANSITIONS, Status
from saga_worker.testing.one_saga import OneSaga
from tests.saga.scripted import BROKEN, Begun, Signal, Yes

LIMITS = Limits(attempts=Retry.fixed(2, seconds(10)), crashes=2, parking=days(3))
BACK = (Status.COMPENSATING, Status.COMPENSATED)
BLOCKING = ("handler_error", "worker_killed")


class World(OneSaga):
    """`OneSaga`, distrustful."""

    def __init__(self, saga: Saga[Any], branches: Mapping[str, int] | None = None, wanted: int = 3) -> None:
        """`branches`: by step id the branch it stands in, if there are any and the saga does not loop; `wanted`: how
        many its join waits for.
        """
        super().__init__(saga, "k", limits=LIMITS)
        self.branches = branches or {}
        self.wanted = wanted
        self.seen_inputs: set[tuple[str, str]] = set()
        self.copies: dict[int, SendCommand] = {}
        self.messages = 0
        self.out_of_turn: set[int] = set()  # rows that were parked, or refused and replayed
        self.last_applied = 0  # the highest id of a row that was applied in its first turn
        self.gave_up = False

    # -- what a history may do --------------------------------------------------------------------------------------

    def message(
        self, role: Role, message: Message, *, seq: int | None = None, id_: str | None = None
    ) -> InboxRow | None:
        """Store a message, under a new id unless one is given."""
        self.messages += 1
        correlation_id = command_id(self.ref, seq) if seq is not None else None
        message_id = id_ or f"message-{self.messages}"
        return self.store(
            role, message.wire_type, encode(message), message_id=message_id, correlation_id=correlation_id
        )  # fmt: skip

    def operator(self, command: str, step: str = "a") -> None:
        self.messages += 1
        body = b'{"destination": "p", "why": "because", "step": "%s"}' % step.encode()
        self.store(Role.OPERATOR, command, body, message_id=f"operator-{self.messages}")

    def move_timer(self, what: str, name: str, epoch: int) -> None:
        self.messages += 1
        body = b'{"timer": "%s:%d", "after_seconds": 3600}' % (name.encode(), epoch)
        self.store(Role.OPERATOR, f"timer_{what}", body, message_id=f"operator-{self.messages}")

    def suspect(self, row: InboxRow, crashes: int) -> None:
        """A worker died while it had this row in hand."""
        self.rows[row.id] = replace(row, suspect=True, crashes=crashes)

    def relay(self, runs: bool) -> None:
        self.relay_runs = runs
        if runs:
            self.unsent.clear()

    # -- the promises, after every transaction ----------------------------------------------------------------------

    def step(
        self, *, from_timers: bool = False, alone: bool = False, write_error: str | None = None
    ) -> SagaChange | None:
        known, sent, last = len(self.journal), len(self.effects), self.journal[-1] if self.journal else None
        unsent, issued = frozenset(self.unsent), self.instance.seq if self.instance is not None else 0
        change = super().step(from_timers=from_timers, alone=alone, write_error=write_error)
        for entry in self.journal[known:]:
            self._check_chain(last, entry)
            last = entry
        for effect in self.effects[sent:]:
            if isinstance(effect, SendCommand):
                assert effect.seq not in unsent, "sent again although the first copy has not left"
                self._check_copy(effect)
        for entry in self.journal[known:]:
            self._check_input(entry, unsent)
        if self.instance is not None:
            assert [e.seq for e in self.effects[sent:] if isinstance(e, MESSAGES)] == [
                s for e in self.journal[known:] for s in e.sent
            ]
            for entry in self.journal[known:]:
                self._check_direction(self.instance, entry)
            if len(self.journal) == known + 1:
                self._check_newest_first(self.instance, self.journal[-1], issued)
            self._check_undos(self.instance)
            self._check_pivot(self.instance)
            self._check_timers(self.instance)
            self._check_reason_to_move(self.instance)
            self._check_ends(self.instance)
            self._check_wake(self.instance)
        return change

    def _settle(self, seen: RowChange) -> None:
        super()._settle(seen)
        if seen.error is not None and (seen.state is RowState.READY or seen.reason == "handler_error"):
            assert " at scripted.py:" in seen.error, f"an error of the core: {seen.error}"
        if seen.state is RowState.PARKED or (seen.state is RowState.DEAD and seen.reason not in BLOCKING):
            self.out_of_turn.add(seen.id)

    def drain(self) -> None:
        super().drain()
        self._check_rows()

    def _check_chain(self, last: JournalRow | None, entry: JournalRow) -> None:
        assert entry.revision == (last.revision + 1 if last is not None else 1)
        assert entry.from_status is (last.to_status if last is not None else None)
        assert (entry.from_status, entry.to_status) in TRANSITIONS
        assert (entry.source, entry.message_id) not in self.seen_inputs, "I2: one input, applied twice"
        self.seen_inputs.add((entry.source, entry.message_id))

    def _check_input(self, entry: JournalRow, unsent: frozenset[int]) -> None:
        """Only inputs that may move the saga do, each in its turn."""
        if entry.input_kind == "event":
            assert entry.from_status in (None, Status.RUNNING, Status.WAITING), "an event moves a saga that is over"
        if entry.input_kind == "timer" and ":timeout:" in entry.message_id:
            assert self.replies_are_in, "a time-out before the queued replies"
            assert int(entry.message_id.split(":")[-2]) not in unsent, "a time-out before the command has left"
        if entry.inbox_id is not None and self.has_one_turn(self.rows[entry.inbox_id]):
            assert entry.inbox_id > self.last_applied, "a younger row overtakes an older one"
            self.last_applied = entry.inbox_id

    def _check_copy(self, sent: SendCommand) -> None:
        first = self.copies.get(sent.seq)
        if first is None:
            assert sent.seq > max(self.copies, default=0), "numbers go up"
            self.copies[sent.seq] = sent
        else:
            assert replace(sent, deadline=first.deadline) == first, "a resend is the same message"

    def _check_direction(self, instance: Instance, entry: JournalRow) -> None:
        """I9: nothing forward once compensation began, nor after completion."""
        if entry.to_status in BACK or entry.from_status is Status.COMPLETED:
            commands = [instance.progress.commands.get(seq) for seq in entry.sent]
            assert all(c is not None and c.kind is CommandKind.UNDO for c in commands)
        if entry.to_status in (Status.PAUSED, Status.FAILED):
            assert not entry.sent, "a saga that stands still says something"

    def _check_newest_first(self, instance: Instance, entry: JournalRow, issued: int) -> None:
        commands = instance.progress.commands
        tried = {c.undoes for c in commands.values()}
        for undo in (commands[seq] for seq in entry.sent if seq in commands and seq > issued):
            if undo.undoes is not None and [c.undoes for c in commands.values()].count(undo.undoes) == 1:
                target = commands[undo.undoes]
                newer = [c for c in commands.values() if c.seq > target.seq and not self.are_apart(c, target)]
                passed_over = [c for c in newer if self.goes_back(instance, c)]
                assert all(c.seq in tried for c in passed_over), "an older step is undone before a newer one"

    def _check_undos(self, instance: Instance) -> None:
        """I9, I10: only what was commanded and may have worked is undone, by one undo at a time, once."""
        commands = instance.progress.commands
        by_target: dict[int, list[CommandRecord]] = {}
        for undo in commands.values():
            if undo.undoes is not None:
                by_target.setdefault(undo.undoes, []).append(undo)
        for seq, undos in by_target.items():
            target, step = commands[seq], self.command_step(commands[seq])
            assert target.kind is CommandKind.FORWARD and target.fate is not Fate.SENT and step.make_undo is not None
            assert target.fate is Fate.DONE or step.undo_mode is Undo.HYBRID, "strict: undone without a success"
            assert [u.fate for u in undos[:-1]] == [Fate.REJECTED] * (len(undos) - 1), "a new undo without a refusal"

    def _check_pivot(self, instance: Instance) -> None:
        """Nothing is taken back past the pivot, nor while nobody knows whether it is passed."""
        if instance.status in BACK:
            pivots = self.saga.flow_root.pivots
            assert not [e for e in self.effects if isinstance(e, PublishEvent) and e.step in pivots]
            commands = [c for c in instance.progress.commands.values() if c.step in pivots]
            assert [c.fate for c in commands] == [Fate.REJECTED] * len(commands)

    def _check_timers(self, instance: Instance) -> None:
        """Every armed timer belongs to something that still waits for it; undos go one at a time."""
        commands, active = instance.progress.commands, instance.progress.active
        for name in instance.progress.timers:
            kind, _, subject = name.partition(":")
            match kind:
                case "timeout" | "resend":
                    assert commands[int(subject)].fate is Fate.SENT
                case "watch":
                    assert commands[int(subject)].fate is Fate.UNKNOWN
                case "undo":
                    assert self.must_go_back(commands[int(subject)])
                case "again":
                    assert commands[active[subject] or 0].fate is Fate.REJECTED
                case "wait" | "every" | "sleep":
                    assert subject in active
                case _:
                    assert name == "deadline" and active
        undos = [c for c in commands.values() if c.kind is CommandKind.UNDO and self.is_tried(instance, c.seq)]
        trying = [c.undoes for c in undos if c.undoes is not None]
        trying += [int(name.partition(":")[2]) for name in instance.progress.timers if name.startswith("undo:")]
        # Only one that had run out of tries may come back beside another: by an operator, or by its late refusal.
        self.gave_up = self.gave_up or "undo_failed" in (instance.attention or "")
        for one, other in combinations(trying, 2):
            assert self.gave_up or self.are_apart(commands[one], commands[other]), "two undos at a time"

    def _check_reason_to_move(self, instance: Instance) -> None:
        """I8, for every open step and every effect that has to be taken back.

        A paused saga waits for its operator, and of one that an operator has ended nothing is watched.
        """
        if instance.status in (Status.PAUSED, Status.FAILED):
            return
        timers, attention = instance.progress.timers, instance.progress.attention
        for step_id, seq in instance.progress.active.items():
            step = self.saga.steps[step_id]
            if isinstance(step, WaitStep):
                armed = f"wait:{step_id}" in timers or "deadline" in timers
                assert armed or {f"wait_expired: {step_id}", "deadline_passed"} & set(attention)
            elif isinstance(step, SavepointStep):
                back = [c for c in instance.progress.commands.values() if self.goes_back(instance, c)]
                assert back, "nothing is left to take back, and the saga does not go on"
            elif isinstance(step, SleepStep):
                assert f"sleep:{step_id}" in timers
            else:
                assert seq is not None
                is_tried = self.is_tried(instance, seq) or f"again:{step_id}" in timers
                assert is_tried or self.is_listed(instance, step_id)
        going_back = [c for c in instance.progress.commands.values() if self.goes_back(instance, c)]
        trying = [c for c in going_back if self.is_undone_soon(instance, c)]
        for record in going_back:
            tried = any(c.undoes == record.seq for c in instance.progress.commands.values())
            is_fresh = not tried or instance.progress.undo_failures.get(record.seq) == AFRESH
            waits_its_turn = is_fresh and any(not self.are_apart(record, other) for other in trying)
            in_hand = self.is_undone_soon(instance, record) or waits_its_turn
            assert in_hand or f"undo_failed: {record.step}" in attention, f"nobody takes back {record}"
        for record in instance.progress.commands.values():
            if record.fate is Fate.UNKNOWN and not record.undone and self.command_step(record).undo_mode is Undo.STRICT:
                assert f"watch:{record.seq}" in timers or f"unsettled_expired: {record.step}" in attention

    def _check_ends(self, instance: Instance) -> None:
        progress = instance.progress
        assert instance.attention == ("; ".join(progress.attention) or None)
        assert ("dead_letter" in progress.attention) is self.is_behind_dead()
        if instance.status is Status.PAUSED:
            return
        if instance.status.is_final or instance.status is Status.COMPENSATING:
            assert progress.active == {}
            assert not {e.partition(": ")[0] for e in progress.attention} & {
                "no_answer",
                "wait_expired",
                "deadline_passed",
            }
        else:
            assert progress.active
            is_back = any(isinstance(self.saga.steps[step_id], SavepointStep) for step_id in progress.active)
            has_work = is_back or any(seq is not None for seq in progress.active.values())
            assert instance.status is (Status.RUNNING if has_work else Status.WAITING)
        if instance.status is Status.FAILED:
            assert instance.unsettled == 0 and not progress.timers
        if instance.status is Status.COMPLETED:
            standing = [c for c in progress.commands.values() if c.seq in progress.withdrawn and not c.undone]
            assert instance.unsettled == len(standing), "L2: what a loser did is not counted as unsettled"
            assert standing or not progress.timers
        if instance.status is Status.COMPENSATED:
            forward = [c for c in progress.commands.values() if c.kind is CommandKind.FORWARD]
            undoable = [c for c in forward if self.command_step(c).make_undo is not None]
            left = [c for c in undoable if c.fate in (Fate.DONE, Fate.UNKNOWN) and not c.undone]
            assert instance.unsettled == len(left), "I9: something stands that is not counted as unsettled"

    def _check_wake(self, instance: Instance) -> None:
        """H6: the wake row is there, and not later than a timer that may fire."""
        due = instance.next_due
        if due is not None and not self.is_blocked():
            assert self.wake_at is not None and self.wake_at <= max(due, self.now + NOT_NOW)

    def _check_rows(self) -> None:
        """H2: nothing is left ready and due; nothing is held or parked without its obstacle."""
        ready = sorted(self.in_state(RowState.READY), key=lambda r: (r.role is not Role.OPERATOR, r.id))
        assert not ready or (ready[0].next_at is not None and ready[0].next_at > self.now)
        assert not self.in_state(RowState.HELD) or self.is_blocked()
        for row in self.in_state(RowState.PARKED):
            if row.expires_at is None:
                assert self.instance is None and self.is_blocked() and row.reason == "behind_dead"
            elif self.instance is not None and not self.is_blocked() and not ready:
                assert not self.instance.progress.active.keys().isdisjoint(self.saga.steps), "parked at an end"
                assert row.reason == "not_expected_yet"
        replies = [row.correlation_id for row in self.in_state(RowState.DONE) if row.role is Role.REPLY]
        assert len(set(replies)) == len(replies), "I10: a command is answered twice"
        applied = {entry.inbox_id for entry in self.journal if entry.inbox_id is not None}
        assert applied == {row.id for row in self.in_state(RowState.DONE)}

    # -- what the checks ask ------------------------------------------------------------------------------------------

    def has_one_turn(self, row: InboxRow) -> bool:
        """Whether `row` can neither be early nor come back after a refusal."""
        first = self.journal[0].inbox_id
        is_never_early = row.role is Role.REPLY or row.type not in self.saga.arms
        is_after_start = first is not None and row.id > first
        return row.role is not Role.OPERATOR and is_never_early and is_after_start and row.id not in self.out_of_turn

    def is_blocked(self) -> bool:
        return self.is_behind_dead() or (self.instance is not None and self.instance.status is Status.PAUSED)

    def is_behind_dead(self) -> bool:
        dead = self.in_state(RowState.DEAD)
        return any(row.reason in BLOCKING and row.role is not Role.OPERATOR for row in dead)

    def command_step(self, record: CommandRecord) -> CommandOf[Any, Any]:
        step = self.saga.steps[record.step]
        assert isinstance(step, CommandOf)
        return step

    def must_go_back(self, record: CommandRecord) -> bool:
        """The rule, said once more: done, or hybrid and unknown, with an undo that was not answered."""
        if record.kind is CommandKind.UNDO or record.undone or self.command_step(record).make_undo is None:
            return False
        is_hybrid = self.command_step(record).undo_mode is Undo.HYBRID
        return record.fate is Fate.DONE or (record.fate is Fate.UNKNOWN and is_hybrid)

    def goes_back(self, instance: Instance, record: CommandRecord) -> bool:
        """What went wrong, or has lost a join, goes back; in a saga that goes on nothing else does."""
        is_going = instance.status in BACK or record.seq in instance.progress.withdrawn
        return is_going and self.must_go_back(record)

    def are_apart(self, one: CommandRecord, other: CommandRecord) -> bool:
        """They stand in different branches, so that their undos need not wait for each other."""
        ours, theirs = self.branches.get(one.step), self.branches.get(other.step)
        return ours is not None and theirs is not None and ours != theirs

    def is_tried(self, instance: Instance, seq: int) -> bool:
        return any(f"{kind}:{seq}" in instance.progress.timers for kind in ("timeout", "resend"))

    def is_listed(self, instance: Instance, step_id: str) -> bool:
        return bool({f"no_answer: {step_id}", f"rejected_after_pivot: {step_id}"} & set(instance.progress.attention))

    def is_undone_soon(self, instance: Instance, record: CommandRecord) -> bool:
        if f"undo:{record.seq}" in instance.progress.timers:
            return True
        undos = [c for c in instance.progress.commands.values() if c.undoes == record.seq and c.fate is Fate.SENT]
        return any(self.is_tried(instance, undo.seq) for undo in undos)

    # -- when the faults end ------------------------------------------------------------------------------------------

    def settle_down(self) -> None:
        """Everybody answers, nothing raises, an operator looks: then the saga ends, settled, within a few rounds."""
        BROKEN.clear()
        BROKEN.add("fixed")
        self.relay(runs=True)
        self.replies_are_in = True
        self.replay()
        self.advance(seconds(30))
        for _ in range(40):
            if self.is_settled():
                break
            self._help()
        assert self.is_settled(), f"stuck: {self.instance}"
        self._check_losers()

    def _check_losers(self) -> None:
        """L2: of the branches that its join did not wait for nothing is left, when the flow was gone through."""
        instance = self.instance
        if instance is None or instance.status is not Status.COMPLETED or instance.reason is not None:
            return
        done = [c for c in instance.progress.commands.values() if c.kind is CommandKind.FORWARD and not c.undone]
        standing = {self.branches[c.step] for c in done if c.fate is Fate.DONE and c.step in self.branches}
        assert len(standing) <= self.wanted, f"branches {standing} stand, {self.wanted} were wanted"

    def is_settled(self) -> bool:
        waiting = self.in_state(RowState.READY, RowState.HELD)
        if self.instance is None:
            return not waiting
        is_at_rest = self.instance.status.is_final and self.instance.unsettled == 0 and not self.instance.attention
        return is_at_rest and not waiting

    def _help(self) -> None:
        """One round of good will: answers, events, `retry`; what stays dead is discarded; time passes."""
        progress = self.instance.progress if self.instance is not None else None
        if progress is not None:
            for record in progress.commands.values():
                if record.fate in (Fate.SENT, Fate.UNKNOWN):
                    self.message(Role.REPLY, Yes(), seq=record.seq)
            for command in ("resume", "delivered", "retry"):
                self.operator(command)
            for name, timer in progress.timers.items():
                if timer.due_at == NEVER:
                    self.move_timer("fire", name, timer.epoch)
            if any(seq is None for seq in progress.active.values()):
                self.message(Role.EVENT, Begun())
                self.message(Role.EVENT, Signal())
        self.discard()
        self.advance(timedelta(0))
        self.advance(days(6) if progress is not None and not any(progress.active.values()) else seconds(30))
