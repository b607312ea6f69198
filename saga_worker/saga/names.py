"""The names of timers, and of the reasons for which somebody should look at a saga.

They stand in stored sagas, in the journal and in the views: a name that was given is never given another meaning.
"""

from __future__ import annotations

from typing import Final

# Timer names are "<kind>:<seq or step id>"; `deadline` stands alone.
TIMEOUT: Final = "timeout"  # no answer to a command
RESEND: Final = "resend"  # send it again after the back-off
UNDO_AGAIN: Final = "undo"  # a refused undo is tried again
STEP_AGAIN: Final = "again"  # past the pivot a rejected step is tried again
WATCH: Final = "watch"  # the watch over an unknown fate ends
WAIT: Final = "wait"
EVERY: Final = "every"
SLEEP: Final = "sleep"
DEADLINE: Final = "deadline"
LOCAL: Final = "local"  # a local step is to be run
JOINED: Final = "joined"  # a `for_each` without items is over

# Attention entries are "<reason>: <step, destination or timer>"; `deadline_passed` stands alone.
NO_ANSWER: Final = "no_answer"
REJECTED_AFTER_PIVOT: Final = "rejected_after_pivot"
LOCAL_FAILED: Final = "local_failed"
WAIT_EXPIRED: Final = "wait_expired"
ROUNDS_EXHAUSTED: Final = "rounds_exhausted"
ROLLBACKS_EXHAUSTED: Final = "rollbacks_exhausted"
ITEMS_FAILED: Final = "items_failed"  # more than may, past the pivot
DEADLINE_PASSED: Final = "deadline_passed"
UNDO_FAILED: Final = "undo_failed"
UNSETTLED_EXPIRED: Final = "unsettled_expired"
CANNOT_COMPENSATE: Final = "cannot_compensate"
UNDELIVERABLE: Final = "undeliverable"
SEQUENCE_GAP: Final = "sequence_gap"
TIMER_FAILED: Final = "timer_failed"  # with the name of the timer and the error
# Moot when the saga leaves the flow.
OF_A_STEP: Final = (NO_ANSWER, REJECTED_AFTER_PIVOT, LOCAL_FAILED, WAIT_EXPIRED)
OF_THE_FLOW: Final = (*OF_A_STEP, DEADLINE_PASSED, ROLLBACKS_EXHAUSTED)
OF_MESSAGES: Final = (UNDELIVERABLE, "dead_letter")  # true of whatever was stored, whatever becomes of the saga
