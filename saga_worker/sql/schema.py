"""The tables and views as SQLAlchemy Core sees them, for listings whose filters vary and for comparing.

The migrations are what makes a schema; a test compares them with these models. For another schema than the default
give the execution option `schema_translate_map={"saga_worker": schema}`.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from saga_worker.sql import DEFAULT_SCHEMA

tables: Final = MetaData(schema=DEFAULT_SCHEMA)
views: Final = MetaData(schema=DEFAULT_SCHEMA)
_NOW: Final = func.clock_timestamp()


def _time(name: str, *, nullable: bool = True) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _stamped(name: str) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=False, server_default=_NOW)


saga: Final = Table(
    "saga",
    tables,
    Column("saga_id", Uuid, nullable=False),
    Column("ref", Uuid),
    Column("definition", Text, nullable=False),
    Column("definition_version", Integer, nullable=False),
    Column("key", Text, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("unsettled", SmallInteger, nullable=False),
    Column("attention", Text),
    Column("reason", Text),
    Column("state", LargeBinary, nullable=False),
    Column("progress", LargeBinary, nullable=False),
    _time("started_at", nullable=False),
    _time("updated_at", nullable=False),
    _time("finished_at"),
    PrimaryKeyConstraint("saga_id", name="saga_pkey"),
    UniqueConstraint("ref", name="saga_ref_key"),
    CheckConstraint("status BETWEEN 0 AND 6", name="saga_status"),
    CheckConstraint("(finished_at IS NOT NULL) = (status IN (3, 4, 5))", name="saga_finished"),
    CheckConstraint("revision >= 1 AND seq >= 0 AND unsettled >= 0", name="saga_counts"),
    Index("saga_earlier_runs", "definition", "key", postgresql_where=text("ref IS NULL")),
    Index("saga_attention", "attention", postgresql_where=text("attention IS NOT NULL")),
    Index("saga_finished_at", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
)

tombstone: Final = Table(
    "tombstone",
    tables,
    Column("ref", Uuid, nullable=False),
    _stamped("purged_at"),
    PrimaryKeyConstraint("ref", name="tombstone_pkey"),
    Index("tombstone_purged_at", "purged_at"),
)

inbox: Final = Table(
    "inbox",
    tables,
    Column("id", BigInteger, Identity(always=True), nullable=False),
    Column("dedup", Uuid, nullable=False),
    Column("body_sha", LargeBinary, nullable=False),
    Column("consumer", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("role", SmallInteger, nullable=False),
    Column("ref", Uuid),
    Column("saga_key", Text),
    Column("correlation_id", Text),
    Column("state", SmallInteger, nullable=False),
    Column("reason", Text),
    Column("error", Text),
    Column("suspect", Boolean, nullable=False, server_default=text("false")),
    Column("prio", SmallInteger, nullable=False, server_default=text("1")),
    Column("attempts", SmallInteger, nullable=False, server_default=text("0")),
    Column("crashes", SmallInteger, nullable=False, server_default=text("0")),
    _time("first_failed_at"),
    _time("last_failed_at"),
    _time("settled_at"),
    _time("next_at"),
    _time("expires_at"),
    _stamped("received_at"),
    Column("props", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("sequence", BigInteger),  # of a numbered event that is parked
    PrimaryKeyConstraint("id", name="inbox_pkey"),
    UniqueConstraint("dedup", name="inbox_dedup_key"),
    CheckConstraint("role BETWEEN 0 AND 4", name="inbox_role"),
    CheckConstraint("state BETWEEN 0 AND 5", name="inbox_state"),
    CheckConstraint("prio IN (0, 1)", name="inbox_prio"),
    CheckConstraint("(settled_at IS NOT NULL) = (state IN (3, 4))", name="inbox_settled"),
    CheckConstraint("reason IS NOT NULL OR state NOT IN (1, 2, 4, 5)", name="inbox_reason"),
    CheckConstraint("ref IS NOT NULL OR state IN (1, 4, 5)", name="inbox_ref"),
    CheckConstraint("attempts >= 0 AND crashes >= 0", name="inbox_counts"),
    Index("inbox_ready", "ref", "prio", "id", postgresql_where=text("state = 0")),
    Index("inbox_parked", "ref", "id", postgresql_where=text("state IN (1)")),
    Index("inbox_park_exp", "expires_at", postgresql_where=text("state = 1")),
    Index("inbox_held", "ref", "id", postgresql_where=text("state IN (2, 5)")),
    Index("inbox_line", "ref", "source", "sequence", postgresql_where=text("state = 1 AND sequence IS NOT NULL")),
    Index("inbox_absent", "ref", postgresql_where=text("state = 2 AND reason = 'definition_absent'")),
)

wake: Final = Table(
    "wake",
    tables,
    Column("ref", Uuid, nullable=False),
    _time("due_at", nullable=False),
    PrimaryKeyConstraint("ref", name="wake_pkey"),
    Index("wake_due", "due_at"),
)

worker: Final = Table(
    "worker",
    tables,
    Column("worker_id", Integer, Identity(always=True), nullable=False),
    _time("lease_until", nullable=False),
    Column("definitions", ARRAY(Text), nullable=False),
    _time("caught_up_at"),
    _stamped("started_at"),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    PrimaryKeyConstraint("worker_id", name="worker_pkey"),
)

intent: Final = Table(
    "intent",
    tables,
    Column("worker_id", Integer, nullable=False),
    Column("slot", SmallInteger, nullable=False),
    Column("ids", ARRAY(BigInteger), nullable=False),
    Column("alone", Boolean, nullable=False, server_default=text("false")),
    Column("refs", ARRAY(Uuid), nullable=False, server_default=text("'{}'")),
    Column("timers", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    PrimaryKeyConstraint("worker_id", "slot", name="intent_pkey"),
    prefixes=["UNLOGGED"],
)

outbox: Final = Table(
    "outbox",
    tables,
    Column("ref", Uuid, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("owner", Integer, nullable=False),
    Column("destination", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("exchange", Text, nullable=False),
    Column("routing_key", Text, nullable=False),
    Column("mandatory", Boolean, nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    _time("next_at"),
    Column("last_error", Text),
    Column("props", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    PrimaryKeyConstraint("ref", "seq", name="outbox_pkey"),
    CheckConstraint("owner >= 0 AND seq >= 0 AND attempts >= 0", name="outbox_counts"),
)

activity: Final = Table(
    "activity",
    tables,
    Column("ref", Uuid, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("run", Integer, nullable=False),
    Column("undoes", Integer),
    Column("definition", Text, nullable=False),
    Column("definition_version", Integer, nullable=False),
    Column("saga_key", Text, nullable=False),
    Column("step", Text, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("uncertain", Boolean, nullable=False, server_default=text("false")),
    Column("worker_id", Integer),
    _time("next_at", nullable=False),
    _time("timeout_at"),
    Column("timeout_seconds", Double, nullable=False),
    Column("last_error", Text),
    Column("input", LargeBinary, nullable=False),
    Column("traceparent", Text),
    Column("tracestate", Text),
    Column("begun_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("ref", "seq", name="activity_pkey"),
    CheckConstraint("state IN (0, 1, 3, 4)", name="activity_state"),
    CheckConstraint("state <> 1 OR (worker_id IS NOT NULL AND timeout_at IS NOT NULL)", name="activity_running"),
    CheckConstraint(
        "seq >= 1 AND run >= 1 AND epoch >= 1 AND attempts >= 0 AND timeout_seconds > 0", name="activity_counts"
    ),
    Index("activity_ready", "next_at", "ref", "seq", postgresql_where=text("state = 0")),
    Index("activity_worker", "worker_id", postgresql_where=text("state = 1")),
)

child: Final = Table(
    "child",
    tables,
    Column("parent", Uuid, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("item", Integer, nullable=False),
    Column("ref", Uuid, nullable=False),
    Column("definition", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("body", LargeBinary),
    PrimaryKeyConstraint("parent", "seq", "item", name="child_pkey"),
    CheckConstraint("seq >= 1 AND item >= 0", name="child_counts"),
    Index("child_ref", "ref"),
)

journal: Final = Table(
    "journal",
    tables,
    Column("saga_id", Uuid, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("definition_version", Integer, nullable=False),
    Column("input_kind", Text, nullable=False),
    Column("consumer", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("inbox_id", BigInteger),
    _time("decided_at", nullable=False),
    Column("from_status", SmallInteger),
    Column("to_status", SmallInteger, nullable=False),
    Column("sent", ARRAY(Integer), nullable=False),
    Column("timers", ARRAY(Text), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("worker", Integer, nullable=False),
    Column("ref", Uuid, nullable=False),
    _stamped("committed_at"),
    PrimaryKeyConstraint("saga_id", "revision", name="journal_pkey"),
    CheckConstraint("from_status BETWEEN 0 AND 6 AND to_status BETWEEN 0 AND 6", name="journal_statuses"),
    CheckConstraint("revision >= 1 AND epoch >= 0 AND epoch < revision", name="journal_chain"),
)

definition: Final = Table(
    "definition",
    tables,
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("structure", JSONB, nullable=False),
    _stamped("noted_at"),
    PrimaryKeyConstraint("name", "version", name="definition_pkey"),
)

route: Final = Table(
    "route",
    tables,
    Column("definition", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("type", Text, nullable=False),
    Column("role", SmallInteger, nullable=False),
    Column("key_pointer", Text, nullable=False),
    Column("key_kind", Text, nullable=False),
    Column("rev", BigInteger, nullable=False),
    PrimaryKeyConstraint("definition", "version", "type", name="route_pkey"),
    CheckConstraint("role BETWEEN 0 AND 3", name="route_role"),
    CheckConstraint("key_kind IN ('text', 'int', 'uuid')", name="route_key_kind"),
    Index("route_rev", "rev"),
)

sweep_cursor: Final = Table(
    "sweep_cursor",
    tables,
    Column("name", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    _stamped("updated_at"),
    PrimaryKeyConstraint("name", name="sweep_cursor_pkey"),
)

audit: Final = Table(
    "audit",
    tables,
    Column("id", BigInteger, Identity(always=True), nullable=False),
    _stamped("at"),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("reason", Text),
    Column("before", JSONB),
    Column("after", JSONB),
    PrimaryKeyConstraint("id", name="audit_pkey"),
)


def _view(name: str, columns: str) -> Table:
    """A read-only view; `columns` are its names in order. They are a contract with everybody who reads them."""
    return Table(name, views, *(Column(column) for column in columns.split()))


v_saga: Final = _view(
    "v_saga",
    "saga_id ref name definition_version key status reason attention unsettled state revision"
    " started_at updated_at finished_at parent_id trace_id",
)
v_journal: Final = _view(
    "v_journal",
    "saga_id revision definition_version input_kind consumer source message_id decided_at from_status to_status"
    " sent_ids timer_ids epoch worker committed_at",
)
v_inbox: Final = _view(
    "v_inbox",
    "id consumer source message_id type saga_key saga_id state reason attempts crashes received_at next_at expires_at"
    " trace_id",
)
v_outbox: Final = _view("v_outbox", "message_id saga_id seq destination type owner attempts next_at last_error")
v_timer: Final = _view("v_timer", "saga_id name epoch due_at")
v_dead: Final = _view(
    "v_dead",
    "id consumer source message_id type saga_key reason error attempts first_failed_at last_failed_at",
)
v_audit: Final = _view("v_audit", "at actor action target reason before after")
v_activity: Final = _view(
    "v_activity",
    "activity_id saga_id seq undoes name step state epoch attempts worker next_at timeout_at last_error",
)
