"""Where a stored saga stands in a newer version: its position, under the names of that version.

Takes what is stored and both definitions (of the old one only what is stored, if the code has it no more). Guarantees
that whatever is open, in flight, or may have to be taken back has a place of the same kind, and that no step which both
versions have is left out or gone through twice. Raises `NoPlace`, with a reason for the operator, where that cannot be.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from msgspec import UNSET
from msgspec.structs import replace

from saga_worker.saga import flow
from saga_worker.saga.children import EachStep, SubsagaStep
from saga_worker.saga.definition import Saga
from saga_worker.saga.instance import CommandKind, CommandRecord, Fate, Instance, Progress, Timer
from saga_worker.saga.messages import Command, rejection_models, reply_models, wire_types
from saga_worker.saga.names import EVERY, LOCAL, LOCAL_FAILED, SLEEP, STEP_AGAIN, TIMER_FAILED, UNDELIVERABLE, WAIT
from saga_worker.saga.own_work import ActivityStep, Answered, AnyStep, LocalStep
from saga_worker.saga.placed import PlacedStep
from saga_worker.saga.steps import CommandOf, SavepointStep, SleepStep, WaitStep
from saga_worker.saga.transitions import Status
from saga_worker.saga.upgrade import Upgrade

_OF_STEPS: Final = (WAIT, EVERY, SLEEP, STEP_AGAIN)  # timers that are named after a step, not after a command
_ANSWERED: Final = (CommandOf, ActivityStep, LocalStep, SubsagaStep, EachStep)


class NoPlace(Exception):
    """This saga cannot become one of the newer version where it stands; the text says why."""


def carry_over(saga: Saga[Any], upgrade: Upgrade, instance: Instance) -> Progress:
    """The progress of `instance` as one of `saga`, a newer version; raises `NoPlace`."""
    return _Move(saga, upgrade, instance).progress()


class _Move:
    """One saga on its way to one version."""

    def __init__(self, saga: Saga[Any], upgrade: Upgrade, instance: Instance) -> None:
        self.saga, self.old, self.upgrade = saga, upgrade.old, upgrade
        self.instance, self.before = instance, instance.progress
        self.recorded = {} if self.before.recorded is UNSET else self.before.recorded
        self.items = {} if self.before.items is UNSET else self.before.items
        self.active: dict[str, int | None] = {}  # under the new names
        self.commands: dict[int, CommandRecord] = {}
        self.timers: dict[str, Timer] = {}

    def progress(self) -> Progress:
        for step_id, seq in self.before.active.items():
            self.active[self._open_step(step_id, seq).id] = seq
        self._compare_order()
        for record in self.before.commands.values():
            if (kept := self._command(record)) is not None:
                self.commands[kept.seq] = kept
        names = {name: self._timer_name(name) for name in self.before.timers}
        self.timers = {new: self.before.timers[old] for old, new in names.items() if new is not None}
        return replace(
            self.before, active=self.active, commands=self.commands, timers=self.timers,
            undo_failures={seq: n for seq, n in self.before.undo_failures.items() if seq in self.commands},
            attention=tuple(self._attention(entry, names) for entry in self.before.attention),
            rounds={self._loop(name): number for name, number in self.before.rounds.items()},
            recorded={seq: r for seq, r in self.recorded.items() if seq in self.commands} or UNSET,
            begun=self._begun() or UNSET,
            items={seq: counts for seq, counts in self.items.items() if seq in self.commands} or UNSET,
            withdrawn=tuple(seq for seq in self.before.withdrawn if seq in self.commands),
            savepoints={
                step.id: mark
                for name, mark in self.before.savepoints.items()
                if isinstance(step := self._step(name), SavepointStep)
            },
        )  # fmt: skip

    # -- the open steps, and their order ----------------------------------------------------------------------------

    def _step(self, old_id: str) -> AnyStep | None:
        """The step of the new version that `old_id` has become."""
        name = self.upgrade.name_of(old_id)
        return None if name is None else self.saga.steps.get(name)

    def _open_step(self, step_id: str, seq: int | None) -> AnyStep:
        target = self._step(step_id)
        if target is None:
            raise NoPlace(f"it stands at {step_id}, which version {self.saga.version} does not have")
        if type(target) is not self._kind(step_id, seq, target):
            raise NoPlace(f"it stands at {step_id}, which is another kind of step in version {self.saga.version}")
        return target

    def _kind(self, step_id: str, seq: int | None, target: AnyStep) -> type:
        """The kind of an open step; without its definition by what such a step leaves in a stored saga."""
        if self.old is not None:
            return type(self.old.steps.get(step_id))
        if seq is not None:
            return self._kind_of(self.before.commands[seq], target)
        if f"{SLEEP}:{step_id}" in self.before.timers:
            return SleepStep
        if any(self.before.commands[entry].step == step_id for entry in self.recorded):
            return PlacedStep  # it waits to be entered again
        return SavepointStep if step_id in self.before.savepoints else WaitStep

    def _kind_of(self, record: CommandRecord, target: AnyStep) -> type:
        if self.old is not None:
            return type(self.old.steps.get(record.step))
        if record.destination:
            return CommandOf
        forward = record.seq if record.undoes is None else record.undoes
        if forward in self.recorded or forward in self.items:
            return PlacedStep if forward in self.recorded else EachStep
        is_local = f"{LOCAL}:{record.seq}" in self.before.timers or (
            f"{LOCAL_FAILED}: {record.step}" in self.before.attention
        )
        if is_local:
            return LocalStep
        return SubsagaStep if isinstance(target, SubsagaStep) else ActivityStep  # they leave the same behind

    def _compare_order(self) -> None:
        """What lies ahead in one version must not lie behind in the other: it would be left out, or done again."""
        if not self.active:
            return
        root, version = self.saga.flow_root, self.saga.version
        ahead = flow.ahead(root, self.active)
        if not flow.may_be_open_together(root, self.active):
            raise NoPlace(f"it stands at {', '.join(self.active)}, which version {version} does one after another")
        if root.pivots and not self.before.pivoted and not root.pivots & ahead:
            raise NoPlace(f"it would stand behind the pivot of version {version}, which it has not passed")
        done = {record.step for record in self.before.commands.values() if record.kind is CommandKind.FORWARD}
        before = None if self.old is None else flow.ahead(self.old.flow_root, self.before.active)
        for step_id in self.old.steps if self.old is not None else done:
            if (target := self._step(step_id)) is None:
                continue
            is_ahead = target.id in ahead
            if before is None:
                if is_ahead and target.id not in self.active and not flow.is_in_loop(root, target.id):
                    raise NoPlace(f"it has been at {step_id}, which version {version} does later")
            elif is_ahead is not (step_id in before):
                raise NoPlace(f"version {version} does {target.id} {'later' if is_ahead else 'earlier'} than it did")

    def _loop(self, name: str) -> str:
        """A loop that is past its first round has to go on as one."""
        target = self.upgrade.name_of(name)
        if target is None or target not in {loop.name for loop in flow.loops(self.saga.flow_root)}:
            raise NoPlace(f"it goes round in {name}, a loop which version {self.saga.version} does not have")
        return target

    # -- what was sent ----------------------------------------------------------------------------------------------

    def _command(self, record: CommandRecord) -> CommandRecord | None:
        """The record under its new name; None when it has no place any more and needs none."""
        if record.undoes is not None and record.undoes not in self.commands:
            return None
        target = self._step(record.step)
        if not isinstance(target, _ANSWERED) or type(target) is not self._kind_in_general(record, target):
            target = None
        is_open = record.fate in (Fate.SENT, Fate.UNKNOWN)
        what = f"{record.type} of step {record.step}"
        if target is None:
            if is_open:
                raise NoPlace(f"{what} may still be answered, and version {self.saga.version} has no such step")
            if self._may_be_undone(record):
                raise NoPlace(f"{what} may have to be undone, and version {self.saga.version} has no such step")
            return None
        if is_open and not self._understands(target, record):
            raise NoPlace(f"{what} may still be answered, and version {self.saga.version} expects other answers")
        old = self.old.steps.get(record.step) if self.old is not None else None
        if isinstance(old, _ANSWERED) and old.has_undo and self._may_be_undone(record):
            if not target.has_undo:
                raise NoPlace(f"{what} may have to be undone, and version {self.saga.version} has no undo for it")
            if isinstance(old, PlacedStep) and isinstance(target, PlacedStep) and _shape(old) != _shape(target):
                raise NoPlace(f"{what} may have to be undone, and in version {self.saga.version} it has other models")
        return replace(record, step=target.id, type=record.type if record.destination else target.id)

    def _kind_in_general(self, record: CommandRecord, target: Answered) -> type:
        """Of own work that is over nothing says which kind it was: the new version is believed."""
        is_over = record.fate not in (Fate.SENT, Fate.UNKNOWN)
        if self.old is None and not record.destination and is_over and not isinstance(target, CommandOf):
            is_recorded = record.seq in self.recorded
            return type(target) if is_recorded is isinstance(target, PlacedStep) or not target.has_undo else type(None)
        return self._kind_of(record, target)

    def _may_be_undone(self, record: CommandRecord) -> bool:
        if record.kind is CommandKind.UNDO or record.undone or record.fate is Fate.REJECTED:
            return False
        if record.step in self.upgrade.steps and self.upgrade.steps[record.step] is None:
            return False  # by its author's word
        if record.seq not in self.before.withdrawn and (
            self.before.pivoted or self.instance.status is Status.COMPLETED
        ):
            return record.fate is Fate.UNKNOWN
        old = self.old.steps.get(record.step) if self.old is not None else None
        return not isinstance(old, _ANSWERED) or old.has_undo

    def _understands(self, target: Answered, record: CommandRecord) -> bool:
        """Whether the new step takes every answer that the old one may get."""
        is_undo = record.kind is CommandKind.UNDO
        old = self.old.steps.get(record.step) if self.old is not None else None
        if is_undo and not target.has_undo:
            return False
        match target:
            case CommandOf():
                model = target.undo_model if is_undo else target.command_model
                if model is None or record.type not in wire_types(model):
                    return False
                if not isinstance(old, CommandOf):
                    return True
                older = old.undo_model if is_undo else old.command_model
                return older is not None and _answers(older).issubset(_answers(model))
            case ActivityStep() if not is_undo and isinstance(old, ActivityStep):
                return _shape(old) == _shape(target)
            case SubsagaStep() | EachStep() if isinstance(old, SubsagaStep | EachStep):
                return old.child.name == target.child.name
            case _:
                return True

    def _begun(self) -> dict[str, datetime]:
        """When tries began, by step or by what is undone."""
        found: dict[str, datetime] = {}
        for tries, since in ({} if self.before.begun is UNSET else self.before.begun).items():
            kind, _, subject = tries.partition(":")
            if kind == "step" and (target := self._step(subject)) is not None:
                found[f"step:{target.id}"] = since
            elif kind == "undo" and int(subject) in self.commands:
                found[tries] = since
        return found

    # -- names ------------------------------------------------------------------------------------------------------

    def _timer_name(self, name: str) -> str | None:
        """A timer under its new name; None: it is not wanted any more."""
        kind, _, subject = name.partition(":")
        if kind not in _OF_STEPS:
            return name
        target = self._step(subject)
        if target is None or (kind == EVERY and not (isinstance(target, WaitStep) and target.reminder is not None)):
            return None
        return f"{kind}:{target.id}"

    def _attention(self, entry: str, timers: dict[str, str | None]) -> str:
        """An entry about a step, a loop or a timer, under its new name."""
        reason, colon, subject = entry.partition(": ")
        if reason == TIMER_FAILED:
            for old, new in timers.items():
                if new is not None and subject.startswith(f"{old}: "):
                    return f"{reason}: {new}{subject.removeprefix(old)}"
            return entry
        name = self.upgrade.name_of(subject) if colon and reason != UNDELIVERABLE else None
        return entry if name is None else f"{reason}: {name}"


def _answers(model: type[Command[Any, Any]]) -> set[tuple[str, str]]:
    return {
        *(("reply", each) for each in reply_models(model)),
        *(("rejection", each) for each in rejection_models(model)),
    }


def _shape(step: ActivityStep[Any, Any]) -> list[dict[str, Any]]:
    """What a stored result, and a stored input, looks like, whatever its class is called."""
    models = [step.result_model, *([step.input_model] if isinstance(step, PlacedStep) else [])]
    schemas = [model.model_json_schema() for model in models]
    return [{name: part for name, part in each.items() if name not in ("title", "description")} for each in schemas]
