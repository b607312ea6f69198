"""What is due without anybody saying so: each sweep is a claim that any worker may make, there is no leader.

Every sweeper has one `_pass()` that can be called directly, and is run by `Sweeper.run` at its own interval.
"""

from saga_worker.sweepers.absent_definitions import AbsentDefinitions
from saga_worker.sweepers.due_timers import DueTimers
from saga_worker.sweepers.expired_leases import ExpiredLeases
from saga_worker.sweepers.lost_activities import LostActivities
from saga_worker.sweepers.parking import Parking
from saga_worker.sweepers.replies_stored import RepliesStored
from saga_worker.sweepers.retention import Retention
from saga_worker.sweepers.sweeper import Sweeper

__all__ = [
    "AbsentDefinitions",
    "DueTimers",
    "ExpiredLeases",
    "LostActivities",
    "Parking",
    "RepliesStored",
    "Retention",
    "Sweeper",
]
