"""`saga-worker db`: bring the tables up to this release, or say whether they fit."""

from __future__ import annotations

import click

from saga_worker.admin.options import json_option, load_settings, run_async


@click.group(epilog="\b\nExample:\n  saga-worker db upgrade")
def db() -> None:
    """Migrate the database, or check that it fits this release."""


@db.command(epilog="\b\nExample:\n  SAGA_WORKER_DATABASE_URL=postgresql://migrate@db/orders saga-worker db upgrade")
@json_option
def upgrade(as_json: bool) -> None:
    """Create or migrate the tables; safe to run again, and from several places at once."""
    from saga_worker.admin.failure import reaching
    from saga_worker.admin.output import print_summary
    from saga_worker.settings import describe_url
    from saga_worker.sql import migrate

    settings = load_settings("database_url")
    url = settings.database_url.get_secret_value()
    with reaching("PostgreSQL", describe_url(url)):
        before = run_async(migrate.upgrade(url, schema=settings.schema_))
    shown = {"database": describe_url(url), "schema": settings.schema_, "result": _done(before, migrate.head())}
    print_summary(shown, as_json=as_json)


def _done(before: str | None, after: str) -> str:
    if before is None:
        return f"created at {after}"
    if before > after:
        return f"left at {before}, which a newer release has made"
    return f"up to date at {after}" if before == after else f"upgraded from {before} to {after}"


@db.command(epilog="\b\nExample:\n  saga-worker db check || saga-worker db upgrade")
@json_option
def check(as_json: bool) -> None:
    """Exit with 0 if the tables fit this release, with 1 if they do not."""
    from saga_worker.admin.failure import reaching
    from saga_worker.admin.output import print_summary
    from saga_worker.settings import describe_url
    from saga_worker.sql import migrate

    settings = load_settings("database_url")
    url = settings.database_url.get_secret_value()
    with reaching("PostgreSQL", describe_url(url)):
        run_async(migrate.check(url, schema=settings.schema_))
    print_summary({"database": describe_url(url), "schema": settings.schema_, "result": "fits"}, as_json=as_json)
