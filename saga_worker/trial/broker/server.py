"""The broker as one object: listen, accept, stop.

Takes a loopback address, returns the URL to connect to; virtual hosts are made when a client first names them.
Nothing is kept: with `stop`, or the end of the process, every message is gone.
"""

import asyncio
import ipaddress
import logging

from .connection import Connection
from .vhost import VirtualHost

log = logging.getLogger(__name__)
STOP_SECONDS = 2.0


class TrialBroker:
    """AMQP 0-9-1 for demo and tests, in memory.

    `strict` refuses what RabbitMQ 4.3 refuses (transient shared queues, global prefetch) and counts failed deliveries
    as it does; otherwise the broker behaves as RabbitMQ 3.10.
    """

    def __init__(self, *, strict: bool = True) -> None:
        self._strict = strict
        self._vhosts: dict[str, VirtualHost] = {}
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._all_gone = asyncio.Event()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen and return the URL; port 0 takes a free one."""
        address = _loopback(host)
        self._server = await asyncio.get_running_loop().create_server(self._accept, address, port)
        bound = self._server.sockets[0].getsockname()[1]
        log.warning(
            "TRIAL BROKER on %s:%d: for demo and tests only. It keeps nothing: messages are lost when it ends.",
            address,
            bound,
        )
        shown = f"[{address}]" if ":" in address else address
        return f"amqp://guest:guest@{shown}:{bound}/"

    async def stop(self) -> None:
        """Close every connection with a reason, then the port."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._connections):
            connection.close("broker forced connection closure with reason 'shutdown'")
        try:
            async with asyncio.timeout(STOP_SECONDS):
                while self._connections:
                    self._all_gone.clear()
                    await self._all_gone.wait()
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()
        await self._server.wait_closed()
        self._server = None
        self._vhosts.clear()

    def _accept(self) -> Connection:
        connection = Connection(strict=self._strict, find_vhost=self._vhost, on_end=self._forget)
        self._connections.add(connection)
        return connection

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._all_gone.set()

    def _vhost(self, name: str) -> VirtualHost:
        if name not in self._vhosts:
            self._vhosts[name] = VirtualHost(name)
        return self._vhosts[name]


def _loopback(host: str) -> str:
    """The login is public and nothing is encrypted, so nobody else on the network may reach it."""
    address = "127.0.0.1" if host == "localhost" else host
    try:
        is_loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ValueError(
            f"The trial broker listens on this machine only, not on {host!r}: everybody knows its login and it keeps "
            "nothing. Use 127.0.0.1, or RabbitMQ for anything that others have to reach."
        )
    return address
