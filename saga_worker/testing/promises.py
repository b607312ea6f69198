"""One saga that looks at the promises after every transaction: what `CrashMatrix` and random histories run on.

Takes what `OneSaga` takes, guarantees to raise `BrokenPromise` at the first transaction that breaks I2 (once), I6 (one
chain), I7 (the history gives the state), I8 (never stuck), I9 (compensation complete, newest first), I10 (late
answers), I11 (timers), the sameness of resends or the order of numbers. The rules are said here once more, in other
words than those of the core: a mistake there must not be a mistake here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from saga_worker.saga.changes import JournalRow, SagaChange
from saga_worker.saga.children import EachStep, SubsagaStep
from saga_worker.saga.decide import decide
from saga_worker.saga.definition import Saga
from saga_worker.saga.fold import NOT_NOW, Limits
from saga_worker.saga.fold.backlog import BLOCKING, input_of
from saga_worker.saga.fold.closing import TOLD
from saga_worker.saga.forms import STEPS, Parallel, Repeat, inner
from saga_worker.saga.inputs import (
    MESSAGES,
    Applied,
    Given,
    Input,
    LocalDone,
    LocalFailed,
    PublishEvent,
    ReplyToStarter,
    RunActivity,
    SendCommand,
    TimerFired,
)
from saga_worker.saga.instance import CommandKind, CommandRecord, Fate, Instance
from saga_worker.saga.own_work import ActivityStep, Answered, LocalStep
from saga_worker.saga.retry import OnUndoFailed, Undo
from saga_worker.saga.rows import InboxRow, Role, RowState
from saga_worker.saga.steps import CommandOf, EmitStep, SavepointStep, SleepStep, Step, WaitStep
from saga_worker.saga.transitions import TRANSITIONS, Status
from saga_worker.testing.one_saga import SAGA_ID, OneSaga

BACK: Final = (Status.COMPENSATING, Status.COMPENSATED)
OF_THE_WAY_ON: Final = frozenset({"no_answer", "wait_expired", "deadline_passed", "local_failed"})


class BrokenPromise(AssertionError):
    """A promise does not hold; the text says which and what was seen."""


class Decided(Struct, frozen=True):
    """One input that was applied: the saga before and after it, and what it sent."""

    entry: JournalRow
    before: Instance | None
    after: Instance
    sent: tuple[SendCommand | PublishEvent | ReplyToStarter, ...]


class WatchedSaga(OneSaga):
    """`OneSaga`, distrustful."""

    def __init__(self, saga: Saga[Any], key: str, *, limits: Limits | None = None, jitter: float = 0.0) -> None:
        super().__init__(saga, key, limits=limits, jitter=jitter)
        self.places = dict(_places(saga.flow_root.steps, ()))
        self.seen_inputs: set[tuple[str, str]] = set()
        self.asked: dict[int, SendCommand | RunActivity] = {}  # by number: the first copy
        self.out_of_turn: set[int] = set()  # rows that were parked, or refused and replayed
        self.last_applied = 0  # the highest id of a row that was applied in its first turn
        self.gave_up = False  # some undo has run out of tries: it may come back beside another

    # -- transactions -------------------------------------------------------------------------------------------------

    def step(
        self, *, from_timers: bool = False, alone: bool = False, write_error: str | None = None
    ) -> SagaChange | None:
        known, sent, unsent = len(self.journal), len(self.effects), frozenset(self.unsent)
        change = super().step(from_timers=from_timers, alone=alone, write_error=write_error)
        if change is not None:
            self._look(change, known, sent, unsent, None)
        return change

    def run_local(self, done: LocalDone | LocalFailed) -> SagaChange:
        known, sent = len(self.journal), len(self.effects)
        change = super().run_local(done)
        self._look(change, known, sent, frozenset(), done)
        return change

    def drain(self) -> None:
        super().drain()
        self._check_rows()

    def _look(
        self, change: SagaChange, known: int, sent: int, unsent: frozenset[int], done: LocalDone | LocalFailed | None
    ) -> None:
        last = self.journal[known - 1] if known else None
        for entry in self.journal[known:]:
            self._check_chain(last, entry)
            self._check_input(entry, unsent)
            last = entry
        for effect in self.effects[sent:]:
            self._check_copy(effect, unsent)
        for seen in change.rows:
            if seen.state is RowState.PARKED or (seen.state is RowState.DEAD and seen.reason not in BLOCKING):
                self.out_of_turn.add(seen.id)
        for decided in self._again(change, unsent, done):
            self.look_at(decided)
        if self.instance is not None:
            self._check_undos(self.instance)
            self._check_pivot(self.instance)
            self._check_timers(self.instance)
            self._check_reason_to_move(self.instance)
            self._check_ends(self.instance)
            self._check_wake(self.instance)

    def _again(self, change: SagaChange, unsent: frozenset[int], done: LocalDone | LocalFailed | None) -> list[Decided]:
        """I7: the inputs of this transaction once more, one by one, through the definition: the same saga comes out."""
        found: list[Decided] = []
        instance = change.before
        if instance is not None and self.registry.runs_by(instance) != (self.saga, None):
            return found  # of another version, or brought to this one in this transaction
        if any(entry.message_id.startswith(f"{TOLD}:") for entry in change.journal):
            return found  # what is told of the attention list is no input that is stored anywhere
        effects: list[object] = []
        for entry in change.journal:
            given = Given(
                self.now, self.jitter, SAGA_ID, unsent=unsent, replies_are_in=self.replies_are_in,
                crashes=self.limits.crashes,
            )  # fmt: skip
            decision = decide(self.saga, instance, self._input(entry, done), given)
            if not isinstance(decision.outcome, Applied) or decision.instance is None:
                raise BrokenPromise(f"I7: {entry.message_id} was applied, and now it is {decision.outcome}")
            sent = tuple(effect for effect in decision.effects if isinstance(effect, MESSAGES))
            found.append(Decided(entry, instance, decision.instance, sent))
            effects += decision.effects
            instance = decision.instance
        if change.journal:
            _same(effects, change.effects, "I7: the same inputs send something else")
        if instance is not None and change.after is not None and change.journal:
            _same(_course(instance), _course(change.after), "I7: the history does not give the stored saga")
        return found

    def _input(self, entry: JournalRow, done: LocalDone | LocalFailed | None) -> Input:
        if entry.inbox_id is not None:
            return input_of(self.rows[entry.inbox_id])
        if done is not None:
            return done
        name, _, epoch = entry.message_id.split(":", 2)[2].rpartition(":")
        return TimerFired(name, int(epoch))

    # -- one input ----------------------------------------------------------------------------------------------------

    def look_at(self, decided: Decided) -> None:
        """The promises about a single step of the saga."""
        self._check_direction(decided)
        self._check_newest_first(decided)

    def _check_chain(self, last: JournalRow | None, entry: JournalRow) -> None:
        _hold(entry.revision == (last.revision + 1 if last is not None else 1), "I6: a gap in the journal", entry)
        _hold(entry.from_status is (last.to_status if last is not None else None), "I6: the chain is broken", entry)
        _hold((entry.from_status, entry.to_status) in TRANSITIONS, "no legal change of status", entry)
        _hold((entry.source, entry.message_id) not in self.seen_inputs, "I2: one input, applied twice", entry)
        self.seen_inputs.add((entry.source, entry.message_id))

    def _check_input(self, entry: JournalRow, unsent: frozenset[int]) -> None:
        """Only inputs that may move the saga do, each in its turn."""
        if entry.input_kind == "event":
            _hold(
                entry.from_status in (None, Status.RUNNING, Status.WAITING), "an event moves a saga that is over", entry
            )
        if entry.input_kind == "timer" and ":timeout:" in entry.message_id:
            _hold(self.replies_are_in, "I11: a time-out before the queued replies", entry)
            seq = int(entry.message_id.split(":")[-2])
            _hold(seq not in unsent, "I11: a time-out before the command has left", entry)
        if entry.inbox_id is not None and self.has_one_turn(self.rows[entry.inbox_id]):
            _hold(entry.inbox_id > self.last_applied, "I5: a younger row overtakes an older one", entry)
            self.last_applied = entry.inbox_id

    def _check_copy(self, effect: object, unsent: frozenset[int]) -> None:
        if isinstance(effect, SendCommand):
            _hold(effect.seq not in unsent, "sent again although the first copy has not left", effect)
            first = self.asked.setdefault(effect.seq, effect)
            assert isinstance(first, SendCommand)
            same = replace(effect, deadline=first.deadline) == first
            _hold(same, "I4: a resend is not the same message", (first, effect))
        elif isinstance(effect, RunActivity):
            first_run = self.asked.setdefault(effect.seq, effect)
            assert isinstance(first_run, RunActivity)
            _hold((first_run.step, first_run.undoes) == (effect.step, effect.undoes), "another activity", effect)
        else:
            return
        _hold(max(self.asked) == effect.seq or effect.seq in list(self.asked)[:-1], "numbers go up", effect)

    def _check_direction(self, decided: Decided) -> None:
        """I9: nothing forward once compensation began, nor after completion."""
        before, after = decided.before, decided.after
        _hold(
            tuple(effect.seq for effect in decided.sent) == decided.entry.sent, "I3: not what the journal says", decided
        )
        new = [c for c in after.progress.commands.values() if c.seq > (before.seq if before else 0)]
        forward = [c.seq for c in new if c.kind is CommandKind.FORWARD]
        forward += [effect.seq for effect in decided.sent if isinstance(effect, PublishEvent)]
        if before is not None and (before.status in BACK or before.status.is_final) and not before.stands_still:
            _hold(not forward, "I9: something forward on the way back", forward)
        elif after.status in BACK:  # a loop without rounds left turns back where something was just begun
            undos = [c.seq for c in new if c.kind is CommandKind.UNDO]
            _hold(max(forward, default=0) < min(undos, default=after.seq + 1), "I9: forward after an undo", forward)
        elif after.status in (Status.PAUSED, Status.FAILED):
            _hold(not decided.sent, "a saga that stands still says something", decided.sent)

    def _check_newest_first(self, decided: Decided) -> None:
        issued = decided.before.seq if decided.before is not None else 0
        commands = decided.after.progress.commands
        tried = {c.undoes for c in commands.values()}
        for undo in (c for c in commands.values() if c.seq > issued and c.undoes is not None):
            if [c.undoes for c in commands.values()].count(undo.undoes) > 1 or undo.undoes is None:
                continue
            target = commands[undo.undoes]
            newer = [c for c in commands.values() if c.seq > target.seq and not self.are_apart(c, target)]
            passed_over = [c for c in newer if self.goes_back(decided.after, c) and c.seq not in tried]
            _hold(not passed_over, "I9: an older step is undone before a newer one", (target, passed_over))

    # -- where the saga stands ----------------------------------------------------------------------------------------

    def _check_undos(self, instance: Instance) -> None:
        """I9, I10: only what was commanded and may have worked is undone, by one undo at a time, once."""
        commands = instance.progress.commands
        by_target: dict[int, list[CommandRecord]] = {}
        for undo in commands.values():
            if undo.undoes is not None:
                by_target.setdefault(undo.undoes, []).append(undo)
        for seq, undos in by_target.items():
            target, step = commands[seq], self.step_of(commands[seq])
            is_possible = target.kind is CommandKind.FORWARD and target.fate is not Fate.SENT and step.has_undo
            _hold(is_possible, "I9: undone although it was not over, or has no undo", target)
            is_meant = target.fate is Fate.DONE or step.undo_mode is Undo.HYBRID or isinstance(step, LocalStep)
            _hold(is_meant, "I9: strict, and undone without a success", target)
            refused = [u.fate for u in undos[:-1]] == [Fate.REJECTED] * (len(undos) - 1)
            _hold(refused, "I9: a new undo without a refusal of the last", undos)

    def _check_pivot(self, instance: Instance) -> None:
        """Nothing is taken back past the pivot, nor while nobody knows whether it is passed."""
        if instance.status in BACK:
            pivots = self.saga.flow_root.pivots
            emits = {step_id for step_id in pivots if isinstance(self.saga.steps[step_id], EmitStep)}
            published = [e for e in self.effects if isinstance(e, PublishEvent) and e.step in emits]
            commands = [c for c in instance.progress.commands.values() if c.step in pivots]
            is_passed = bool(published) or any(c.fate is not Fate.REJECTED for c in commands)
            _hold(not is_passed, "L7: the way back goes past a pivot", (published, commands))

    def _check_timers(self, instance: Instance) -> None:
        """Every armed timer belongs to something that still waits for it; undos go one at a time."""
        commands, active = instance.progress.commands, instance.progress.active
        for name in instance.progress.timers:
            kind, _, subject = name.partition(":")
            match kind:
                case "timeout" | "resend" | "local" | "joined":
                    is_wanted = commands[int(subject)].fate is Fate.SENT
                case "watch":
                    is_wanted = commands[int(subject)].fate is Fate.UNKNOWN
                case "undo":
                    is_wanted = self.must_go_back(commands[int(subject)])
                case "again":
                    is_wanted = commands[active[subject] or 0].fate is Fate.REJECTED
                case "wait" | "every" | "sleep":
                    is_wanted = subject in active
                case _:
                    is_wanted = name == "deadline" and bool(active)
            _hold(is_wanted, "I11: a timer that nobody waits for", name)
        undos = [c for c in commands.values() if c.kind is CommandKind.UNDO and self.is_tried(instance, c.seq)]
        trying = [c.undoes for c in undos if c.undoes is not None and self.must_go_back(commands[c.undoes])]
        trying += [int(name.partition(":")[2]) for name in instance.progress.timers if name.startswith("undo:")]
        self.gave_up = self.gave_up or "undo_failed" in (instance.attention or "")
        if not self.gave_up:
            beside = [(a, b) for a, b in combinations(trying, 2) if not self.are_apart(commands[a], commands[b])]
            _hold(not beside, "I9: two undos at a time", beside)

    def _check_reason_to_move(self, instance: Instance) -> None:
        """I8, for every open step and every effect that has to be taken back. A paused saga waits for its operator."""
        if self.stands_still():
            return
        timers, attention = instance.progress.timers, instance.progress.attention
        for step_id, seq in instance.progress.active.items():
            _hold(self._moves(instance, step_id, seq), "I8: an open step that nothing will end", (step_id, seq))
        commands = instance.progress.commands
        going_back = [c for c in commands.values() if self.goes_back(instance, c)]
        in_hand = [c for c in going_back if self.is_undone_soon(instance, c)]
        if self.saga.on_undo_failed is OnUndoFailed.STOP:  # older ones wait for what waits for an operator
            in_hand += [c for c in going_back if f"undo_failed: {c.step}" in attention and c not in in_hand]
        waiting = [c for c in going_back if c not in in_hand and self._is_fresh(instance, c)]
        while turn := next((c for c in waiting if any(not self.are_apart(c, other) for other in in_hand)), None):
            waiting.remove(turn)  # its turn comes after that of one that is in hand
            in_hand.append(turn)
        for record in going_back:
            listed = f"undo_failed: {record.step}" in attention
            _hold(record in in_hand or listed, "I8: nobody takes this back", record)
        for record in commands.values():
            if record.fate is Fate.UNKNOWN and self.step_of(record).undo_mode is Undo.STRICT:
                watched = f"watch:{record.seq}" in timers or f"unsettled_expired: {record.step}" in attention
                is_over = record.undone or not self.step_of(record).has_undo or self._is_left()
                _hold(watched or is_over, "I10: nobody watches this outcome", record)

    def _is_fresh(self, instance: Instance, record: CommandRecord) -> bool:
        """No undo of it was tried yet, or an operator wants it to be tried as if none was."""
        is_tried = any(c.undoes == record.seq for c in instance.progress.commands.values())
        return not is_tried or instance.progress.undo_failures.get(record.seq) == 0

    def _moves(self, instance: Instance, step_id: str, seq: int | None) -> bool:
        timers, attention = instance.progress.timers, instance.progress.attention
        match self.saga.steps[step_id]:
            case WaitStep():
                is_armed = f"wait:{step_id}" in timers or "deadline" in timers
                return is_armed or bool({f"wait_expired: {step_id}", "deadline_passed"} & set(attention))
            case SavepointStep():
                return any(self.goes_back(instance, c) for c in instance.progress.commands.values())
            case SleepStep():
                return f"sleep:{step_id}" in timers
            case _:
                is_tried = self.is_tried(instance, seq) if seq is not None else f"wait:{step_id}" in timers
                reasons = ("no_answer", "rejected_after_pivot", "local_failed", "wait_expired")
                is_listed = not {f"{reason}: {step_id}" for reason in reasons}.isdisjoint(attention)
                return is_tried or f"again:{step_id}" in timers or is_listed

    def _check_ends(self, instance: Instance) -> None:
        progress = instance.progress
        _hold(instance.attention == ("; ".join(progress.attention) or None), "the list is not the column", instance)
        _hold(
            ("dead_letter" in progress.attention) is self.is_behind_dead(), "I8: dead letter and list differ", instance
        )
        if instance.stands_still:
            return
        if instance.status.is_final or instance.status is Status.COMPENSATING:
            _hold(not progress.active, "a saga that is over has open steps", progress.active)
            moot = {entry.partition(": ")[0] for entry in progress.attention} & OF_THE_WAY_ON
            _hold(not moot, "attention for what is moot", moot)
        else:
            _hold(bool(progress.active), "I8: nothing is open, and the saga is", instance)
            is_back = any(isinstance(self.saga.steps[step_id], SavepointStep) for step_id in progress.active)
            has_work = is_back or any(seq is not None for seq in progress.active.values())
            _hold(instance.status is (Status.RUNNING if has_work else Status.WAITING), "another status", instance)
        if instance.status is Status.FAILED:
            _hold(instance.unsettled == 0 and not progress.timers, "a failed saga still waits for something", instance)
        if instance.status is Status.COMPLETED:
            standing = [c for c in progress.commands.values() if c.seq in progress.withdrawn and not c.undone]
            _hold(instance.unsettled == len(standing), "L2: what a loser did is not counted as unsettled", standing)
            _hold(bool(standing) or not progress.timers, "I11: a timer of a saga that is over", progress.timers)
        if instance.status is Status.COMPENSATED:
            forward = [c for c in progress.commands.values() if c.kind is CommandKind.FORWARD]
            undoable = [c for c in forward if self.step_of(c).has_undo]
            left = [c for c in undoable if c.fate in (Fate.DONE, Fate.UNKNOWN) and not c.undone]
            _hold(instance.unsettled == len(left), "I9: something stands that is not counted as unsettled", left)

    def _check_wake(self, instance: Instance) -> None:
        """H6: the wake row is there, and not later than a timer that may fire."""
        due = instance.next_due
        if due is not None and not self.is_blocked():
            is_woken = self.wake_at is not None and self.wake_at <= max(due, self.now + NOT_NOW)
            _hold(is_woken, "I8: nobody will look when the timer is due", (self.wake_at, due))

    def _check_rows(self) -> None:
        """H2: nothing is left ready and due; nothing is held or parked without its obstacle."""
        ready = sorted(self.in_state(RowState.READY), key=lambda r: (r.role is not Role.OPERATOR, r.id))
        is_due = bool(ready) and (ready[0].next_at is None or ready[0].next_at <= self.now)
        _hold(not is_due, "I1: a row is left ready and due", ready[:1])
        held = self.in_state(RowState.HELD)
        _hold(not held or self.is_blocked(), "I1: a row is held by nothing", held)
        for row in self.in_state(RowState.PARKED):
            if row.expires_at is None:
                behind = self.instance is None and self.is_blocked() and row.reason == "behind_dead"
                _hold(behind, "I1: parked without an end", row)
            elif self.instance is not None and not (self.is_blocked() or ready):
                _hold(bool(self.instance.progress.active), "I1: parked at an end", row)
                _hold(row.reason in ("not_expected_yet", "out_of_sequence"), "I1: parked for no reason", row)
        replies = [row.correlation_id for row in self.in_state(RowState.DONE) if row.role is Role.REPLY]
        _hold(len(set(replies)) == len(replies), "I10: a command is answered twice", replies)
        applied = {entry.inbox_id for entry in self.journal if entry.inbox_id is not None}
        done = {row.id for row in self.in_state(RowState.DONE)}
        _hold(applied == done, "I2: journal and inbox differ", applied ^ done)

    # -- what the checks ask ------------------------------------------------------------------------------------------

    def has_one_turn(self, row: InboxRow) -> bool:
        """Whether `row` can neither be early nor come back after a refusal."""
        first = self.journal[0].inbox_id
        is_never_early = row.role is not Role.EVENT or (
            row.type not in self.saga.arms and self.saga.sequences.get(row.type) is None
        )
        is_after_start = first is not None and row.id > first
        return row.role is not Role.OPERATOR and is_never_early and is_after_start and row.id not in self.out_of_turn

    def stands_still(self) -> bool:
        return self.instance is not None and self.instance.stands_still

    def is_blocked(self) -> bool:
        """Only an operator can help."""
        return self.stands_still() or self.is_behind_dead()

    def is_behind_dead(self) -> bool:
        dead = self.in_state(RowState.DEAD)
        return any(row.reason in BLOCKING and row.role is not Role.OPERATOR for row in dead)

    def step_of(self, record: CommandRecord) -> Answered:
        step = self.saga.steps[record.step]
        assert isinstance(step, CommandOf | ActivityStep | LocalStep | SubsagaStep | EachStep)
        return step

    def must_go_back(self, record: CommandRecord) -> bool:
        """The rule, said once more: done, or hybrid and unknown, with an undo that was not answered."""
        step = self.step_of(record)
        if record.kind is CommandKind.UNDO or record.undone or not step.has_undo or self._is_left():
            return False
        return record.fate is Fate.DONE or (record.fate is Fate.UNKNOWN and step.undo_mode is Undo.HYBRID)

    def _is_left(self) -> bool:
        """What a failed saga has done stays, by an operator's word."""
        return self.instance is not None and self.instance.status is Status.FAILED and not self.stands_still()

    def goes_back(self, instance: Instance, record: CommandRecord) -> bool:
        """What went wrong, or has lost a join, goes back; in a saga that goes on nothing else does."""
        is_going = instance.status in BACK or record.seq in instance.progress.withdrawn
        return is_going and self.must_go_back(record)

    def are_apart(self, one: CommandRecord, other: CommandRecord) -> bool:
        """They stand in different branches, so that their undos need not wait for each other.

        Of what stands in one loop nothing is apart: its rounds came one after another.
        """
        for ours, theirs in zip(self.places[one.step], self.places[other.step], strict=False):
            if ours != theirs:
                return ours[0] == theirs[0] and ours[1] is not None
            if ours[1] is None:  # the same loop
                return False
        return False

    def is_tried(self, instance: Instance, seq: int) -> bool:
        """Somebody will be asked, or asked again, without anybody's help."""
        record = instance.progress.commands[seq]
        if isinstance(self.step_of(record), ActivityStep | SubsagaStep | EachStep):
            return record.fate is Fate.SENT and not record.is_given_up
        return any(f"{kind}:{seq}" in instance.progress.timers for kind in ("timeout", "resend", "local"))

    def is_undone_soon(self, instance: Instance, record: CommandRecord) -> bool:
        if f"undo:{record.seq}" in instance.progress.timers:
            return True
        undos = [c for c in instance.progress.commands.values() if c.undoes == record.seq and c.fate is Fate.SENT]
        return any(self.is_tried(instance, undo.seq) for undo in undos)

    def is_settled(self) -> bool:
        """At its end with nothing that anybody would have to do; or never begun."""
        waiting = self.in_state(RowState.READY, RowState.HELD)
        if self.instance is None:
            return not waiting
        is_final = self.instance.status.is_final and not self.stands_still()
        is_at_rest = is_final and self.instance.unsettled == 0 and not self.instance.attention
        return is_at_rest and not waiting

    def check_losers(self) -> None:
        """L2: of the branches that a join did not wait for nothing is left, when the flow was gone through."""
        instance = self.instance
        if instance is None or instance.status is not Status.COMPLETED or instance.reason is not None:
            return
        done = [c for c in instance.progress.commands.values() if c.kind is CommandKind.FORWARD]
        standing = [c for c in done if c.fate is Fate.DONE and not c.undone and self.step_of(c).has_undo]
        for node in forks(self.saga):
            branches = {place[1] for c in standing for place in self.places[c.step] if place[0] == id(node)}
            _hold(len(branches) <= node.wanted, f"L2: {len(branches)} branches stand, {node.wanted} were wanted", done)


Place = tuple[int, int | None]  # a form, and the branch of it; None: a loop


def forks(saga: Saga[Any]) -> Iterator[Parallel[Any]]:
    """The `parallel` forms that stand in no loop."""

    def inside(steps: Iterable[Step[Any]]) -> Iterator[Parallel[Any]]:
        for step in steps:
            if isinstance(step, Repeat):
                continue
            if isinstance(step, Parallel):
                yield step
            for part in inner(step):
                yield from inside(part)

    return inside(saga.flow_root.steps)


def _places(steps: Iterable[Step[Any]], above: tuple[Place, ...]) -> Iterator[tuple[str, tuple[Place, ...]]]:
    """Every step with the loops and branches around it, outermost first."""
    for step in steps:
        if isinstance(step, STEPS):
            yield step.id, above
        for branch, part in enumerate(inner(step)):
            match step:
                case Parallel():
                    yield from _places(part, (*above, (id(step), branch)))
                case Repeat():
                    yield from _places(part, (*above, (id(step), None)))
                case _:
                    yield from _places(part, above)


def _course(instance: Instance) -> tuple[object, ...]:
    """What only applied inputs change; failing timers and dead letters are noted without one."""
    progress = instance.progress
    timers = {name: timer.epoch for name, timer in progress.timers.items()}
    return (
        instance.status, instance.revision, instance.seq, instance.unsettled, instance.reason, instance.state, timers,
        progress.active, progress.commands, progress.epoch, progress.undo_failures, progress.pivoted,
        progress.sequences, progress.rounds, progress.withdrawn, progress.savepoints, progress.recorded,
        progress.items, progress.parent,
    )  # fmt: skip


def _same(one: object, other: object, sentence: str) -> None:
    _hold(one == other, sentence, f"{one} is not {other}")


def _hold(fact: bool, sentence: str, seen: object) -> None:
    if not fact:
        raise BrokenPromise(f"{sentence}: {seen}")
