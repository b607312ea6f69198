"""Takes the URL of a PostgreSQL server and makes databases on it: one per test, copied from a migrated template.

Guarantees that a database is dropped with its last connection when the test ends. Used by `testing.plugin`.
"""

import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from saga_worker.testing.waiting import run_beside

if TYPE_CHECKING:
    import asyncpg

FIRST_VERSION_WITH_STRATEGIES = 15


def in_database(url: str, name: str) -> str:
    """The same server and credentials, another database."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def make_template(url: str) -> str:
    """Create a database, bring it to the newest schema, and return its name."""
    name = f"saga_template_{uuid.uuid4().hex[:12]}"
    run_beside(_create(url, name, template=None))
    run_beside(_migrate(in_database(url, name)))
    return name


def drop(url: str, name: str) -> None:
    run_beside(_drop(url, name))


@contextlib.contextmanager
def fresh(url: str, *, template: str | None = None) -> Iterator[str]:
    """The URL of a new database that is dropped at the end, whoever is still connected."""
    name = f"saga_test_{uuid.uuid4().hex[:16]}"
    run_beside(_create(url, name, template=template))
    try:
        yield in_database(url, name)
    finally:
        drop(url, name)


async def _migrate(url: str) -> None:
    from saga_worker.sql.migrate import upgrade

    await upgrade(url)


async def _create(url: str, name: str, *, template: str | None) -> None:
    async with _connection(url) as connection:
        statement = f"CREATE DATABASE {name}"
        if template is not None:
            statement += f" TEMPLATE {template}"
            # Copying files costs a checkpoint, which is cheap only where nothing is flushed.
            flushes = await connection.fetchval("SELECT current_setting('fsync')") == "on"
            version = connection.get_server_version().major
            if not flushes and version >= FIRST_VERSION_WITH_STRATEGIES:
                statement += " STRATEGY FILE_COPY"
        await connection.execute(statement)


async def _drop(url: str, name: str) -> None:
    async with _connection(url) as connection:
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextlib.asynccontextmanager
async def _connection(url: str) -> "AsyncIterator[asyncpg.Connection]":
    import asyncpg

    scheme, _, rest = url.partition("://")
    connection = await asyncpg.connect(f"{scheme.partition('+')[0]}://{rest}")
    try:
        yield connection
    finally:
        await connection.close()
