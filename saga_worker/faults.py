"""Named points at every I/O boundary, where a test can kill, raise or freeze the process. Inert by default.

`SAGA_WORKER_FAULT=<point>[:n]=kill|raise|sleep[:seconds]` arms one point: at its n-th passing (default 1) the
process gets SIGKILL, an `InjectedFault` is raised, or the whole process sleeps (default 30 s).
"""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import dataclass
from typing import Final

from saga_worker.saga.errors import ConfigurationError, SagaWorkerError

VARIABLE: Final = "SAGA_WORKER_FAULT"

POINTS: Final[dict[str, str]] = {
    "consumer.before_insert": "a batch is in hand, its transaction has not begun",
    "consumer.before_commit": "the rows of a batch are inserted, not committed",
    "consumer.stored_before_ack": "the rows of a batch are committed, the deliveries not acknowledged",
    "consumer.acknowledged": "a batch is stored and acknowledged, nobody has been told of its sagas",
    "orchestrator.locked": "the sagas of a batch are locked",
    "orchestrator.decided": "the batch is decided, nothing is written",
    "orchestrator.before_commit": "the batch is written, not committed",
    "orchestrator.committed": "the batch is committed, its messages are not handed to the relay",
    "activities.begun": "an attempt of an activity is committed to, its function is not called yet",
    "activities.before_commit": "outcomes of activities are written as rows for the pool, not committed",
    "activities.committed": "outcomes of activities are committed, the pool has not been told",
    "relay.before_publish": "committed messages are in memory, none is published",
    "relay.published": "messages are on the wire, not confirmed",
    "relay.confirmed": "the broker has confirmed, the rows are not deleted",
    "relay.deleted": "the confirmed rows are deleted",
    "relay.taken_over": "rows of an expired worker are ours, none is published",
}

_FORM: Final = re.compile(r"([a-z_.]+)(?::([1-9][0-9]*))?=(?:(kill|raise)|sleep(?::([0-9]+(?:\.[0-9]+)?))?)")


class InjectedFault(SagaWorkerError):
    """The tester's: raised at a point that SAGA_WORKER_FAULT armed."""


@dataclass(slots=True)
class _Armed:
    point: str
    passes_left: int
    action: str
    seconds: float


_armed: _Armed | None = None
_is_read = VARIABLE not in os.environ


def fault_point(name: str) -> None:
    """Pass `name`, one of `POINTS`; does nothing unless the environment armed it."""
    if _is_read and _armed is None:
        return
    _pass(name)


def arm(text: str | None) -> None:
    """Arm the point that `text` describes, or disarm with None; raises `ConfigurationError`."""
    global _armed, _is_read
    _is_read = True
    _armed = None if text is None else _parse(text)


def _parse(text: str) -> _Armed:
    match = _FORM.fullmatch(text)
    if match is None or match[1] not in POINTS:
        raise ConfigurationError(
            f"{VARIABLE} is {text!r}; write <point>[:n]=kill, =raise or =sleep[:seconds], with one of these points:"
            f" {', '.join(POINTS)}."
        )
    return _Armed(match[1], int(match[2] or 1), match[3] or "sleep", float(match[4] or 30))


def _pass(name: str) -> None:
    global _armed
    if not _is_read:
        arm(os.environ.get(VARIABLE))
    if _armed is None or _armed.point != name:
        return
    _armed.passes_left -= 1
    if _armed.passes_left > 0:
        return
    fault, _armed = _armed, None
    if fault.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault.action == "raise":
        raise InjectedFault(f"Fault injected at {name}: {POINTS[name]}.")
    time.sleep(fault.seconds)
