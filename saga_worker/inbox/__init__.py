"""The inbox table: what came in, once per definition that takes it, and what became of it.

Takes rows from the consumer, guarantees that a message is stored once and never lost, and hands sagas with work to the
pool in the order in which their messages came. A module per verb; the orchestrator and the sweepers call them here.
"""

from saga_worker.inbox.claim import Backlog, Claimed, claim, read_backlog
from saga_worker.inbox.insert import Inserted, NewRow, Stored, Verdict, dedup_of, insert, operator_row
from saga_worker.inbox.replay import DeadFilter, Replayed, UnroutedRow, assign, discard, replay, unrouted
from saga_worker.inbox.settle import settle
from saga_worker.inbox.sweep import (
    expire_unrouted,
    expired_parked,
    free_absent,
    hold_absent,
    reroute_unrouted,
    retain,
)

__all__ = [
    "Backlog",
    "Claimed",
    "DeadFilter",
    "Inserted",
    "NewRow",
    "Replayed",
    "Stored",
    "UnroutedRow",
    "Verdict",
    "assign",
    "claim",
    "dedup_of",
    "discard",
    "expire_unrouted",
    "expired_parked",
    "free_absent",
    "hold_absent",
    "insert",
    "operator_row",
    "read_backlog",
    "replay",
    "reroute_unrouted",
    "retain",
    "settle",
    "unrouted",
]
