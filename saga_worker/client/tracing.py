"""The trace of what a program sends: set around calls of the client, and read when a start or signal becomes a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from saga_worker.saga.trace import PARENT, STATE, read_trace
from saga_worker.telemetry import trace_of_call


@contextmanager
def tracing(headers: Mapping[str, str]) -> Iterator[None]:
    """Around `send`, `start` and `signal`: sagas go on with the W3C trace context in these headers.

    Takes `traceparent` and `tracestate` by their names in lower case, from the headers of a request or of whatever a
    tracer injects. Invalid ones are as good as none. Holds in this task and in those it starts.
    """
    before = trace_of_call.set(read_trace(headers.get(PARENT), headers.get(STATE)))
    try:
        yield
    finally:
        trace_of_call.reset(before)
