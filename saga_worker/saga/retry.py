"""What the author decides about failures: retries, undo modes, time-outs, verdicts.

Values only: takes counts and a random number from outside, guarantees the same answer for the same arguments,
hands delays and verdicts to `decide`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias

from saga_worker.saga.errors import DefinitionError
from saga_worker.saga.source import check_handler

if TYPE_CHECKING:
    from tenacity import RetryCallState
    from tenacity.stop import stop_base
    from tenacity.wait import wait_base

ONE_SECOND: Final = timedelta(seconds=1)
ONE_HOUR: Final = timedelta(hours=1)
SPREAD: Final = 0.2


class Undo(StrEnum):
    """Which of a step's fates its undo is sent for."""

    HYBRID = "hybrid"  # done, and unknown (timed out): the undo must bear that nothing was done
    STRICT = "strict"  # done only; an unknown outcome is kept on watch as unsettled
    NONE = "none"  # the step has nothing to take back


class OnTimeout(StrEnum):
    """What a wait does when its time is over."""

    COMPENSATE = "compensate"  # past the pivot: it stays open and asks for attention
    CONTINUE = "continue"  # the flow goes on behind it


class OnUndoFailed(StrEnum):
    """What happens to older effects when an undo has no try left; it asks for attention either way."""

    GO_ON = "go_on"  # they are undone without it
    STOP = "stop"  # they wait until it is settled


class OnExhausted(StrEnum):
    """What a saga does when it is to be rolled back to a savepoint once more than that allows."""

    COMPENSATE = "compensate"
    PAUSE = "pause"  # for an operator, who resumes it with as many tries as at first, or has it taken back
    FAIL = "fail"  # it ends, and what it has done stays


@dataclass(frozen=True, slots=True)
class Compensate:
    """Verdict: leave the flow and undo what was done or is unknown, newest first; the saga ends `compensated`.

    `reason` stands in the saga. From a handler past the pivot it has no such effect: `on` is ignored (`after_pivot`),
    a reply or result asks for attention (`cannot_compensate`).
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Complete:
    """Verdict: leave the flow and keep what was done; the saga ends `completed`, with this reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rollback:
    """Verdict: undo what was done since the savepoint `to`, and go on from there.

    Once the savepoint's `times` are used up the saga compensates. To name one that was not passed is an error of the
    handler.
    """

    to: str
    reason: str


Verdict: TypeAlias = Compensate | Complete | Rollback | None
"""What a handler returns. None: go on with what comes next."""
RetryRule: TypeAlias = Callable[[int, timedelta], timedelta | None]


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a step is tried and how long it rests in between.

    `attempts` counts all tries, the first one too; None is without end. The rest before the n-th retry is
    `base * factor ** (n - 1)`, at most `cap`; jitter takes off up to a `spread` of it (0 to 1), so that sagas which
    failed together do not come back together. `wait` and `stop` are for `Retry.of`. Raises `DefinitionError` for
    values that make no sense.
    `base * factor ** (n - 1)`, at most `cap`; jitter takes off up to a `spread` of it, so that sagas which failed
    together do not come back together. With `within`, no try begins later than that after the first one, by the
    database's clock: whichever of the two is used up first ends the tries.
    """

    attempts: int | None
    _: KW_ONLY
    base: timedelta = ONE_SECOND
    factor: float = 1.0
    cap: timedelta = ONE_HOUR
    spread: float = SPREAD
    within: timedelta | None = None
    wait: wait_base | None = None
    stop: stop_base | None = None
    rule: RetryRule | None = None
    looks_at_time: bool = field(init=False, default=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        has_rule = not (self.within is None and self.wait is None and self.stop is None and self.rule is None)
        object.__setattr__(self, "looks_at_time", has_rule)
        if self.within is not None and self.within <= timedelta(0):
            raise DefinitionError(f"Retry: within is {self.within}; give a duration above zero.")
        if self.attempts is not None and self.attempts < 1:
            raise DefinitionError(f"Retry: attempts is {self.attempts}; it counts the first try, so give at least 1.")
        if self.base < timedelta(0) or self.cap < timedelta(0):
            raise DefinitionError("Retry: base and cap are durations; give them no negative value.")
        if not self.factor >= 1:
            raise DefinitionError(f"Retry: factor is {self.factor}; give at least 1 (1 is a fixed delay).")
        if not 0 <= self.spread <= 1:
            raise DefinitionError(f"Retry: spread is {self.spread}; give a share of the delay between 0 and 1.")

    @classmethod
    def none(cls) -> Retry:
        """One try."""
        return cls(attempts=1)

    @classmethod
    def fixed(
        cls, attempts: int | None, delay: timedelta = ONE_SECOND, *, spread: float = SPREAD,
        within: timedelta | None = None,
    ) -> Retry:  # fmt: skip
        """The same rest before every retry."""
        return cls(attempts=attempts, base=delay, cap=max(delay, ONE_HOUR), spread=spread, within=within)

    @classmethod
    def exponential(
        cls,
        attempts: int | None,
        *,
        base: timedelta = ONE_SECOND,
        factor: float = 2.0,
        cap: timedelta = ONE_HOUR,
        spread: float = SPREAD,
        within: timedelta | None = None,
    ) -> Retry:
        """Rests that grow by `factor` up to `cap`."""
        return cls(attempts=attempts, base=base, factor=factor, cap=cap, spread=spread, within=within)

    @classmethod
    def by(cls, rule: RetryRule, *, attempts: int | None = None, within: timedelta | None = None) -> Retry:
        """A policy of one's own: `rule(failures, elapsed)` gives the rest after so many failed tries, None to give up.

        `elapsed` is the time since the first try began. The rule has to be a pure function.
        """
        check_handler(rule, "failures", "elapsed")
        return cls(attempts=attempts, rule=rule, within=within)

    @classmethod
    def of(
        cls, *, wait: wait_base, stop: stop_base | None = None, attempts: int | None = None,
        within: timedelta | None = None,
    ) -> Retry:  # fmt: skip
        """A policy of tenacity's `wait_…` and `stop_…` objects.

        They see the number of the failed attempt and the time since the first began (`stop_after_delay`). Objects
        that look at the raised error have nothing to look at here and are refused.
        """
        retry = cls(attempts=attempts, wait=wait, stop=stop, within=within)
        try:
            retry.delay(1, 0.0)
        except Exception as error:
            raise DefinitionError(
                "Retry.of: this wait or stop object needs more than the number of the attempt and the time since the "
                "first; use objects that depend on these only."
            ) from error
        return retry

    def delay(self, failures: int, jitter: float, elapsed: timedelta = timedelta(0)) -> timedelta | None:
        """The rest after the `failures`-th failed try (from 1), None to give up; `jitter` is in [0, 1).

        `elapsed`: since the first try began.
        """
        if self.attempts is not None and failures >= self.attempts:
            return None
        rest = self._rest(failures, jitter, elapsed)
        if self.within is not None and rest is not None and elapsed + rest > self.within:
            return None
        return rest

    def _rest(self, failures: int, jitter: float, elapsed: timedelta) -> timedelta | None:
        if self.rule is not None:
            return self.rule(failures, elapsed)
        if self.wait is not None:
            return self._by_tenacity(failures, elapsed)
        return self._ceiling(failures) * (1 - self.spread * jitter)

    def _ceiling(self, failures: int) -> timedelta:
        try:
            return min(self.base * self.factor ** (failures - 1), self.cap)
        except OverflowError:
            return self.cap

    def _by_tenacity(self, failures: int, elapsed: timedelta) -> timedelta | None:
        from tenacity import RetryCallState  # here: importing it costs more than the whole core

        state: RetryCallState = RetryCallState(None, None, (), {})  # type: ignore[arg-type]  # no call to describe
        state.attempt_number = failures
        state.start_time, state.outcome_timestamp = 0.0, elapsed.total_seconds()
        state.upcoming_sleep = self.wait(state) if self.wait is not None else 0.0
        if self.stop is not None and self.stop(state):
            return None
        return timedelta(seconds=state.upcoming_sleep)
