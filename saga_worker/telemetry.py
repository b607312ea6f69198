"""The names under which the outside sees this process: log events, log fields, metrics. One place, one spelling.

Stages log with the standard library (`logger.info(EVENT, extra={FIELD: …})`) and count on `metrics`; nothing here
does I/O. `configure_logging` is for the command line only: a program that embeds a worker keeps its own logging.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextvars import ContextVar
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from saga_worker import __version__

if TYPE_CHECKING:
    from saga_worker.saga.trace import Trace

PACKAGE_LOGGER: Final = "saga_worker"
NAMESPACE: Final = "saga_worker"  # before the name of each metric
_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_SAGAS: Final = (1, 2, 5, 10, 20, 50, 100, 200)


class Event(StrEnum):
    """What a log line is about: its message."""

    WORKER_STARTED = "worker_started"
    WORKER_READY = "worker_ready"
    WORKER_DRAINING = "worker_draining"
    WORKER_STOPPED = "worker_stopped"
    WORKER_LEASE_LOST = "worker_lease_lost"
    WORKER_EXPIRED = "worker_expired"
    ACTIVITY_LOST = "activity_lost"
    STAGE_FAILED = "stage_failed"
    DATABASE_LOST = "database_lost"
    DATABASE_BACK = "database_back"
    COMMIT_UNKNOWN = "commit_unknown"
    BROKER_LOST = "broker_lost"
    BROKER_BACK = "broker_back"
    BROKER_BLOCKED = "broker_blocked"
    LEAN_PATH_UNFIT = "lean_path_unfit"
    DELIVERY_UNREADABLE = "delivery_unreadable"
    DELIVERY_REFUSED = "delivery_refused"
    ROUTES_CHANGED = "routes_changed"
    DEFINITION_CHANGED = "definition_changed"
    SAGA_ATTENTION = "saga_attention"
    HANDLER_RAISED = "handler_raised"
    HOOK_RAISED = "hook_raised"
    ROW_DEAD = "row_dead"
    ROW_SUSPECT = "row_suspect"
    OUTBOX_REFUSED = "outbox_refused"
    OUTBOX_QUARANTINED = "outbox_quarantined"
    OUTBOX_TAKEN_OVER = "outbox_taken_over"
    RETENTION = "retention"
    SETTING_UNKNOWN = "setting_unknown"
    HEALTH_SERVED = "health_served"


class Field(StrEnum):
    """Names of the fields beside an event. Ids and codes only: no payload, no header, no URL."""

    WORKER = "worker"
    DEFINITION = "definition"
    SAGA = "saga"
    REF = "ref"
    STEP = "step"
    MESSAGE_ID = "message_id"
    CORRELATION_ID = "correlation_id"
    SOURCE = "source"
    TYPE = "type"
    INBOX_ID = "inbox_id"
    DESTINATION = "destination"
    REASON = "reason"
    ERROR = "error"
    ATTEMPT = "attempt"
    COUNT = "count"
    SECONDS = "seconds"
    STAGE = "stage"
    AMQP_PATH = "amqp_path"
    TRACE_ID = "trace_id"


# The id of the trace for which the author's code runs in this task; `configure_logging` puts it into each line.
trace_of_logs: Final[ContextVar[str | None]] = ContextVar("trace_of_logs", default=None)
# The trace of what a program sends to sagas meanwhile, without a broker; `client.tracing` sets it.
trace_of_call: Final[ContextVar[Trace | None]] = ContextVar("trace_of_call", default=None)


def trace_headers() -> dict[str, Any]:
    """The headers of what is sent now by a call; empty outside of any trace."""
    trace = trace_of_call.get()
    return dict(trace.headers) if trace is not None else {}


class Metrics:
    """Every metric of one process. Labels come from closed sets or from definitions, never from message contents."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._add_stages(registry)
        self._add_sagas(registry)
        self._add_installation(registry)
        build = Info("build", "The release that runs.", namespace=NAMESPACE, registry=registry)
        build.info({"version": __version__})

    def _add_stages(self, registry: CollectorRegistry) -> None:
        """Messages and transactions on their way through this process."""
        counter = partial(Counter, namespace=NAMESPACE, registry=registry)
        gauge = partial(Gauge, namespace=NAMESPACE, registry=registry)
        histogram = partial(Histogram, namespace=NAMESPACE, registry=registry)
        self.received = counter("inbox_received", "Deliveries stored as new rows.", ["consumer"])
        self.duplicates = counter("inbox_duplicates", "Deliveries that were already stored; acknowledged.")
        self.settled = counter(
            "inbox_settled", "Rows that left `ready`, by the state they took.", ["consumer", "state"]
        )
        self.dead = counter("inbox_dead", "Rows that became dead letters.", ["consumer", "reason"])
        self.unacknowledged = gauge("deliveries_unacknowledged", "Deliveries in hand: not yet acknowledged.")
        self.unreadable = counter(
            "deliveries_unreadable", "Connections lost over a delivery that the client library cannot read."
        )
        self.transaction_seconds = histogram(
            "transaction_seconds", "Time of one transaction over a batch of sagas.", ["path"], buckets=_SECONDS
        )
        self.transaction_sagas = histogram("transaction_sagas", "Sagas in one transaction.", buckets=_SAGAS)
        self.transaction_retries = counter(
            "transaction_retries", "Transactions repeated after a transient error.", ["error"]
        )
        self.published = counter("outbox_published", "Publishes from the outbox, by the broker's answer.", ["outcome"])
        self.outbox_in_memory = gauge(
            "outbox_in_memory", "Committed messages in this process's hands, not yet confirmed."
        )
        self.broker_connections = counter(
            "broker_connections", "Connections made to RabbitMQ; more than one is a reconnect.", ["name"]
        )
        self.amqp_path = gauge(
            "amqp_path", "1 for the path that a connection to RabbitMQ takes: lean or public.", ["name", "path"]
        )
        self.stage_failures = counter(
            "stage_failures", "Passes of a background stage that failed and were repeated.", ["stage"]
        )

    def _add_sagas(self, registry: CollectorRegistry) -> None:
        """What this process did to sagas."""
        counter = partial(Counter, namespace=NAMESPACE, registry=registry)
        self.inputs_applied = counter(
            "inputs_applied", "Inputs applied to sagas: the journal's rows.", ["definition", "kind"]
        )
        self.activities = counter(
            "activities", "Attempts of activities, by how they ended.", ["definition", "step", "outcome"]
        )
        self.started = counter("sagas_started", "Sagas started.", ["definition"])
        self.finished = counter("sagas_finished", "Sagas that took a final status.", ["definition", "status"])

    def _add_installation(self, registry: CollectorRegistry) -> None:
        """Figures of the whole installation, read from the database by `admin.gauges`, the same in every process."""
        gauge = partial(Gauge, namespace=NAMESPACE, registry=registry)
        self.inbox_rows = gauge("inbox_rows", "Rows that are not settled, by state.", ["state"])
        self.inbox_oldest_seconds = gauge(
            "inbox_oldest_ready_seconds", "Age of the oldest ready row; 0 when there is none."
        )
        self.outbox_rows = gauge("outbox_rows", "Committed messages not yet confirmed.")
        self.outbox_failing = gauge("outbox_failing", "Outbox rows that were refused at least once.")
        self.attention = gauge("sagas_attention", "Sagas that ask for an operator.")
        self.unsettled = gauge(
            "commands_unsettled", "Commands whose effect may stand, unknown or late, and that nobody has taken back."
        )
        self.stuck = gauge("sagas_stuck", "Open sagas with no reason to move; anything but 0 is a defect.")


REGISTRY: Final = CollectorRegistry()
metrics: Final = Metrics(REGISTRY)


def stage_failed(
    log: logging.Logger, stage: str, error: str, *, level: int = logging.WARNING, trace: bool = False,
    **fields: object,
) -> None:  # fmt: skip
    """Count and log that a pass of `stage` failed; `error` is a sentence without payload or secret.

    `trace` adds the traceback of the exception that is being handled, for a fault of ours.
    """
    metrics.stage_failures.labels(stage).inc()
    log.log(level, Event.STAGE_FAILED, exc_info=trace, extra={Field.STAGE: stage, Field.ERROR: error, **fields})


# C0 and C1 controls, DEL, and what reorders or breaks a line on a terminal: bidi marks, line separators, BOM,
# and surrogates, which no terminal can encode.
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]")
MAXIMUM_TEXT: Final = 2_000


def escape_controls(text: str) -> str:
    """`text` with everything that could act on a terminal or start a line written as an escape."""
    return _CONTROLS.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def redactor(secrets: Iterable[str]) -> Callable[[str], str]:
    """A function that writes `***` for each of `secrets`."""
    known = [secret for secret in secrets if secret]
    if not known:
        return lambda text: text
    pattern = re.compile("|".join(re.escape(secret) for secret in sorted(known, key=len, reverse=True)))
    return lambda text: pattern.sub("***", text)


def configure_logging(
    level: str, format_: str, *, secrets: Iterable[str] = (), stream: TextIO | None = None
) -> logging.Handler:
    """Send all logging of the process to `stream` (stderr) in one form; returns the handler, for tests to remove.

    Every text is cut, redacted and escaped before it is rendered: an id with a line feed stays one line.
    """
    import sys

    import structlog

    target: TextIO = sys.stderr if stream is None else stream
    clean = redactor(secrets)
    final: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    final += [structlog.processors.format_exc_info, _cleaner(clean)]
    if format_ == "json":
        final.append(structlog.processors.JSONRenderer(default=str, sort_keys=False))
    else:
        final.append(
            structlog.dev.ConsoleRenderer(
                colors=target.isatty(), pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
            )
        )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                _add_trace,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
            processors=final,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # other libraries: only what matters
    logging.getLogger("asyncpg").setLevel(logging.ERROR)  # a traceback per try; our stages say the same in a line
    logging.getLogger(PACKAGE_LOGGER).setLevel(level.upper())
    return handler


def _add_trace(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if (trace_id := trace_of_logs.get()) is not None:
        event.setdefault(Field.TRACE_ID, trace_id)
    return event


def _cleaner(redact: Callable[[str], str]) -> Callable[[Any, str, MutableMapping[str, Any]], Mapping[str, Any]]:
    def clean_event(_: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        return {escape_controls(redact(str(key))): _clean(key, value, redact) for key, value in event.items()}

    return clean_event


def _clean(key: str, value: object, redact: Callable[[str], str]) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = redact(", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
    if key == "exception":
        return "\n".join(escape_controls(line) for line in text.splitlines())
    if len(text) > MAXIMUM_TEXT:
        text = f"{text[:MAXIMUM_TEXT]}… ({len(text)} characters)"
    return escape_controls(text)
