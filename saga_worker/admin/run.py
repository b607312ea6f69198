"""`saga-worker run`: one worker process, until SIGTERM. Sets up logging and hands over to `worker.run`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import click

from saga_worker.admin.options import load_settings, run_async

if TYPE_CHECKING:
    from saga_worker.settings import Settings
    from saga_worker.worker import Worker

ROLES = ("consume", "advance", "relay", "sweep")


@click.command(
    epilog="""\b
Examples:
  saga-worker run --definitions ./definitions
  saga-worker run --role consume --role relay"""
)
@click.option("--definitions", help="A directory, a file or a dotted module with the sagas.  [default: definitions]")
@click.option("--role", "roles", multiple=True, type=click.Choice(ROLES), help="Run only this part (repeatable).")
def run(definitions: str | None, roles: tuple[str, ...]) -> None:
    """Run a worker: consumer, pool, relay and sweepers in one process, until SIGTERM."""
    settings = load_settings("database_url", "amqp_url", definitions=definitions)
    from saga_worker import telemetry, worker
    from saga_worker.admin.failure import reaching

    telemetry.configure_logging(settings.log_level, settings.log_format, secrets=settings.secrets())
    shown = settings.describe()
    with reaching("A server", f"{shown['database_url']} or {shown['amqp_url']}"):
        run_async(worker.run(settings, roles=frozenset(roles) or None, beside=_health_of(settings)))


def _health_of(settings: Settings) -> Callable[[Worker], AbstractAsyncContextManager[None]]:
    """The health server of the worker, from before it connects until after it has drained."""

    @asynccontextmanager
    async def serve(worker: Worker) -> AsyncIterator[None]:
        if settings.http_address is None:
            yield
            return
        from saga_worker.admin.health import HealthServer, application

        server = HealthServer(settings.http_address, application(worker.readiness()))
        await server.start()
        try:
            yield
        finally:
            await server.stop()

    return serve
