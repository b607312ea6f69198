"""How long a loop waits after failures in a row."""

from __future__ import annotations

import pytest

from saga_worker.backoff import delay


@pytest.mark.parametrize(("failures", "seconds"), [(0, 0.1), (1, 0.1), (2, 0.2), (3, 0.4), (6, 3.2), (7, 5.0)])
def test_the_delay_doubles_with_each_failure_up_to_the_longest(failures: int, seconds: float) -> None:
    assert delay(failures, first=0.1, longest=5.0) == pytest.approx(seconds)


def test_an_outage_of_days_does_not_end_the_loop_that_waits_for_its_end() -> None:
    """0.1 * 2**1024 is an OverflowError: it came after an hour and ended the loop that the delay was for."""
    assert delay(100_000, first=0.1, longest=5.0) == 5.0
