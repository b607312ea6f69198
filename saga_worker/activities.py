"""Runs activities: attempts come with the commit that wants them or from the claim → outcomes → one transaction → pool.

Takes the steps' functions and attempts under an epoch, as many at a time as `activity_slots` has room for; guarantees
that an outcome counts only while the attempt is this worker's, and that outcomes are committed in groups. No
transaction is open while an attempt runs. Hands the sagas concerned to the pool.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from msgspec import Struct
from pydantic import BaseModel
from pydantic_core import from_json, to_json

from saga_worker import activity_rows, backoff, inbox
from saga_worker.activity_rows import Attempt, Ended, Key, Written
from saga_worker.activity_slots import ActivitySlots
from saga_worker.faults import fault_point
from saga_worker.orchestrator import Advanced, TakenIn
from saga_worker.saga.activity import WaitFor
from saga_worker.saga.decide import describe_error
from saga_worker.saga.errors import LeaseLost
from saga_worker.saga.inputs import ACTIVITY_PARTIAL, ACTIVITY_WAITS
from saga_worker.saga.own_work import ActivityStep
from saga_worker.saga.placed import PlacedStep
from saga_worker.saga.registry import Registry
from saga_worker.saga.terminal import resolve_terminal_error
from saga_worker.saga.trace import Trace
from saga_worker.sql.connection import Database, UnknownCommit, describe, is_transient
from saga_worker.telemetry import metrics, stage_failed, trace_of_logs

log = logging.getLogger(__name__)

GROUP: Final = 200  # outcomes in one transaction
LONGEST_DELAY_SECONDS: Final = 2.0

TakeResults = Callable[[Sequence[Ended]], Awaitable[TakenIn]]


class Context(Struct, frozen=True):
    """What an attempt knows about itself."""

    idempotency_key: str
    attempt: int
    saga_key: str
    deadline: datetime
    trace: Trace | None = None

    @property
    def trace_headers(self) -> Mapping[str, str]:
        return self.trace.headers if self.trace is not None else {}


class _Running:
    """An attempt and its task, which is cancelled by its saga, by the end of the worker or by its own time-out."""

    __slots__ = ("attempt", "is_late", "task", "was_stopped")

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.task: asyncio.Task[None] | None = None
        self.was_stopped = False  # the worker ends, or has lost its lease: somebody else begins anew
        self.is_late = False

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def time_out(self) -> None:
        self.is_late = True
        self.cancel()


class Activities:
    """The stage that runs attempts; its `slots` are taken by `orchestrator` and by its own claim."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        *,
        worker_id: Callable[[], int],
        concurrency: int = 200,
        poll_seconds: float = 1.0,
        on_stored: Callable[[Sequence[UUID]], None] = lambda refs: None,
        take_results: TakeResults | None = None,
        on_taken_in: Callable[[Advanced], None] = lambda advanced: None,
        reread: Callable[[], None] = lambda: None,
    ) -> None:
        """With `take_results` (the fast path) results are applied by the transaction that ends their activities."""
        self._database = database
        self._registry = registry
        self._versions = [f"{name}/{version}" for name, version in registry.versions()]
        self._worker_id = worker_id
        self._poll_seconds = poll_seconds
        self._on_stored = on_stored
        self._take_results = take_results
        self._on_taken_in = on_taken_in
        self._reread = reread
        self._bounds = _bounds(registry)
        self.slots = ActivitySlots(concurrency, self._bounds, on_free=self.look)
        self._running: dict[Key, _Running] = {}
        self._ended: list[Ended] = []
        self._has_ended = asyncio.Event()
        self._awake = asyncio.Event()
        self._stopping = False
        self._is_over = False  # nothing more will end
        self.tasks: list[asyncio.Task[None]] = []

    # -- the life of the stage --------------------------------------------------------------------------------------

    def start(self) -> None:
        self.tasks = [
            asyncio.create_task(self._claim_for_ever(), name="activities claim"),
            asyncio.create_task(self._settle_for_ever(), name="activities settle"),
        ]

    async def stop(self, grace_seconds: float) -> None:
        """Begin nothing more; what still runs after the grace is stopped, and given back for others to begin anew."""
        self._stopping = self.slots.is_closed = True
        self.look()
        tasks = [running.task for running in self._running.values() if running.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_seconds)
        await self._stop_running()
        self._is_over = True
        self._has_ended.set()
        await asyncio.gather(*self.tasks)

    def drop(self) -> None:
        """The lease is lost: others begin anew what runs here."""
        for running in self._running.values():
            running.was_stopped = True
            running.cancel()

    async def _stop_running(self) -> None:
        tasks = [running.task for running in self._running.values() if running.task is not None]
        self.drop()
        if tasks:
            await asyncio.wait(tasks, timeout=LONGEST_DELAY_SECONDS)  # one that swallows the cancel is left behind

    def look(self) -> None:
        """Some activity may be ready."""
        self._awake.set()

    # -- attempts ---------------------------------------------------------------------------------------------------

    def hand_over(self, written: Written, slots: Sequence[tuple[str, str]]) -> None:
        """After the commit: what it started begins, what it cancelled ends."""
        self.slots.give_back(slots)
        for attempt in written.started:
            self._begin(attempt)
        for key in written.cancelled:
            if key in self._running:
                self._running[key].cancel()
        if written.waiting:
            self.look()

    def _begin(self, attempt: Attempt) -> None:
        self.slots.begin(attempt.definition, attempt.step)
        running = self._running[attempt.key] = _Running(attempt)
        running.task = asyncio.create_task(self._run(running), name=f"activity {attempt.step}")

    async def _run(self, running: _Running) -> None:
        fault_point("activities.begun")
        attempt = running.attempt
        if attempt.trace is not None:
            trace_of_logs.set(attempt.trace.id)  # this task's alone
        try:
            ended = await self._attempt(running)
        except asyncio.CancelledError:
            ended = Ended(
                attempt, error="it was stopped", is_uncertain=True, rest=0.0, was_stopped=running.was_stopped
            )  # fmt: skip
            if not running.was_stopped or not may_repeat(self._registry, attempt):
                # By its saga, then this has no effect; by itself, then it counts; by us, and it must not begin anew.
                ended = after_loss(self._registry, attempt, "it was cancelled") or ended
        if self._running.get(attempt.key) is running:
            del self._running[attempt.key]
        self.slots.end(attempt.ref, attempt.definition, attempt.step)
        self._ended.append(ended)
        self._has_ended.set()

    async def _attempt(self, running: _Running) -> Ended:
        """One call of the author's function. What it raises is told by class and line, not logged with values."""
        attempt = running.attempt
        saga = self._registry.find(attempt.definition, attempt.version)
        step = saga.steps.get(attempt.step) if saga is not None else None
        if saga is None or not isinstance(step, ActivityStep):
            return Ended(attempt, error=f"no activity {attempt.step} is loaded here", is_uncertain=True, rest=5.0)
        is_undo = attempt.undoes is not None
        # Not asyncio.timeout: of an activity that returns at once it would be a third of what this method costs.
        seconds = (step.undo_timeout if is_undo else step.timeout).total_seconds()
        loop = asyncio.get_running_loop()
        begun, alarm = loop.time(), loop.call_later(seconds, running.time_out)
        try:
            call = step.call(attempt.input, saga.state_model, _context(attempt), is_undo=is_undo)
            value = await call
            if isinstance(value, WaitFor) and not is_undo:
                return Ended(attempt, value=_waiting(step, value), outcome=ACTIVITY_WAITS)
            return Ended(attempt, value=_stored(step, value, is_undo=is_undo))
        except asyncio.CancelledError:
            if running.was_stopped or not running.is_late:
                raise
            words = f"no result within {timeout_of(step, is_undo)}"
            return Ended(attempt, error=words, is_uncertain=True, rest=_rest(step, attempt, loop.time() - begun))
        except Exception as error:
            final = resolve_terminal_error(error, mapper=step.as_terminal, classes=step.terminal)
            if final is None:
                return Ended(attempt, error=describe_error(error), rest=_rest(step, attempt, loop.time() - begun))
            words = final.reason or describe_error(error)
            if final.partial is not None and not is_undo:
                return _failed_in_part(step, attempt, words, final.partial)
            return Ended(attempt, error=words, is_terminal=True, is_uncertain=final.may_have_worked)
        except (SystemExit, KeyboardInterrupt) as error:  # the author's: they end nothing of ours
            return Ended(attempt, error=describe_error(error), rest=_rest(step, attempt, loop.time() - begun))
        finally:
            alarm.cancel()

    # -- outcomes -------------------------------------------------------------------------------------------------

    async def _settle_for_ever(self) -> None:
        while not (self._is_over and not self._ended):
            await self._has_ended.wait()
            self._has_ended.clear()
            while self._ended:
                group, self._ended = self._ended[:GROUP], self._ended[GROUP:]
                try:
                    await self._settle(group)
                finally:
                    self.slots.settle([ended.attempt.ref for ended in group])

    async def _settle(self, group: Sequence[Ended]) -> None:
        """Write a group, however long the database is away; what cannot be written is left to its time-out."""
        # Of what an earlier attempt had led to a worker may have died: the pool announces it before it is applied.
        is_fast = self._take_results is not None and not any(ended.attempt.uncertain for ended in group)
        failures = 0
        while True:
            try:
                await (self._take(group) if is_fast else self._store(group))
                return
            except (LeaseLost, UnknownCommit) as error:
                is_fast = False  # what was written, if anything, is not there to be written again
                if isinstance(error, UnknownCommit):
                    self._reread()
            except Exception as error:
                if not is_transient(error):
                    if is_fast:
                        is_fast = False  # a write of some saga is refused: the pool finds out which
                        continue
                    stage_failed(log, "activities", describe(error), level=logging.ERROR, trace=True)
                    if len(group) > 1:
                        for ended in group:
                            await self._settle([ended])
                    return
                failures += 1
                if failures > 3 and self._stopping:
                    return  # the lease ends, and with it the epoch of these attempts
                longest = backoff.delay(failures, first=0.1, longest=LONGEST_DELAY_SECONDS)
                await asyncio.sleep(longest * random.uniform(0.5, 1.0))

    async def _take(self, group: Sequence[Ended]) -> None:
        assert self._take_results is not None
        taken = await self._take_results(group)
        self._follow_up(group)
        self._on_taken_in(taken.advanced)
        self._on_stored(list(taken.later))

    async def _store(self, group: Sequence[Ended]) -> None:
        async with self._database.transaction() as connection:
            rows = await activity_rows.settle(connection, group)
            await inbox.insert(connection, rows)
            fault_point("activities.before_commit")
        fault_point("activities.committed")
        self._follow_up(group)
        self._on_stored([row.ref for row in rows if row.ref is not None])

    def _follow_up(self, group: Sequence[Ended]) -> None:
        for labels, count in Counter(map(_labels, group)).items():
            metrics.activities.labels(*labels).inc(count)
        rests = [ended.rest for ended in group if ended.rest is not None]
        if rests:
            asyncio.get_running_loop().call_later(min(rests) + 0.01, self.look)

    # -- claiming -------------------------------------------------------------------------------------------------

    async def _claim_for_ever(self) -> None:
        failures = 0
        while not self._stopping:
            self._awake.clear()
            rest = self._poll_seconds * random.uniform(0.8, 1.2)
            try:
                rest = min(rest, await self._claim())
                failures = 0
            except Exception as error:
                failures += 1
                stage_failed(log, "activities", describe(error))
                rest = backoff.delay(failures, first=0.2, longest=5.0)
            with suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self._awake.wait()

    async def _claim(self) -> float:
        """Fill the free slots; in how many seconds to look again, at most."""
        self.slots.is_full = False
        bounded = sorted(self._bounds)
        for only in (None, *bounded):
            wanted = min(GROUP, self.slots.free(only))
            if wanted <= 0:
                self.slots.is_full = True
                continue
            found = await self._claim_some(wanted, only, without=bounded if only is None else ())
            self.slots.is_full = self.slots.is_full or found == wanted
        if self.slots.is_full:
            return self._poll_seconds if self.slots.free() <= 0 else 0.0
        async with self._database.transaction() as connection:
            due = await activity_rows.next_due(connection)
        return max(0.02, due) if due is not None else self._poll_seconds

    async def _claim_some(self, wanted: int, only: str | None, *, without: Sequence[str]) -> int:
        """Claim and begin up to so many; how many there were."""
        self.slots.reserve(wanted, only)
        try:
            async with self._database.transaction() as connection:
                found = await activity_rows.claim(
                    connection, self._worker_id(), self._versions, wanted, without=without, only=only
                )
        finally:
            self.slots.reserve(-wanted, only)
        for attempt in found:
            self._begin(attempt)
        return len(found)


def _stored(step: ActivityStep[Any, Any], value: object, *, is_undo: bool) -> bytes:
    """The result as it is stored."""
    if is_undo:
        return b"{}"
    if not isinstance(value, step.result_model):
        raise TypeError(f"the activity {step.id} returned {type(value).__name__}; return {step.result_model.__name__}")
    body: bytes = value.__pydantic_serializer__.to_json(value, by_alias=False, round_trip=True, warnings=False)
    # Read back at once: what cannot be stored (a NaN, say) is an error of the attempt, not of a result nobody can read.
    step.result_model.__pydantic_validator__.validate_json(body, by_name=True, by_alias=False)
    return body


def _waiting(step: ActivityStep[Any, Any], waits: WaitFor) -> bytes:
    """What it waits for, as it is stored."""
    resuming = step.resuming if isinstance(step, PlacedStep) else {}
    types = [wire_type for event in waits.events for wire_type in event.__wire_types__]
    if unknown := [wire_type for wire_type in types if wire_type not in resuming]:
        raise TypeError(f"the activity {step.id} waits for {', '.join(unknown)}; declare it with resumes_on(…)")
    so_far = None if waits.so_far is None else from_json(_stored(step, waits.so_far, is_undo=False))
    return to_json({"types": types, "timeout": waits.timeout.total_seconds(), "so_far": so_far})


def _failed_in_part(step: ActivityStep[Any, Any], attempt: Attempt, words: str, partial: BaseModel) -> Ended:
    """It says what it has done. What its compensation could not read leaves nobody knowing what was done."""
    if isinstance(step, PlacedStep) and not isinstance(partial, step.result_model):
        words = f"{words} (its partial is {type(partial).__name__}, and no {step.result_model.__name__})"
        return Ended(attempt, error=words, is_terminal=True, is_uncertain=True)
    stored = partial.__pydantic_serializer__.to_json(partial, by_alias=False, round_trip=True, warnings=False)
    return Ended(attempt, error=words, is_terminal=True, partial=stored, outcome=ACTIVITY_PARTIAL)


def _labels(ended: Ended) -> tuple[str, str, str]:
    how = "done" if ended.value is not None else ("failed" if ended.is_final else "retried")
    return ended.attempt.definition, ended.attempt.step, how


def _context(attempt: Attempt) -> Context:
    return Context(attempt.id, attempt.number, attempt.saga_key, attempt.deadline, attempt.trace)


def _rest(step: ActivityStep[Any, Any], attempt: Attempt, seconds: float = 0.0) -> float | None:
    """How long to rest after this attempt, which has lasted so many seconds; None: it was the last."""
    is_undo = attempt.undoes is not None
    if not step.repeats.of(is_undo=is_undo):
        return None
    retry = step.undo_retry if is_undo else step.retry
    delay = retry.delay(attempt.number, random.random(), timedelta(seconds=max(0.0, attempt.age + seconds)))
    return delay.total_seconds() if delay is not None else None


def timeout_of(step: ActivityStep[Any, Any], is_undo: bool) -> str:
    return f"{(step.undo_timeout if is_undo else step.timeout).total_seconds():g} s"


def after_loss(registry: Registry, attempt: Attempt, error: str) -> Ended | None:
    """What becomes of an attempt that nobody will answer: another at once, or none. None: not ours to judge."""
    saga = registry.find(attempt.definition, attempt.version)
    step = saga.steps.get(attempt.step) if saga is not None else None
    if not isinstance(step, ActivityStep):
        return None
    rest = _rest(step, attempt)
    return Ended(attempt, error=error, is_uncertain=True, rest=None if rest is None else 0.0)


def may_repeat(registry: Registry, attempt: Attempt) -> bool:
    """Whether an attempt that was stopped by a worker that ends may begin anew on another one."""
    saga = registry.find(attempt.definition, attempt.version)
    step = saga.steps.get(attempt.step) if saga is not None else None
    return not isinstance(step, ActivityStep) or step.repeats.of(is_undo=attempt.undoes is not None)


def _bounds(registry: Registry) -> dict[str, int]:
    """The steps that bound their own attempts, over all versions the lowest bound."""
    found: dict[str, int] = {}
    for name, version in registry.versions():
        saga = registry.find(name, version)
        for step in saga.steps.values() if saga is not None else ():
            if isinstance(step, ActivityStep) and step.concurrency is not None:
                key = f"{name}/{step.id}"
                found[key] = min(found.get(key, step.concurrency), step.concurrency)
    return found


def has_activities(registry: Registry) -> bool:
    """Whether any definition has one: without, the stage is not needed."""
    sagas = (registry.find(name, version) for name, version in registry.versions())
    return any(isinstance(step, ActivityStep) for saga in sagas if saga is not None for step in saga.steps.values())
