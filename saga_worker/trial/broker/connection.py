"""One client: bytes in, frames to channels, faults answered, an orderly end.

Takes what the socket brings, opens the connection by `handshake.py`, hands frames to their channels and closes a
channel or the connection when one of them raises a fault. Whatever way it ends, `connection_lost` puts unsettled
deliveries back.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from pamqp import base, commands

from . import wire
from .channel import Channel, release_together
from .errors import ChannelFault, ConnectionFault, Fault, ReplyCode
from .handshake import FRAME_MAX, Handshake, Terms, start_frame
from .heartbeat import Heartbeat
from .outgoing import Outgoing
from .vhost import VirtualHost

log = logging.getLogger(__name__)
OPENING_SECONDS = 10.0
"""Who has not said who he is by then is not a client."""
CLOSE_OK_SECONDS = 3.0
"""How long a client that was told to go may take to answer."""


class Connection(asyncio.Protocol):
    """Also the `Peer` of its channels and the owner of its exclusive queues."""

    def __init__(
        self,
        *,
        strict: bool,
        find_vhost: Callable[[str], VirtualHost],
        on_end: "Callable[[Connection], None]",
    ) -> None:
        self.strict = strict
        self.frame_max = FRAME_MAX
        self.user = ""
        self.wants_cancel_notices = False
        self._find_vhost = find_vhost
        self._on_end = on_end
        self._unread = b""
        self._greeted = False
        self._terms: Terms | None = None
        self._channels: dict[int, Channel] = {}
        self._is_closing = False
        self._heartbeat: Heartbeat | None = None
        self._close_timer: asyncio.TimerHandle | None = None

    # What channels see of it

    def send(self, data: bytes) -> None:
        self._outgoing.send(data)

    def is_writable(self) -> bool:
        return self._outgoing.is_writable()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._outgoing = Outgoing(self._transport, on_writable=self._wake_consumers)
        self._handshake = Handshake(self.send)
        self._close_timer = asyncio.get_running_loop().call_later(OPENING_SECONDS, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._heartbeat is not None:
            self._heartbeat.heard = True
        self._unread += data
        try:
            if self._greeted or self._greet():
                self._read_frames()
        except ConnectionFault as fault:
            self._refuse(fault)
        except Exception:
            log.exception(
                "the trial broker failed on a frame and closes the connection; this is a defect of the broker"
            )
            self._refuse(ConnectionFault(ReplyCode.INTERNAL_ERROR, "the trial broker failed, see its log"))

    def pause_writing(self) -> None:
        self._outgoing.pause()

    def resume_writing(self) -> None:
        self._outgoing.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()
        self._stop_close_timer()
        self._release()
        self._on_end(self)

    def close(self, explanation: str) -> None:
        """Tell the client to go, because the broker stops."""
        if self._terms is None:
            self._transport.abort()
        else:
            self._refuse(ConnectionFault(ReplyCode.CONNECTION_FORCED, explanation))

    def abort(self) -> None:
        self._transport.abort()

    # Reading

    def _greet(self) -> bool:
        """False until the protocol header is there; a client that speaks something else is told what we speak."""
        if len(self._unread) < len(wire.PROTOCOL_HEADER):
            return False
        header, self._unread = self._unread[:8], self._unread[8:]
        if header != wire.PROTOCOL_HEADER:
            self._transport.write(wire.PROTOCOL_HEADER)
            self._transport.close()
            return False
        self._greeted = True
        self.send(wire.method(0, start_frame()))
        return True

    def _read_frames(self) -> None:
        data, end = self._unread, 0
        touched: set[Channel] = set()
        try:
            for kind, number, payload, following in wire.split_frames(data, self.frame_max):
                end = following
                channel = self._channels.get(number)
                if channel is not None and not channel.is_closing and not self._is_closing:
                    touched.add(channel)
                    self._on_channel_frame(channel, kind, payload)
                elif kind != wire.HEARTBEAT:
                    self._on_other_frame(kind, number, payload)
        finally:
            self._unread = data[end:]
            for channel in touched:
                channel.publishing.flush_confirms()

    def _on_channel_frame(self, channel: Channel, kind: int, payload: bytes) -> None:
        try:
            if kind == wire.METHOD and wire.is_channel_method(payload):
                self._on_channel_end(channel.number, wire.read_method(payload))
            else:
                channel.on_frame(kind, payload)
        except ChannelFault as fault:
            self._close_channel(channel, fault, payload)

    def _on_other_frame(self, kind: int, number: int, payload: bytes) -> None:
        """Frames of the connection itself, of channels that are not open, and of what is being closed."""
        if self._is_closing:
            if number == 0 and kind == wire.METHOD and wire.is_close_ok(payload):
                self._transport.close()
            return
        if number in self._channels:
            if kind == wire.METHOD and wire.is_channel_method(payload):
                self._on_channel_end(number, wire.read_method(payload))
            return
        if kind != wire.METHOD:
            raise ConnectionFault(ReplyCode.UNEXPECTED_FRAME, f"a frame of type {kind} on channel {number}")
        frame = wire.read_method(payload)
        if number == 0:
            self._on_connection_frame(frame)
        elif isinstance(frame, commands.Channel.Open):
            self._open_channel(number)
        elif not isinstance(frame, commands.Channel.CloseOk):
            raise ConnectionFault(ReplyCode.CHANNEL_ERROR, f"expected 'channel.open' on channel {number}")

    def _on_connection_frame(self, frame: base.Frame) -> None:
        if isinstance(frame, commands.Connection.Close):
            self._is_closing = True
            self._release()
            self.send(wire.method(0, commands.Connection.CloseOk()))
            self._outgoing.flush()
            self._transport.close()
        elif self._terms is None:
            self._terms = self._handshake.on_frame(frame)
            if self._terms is not None:
                self._begin(self._terms)
        else:
            raise ConnectionFault(ReplyCode.COMMAND_INVALID, f"{frame.name} on an open connection")

    def _begin(self, terms: Terms) -> None:
        self._stop_close_timer()
        self.vhost = self._find_vhost(terms.vhost)
        self.user = terms.user
        self.frame_max = terms.frame_max
        self.wants_cancel_notices = terms.wants_cancel_notices
        if terms.heartbeat_seconds:
            self._heartbeat = Heartbeat(terms.heartbeat_seconds, self._outgoing, on_dead=self._on_silence)

    # Channels

    def _open_channel(self, number: int) -> None:
        if self._terms is None:
            raise ConnectionFault(ReplyCode.COMMAND_INVALID, "a channel before the connection is open")
        limit = self._terms.channel_max
        if number > limit or len(self._channels) >= limit:
            text = f"number of channels opened ({len(self._channels)}) has reached the negotiated channel_max ({limit})"
            raise ConnectionFault(ReplyCode.NOT_ALLOWED, text)
        self._channels[number] = Channel(number, self)
        self.send(wire.method(number, commands.Channel.OpenOk()))

    def _on_channel_end(self, number: int, frame: base.Frame) -> None:
        """The client closes a channel, or has taken note that we did."""
        match frame:
            case commands.Channel.Close():
                self._channels.pop(number).release()
                self.send(wire.method(number, commands.Channel.CloseOk()))
            case commands.Channel.CloseOk() if self._channels[number].is_closing:
                del self._channels[number]
            case _:
                raise ConnectionFault(ReplyCode.CHANNEL_ERROR, f"{frame.name} on the open channel {number}")

    def _close_channel(self, channel: Channel, fault: ChannelFault, payload: bytes) -> None:
        log.info("channel %d is closed: %s", channel.number, fault)
        channel.publishing.flush_confirms()
        self.send(wire.method(channel.number, commands.Channel.Close(fault.code, fault.text, *wire.method_id(payload))))
        channel.release()

    # The end

    def _refuse(self, fault: Fault) -> None:
        """Close with the reason and wait a little for the client to take note."""
        if self._is_closing or self._transport.is_closing():
            return
        log.info("a connection is closed: %s", fault)
        self._is_closing = True
        self._release()
        self.send(wire.method(0, commands.Connection.Close(fault.code, fault.text, 0, 0)))
        self._outgoing.flush()
        self._stop_close_timer()
        self._close_timer = asyncio.get_running_loop().call_later(CLOSE_OK_SECONDS, self._transport.abort)

    def _release(self) -> None:
        channels, self._channels = self._channels, {}
        release_together(channels.values())
        if self._terms is not None:
            self.vhost.delete_queues_of(self)

    def _stop_close_timer(self) -> None:
        if self._close_timer is not None:
            self._close_timer.cancel()

    def _on_silence(self) -> None:
        log.warning("a client sent nothing for two heartbeat intervals; its connection is closed")
        self._transport.abort()

    def _wake_consumers(self) -> None:
        for channel in self._channels.values():
            channel.on_writable()
