"""One virtual host: the names, and the way of a message from an exchange into queues.

Takes declarations and messages, keeps exchanges and queues by name, routes, and republishes what queues gave up.
Everything is in memory and gone with the process. Used by `declarations.py` and `publishing.py`.
"""

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from .dead_letters import dead_letter, deaths_of, is_cycle
from .errors import ChannelFault, ConnectionFault, ReplyCode, access_refused, no_such, precondition
from .exchanges import KINDS, PREDECLARED, Destination, Exchange
from .messages import Message
from .queue_options import QueueOptions, refuse_difference
from .queues import Death, Queue

log = logging.getLogger(__name__)
DEAD_LETTER_RETRY_SECONDS = 0.2


class Outcome(NamedTuple):
    routed: bool
    accepted: bool
    """False when at least one queue was full and refused."""


class VirtualHost:
    def __init__(self, name: str) -> None:
        self.name = name
        self.queues: dict[str, Queue] = {}
        self.exchanges: dict[str, Exchange] = {}
        self._bound_to: dict[Destination, set[Exchange]] = {}
        self._kept: deque[tuple[Queue, Message]] = deque()
        for kind in PREDECLARED.values():
            predeclared = f"amq.{kind.kind}"
            self.exchanges[predeclared] = kind(
                predeclared, durable=True, auto_delete=False, internal=False, arguments={}
            )

    # Names

    def queue(self, name: str, *, owner: object) -> Queue:
        """The queue, unless it is missing or another connection's own."""
        queue = self.queues.get(name)
        if queue is None:
            no_such("queue", name, self.name)
        if queue.owner is not None and queue.owner is not owner:
            self._refuse_locked(name)
        return queue

    def exchange(self, name: str) -> Exchange:
        exchange = self.exchanges.get(name)
        if exchange is None:
            no_such("exchange", name, self.name)
        return exchange

    def place(self, kind: str, name: str) -> str:
        """How error texts name a thing."""
        return f"{kind} '{name}' in vhost '{self.name}'"

    # Declarations

    def declare_queue(self, name: str, options: QueueOptions, *, owner: object) -> Queue:
        """Make the queue, or check that it is the same; an empty name gets one of ours."""
        if name in self.queues:
            queue = self.queue(name, owner=owner)
            if options.exclusive != (queue.owner is not None):
                self._refuse_locked(name)
            refuse_difference(self.place("queue", name), queue.options, options)
            return queue
        if name.startswith("amq."):
            access_refused(f"queue name '{name}' contains reserved prefix 'amq.*'")
        name = name or f"amq.gen-{secrets.token_urlsafe(16)}"
        queue = Queue(
            name,
            options,
            owner=owner if options.exclusive else None,
            on_dead=self._republish,
            on_unused=self._drop_unused,
        )
        self.queues[name] = queue
        return queue

    def delete_queue(self, queue: Queue) -> int:
        """Cancel its consumers, forget its bindings; the number of messages that go with it."""
        if self.queues.pop(queue.name, None) is None:
            return 0
        self._forget_bindings(queue)
        queue.delete()
        return queue.purge()

    def delete_queues_of(self, owner: object) -> None:
        """A connection ended: its exclusive queues end with it."""
        for queue in [queue for queue in self.queues.values() if queue.owner is owner]:
            self.delete_queue(queue)

    def declare_exchange(
        self, name: str, kind: str, *, durable: bool, auto_delete: bool, internal: bool, arguments: Mapping[str, object]
    ) -> None:
        if kind not in KINDS:
            raise ConnectionFault(ReplyCode.COMMAND_INVALID, f"unknown exchange type '{kind}'")
        made = KINDS[kind](name, durable=durable, auto_delete=auto_delete, internal=internal, arguments=arguments)
        if name in self.exchanges:
            self._refuse_other_exchange(self.exchanges[name], made)
        elif not name:
            access_refused("operation not permitted on the default exchange")
        elif name.startswith("amq."):
            access_refused(f"exchange name '{name}' contains reserved prefix 'amq.*'")
        else:
            self.exchanges[name] = made

    def delete_exchange(self, name: str, *, if_unused: bool) -> None:
        """A missing one counts as deleted."""
        if not name:
            access_refused("operation not permitted on the default exchange")
        if name.startswith("amq."):
            access_refused(f"deletion of system {self.place('exchange', name)} not allowed")
        exchange = self.exchanges.get(name)
        if exchange is None:
            return
        if if_unused and exchange.bindings:
            precondition(f"{self.place('exchange', name)} in use")
        self._remove_exchange(exchange)

    # Bindings

    def bind(self, source: str, destination: Destination, key: str) -> None:
        exchange = self._bindable(source)
        exchange.bind(destination, key)
        self._bound_to.setdefault(destination, set()).add(exchange)

    def unbind(self, source: str, destination: Destination, key: str) -> None:
        """A missing binding counts as removed."""
        if not source:
            access_refused("operation not permitted on the default exchange")
        exchange = self.exchanges.get(source)
        if exchange is not None and exchange.unbind(destination, key):
            self._remove_if_done(exchange)

    # Messages

    def publish(self, exchange: Exchange | None, message: Message) -> Outcome:
        """Into every queue it is routed to, once; `None` is the default exchange."""
        if exchange is None:
            queue = self.queues.get(message.routing_key)
            return Outcome(False, True) if queue is None else Outcome(True, queue.publish(message))
        queues = self.route(exchange, message)
        accepted = True
        for queue in queues:
            accepted = queue.publish(message) and accepted
        return Outcome(bool(queues), accepted)

    def route(self, exchange: Exchange, message: Message) -> dict[Queue, None]:
        """Through bound exchanges as well; an exchange that finds nothing asks its alternate one."""
        queues: dict[Queue, None] = {}
        seen, ahead = {exchange}, [exchange]
        while ahead:
            here = ahead.pop()
            found = here.select(message)
            onward = [each for each in found if isinstance(each, Exchange)]
            queues.update((each, None) for each in found if isinstance(each, Queue))
            if not found and isinstance(here.alternate, str) and here.alternate in self.exchanges:
                onward.append(self.exchanges[here.alternate])
            ahead += [each for each in onward if each not in seen]
            seen.update(onward)
        return queues

    def _republish(self, queue: Queue, message: Message, reason: Death) -> None:
        """A queue gave the message up: on to its dead-letter exchange, if it has one that exists."""
        if queue.options.dead_letter_exchange is None:
            return
        dead = dead_letter(queue, message, reason, now=time.time())
        if not self._deliver_dead(dead, reason) and queue.options.keeps_dead_letters:
            log.warning("a dead letter of queue %r reaches no queue; it is kept and tried again", queue.name)
            if not self._kept:
                asyncio.get_running_loop().call_later(DEAD_LETTER_RETRY_SECONDS, self._retry_kept)
            self._kept.append((queue, dead))

    def _deliver_dead(self, dead: Message, reason: Death | None) -> bool:
        """False when no queue took it; one that would come round again for ever is dropped."""
        exchange = self.exchanges.get(dead.exchange)
        if dead.exchange and exchange is None:
            return False
        if exchange is None:
            by_name = self.queues.get(dead.routing_key)
            queues = {} if by_name is None else {by_name: None}
        else:
            queues = self.route(exchange, dead)
        deaths = [] if reason == "rejected" else deaths_of(dead)
        taken = [is_cycle(queue, deaths) or queue.publish(dead) for queue in queues]
        return bool(taken) and all(taken)

    def _retry_kept(self) -> None:
        kept, self._kept = self._kept, deque()
        for queue, dead in kept:
            if not queue.deleted and not self._deliver_dead(dead, None):
                self._kept.append((queue, dead))
        if self._kept:
            asyncio.get_running_loop().call_later(DEAD_LETTER_RETRY_SECONDS, self._retry_kept)

    def _drop_unused(self, queue: Queue) -> None:
        self.delete_queue(queue)

    def _bindable(self, name: str) -> Exchange:
        if not name:
            access_refused("operation not permitted on the default exchange")
        return self.exchange(name)

    def _forget_bindings(self, destination: Destination) -> None:
        for exchange in self._bound_to.pop(destination, set()):
            for key in [key for key, bound in exchange.bindings.items() if destination in bound]:
                exchange.unbind(destination, key)
            self._remove_if_done(exchange)

    def _remove_if_done(self, exchange: Exchange) -> None:
        if exchange.auto_delete and not exchange.bindings:
            self._remove_exchange(exchange)

    def _remove_exchange(self, exchange: Exchange) -> None:
        if self.exchanges.pop(exchange.name, None) is not None:
            self._forget_bindings(exchange)

    def _refuse_other_exchange(self, current: Exchange, received: Exchange) -> None:
        for shown, name in (("type", "kind"), ("durable", "durable"), ("auto_delete", "auto_delete")):
            now, then = getattr(received, name), getattr(current, name)
            if now != then:
                text = f"received '{str(now).lower()}' but current is '{str(then).lower()}'"
                precondition(f"inequivalent arg '{shown}' for {self.place('exchange', current.name)}: {text}")

    def _refuse_locked(self, name: str) -> None:
        text = (
            f"cannot obtain exclusive access to locked {self.place('queue', name)}. It could be originally declared on "
            "another connection or the exclusive property value does not match that of the original declaration."
        )
        raise ChannelFault(ReplyCode.RESOURCE_LOCKED, text)
