"""Starting sagas from a program, and waiting for what becomes of them.

    async with Client() as client:  # by SAGA_WORKER_DATABASE_URL
        run = await client.start(placed, OrderPlaced(order_id="4711"))  # `placed` was declared with @checkout.starts_on
        order = await run.ended(timeout=30)

Takes a start and its event; guarantees that what is stored is a row of the inbox, once for an idempotency key, and that
a worker decides about it as about any other message. Needs PostgreSQL alone, no broker.
"""

from saga_worker.client.client import Client
from saga_worker.client.contract import Accepted, NotDecided, NotTaken, Snapshot, StartRefused, StillOpen
from saga_worker.client.run import Run
from saga_worker.client.tracing import tracing

__all__ = ["Accepted", "Client", "NotDecided", "NotTaken", "Run", "Snapshot", "StartRefused", "StillOpen", "tracing"]
