"""How often, and after which rest."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
import tenacity

from saga_worker import DefinitionError, Retry, minutes, seconds


def rests(retry: Retry, *, up_to: int = 6) -> list[float | None]:
    """The delays after each failed try, in seconds, without jitter; the last one is None if it gives up."""
    found: list[float | None] = []
    for failures in range(1, up_to + 1):
        delay = retry.delay(failures, 0.0)
        found.append(delay.total_seconds() if delay is not None else None)
        if delay is None:
            break
    return found


@pytest.mark.parametrize(
    ("retry", "expected"),
    [
        (Retry.none(), [None]),
        (Retry.fixed(4, seconds(5)), [5, 5, 5, None]),
        (Retry.exponential(5, base=seconds(2)), [2, 4, 8, 16, None]),
        (Retry.exponential(5, base=seconds(2), cap=seconds(10)), [2, 4, 8, 10, None]),
        (Retry.exponential(None, base=seconds(1), factor=3, cap=minutes(1)), [1, 3, 9, 27, 60, 60]),
        (Retry.of(wait=tenacity.wait_incrementing(1, 2), stop=tenacity.stop_after_attempt(3)), [1, 3, None]),
        (Retry.of(wait=tenacity.wait_fixed(7) + tenacity.wait_exponential(), attempts=3), [8, 9, None]),
    ],
)
def test_delays_follow_the_policy(retry: Retry, expected: list[float | None]) -> None:
    """features: 25, 26, 27, 28"""
    assert rests(retry) == expected


def test_attempts_count_the_first_try() -> None:
    assert Retry.fixed(2, seconds(1)).delay(1, 0.0) is not None
    assert Retry.fixed(2, seconds(1)).delay(2, 0.0) is None


def test_jitter_shortens_a_rest_by_its_spread_at_most() -> None:
    retry = Retry.fixed(2, seconds(10), spread=0.5)

    assert retry.delay(1, 0.0) == seconds(10)
    assert retry.delay(1, 0.5) == seconds(7.5)
    assert seconds(5) < (retry.delay(1, 0.999) or timedelta(0)) < seconds(5.1)


def tries(retry: Retry, *, each: float) -> list[float]:
    """When the tries begin, in seconds after the first, if each fails after so many seconds."""
    begun = [0.0]
    while (rest := retry.delay(len(begun), 0.0, seconds(begun[-1] + each))) is not None:
        begun.append(begun[-1] + each + rest.total_seconds())
    return begun


@pytest.mark.parametrize(
    ("retry", "expected"),
    [
        (Retry.fixed(None, seconds(2), within=seconds(10)), [0, 3, 6, 9]),
        (Retry.fixed(None, seconds(2), within=seconds(9)), [0, 3, 6, 9]),
        (Retry.fixed(3, seconds(2), within=seconds(10)), [0, 3, 6]),
        (Retry.exponential(None, base=seconds(1), within=minutes(1)), [0, 2, 5, 10, 19, 36]),
        (Retry.by(lambda failures, elapsed: seconds(failures), within=seconds(10)), [0, 2, 5, 9]),
        (Retry.by(lambda failures, elapsed: seconds(1) if elapsed < seconds(5) else None), [0, 2, 4]),
        (Retry.of(wait=tenacity.wait_fixed(1), stop=tenacity.stop_after_delay(5)), [0, 2, 4]),
        (Retry.of(wait=tenacity.wait_fixed(1), stop=tenacity.stop_before_delay(5)), [0, 2, 4]),
        (Retry.of(wait=tenacity.wait_fixed(1), within=seconds(3)), [0, 2]),
    ],
)
def test_tries_end_with_their_number_or_with_their_time(retry: Retry, expected: list[float]) -> None:
    """features: 25, 30"""
    assert retry.looks_at_time
    assert tries(retry, each=1.0) == expected


def test_a_policy_that_counts_only_needs_no_time() -> None:
    assert not Retry.exponential(5).looks_at_time and not Retry.none().looks_at_time


def test_a_long_history_of_failures_stays_at_the_cap() -> None:
    assert Retry.exponential(None, cap=minutes(5)).delay(100_000, 0.0) == minutes(5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Retry.fixed(0),
        lambda: Retry.fixed(3, seconds(-1)),
        lambda: Retry.exponential(3, factor=0.5),
        lambda: Retry.exponential(3, factor=float("nan")),
        lambda: Retry(attempts=3, spread=1.5),
        lambda: Retry.exponential(3, within=seconds(0)),
        lambda: Retry.by(lambda failures: None),  # type: ignore[misc, arg-type]
        lambda: Retry.of(wait=tenacity.wait_exception(lambda error: 1.0)),
    ],
)
def test_a_policy_that_cannot_work_is_refused(make: Callable[[], Retry]) -> None:
    with pytest.raises(DefinitionError, match=r"Retry|failures, elapsed"):
        make()
