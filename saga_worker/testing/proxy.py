"""Takes TCP connections on a loopback port, passes them to a server, and misbehaves on command.

Guarantees that a fault begins when the call returns and that healing restores the same port. For fault tests: put
`proxy.rewrite(url)` in place of the server's URL. Works on bytes and so for PostgreSQL and AMQP alike, without TLS.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from enum import Enum
from typing import Self
from urllib.parse import urlsplit

from saga_worker.trial.supervisor import free_port

CHUNK = 65_536
DEFAULT_PORTS = {"postgresql": 5432, "postgres": 5432, "amqp": 5672}


class Direction(Enum):
    """Which way a packet goes through a proxy."""

    TO_SERVER = "to server"
    TO_CLIENT = "to client"


class Verdict(Enum):
    """What a hook wants done with a packet: pass it on, lose it, or lose it and cut the connection."""

    PASS = "pass"
    DROP = "drop"
    CUT = "cut"


Hook = Callable[["Connection", Direction, bytes], Verdict | bytes]  # bytes: pass these on in place of the packet


class Connection:
    """One client's connection through the proxy; `packets` counts what came from each side."""

    def __init__(self, number: int, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.number = number
        self.packets = dict.fromkeys(Direction, 0)
        self._client = client
        self._server = server

    def reset(self) -> None:
        """Cut both sides so that their next read or write meets ECONNRESET, not an orderly end."""
        for writer in (self._client, self._server):
            _reset(writer)


class FaultProxy:
    """A TCP proxy in the running event loop, as an async context manager or by `start` and `close`.

    Faults hold for existing and new connections until `heal`: `delay`, `stall` (a partition that heals), `blackhole`,
    `refuse`. `reset` cuts what is connected now. `hook` sees every packet and may change or drop it, or cut the
    connection.
    """

    def __init__(self, host: str, port: int, *, hook: Hook | None = None) -> None:
        self.port = 0
        self.hook = hook
        self.accepted = 0
        self.connections: set[Connection] = set()
        self._upstream = (host, port)
        self._delay = 0.0
        self._black: frozenset[Direction] = frozenset()
        self._open = {direction: asyncio.Event() for direction in Direction}
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._release()

    @classmethod
    def before(cls, url: str, *, hook: Hook | None = None) -> Self:
        """A proxy for the server that this URL names."""
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORTS[parts.scheme.partition("+")[0]]
        return cls(parts.hostname or "127.0.0.1", port, hook=hook)

    def rewrite(self, url: str) -> str:
        """The same URL, leading through the proxy."""
        parts = urlsplit(url)
        credentials, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{credentials}{at}127.0.0.1:{self.port}").geturl()

    async def start(self) -> Self:
        """Listen on a free loopback port, or on the one it had; `port` and `rewrite` say where."""
        self.port = self.port or free_port()
        await self._listen()
        return self

    async def close(self) -> None:
        """Refuse, cut and forget everything; returns when no task of the proxy is left."""
        await self.refuse()
        self._release()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def heal(self) -> None:
        """Pass everything on again. Stalled bytes arrive; what a black hole swallowed stays lost."""
        self._delay = 0.0
        self._black = frozenset()
        self._release()
        if self._listener is None:
            await self._listen()

    def delay(self, seconds: float) -> None:
        """Hold every packet back for so long, in both directions, keeping the order."""
        self._delay = seconds

    def stall(self, *directions: Direction) -> None:
        """Stop reading, both ways if none is named: senders fill their buffers and wait. Nothing is lost."""
        for direction in directions or Direction:
            self._open[direction].clear()

    def blackhole(self, *directions: Direction) -> None:
        """Accept and swallow bytes, both ways if none is named. A healed connection has a gap: reset it."""
        self._black = frozenset(directions or Direction)

    async def refuse(self) -> None:
        """New connections meet ECONNREFUSED; existing ones go on."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            await asyncio.sleep(0)  # the loop closes the listening socket in its next turn

    def reset(self) -> int:
        """Cut every connection with RST, and return how many there were."""
        cut = list(self.connections)
        for connection in cut:
            connection.reset()
        return len(cut)

    def cut_answer(
        self,
        request: Callable[[bytes], bool],
        *,
        nth: int = 1,
        answer: Callable[[bytes], bool] = lambda packet: True,
    ) -> asyncio.Event:
        """Let the n-th packet to the server that matches pass, then swallow its answer and reset that connection.

        So the server has acted and the client cannot know. Replaces the hook; returns an event that is set by the cut.
        """
        done = asyncio.Event()
        seen = 0
        waiting: Connection | None = None

        def hook(connection: Connection, direction: Direction, packet: bytes) -> Verdict:
            nonlocal seen, waiting
            if done.is_set():
                return Verdict.PASS
            if direction is Direction.TO_SERVER and waiting is None and request(packet):
                seen += 1
                waiting = connection if seen == nth else None
            elif direction is Direction.TO_CLIENT and connection is waiting and answer(packet):
                done.set()
                return Verdict.CUT
            return Verdict.PASS

        self.hook = hook
        return done

    def _release(self) -> None:
        for gate in self._open.values():
            gate.set()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port, reuse_address=True)

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        try:
            answers, server = await asyncio.open_connection(*self._upstream)
        except OSError:
            _reset(client)
            return
        connection = Connection(self.accepted, client, server)
        self.connections.add(connection)
        try:
            await self._carry(connection, reader, answers)
        finally:
            self.connections.discard(connection)
            for writer in (client, server):
                writer.close()

    async def _carry(
        self, connection: Connection, requests: asyncio.StreamReader, answers: asyncio.StreamReader
    ) -> None:
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(connection, Direction.TO_SERVER, requests, connection._server))
                pumps.create_task(self._pump(connection, Direction.TO_CLIENT, answers, connection._client))

    async def _pump(
        self, connection: Connection, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while packet := await reader.read(CHUNK):
                connection.packets[direction] += 1
                if not await self._deliver(connection, direction, packet, writer):
                    return
            await self._open[direction].wait()  # a stall holds the end back, too
            if writer.can_write_eof():
                writer.write_eof()
        except OSError:
            connection.reset()  # one side was cut: the other learns it the same way
            raise

    async def _deliver(
        self, connection: Connection, direction: Direction, packet: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        if self._delay:
            await asyncio.sleep(self._delay)
        await self._open[direction].wait()
        verdict = self.hook(connection, direction, packet) if self.hook else Verdict.PASS
        if verdict is Verdict.CUT:
            connection.reset()
            return False
        if verdict is not Verdict.DROP and direction not in self._black:
            writer.write(verdict if isinstance(verdict, bytes) else packet)
            await writer.drain()
        return True


def _reset(writer: asyncio.StreamWriter) -> None:
    held = writer.get_extra_info("socket")
    if held is not None and not writer.transport.is_closing():
        with contextlib.suppress(OSError):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
