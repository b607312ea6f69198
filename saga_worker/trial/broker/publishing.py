"""One channel's publishing side: method, header and body frames into messages, messages into queues, confirms back.

Confirms are gathered while a batch of frames is read and leave as one `multiple` acknowledgement: everything here
is synchronous, so when a batch is through, every message of it is in its queues or refused. Driven by `channel.py`.
"""

from collections.abc import Callable
from struct import Struct

from . import properties, wire
from .errors import ConnectionFault, ReplyCode, access_refused, precondition
from .exchanges import Exchange
from .messages import Message, compose
from .vhost import VirtualHost

MAX_BODY_BYTES = 128 * 1024 * 1024
_head = Struct(">HHQ")


class Publishing:
    def __init__(
        self,
        channel: int,
        vhost: VirtualHost,
        *,
        user: str,
        frame_max: int,
        send: Callable[[bytes], None],
    ) -> None:
        self.confirms = False
        self._channel = channel
        self._vhost = vhost
        self._user = user
        self._frame_max = frame_max
        self._send = send
        self._exchange: Exchange | None = None
        self._names: tuple[str, str, bool] | None = None
        self._properties: bytes | None = None
        self._parts: list[bytes] = []
        self._missing = 0
        self._published = 0
        self._confirmed = 0

    @property
    def expects_content(self) -> bool:
        return self._names is not None

    def on_publish(self, payload: bytes) -> None:
        exchange, routing_key, mandatory, immediate = wire.read_publish(payload)
        if immediate:
            raise ConnectionFault(ReplyCode.NOT_IMPLEMENTED, "immediate=true")
        self._exchange = self._vhost.exchange(exchange) if exchange else None
        if self._exchange is not None and self._exchange.internal:
            access_refused(f"cannot publish to internal {self._vhost.place('exchange', exchange)}")
        self._names = exchange, routing_key, mandatory

    def on_header(self, payload: bytes) -> None:
        if self._names is None or self._properties is not None:
            raise ConnectionFault(ReplyCode.UNEXPECTED_FRAME, "a content header without a publish before it")
        if len(payload) < _head.size + 2:
            raise ConnectionFault(ReplyCode.SYNTAX_ERROR, "a content header is cut short")
        class_id, _, size = _head.unpack_from(payload)
        if class_id != wire.BASIC:
            raise ConnectionFault(ReplyCode.UNEXPECTED_FRAME, f"a content header of class {class_id}")
        if size > MAX_BODY_BYTES:
            precondition(f"message size {size} is larger than configured max size {MAX_BODY_BYTES}")
        self._properties = payload[_head.size :]
        self._missing = size
        if not size:
            self._publish()

    def on_body(self, payload: bytes) -> None:
        if self._properties is None or len(payload) > self._missing:
            raise ConnectionFault(ReplyCode.UNEXPECTED_FRAME, "a content body that no header announced")
        self._parts.append(payload)
        self._missing -= len(payload)
        if not self._missing:
            self._publish()

    def flush_confirms(self) -> None:
        """Confirm all that was published since the last time."""
        if self._published > self._confirmed:
            multiple = self._published - self._confirmed > 1
            self._confirmed = self._published
            self._send(wire.confirm(self._channel, self._published, multiple))

    def _publish(self) -> None:
        message, mandatory = self._message()
        outcome = self._vhost.publish(self._exchange, message)
        if mandatory and not outcome.routed:
            content = wire.content(self._channel, message.properties, message.body, self._frame_max)
            self._send(wire.returned(self._channel, message) + content)
        if not self.confirms:
            return
        if not outcome.accepted:
            self.flush_confirms()
            self._confirmed += 1
            self._send(wire.refuse(self._channel, self._confirmed))
        self._published += 1

    def _message(self) -> tuple[Message, bool]:
        assert self._names is not None and self._properties is not None  # on_header and on_body checked
        exchange, routing_key, mandatory = self._names
        raw, body = self._properties, self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._names = self._properties = None
        self._parts = []
        fields = properties.split(raw)
        properties.refuse_unrepresentable(fields)
        if properties.USER_ID in fields:
            claimed = properties.shortstr(fields, properties.USER_ID)
            if claimed != self._user:
                precondition(f"user_id property set to '{claimed}' but authenticated user was '{self._user}'")
        return compose(exchange, routing_key, fields, raw, body), mandatory
