"""One queue: entries in order, consumers in turn.

Takes messages, gives each entry to one consumer that has room, takes back what was not processed at its old
position, and lets go of what expired, overflowed or failed too often. Hands dead entries to the virtual host
through `on_dead`.

Cost: constant per message; O(log n) for an entry that was returned. Nothing scans the queue.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import Literal

from .consumers import Consumer
from .errors import access_refused
from .messages import Entry, Message
from .queue_options import QueueOptions

Death = Literal["rejected", "expired", "maxlen", "delivery_limit"]


class Queue:
    def __init__(
        self,
        name: str,
        options: QueueOptions,
        *,
        owner: object | None,
        on_dead: "Callable[[Queue, Message, Death], None]",
        on_unused: "Callable[[Queue], None]",
    ) -> None:
        self.name = name
        self.options = options
        self.owner = owner
        self.consumers: dict[Consumer, None] = {}
        self.deleted = False
        self._on_dead = on_dead
        self._on_unused = on_unused
        self._fresh: deque[Entry] = deque()
        self._returned: list[tuple[int, Entry]] = []
        self._bytes = 0
        self._next_position = 0
        self._line: deque[Consumer] = deque()
        self._loop = asyncio.get_running_loop()
        self._head_timer: asyncio.TimerHandle | None = None
        self._unused_timer: asyncio.TimerHandle | None = None
        self.touch()

    def __len__(self) -> int:
        """Entries that wait; those at consumers do not count."""
        return len(self._fresh) + len(self._returned)

    def publish(self, message: Message) -> bool:
        """False when the queue is full and refuses."""
        if self.options.overflow != "drop-head" and self._is_full():
            if self.options.overflow == "reject-publish-dlx":
                self._on_dead(self, message, "maxlen")
            return False
        self._fresh.append(Entry(message, self._next_position, self._expiry(message)))
        self._next_position += 1
        self._bytes += len(message.body)
        self.pump()
        self._drop_overflow()
        return True

    def take(self) -> Entry | None:
        """The oldest entry that has not expired."""
        self._expire_head()
        if not self:
            return None
        entry = self._pop()
        self._watch_head()
        return entry

    def take_back(self, entries: Iterable[Entry], *, counted: bool) -> None:
        """Requeue at the old positions; `counted` deliveries have failed and use up the delivery limit."""
        if self.deleted:
            return
        for entry in entries:
            entry.redelivered = True
            entry.delivery_count += counted
            if self._is_used_up(entry):
                self._on_dead(self, entry.message, "delivery_limit")
            else:
                heappush(self._returned, (entry.position, entry))
                self._bytes += len(entry.message.body)
        self.pump()
        self._drop_overflow()

    def discard(self, entry: Entry) -> None:
        """A consumer refused the entry for good."""
        if not self.deleted:
            self._on_dead(self, entry.message, "rejected")

    def purge(self) -> int:
        count = len(self)
        self._fresh.clear()
        self._returned.clear()
        self._bytes = 0
        return count

    def subscribe(self, consumer: Consumer, place: str) -> None:
        taken = any(other.exclusive for other in self.consumers)
        if taken or (consumer.exclusive and (self.consumers or self.options.single_active_consumer)):
            access_refused(f"{place} in exclusive use")
        self.consumers[consumer] = None
        self.touch()

    def unsubscribe(self, consumer: Consumer) -> None:
        consumer.gone = True
        if consumer not in self.consumers:
            return
        del self.consumers[consumer]
        if self.consumers:
            self.wake(next(iter(self.consumers)))
        elif self.options.auto_delete:
            self._on_unused(self)
        else:
            self.touch()

    def wake(self, consumer: Consumer) -> None:
        """The consumer may have room again."""
        if consumer.in_line or not consumer.has_room():
            return
        if not self.options.single_active_consumer:
            consumer.in_line = True
            self._line.append(consumer)
        self.pump()

    def pump(self) -> None:
        """Hand out entries as long as there is one and somebody has room."""
        while self._fresh or self._returned:
            self._expire_head()
            consumer = self._next_consumer() if self else None
            if consumer is None:
                break
            consumer.deliver(consumer, self._pop())
        self._watch_head()

    def touch(self) -> None:
        """The queue was used: an `x-expires` period starts anew."""
        if self._unused_timer is not None:
            self._unused_timer.cancel()
        if self.options.expires is not None and not self.deleted:
            self._unused_timer = self._loop.call_later(self.options.expires, self._expire_unused)

    def delete(self) -> None:
        self.deleted = True
        for timer in (self._head_timer, self._unused_timer):
            if timer is not None:
                timer.cancel()
        consumers, self.consumers = list(self.consumers), {}
        for consumer in consumers:
            consumer.gone = True
            consumer.cancelled(consumer)

    def _next_consumer(self) -> Consumer | None:
        if self.options.single_active_consumer:
            active = next(iter(self.consumers), None)
            return active if active is not None and active.has_room() else None
        while self._line:
            consumer = self._line.popleft()
            if consumer.has_room():
                self._line.append(consumer)
                return consumer
            consumer.in_line = False
        return None

    def _head(self) -> Entry | None:
        if self._returned and (not self._fresh or self._returned[0][0] < self._fresh[0].position):
            return self._returned[0][1]
        return self._fresh[0] if self._fresh else None

    def _pop(self) -> Entry:
        if self._returned and (not self._fresh or self._returned[0][0] < self._fresh[0].position):
            entry = heappop(self._returned)[1]
        else:
            entry = self._fresh.popleft()
        self._bytes -= len(entry.message.body)
        return entry

    def _is_full(self) -> bool:
        length, size = self.options.max_length, self.options.max_bytes
        return (length is not None and len(self) >= length) or (size is not None and self._bytes >= size)

    def _drop_overflow(self) -> None:
        length, size = self.options.max_length, self.options.max_bytes
        if self.options.overflow != "drop-head":
            return
        while (length is not None and len(self) > length) or (size is not None and self._bytes > size):
            self._on_dead(self, self._pop().message, "maxlen")

    def _is_used_up(self, entry: Entry) -> bool:
        limit = self.options.delivery_limit
        return limit is not None and entry.delivery_count > limit

    def _expiry(self, message: Message) -> float | None:
        periods = [ttl for ttl in (self.options.message_ttl, message.time_to_live) if ttl is not None]
        return self._loop.time() + min(periods) if periods else None

    def _expire_head(self) -> None:
        """Only the head expires, as in RabbitMQ: an entry behind a longer-lived one waits."""
        while (head := self._head()) is not None and head.expires_at is not None:
            if head.expires_at > self._loop.time():
                break
            self._on_dead(self, self._pop().message, "expired")

    def _watch_head(self) -> None:
        head = self._head()
        if head is None or head.expires_at is None:
            return
        if self._head_timer is not None:
            if self._head_timer.when() <= head.expires_at:
                return
            self._head_timer.cancel()
        self._head_timer = self._loop.call_at(head.expires_at, self._on_head_timer)

    def _on_head_timer(self) -> None:
        self._head_timer = None
        self._expire_head()
        self._watch_head()

    def _expire_unused(self) -> None:
        if not self.consumers:
            self._on_unused(self)
