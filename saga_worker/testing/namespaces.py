"""Takes a prefix and keeps the names of exchanges and queues below it, and deletes them on a broker. For tests."""

from typing import TYPE_CHECKING
from uuid import uuid4

from saga_worker.testing.waiting import run_beside

if TYPE_CHECKING:
    from aio_pika.abc import AbstractConnection


class Namespace(str):
    """The prefix of one test's exchanges and queues.

    The product's own names are known; declare others by the names that `queue` and `exchange` make, so that they are
    deleted with the rest.
    """

    __slots__ = ("exchanges", "queues")

    exchanges: list[str]
    queues: list[str]

    def __init__(self, prefix: str) -> None:
        self.exchanges = [f"{prefix}.{name}" for name in ("events", "commands", "dead", "inbox")]
        self.queues = [f"{prefix}.{name}" for name in ("inbox", "dead")]
        self.queues += [f"{prefix}.inbox.{number}" for number in range(16)]  # partitions

    def queue(self, name: str) -> str:
        self.queues.append(f"{self}.{name}")
        return self.queues[-1]

    def exchange(self, name: str) -> str:
        self.exchanges.append(f"{self}.{name}")
        return self.exchanges[-1]

    def delete(self, amqp_url: str) -> None:
        """Delete on the broker what was declared; names that were not are passed over."""
        run_beside(self._delete(amqp_url))

    async def _delete(self, amqp_url: str) -> None:
        import aio_pika

        async with await aio_pika.connect(amqp_url) as connection:
            for queue in self.queues:
                await _delete_queue(connection, queue)
            for exchange in self.exchanges:
                await _delete_exchange(connection, exchange)


def has_hash_exchange(amqp_url: str) -> bool:
    """Whether the broker can spread messages over queues by a hash."""
    return run_beside(_has_hash_exchange(amqp_url))


async def _has_hash_exchange(amqp_url: str) -> bool:
    import aio_pika
    from aio_pika.exceptions import AMQPError

    connection = await aio_pika.connect(amqp_url)
    try:
        channel = await connection.channel()
        name = f"probe.{uuid4().hex}"
        await channel.declare_exchange(name, "x-consistent-hash")
        await channel.exchange_delete(name)
    except (AMQPError, RuntimeError):
        return False
    finally:
        await connection.close()
    return True


# A channel for each: a refusal (a queue that another connection holds exclusively) closes the channel that asked.
async def _delete_queue(connection: "AbstractConnection", name: str) -> None:
    from aio_pika.exceptions import ChannelClosed

    channel = await connection.channel()
    try:
        await channel.queue_delete(name)
        await channel.close()
    except ChannelClosed:
        return


async def _delete_exchange(connection: "AbstractConnection", name: str) -> None:
    from aio_pika.exceptions import ChannelClosed

    channel = await connection.channel()
    try:
        await channel.exchange_delete(name)
        await channel.close()
    except ChannelClosed:
        return
