"""One `basic.consume`: what a queue has to know about whom it serves.

The channel that opened it fills in the callables; the queue asks for room and hands over entries. Lives between
`queues.py` and `deliveries.py`, which do not know each other.
"""

from collections.abc import Callable
from dataclasses import dataclass

from .messages import Entry


@dataclass(slots=True, eq=False, kw_only=True)
class Consumer:
    tag: str
    no_ack: bool
    exclusive: bool
    prefetch: int
    is_writable: Callable[[], bool]
    """False while the client reads more slowly than the broker writes."""
    deliver: "Callable[[Consumer, Entry], None]"
    cancelled: "Callable[[Consumer], None]"
    """Called when the queue was deleted under the consumer."""
    prefix: bytes
    unacked: int = 0
    in_line: bool = False
    gone: bool = False

    def has_room(self) -> bool:
        if self.gone or not self.is_writable():
            return False
        return self.no_ack or not self.prefetch or self.unacked < self.prefetch
