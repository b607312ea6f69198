"""What goes out on one connection: gathered, written seldom, never without bound.

Takes frames, writes them once per turn of the event loop. `is_writable` turns false while the client reads more
slowly than we write; consumers then get nothing until `on_writable`, so their messages stay in the queue.
"""

import asyncio
from collections.abc import Callable

GATHER_BYTES = 64 * 1024
HIGH_WATER_BYTES = 1024 * 1024
STOP_READING_BYTES = 16 * 1024 * 1024
"""Replies, returns and confirms do not ask `is_writable`; a client that reads none of them is not read from either."""


class Outgoing:
    def __init__(self, transport: asyncio.Transport, *, on_writable: Callable[[], None]) -> None:
        self._transport = transport
        self._on_writable = on_writable
        self._loop = asyncio.get_running_loop()
        self._gathered: list[bytes] = []
        self._size = 0
        self._scheduled = False
        self._paused = False
        self.wrote = False
        """Set by every write; the heartbeat looks and clears."""
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)

    def is_writable(self) -> bool:
        return not self._paused

    def unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    def send(self, data: bytes) -> None:
        self._gathered.append(data)
        self._size += len(data)
        if self._size >= GATHER_BYTES:
            self.flush()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._on_turn)

    def flush(self) -> None:
        if not self._gathered:
            return
        data, self._gathered, self._size = b"".join(self._gathered), [], 0
        if self._transport.is_closing():
            return
        self.wrote = True
        self._transport.write(data)
        if self._paused and self.unsent_bytes() > STOP_READING_BYTES:
            self._transport.pause_reading()

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()
        self._on_writable()

    def _on_turn(self) -> None:
        self._scheduled = False
        self.flush()
