"""P01, P02, P03: a worker dies by SIGKILL at each I/O boundary, under a shop's load; every promise holds afterwards."""

from __future__ import annotations

import pytest

from saga_worker.faults import POINTS
from tests.faults.campaign import Place
from tests.faults.kill_points import kill_at


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
async def test_a_worker_killed_there_loses_and_doubles_nothing(place: Place, point: str) -> None:
    run = await kill_at(place, point)

    assert not run.broken
    assert run.kills >= 1
    assert run.statuses["compensated"] >= 5  # an order of every fate was among them
