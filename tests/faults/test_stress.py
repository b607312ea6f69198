"""The stress of many sessions on one inbox, small enough for the suite."""

from __future__ import annotations

from tests.faults.stress import stress


async def test_nothing_is_stranded_or_doubled_when_twelve_sessions_work_on_one_inbox(database_url: str) -> None:
    outcome = await stress(database_url, keys=100, per_key=10, sessions=12, seed=7)

    assert outcome.is_clean, outcome
