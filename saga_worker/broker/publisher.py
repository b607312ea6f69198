"""Publishing with confirms, many at once.

Takes messages and a callback; guarantees one outcome for each within the time limit, that no two messages with one
id are on the wire together (the broker names a returned message by its id only), and that a message which makes
the broker close a channel or the connection is found out without costing its neighbours theirs. Used by
`outbox_relay` and by the command line.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from saga_worker.broker.confirms import ConfirmingChannel, Entry
from saga_worker.broker.connection import BrokerConnection
from saga_worker.broker.fields import Unsendable, encode_properties
from saga_worker.broker.outgoing import Invalid, OnOutcome, Outcome, Outgoing, Unknown
from saga_worker.broker.session import Closure, Session
from saga_worker.broker.topology import Topology
from saga_worker.broker.wire import publish_method
from saga_worker.telemetry import Event, Field, stage_failed

log = logging.getLogger(__name__)

WINDOW: Final = 1000
CONFIRM_SECONDS: Final = 10.0
MAX_KILLS: Final = 3
_SWEEP_SECONDS: Final = 0.25


class Publisher:
    """The publishing side of one process."""

    def __init__(
        self,
        connection: BrokerConnection,
        topology: Topology,
        *,
        window: int = WINDOW,
        confirm_seconds: float = CONFIRM_SECONDS,
    ) -> None:
        self._connection = connection
        self._topology = topology
        self._window = window
        self._confirm_seconds = confirm_seconds
        self._loop = asyncio.get_running_loop()
        self._session: Session | None = None
        self._main: ConfirmingChannel | None = None
        self._quarantine: ConfirmingChannel | None = None
        self._queue: deque[Entry] = deque()  # not yet on the wire
        self._suspects: deque[Entry] = deque()  # were on the wire when the broker closed something
        self._ids: set[str] = set()  # on the wire
        self._behind: dict[str, deque[Entry]] = {}  # behind a message with the same id that is on the wire
        self._is_held = False  # the connection itself died of a suspect: test those before going on
        self._down_since = self._loop.time()
        self._sweeper: asyncio.Task[None] | None = None
        self._reopening: set[asyncio.Task[None]] = set()

    @property
    def is_up(self) -> bool:
        """Whether messages would go out now."""
        return self._main is not None and not self._main.session.tap.is_blocked

    @property
    def pending(self) -> int:
        """Messages without an outcome yet."""
        on_wire = sum(len(channel.in_flight) for channel in self._channels())
        return on_wire + len(self._queue) + len(self._suspects) + sum(map(len, self._behind.values()))

    async def start(self) -> None:
        """Connect; returns after the first attempt. Raises `ConfigurationError`."""
        await self._connection.start(self._open, self._lost)
        self._sweeper = asyncio.create_task(self._sweep(), name="publish time-outs")

    async def ready(self, timeout_seconds: float) -> None:
        """Wait for the connection; raises `BrokerUnavailable`."""
        await self._connection.ready(timeout_seconds)

    async def close(self) -> None:
        """Stop; what has no outcome yet is unknown. Let `pending` fall to 0 first for a clean end."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
        for task in self._reopening:
            task.cancel()
        await self._connection.close()
        rest = [*self._queue, *self._suspects, *(entry for group in self._behind.values() for entry in group)]
        self._queue.clear()
        self._suspects.clear()
        self._behind.clear()
        for entry in rest:
            self._settle(entry, Unknown("the publisher was closed"))

    def submit(self, messages: Sequence[Outgoing], on_outcome: OnOutcome) -> None:
        """Send in this order; `on_outcome` is called once for each, later, from the event loop, and must not raise."""
        for message in messages:
            self._enqueue(message, on_outcome)
        self._pump()

    async def publish(self, messages: Sequence[Outgoing]) -> list[Outcome]:
        """Send all, wait for all, and say what became of each, in the order given."""
        outcomes: dict[int, Outcome] = {}
        done = asyncio.Event()

        def note(index: int) -> OnOutcome:
            def noted(_: Outgoing, outcome: Outcome) -> None:
                outcomes[index] = outcome
                if len(outcomes) == len(messages):
                    done.set()

            return noted

        for index, message in enumerate(messages):
            self._enqueue(message, note(index))
        self._pump()
        if messages:
            await done.wait()
        return [outcomes[index] for index in range(len(messages))]

    def _enqueue(self, message: Outgoing, on_outcome: OnOutcome) -> None:
        try:
            message_id = message.properties.message_id
            if not message_id:
                raise Unsendable("message_id is missing")
            publish_method(0, message.exchange, message.routing_key, mandatory=message.mandatory)
            properties = encode_properties(message.properties)
        except Unsendable as error:
            self._loop.call_soon(on_outcome, message, Invalid(str(error)))
            return
        deadline = self._loop.time() + self._confirm_seconds
        self._queue.append(Entry(message, message_id, on_outcome, properties, deadline))

    def _pump(self) -> None:
        """Put on the wire what the windows allow."""
        if self.is_up and not self._is_held:
            assert self._main is not None
            self._send(self._main, self._queue, self._window)
        if self._quarantine is not None and self.is_up:
            self._send(self._quarantine, self._suspects, 1)

    def _send(self, channel: ConfirmingChannel, waiting: deque[Entry], window: int) -> None:
        room = window - len(channel.in_flight)
        deadline = self._loop.time() + self._confirm_seconds
        entries: list[Entry] = []
        while waiting and len(entries) < room and channel.has_room(window):
            entry = waiting.popleft()
            if entry.message_id in self._ids:
                self._behind.setdefault(entry.message_id, deque()).append(entry)
                continue
            self._ids.add(entry.message_id)
            entry.deadline = deadline
            entries.append(entry)
        if entries:
            channel.send(entries)

    def settled(self, entry: Entry, outcome: Outcome) -> None:
        """The broker has answered for one message."""
        self._settle(entry, outcome)

    def answered(self) -> None:
        """All messages of one frame are settled."""
        if self._is_held and not self._suspects and not (self._quarantine and self._quarantine.in_flight):
            self._is_held = False
        self._pump()

    def _settle(self, entry: Entry, outcome: Outcome) -> None:
        self._free(entry)
        try:
            entry.on_outcome(entry.message, outcome)
        except Exception as error:
            stage_failed(log, "publisher", type(error).__name__, level=logging.ERROR, trace=True)

    def _free(self, entry: Entry) -> None:
        self._ids.discard(entry.message_id)
        behind = self._behind.pop(entry.message_id, None) if self._behind else None
        if behind:
            self._queue.extendleft(reversed(behind))

    async def _open(self, session: Session) -> None:
        await self._topology.declare_exchanges(session)
        self._quarantine = await ConfirmingChannel.open(self, session, is_quarantine=True)
        self._main = await ConfirmingChannel.open(self, session, is_quarantine=False)
        self._session = session
        session.tap.on_unblocked = self._pump
        self._pump()

    def _lost(self, closure: Closure) -> None:
        channels = self._channels()
        self._session = self._main = self._quarantine = None
        self._down_since = self._loop.time()
        for channel in channels:
            self._take_back(channel, closure)
        self._is_held = bool(self._suspects) and (self._is_held or closure.is_accusation)

    def channel_closed(self, channel: ConfirmingChannel, closure: Closure) -> None:
        """The broker closed one channel because of something on it: suspect all of it, open another."""
        if channel is self._main:
            self._main = None
            self._down_since = self._loop.time()
        elif channel is self._quarantine:
            self._quarantine = None
        self._take_back(channel, closure)
        task = asyncio.ensure_future(self._reopen(channel.session, is_quarantine=channel.is_quarantine))
        self._reopening.add(task)
        task.add_done_callback(self._reopening.discard)

    async def _reopen(self, session: Session, *, is_quarantine: bool) -> None:
        try:
            await self._topology.declare_exchanges(session)
            channel = await ConfirmingChannel.open(self, session, is_quarantine=is_quarantine)
        except Exception as error:
            session.fail(Closure(f"a channel could not be opened again: {error}"))
            return
        if session is self._session:
            if is_quarantine:
                self._quarantine = channel
            else:
                self._main = channel
            self.answered()

    def _take_back(self, channel: ConfirmingChannel, closure: Closure) -> None:
        """What was on the wire: suspects when the broker accuses, else of unknown outcome."""
        for entry in channel.take_all():
            if not closure.is_accusation:
                self._settle(entry, Unknown(closure.text))
                continue
            entry.kills += channel.is_quarantine
            if entry.kills >= MAX_KILLS:
                log.warning(Event.OUTBOX_QUARANTINED, extra={Field.MESSAGE_ID: entry.message_id})
                self._settle(entry, Invalid(f"the broker closed the channel {MAX_KILLS} times: {closure.text}"))
            else:
                self._ids.discard(entry.message_id)
                self._suspects.append(entry)

    def _channels(self) -> list[ConfirmingChannel]:
        return [channel for channel in (self._main, self._quarantine) if channel is not None]

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = self._loop.time()
            for channel in self._channels():
                if channel.is_overdue(now):
                    # A late confirm on this channel would be taken for that of the second copy: a new connection.
                    channel.session.fail(Closure(f"no confirm within {self._confirm_seconds:g} s"))
            if self.is_up:
                self._down_since = now
            elif now - self._down_since >= self._confirm_seconds:
                self._expire_waiting(now)

    def _expire_waiting(self, now: float) -> None:
        """Give back what could not even be sent for the whole time limit."""
        reason = "the broker takes no messages now" if self._main is not None else "not connected to the broker"
        for waiting in (self._queue, self._suspects):
            while waiting and waiting[0].deadline <= now:
                self._settle(waiting.popleft(), Unknown(reason))
