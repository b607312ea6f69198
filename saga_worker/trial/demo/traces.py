"""What a demo leaves on servers that were given to it: a schema, some exchanges and queues. Removes them."""

from __future__ import annotations

import asyncio

import asyncpg

from saga_worker.sql import quoted
from saga_worker.sql.connection import dsn_of
from saga_worker.testing.namespaces import Namespace
from saga_worker.trial.demo.crew import PARTICIPANTS, Place
from saga_worker.trial.demo.servers import Servers


async def remove_traces(servers: Servers, place: Place) -> None:
    """Servers of our own go with everything on them; given ones are left as they were."""
    if servers.is_database_given:
        connection = await asyncpg.connect(dsn_of(place.database_url), timeout=10)
        try:
            await connection.execute(f"DROP SCHEMA IF EXISTS {quoted(place.schema)} CASCADE")
        finally:
            await connection.close()
    if servers.is_broker_given:
        namespace = Namespace(place.namespace)
        for destinations in PARTICIPANTS.values():
            for destination in destinations:
                namespace.queue(f"participant.{destination}")
        await asyncio.to_thread(namespace.delete, place.amqp_url)
