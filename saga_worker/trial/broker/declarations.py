"""The methods that make, bind and remove exchanges and queues.

Takes one decoded frame, changes the virtual host, returns the reply frame, or None when the client asked for no
reply. Called by `channel.py`.
"""

from typing import TypeAlias

from pamqp import base, commands

from .errors import ConnectionFault, ReplyCode, no_such, precondition
from .queue_options import read_options
from .queues import Queue
from .vhost import VirtualHost

ExchangeMethod: TypeAlias = (
    commands.Exchange.Declare | commands.Exchange.Delete | commands.Exchange.Bind | commands.Exchange.Unbind
)
QueueMethod: TypeAlias = (
    commands.Queue.Declare | commands.Queue.Delete | commands.Queue.Bind | commands.Queue.Unbind | commands.Queue.Purge
)


class Declarations:
    """What one channel declares; `owner` is its connection, which exclusive queues belong to."""

    def __init__(self, vhost: VirtualHost, owner: object, *, strict: bool) -> None:
        self._vhost = vhost
        self._owner = owner
        self._strict = strict
        self._latest = ""

    def queue(self, name: str) -> Queue:
        """An empty name means the queue that this channel declared last."""
        return self._vhost.queue(name or self._latest, owner=self._owner)

    def on_exchange(self, frame: ExchangeMethod) -> base.Frame | None:
        vhost = self._vhost
        match frame:
            case commands.Exchange.Declare():
                self._declare_exchange(frame)
                return None if frame.nowait else commands.Exchange.DeclareOk()
            case commands.Exchange.Delete():
                vhost.delete_exchange(frame.exchange, if_unused=frame.if_unused)
                return None if frame.nowait else commands.Exchange.DeleteOk()
            case commands.Exchange.Bind():
                vhost.bind(frame.source, vhost.exchange(frame.destination), frame.routing_key)
                return None if frame.nowait else commands.Exchange.BindOk()
            case commands.Exchange.Unbind():
                if frame.destination in vhost.exchanges:
                    vhost.unbind(frame.source, vhost.exchanges[frame.destination], frame.routing_key)
                return None if frame.nowait else commands.Exchange.UnbindOk()

    def on_queue(self, frame: QueueMethod) -> base.Frame | None:
        vhost = self._vhost
        match frame:
            case commands.Queue.Declare():
                queue = self._declare_queue(frame)
                counts = {"message_count": len(queue), "consumer_count": len(queue.consumers)}
                return None if frame.nowait else commands.Queue.DeclareOk(queue=queue.name, **counts)
            case commands.Queue.Delete():
                count = self._delete_queue(frame)
                return None if frame.nowait else commands.Queue.DeleteOk(message_count=count)
            case commands.Queue.Bind():
                vhost.bind(frame.exchange, self.queue(frame.queue), frame.routing_key)
                return None if frame.nowait else commands.Queue.BindOk()
            case commands.Queue.Unbind():
                if (frame.queue or self._latest) in vhost.queues:
                    vhost.unbind(frame.exchange, self.queue(frame.queue), frame.routing_key)
                return commands.Queue.UnbindOk()
            case commands.Queue.Purge():
                count = self.queue(frame.queue).purge()
                return None if frame.nowait else commands.Queue.PurgeOk(message_count=count)

    def _declare_exchange(self, frame: commands.Exchange.Declare) -> None:
        if frame.passive:
            if frame.exchange:
                self._vhost.exchange(frame.exchange)
            return
        self._vhost.declare_exchange(
            frame.exchange,
            frame.exchange_type,
            durable=frame.durable,
            auto_delete=frame.auto_delete,
            internal=frame.internal,
            arguments=frame.arguments,
        )

    def _declare_queue(self, frame: commands.Queue.Declare) -> Queue:
        if frame.passive:
            if frame.queue not in self._vhost.queues:
                no_such("queue", frame.queue, self._vhost.name)
            queue = self.queue(frame.queue)
        else:
            options = read_options(
                self._vhost.place("queue", frame.queue),
                frame.arguments,
                durable=frame.durable,
                exclusive=frame.exclusive,
                auto_delete=frame.auto_delete,
                strict=self._strict,
            )
            queue = self._vhost.declare_queue(frame.queue, options, owner=self._owner)
        queue.touch()
        self._latest = queue.name
        return queue

    def _delete_queue(self, frame: commands.Queue.Delete) -> int:
        """A missing one counts as deleted."""
        if (frame.queue or self._latest) not in self._vhost.queues:
            return 0
        queue = self.queue(frame.queue)
        place = self._vhost.place("queue", queue.name)
        if queue.options.is_quorum and (frame.if_unused or frame.if_empty):
            text = f"cannot delete {place}. queue.delete with if-unused or if-empty is not supported by quorum queues"
            raise ConnectionFault(ReplyCode.NOT_IMPLEMENTED, text)
        if frame.if_unused and queue.consumers:
            precondition(f"{place} in use")
        if frame.if_empty and len(queue):
            precondition(f"{place} not empty")
        return self._vhost.delete_queue(queue)
