"""Durations as authors write them: `minutes(5)` instead of `timedelta(minutes=5)`."""

from __future__ import annotations

from datetime import timedelta


def seconds(count: float) -> timedelta:
    """So many seconds, fractions allowed."""
    return timedelta(seconds=count)


def minutes(count: float) -> timedelta:
    """So many minutes of 60 seconds."""
    return timedelta(minutes=count)


def hours(count: float) -> timedelta:
    """So many hours of 60 minutes."""
    return timedelta(hours=count)


def days(count: float) -> timedelta:
    """So many days of 24 hours; calendars and time zones are not asked."""
    return timedelta(days=count)
