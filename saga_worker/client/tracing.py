"""The trace of what a program sends: set around calls of the client, and read when a start becomes a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from saga_worker.saga.trace import PARENT, STATE, Trace, read_trace

current_trace: Final[ContextVar[Trace | None]] = ContextVar("current_trace", default=None)


@contextmanager
def tracing(headers: Mapping[str, str]) -> Iterator[None]:
    """Around `send` and `start`: the sagas go on with the W3C trace context in these headers.

    Takes `traceparent` and `tracestate` by their names in lower case, from the headers of a request or of whatever a
    tracer injects. Invalid ones are as good as none. Holds in this task and in those it starts.
    """
    before = current_trace.set(read_trace(headers.get(PARENT), headers.get(STATE)))
    try:
        yield
    finally:
        current_trace.reset(before)
