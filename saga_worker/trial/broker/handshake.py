"""The opening of a connection: who are you, what do we agree on, which virtual host.

Takes the client's frames one by one, answers each, and returns the `Terms` of the connection after the last.
Refuses a wrong login as RabbitMQ does. Driven by `connection.py`.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from pamqp import base, commands, constants

from . import wire
from .errors import ConnectionFault, ReplyCode

log = logging.getLogger(__name__)
CHANNEL_MAX = 2047
FRAME_MAX = constants.FRAME_MAX_SIZE
HEARTBEAT_SECONDS = 60
USER, PASSWORD = "guest", "guest"
_CAPABILITIES = (
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "authentication_failure_close",
    "per_consumer_qos",
)


@dataclass(frozen=True, slots=True)
class Terms:
    vhost: str
    user: str
    channel_max: int
    frame_max: int
    heartbeat_seconds: int
    wants_cancel_notices: bool


def start_frame() -> base.Frame:
    return commands.Connection.Start(
        server_properties={
            "product": "saga-worker trial broker",
            "information": "for trials and tests: in memory, nothing is kept",
            "capabilities": dict.fromkeys(_CAPABILITIES, True),
        },
        mechanisms="PLAIN",
    )


class Handshake:
    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._login: commands.Connection.StartOk | None = None
        self._tuned: commands.Connection.TuneOk | None = None

    def on_frame(self, frame: base.Frame) -> Terms | None:
        """The terms, once all is agreed."""
        match frame:
            case commands.Connection.StartOk() if self._login is None:
                _check_login(frame)
                self._login = frame
                self._reply(commands.Connection.Tune(CHANNEL_MAX, FRAME_MAX, HEARTBEAT_SECONDS))
                return None
            case commands.Connection.TuneOk() if self._login is not None and self._tuned is None:
                self._tuned = frame
                return None
            case commands.Connection.Open() if self._login is not None and self._tuned is not None:
                self._reply(commands.Connection.OpenOk())
                return _terms(self._login, self._tuned, frame)
            case _:
                raise ConnectionFault(ReplyCode.COMMAND_INVALID, f"{frame.name} out of turn while opening")

    def _reply(self, frame: base.Frame) -> None:
        self._send(wire.method(0, frame))


def _check_login(frame: commands.Connection.StartOk) -> None:
    if (frame.mechanism, frame.response) != ("PLAIN", f"\0{USER}\0{PASSWORD}"):
        log.warning("a client was refused: this broker knows only the login %s/%s by PLAIN", USER, PASSWORD)
        text = (
            f"Login was refused using authentication mechanism {frame.mechanism}. For details see the broker logfile."
        )
        raise ConnectionFault(ReplyCode.ACCESS_REFUSED, text)


def _terms(
    login: commands.Connection.StartOk, tuned: commands.Connection.TuneOk, opened: commands.Connection.Open
) -> Terms:
    if tuned.frame_max and tuned.frame_max < constants.FRAME_MIN_SIZE:
        text = f"frame_max={tuned.frame_max} < {constants.FRAME_MIN_SIZE} min size"
        raise ConnectionFault(ReplyCode.NOT_ALLOWED, text)
    capabilities = login.client_properties.get("capabilities")
    return Terms(
        vhost=opened.virtual_host,
        user=USER,
        channel_max=min(tuned.channel_max or CHANNEL_MAX, CHANNEL_MAX),
        frame_max=min(tuned.frame_max or FRAME_MAX, FRAME_MAX),
        heartbeat_seconds=tuned.heartbeat,
        wants_cancel_notices=isinstance(capabilities, dict) and capabilities.get("consumer_cancel_notify") is True,
    )
