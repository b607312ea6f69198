"""P01, P02, P03: a worker dies by SIGKILL at each I/O boundary, under a shop's load; every promise holds afterwards."""

from __future__ import annotations

import pytest

from saga_worker.faults import POINTS
from tests.faults.campaign import Place
from tests.faults.kill_points import GENERAL_ONLY, kill_at


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "path"),
    [
        (point, path)
        for point in POINTS
        for path in ("fast", "general")
        if path == "general" or point not in GENERAL_ONLY
    ],
)
async def test_a_worker_killed_there_loses_and_doubles_nothing(place: Place, point: str, path: str) -> None:
    run = await kill_at(place, point, is_fast=path == "fast")

    assert not run.broken
    assert run.kills >= 1
    assert run.statuses["compensated"] >= 5  # an order of every fate was among them
