"""What a client did wrong, as AMQP says it.

A `ChannelFault` closes the channel, a `ConnectionFault` the connection; the texts follow RabbitMQ's, because
clients parse them. Raised anywhere below, caught in one place: `connection.py`.
"""

from enum import IntEnum
from typing import Literal, NoReturn


class ReplyCode(IntEnum):
    NO_ROUTE = 312
    CONNECTION_FORCED = 320
    ACCESS_REFUSED = 403
    NOT_FOUND = 404
    RESOURCE_LOCKED = 405
    PRECONDITION_FAILED = 406
    FRAME_ERROR = 501
    SYNTAX_ERROR = 502
    COMMAND_INVALID = 503
    CHANNEL_ERROR = 504
    UNEXPECTED_FRAME = 505
    NOT_ALLOWED = 530
    NOT_IMPLEMENTED = 540
    INTERNAL_ERROR = 541


class Fault(Exception):
    """The client's request is refused; `text` is sent to it."""

    def __init__(self, code: ReplyCode, explanation: str) -> None:
        self.code = code
        self.text = _within_shortstr(f"{code.name} - {explanation}")
        super().__init__(self.text)


class ChannelFault(Fault):
    """Closes the channel; its unacknowledged deliveries go back to their queues."""


class ConnectionFault(Fault):
    """Closes the connection and every channel on it."""


def no_such(kind: Literal["queue", "exchange"], name: str, vhost: str) -> NoReturn:
    raise ChannelFault(ReplyCode.NOT_FOUND, f"no {kind} '{name}' in vhost '{vhost}'")


def precondition(explanation: str) -> NoReturn:
    raise ChannelFault(ReplyCode.PRECONDITION_FAILED, explanation)


def access_refused(explanation: str) -> NoReturn:
    raise ChannelFault(ReplyCode.ACCESS_REFUSED, explanation)


def _within_shortstr(text: str) -> str:
    return text.encode(errors="replace")[:255].decode(errors="ignore")
