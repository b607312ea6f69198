"""How long a loop that must go on waits after failures in a row. Each of them adds the jitter that suits it."""

from __future__ import annotations

from typing import Final

_DOUBLINGS: Final = 20  # a million times the first; 1024 would be more than a float can hold


def delay(failures: int, *, first: float, longest: float) -> float:
    """Seconds: `first` after one failure (or none), doubled with each that follows, never more than `longest`."""
    return min(longest, first * 2.0 ** min(max(failures - 1, 0), _DOUBLINGS))
