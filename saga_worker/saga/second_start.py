"""What a start does whose key has a saga already: the policies of a definition."""

from __future__ import annotations

from enum import Enum
from typing import Final


class SecondStart(Enum):
    """What becomes of a start whose key has a saga, open or ended. There is never more than one open saga of a key."""

    REJECT = "reject"  # ignored as `duplicate_start`, as long as the saga is kept
    JOIN = "join"  # it stands for the saga that is there: nothing new begins
    RESTART = "restart"  # after the end of the saga a new run begins; before it is ignored as `duplicate_start`
    QUEUE = "queue"  # a new run begins after the end of the saga; before it waits for that


BEGINS_AGAIN: Final = frozenset({SecondStart.RESTART, SecondStart.QUEUE})

DUPLICATE_START: Final = "duplicate_start"
JOINED: Final = "joined_run"
RUN_OPEN: Final = "run_open"  # the start waits for the end of the saga
RUN_UNSETTLED: Final = "run_unsettled"  # the saga has ended, but effects of it may stand: a new run must not meet them
QUEUED: Final = frozenset({RUN_OPEN, RUN_UNSETTLED})
EARLIER_RUN: Final = "earlier_run"  # an answer to what an ended run of this key has asked
