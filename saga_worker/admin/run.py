"""`saga-worker run`: one worker process, until SIGTERM. Sets up logging, serves health beside the worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click

from saga_worker.admin.options import load_settings, run_async

if TYPE_CHECKING:
    from saga_worker.worker import Worker

PATHS = ("auto", "lean", "public")  # as in `settings`
ROLES = ("consume", "advance", "relay", "sweep")  # as in `worker.ROLES`; named here so that --help imports no driver


@click.command(
    epilog="""\b
Examples:
  saga-worker run --definitions ./definitions
  saga-worker run --role consume --role relay"""
)
@click.option("--definitions", help="A directory, a file or a dotted module with the sagas.  [default: definitions]")
@click.option("--role", "roles", multiple=True, type=click.Choice(ROLES), help="Run only this part (repeatable).")
@click.option(
    "--amqp-path", type=click.Choice(PATHS),
    help="How messages pass the AMQP client library: lean (fast, past it), public (slower, through it), auto (lean if"
    " its self-test passes).  [default: auto]",
)  # fmt: skip
def run(definitions: str | None, roles: tuple[str, ...], amqp_path: str | None) -> None:
    """Run a worker: consumer, pool, relay and sweepers in one process, until SIGTERM."""
    settings = load_settings("database_url", "amqp_url", definitions=definitions, amqp_path=amqp_path)

    from saga_worker import telemetry, worker
    from saga_worker.admin.failure import reaching
    from saga_worker.settings import describe_url

    telemetry.configure_logging(settings.log_level, settings.log_format, secrets=settings.secrets())
    # The broker's connection says its own sentences; whatever else fails here is PostgreSQL's.
    with reaching("PostgreSQL", describe_url(settings.database_url.get_secret_value())):
        run_async(worker.run(settings, roles=frozenset(roles) or None, beside=health))


@asynccontextmanager
async def health(worker: Worker) -> AsyncIterator[None]:
    """`/livez`, `/readyz` and `/metrics` for as long as the worker lives, if the setting http_bind asks for them."""
    address = worker.settings.http_address
    if address is None:
        yield
        return
    from prometheus_client import disable_created_metrics

    from saga_worker.admin.gauges import Gauges
    from saga_worker.admin.health import HealthServer, application

    # one more series per counter, which nobody asks for
    disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations
    server, gauges = HealthServer(address, application(worker.readiness())), Gauges(worker.database)
    await server.start()
    gauges.start()
    try:
        yield
    finally:
        await gauges.stop()
        await server.stop()
