"""Signs of life in both directions.

Takes the interval that the client agreed to, sends a heartbeat when nothing else was sent for half of it, and calls
`on_dead` when the client has been silent for two. A client that still drains what we sent is alive even if it says
nothing.
"""

import asyncio
from collections.abc import Callable

from .outgoing import Outgoing
from .wire import HEARTBEAT_FRAME

SILENT_INTERVALS = 2


class Heartbeat:
    def __init__(self, interval: float, outgoing: Outgoing, *, on_dead: Callable[[], None]) -> None:
        self.heard = True
        """Set by whoever reads from the client."""
        self._half = interval / 2
        self._outgoing = outgoing
        self._on_dead = on_dead
        self._silent_halves = 0
        self._unsent = 0
        self._timer = asyncio.get_running_loop().call_later(self._half, self._beat)

    def stop(self) -> None:
        self._timer.cancel()

    def _beat(self) -> None:
        unsent = self._outgoing.unsent_bytes()
        drained, self._unsent = unsent < self._unsent, unsent
        self._silent_halves = 0 if self.heard or drained else self._silent_halves + 1
        self.heard = False
        if self._silent_halves > SILENT_INTERVALS * 2:
            self._on_dead()
            return
        if not self._outgoing.wrote:
            self._outgoing.send(HEARTBEAT_FRAME)
            self._outgoing.flush()
        self._outgoing.wrote = False
        self._timer = asyncio.get_running_loop().call_later(self._half, self._beat)
