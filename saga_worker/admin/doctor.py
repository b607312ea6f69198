"""`saga-worker doctor`: do the servers keep what they confirm? Versions, durability, limits, queues: ok, warn or fail.

Looks only; ends with 1 if anything is marked fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from saga_worker.admin.options import json_option, load_settings, run_async

if TYPE_CHECKING:
    from saga_worker.settings import Settings

OLDEST_POSTGRESQL = 140_000
SAGAS_IN_A_TRANSACTION = 200  # each may take one advisory lock
WORKERS = 20  # that the lock table should have room for


@dataclass(frozen=True, slots=True)
class Finding:
    subject: str
    verdict: str  # ok | warn | fail
    figure: str
    advice: str = ""


@click.command(epilog="\b\nExample:\n  saga-worker doctor --json")
@json_option
def doctor(as_json: bool) -> None:
    """Look at the servers: versions, durability settings, limits, queues."""
    from saga_worker.admin.output import print_rows

    settings = load_settings("database_url", "amqp_url")
    findings = run_async(examine(settings))
    print_rows((asdict(finding) for finding in findings), ("verdict", "subject", "figure", "advice"), as_json=as_json)
    if any(finding.verdict == "fail" for finding in findings):
        raise click.exceptions.Exit(1)


async def examine(settings: Settings) -> list[Finding]:
    from saga_worker.admin.connect import looking

    async with looking(settings) as connection:
        facts = await connection.fetchrow("admin_server")
        assert facts is not None
        findings = list(database_findings(dict(facts), pgbouncer=settings.pgbouncer))
    return [*findings, await _schema(settings), *await _queues(settings)]


def database_findings(facts: Mapping[str, Any], *, pgbouncer: bool) -> Iterator[Finding]:
    """What the server's settings mean for the promises."""
    old = facts["version_number"] < OLDEST_POSTGRESQL
    yield _finding("PostgreSQL version", "fail" if old else "ok", facts["version"], "use 14 or newer")
    for name, bad, advice in (
        ("fsync", ("off",), "a crash of the machine loses confirmed messages"),
        ("full_page_writes", ("off",), "a crash of the machine can corrupt tables"),
        ("synchronous_commit", ("off",), "a crash loses the last commits, after their messages were acknowledged"),
    ):
        yield _finding(name, "fail" if facts[name] in bad else "ok", facts[name], advice)
    if facts["standbys"]:
        lacking = facts["synchronous_standbys"] == 0
        figure = f"{facts['synchronous_standbys']} of {facts['standbys']} synchronous"
        yield _finding("standbys", "warn" if lacking else "ok", figure, "a failover can lose confirmed messages")
    room = facts["max_locks_per_transaction"] * facts["max_connections"]
    tight = room <= 2 * WORKERS * SAGAS_IN_A_TRANSACTION
    yield _finding(
        "lock table", "warn" if tight else "ok", f"{room} locks",
        f"for {WORKERS} workers raise max_locks_per_transaction",
    )  # fmt: skip
    plain = not facts["tls"] and not facts["local"]
    yield _finding(
        "TLS to PostgreSQL", "warn" if plain else "ok", "on" if facts["tls"] else "off", "use sslmode=verify-full"
    )
    if pgbouncer:
        yield Finding("pooler", "ok", "SAGA_WORKER_PGBOUNCER is on: no prepared statements, no start-up parameters")


async def _schema(settings: Settings) -> Finding:
    from saga_worker.saga.errors import SchemaMismatch
    from saga_worker.sql import migrate

    try:
        await migrate.check(settings.database_url.get_secret_value(), schema=settings.schema_)
    except SchemaMismatch as error:
        return Finding("schema", "fail", "does not fit", str(error))
    return Finding("schema", "ok", f"{settings.schema_} at {migrate.head()}")


async def _queues(settings: Settings) -> list[Finding]:
    """The broker: can we log in, and do queues that exist have the arguments that the promises need?"""
    from saga_worker.broker import AmqpPath, BrokerConnection, Topology
    from saga_worker.saga.errors import SagaWorkerError

    topology = Topology(settings.namespace, settings.partitions)
    path = AmqpPath(settings.amqp_path, namespace=settings.namespace)
    connection = BrokerConnection(settings.amqp_url.get_secret_value(), "doctor", path)
    found: list[Finding] = []

    async def on_up(session: Any) -> None:
        found[:] = [Finding("RabbitMQ", "ok", connection.place)]
        verdict = "warn" if path.refusal else "ok"
        found.append(_finding("AMQP path", verdict, session.hot_path.name, f"slower; the lean one: {path.refusal}"))
        for name in topology.queues:
            try:
                channel = await session.channel()
                await channel.declare_queue(name, passive=True, timeout=5)
            except Exception as error:  # the broker's "not found", in its client's class
                found.append(Finding(f"queue {name}", "warn", "absent", f"the first worker declares it ({error})"))
                return
        await topology.declare(session)  # all exist: the same arguments change nothing, others are refused
        found.extend(Finding(f"queue {name}", "ok", "arguments fit") for name in topology.queues)

    try:
        await connection.start(on_up, lambda _: None)
        await connection.ready(10)
    except SagaWorkerError as error:
        return [*found, Finding("RabbitMQ", "fail", connection.place, str(error))]
    finally:
        await connection.close()
    return found


def _finding(subject: str, verdict: str, figure: str, advice: str) -> Finding:
    return Finding(subject, verdict, figure, "" if verdict == "ok" else advice)
