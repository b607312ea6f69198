"""The stress of many sessions on one inbox, small enough for the suite."""

from __future__ import annotations

import pytest

from tests.faults.stress import stress


@pytest.mark.parametrize("is_fast", [False, True], ids=["general", "fast"])
async def test_nothing_is_stranded_or_doubled_when_twelve_sessions_work_on_one_inbox(
    database_url: str, is_fast: bool
) -> None:
    """features: M32"""
    outcome = await stress(database_url, keys=100, per_key=10, sessions=12, seed=7, is_fast=is_fast)

    assert outcome.is_clean, outcome
