"""P01, P02, P03: a worker dies by SIGKILL at each I/O boundary, under a shop's load; every promise holds afterwards."""

from __future__ import annotations

import pytest

from saga_worker.faults import POINTS
from tests.faults.campaign import Place
from tests.faults.kill_points import GENERAL_ONLY, kill_at

PATHS = [(point, "fast") for point in POINTS if point not in GENERAL_ONLY]
# The relay meets the same rows on both paths; the command runs it on both.
PATHS += [(point, "general") for point in POINTS if not point.startswith("relay.")]


@pytest.mark.slow
@pytest.mark.parametrize(("point", "path"), PATHS)
async def test_a_worker_killed_there_loses_and_doubles_nothing(place: Place, point: str, path: str) -> None:
    """features: 54, 57, 59, 62, 82, 167; M1"""
    run = await kill_at(place, point, is_fast=path == "fast")

    assert not run.broken
    assert run.kills >= 1
    assert run.statuses["compensated"] >= 5  # an order of every fate was among them
