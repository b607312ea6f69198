"""The choice of the AMQP path: the self-test of the lean one, what it does not trust, and what the fallback can."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiormq.exceptions import ChannelNotFoundEntity

from saga_worker.broker import AmqpPath, BrokerConnection, Confirmed, Unroutable
from saga_worker.broker.amqp_path import Setting
from saga_worker.broker.topology import DELIVERY_LIMIT
from saga_worker.envelope import Source
from saga_worker.telemetry import Event
from saga_worker.testing.namespaces import Namespace
from saga_worker.testing.proxy import Direction, FaultProxy, Verdict
from tests.stages.transport import bare_channel, consuming, event, publishing, take, take_no_transport

Eventually = Callable[..., Awaitable[Any]]


@asynccontextmanager
async def connected(url: str, path: AmqpPath) -> AsyncIterator[BrokerConnection]:
    """A connection with nothing on it."""

    one = BrokerConnection(url, "test", path)
    await one.start(idle, lambda _: None)
    try:
        await one.ready(10)
        yield one
    finally:
        await one.close()


def path_of(one: BrokerConnection) -> str:
    assert one.session is not None
    return one.session.hot_path.name


def warnings(caplog: pytest.LogCaptureFixture) -> list[Any]:
    """Why the lean path was not taken, each time it was not."""
    return [getattr(record, "error", "") for record in caplog.records if record.msg == Event.LEAN_PATH_UNFIT]


@pytest.mark.parametrize(("setting", "taken"), [("auto", "lean"), ("lean", "lean"), ("public", "public")])
async def test_the_setting_says_which_path_is_taken(
    amqp_url: str, namespace: Namespace, setting: Setting, taken: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(amqp_url, AmqpPath(setting, namespace=str(namespace))) as one:
        assert path_of(one) == taken

    assert warnings(caplog) == []


async def test_the_self_test_leaves_nothing_in_the_broker(amqp_url: str, namespace: Namespace) -> None:
    names: set[str] = set()

    def look(_: object, direction: Direction, packet: bytes) -> Verdict:
        names.update(found.decode() for found in re.findall(rb"t\w+\.self-test\.[0-9a-f]{32}", packet))
        return Verdict.PASS

    async with (
        FaultProxy.before(amqp_url, hook=look) as proxy,
        connected(proxy.rewrite(amqp_url), AmqpPath(namespace=str(namespace))) as one,
    ):
        (name,) = names
        assert path_of(one) == "lean"
        for kind in ("queue", "exchange"):
            async with bare_channel(amqp_url) as channel:
                with pytest.raises(ChannelNotFoundEntity):
                    await getattr(channel, f"declare_{kind}")(name, passive=True)


async def test_what_one_connection_has_found_out_the_others_do_not_try_again(
    amqp_url: str, namespace: Namespace
) -> None:
    path = AmqpPath(namespace=str(namespace))
    async with connected(amqp_url, path):
        path.deadline_seconds = 0.0  # a second test would not pass

        async with connected(amqp_url, path) as other:
            assert path_of(other) == "lean"


async def test_a_library_that_takes_no_transport_is_used_through_its_public_calls(
    amqp_url: str, namespace: Namespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    eventually: Eventually,
) -> None:  # fmt: skip
    take_no_transport(monkeypatch)
    messages = [event(namespace, f"m{n}", type_="nobody" if n == 7 else "order_placed") for n in range(50)]
    path = AmqpPath(namespace=str(namespace))
    async with consuming(amqp_url, namespace, path=path) as inbox, publishing(amqp_url, namespace, path=path) as outbox:
        outcomes = await outbox.publish(messages)
        taken = await take(inbox, 49)
        inbox.give_back()
        await eventually(lambda: inbox.connects == 2 and inbox.is_up)

    assert [type(outcome) for outcome in outcomes] == [Unroutable if n == 7 else Confirmed for n in range(50)]
    assert [d.properties.message_id for d in taken] == [f"m{n}" for n in range(50) if n != 7]
    assert warnings(caplog) == ["Unfit: the client library does not use the transport that it is given"]


async def test_a_self_test_without_an_end_is_no_verdict(
    amqp_url: str, namespace: Namespace, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    cuts = 0

    def cut_once(_: object, direction: Direction, packet: bytes) -> Verdict:
        nonlocal cuts
        if cuts == 0 and direction is Direction.TO_SERVER and b".self-test." in packet:
            cuts += 1
            return Verdict.CUT
        return Verdict.PASS

    path = AmqpPath(namespace=str(namespace))
    async with FaultProxy.before(amqp_url, hook=cut_once) as proxy, connected(proxy.rewrite(amqp_url), path) as one:
        assert path_of(one) == "public"
        assert len(warnings(caplog)) == 1

        path._again_at = 0.0  # a minute later
        first = one.session
        one.reconnect("for a new session")
        await eventually(lambda: one.session not in (None, first))
        assert path_of(one) == "lean"


async def test_a_broker_that_does_not_answer_the_self_test_in_time_is_used_all_the_same(
    amqp_url: str, namespace: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(amqp_url, AmqpPath(namespace=str(namespace), deadline_seconds=0.0)) as one:
        assert path_of(one) == "public"

    assert warnings(caplog) == ["it did not end within 0 s"]


async def test_stopping_in_the_self_test_is_no_reason_for_a_warning(
    amqp_url: str, namespace: Namespace, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    async with FaultProxy.before(amqp_url, hook=drop_self_tests) as proxy:
        one = BrokerConnection(proxy.rewrite(amqp_url), "test", AmqpPath(namespace=str(namespace)))
        starting = asyncio.create_task(one.start(idle, lambda _: None))
        await eventually(lambda: one._session is not None)
        await one.close()
        await starting

    assert warnings(caplog) == []


def drop_self_tests(_: object, direction: Direction, packet: bytes) -> Verdict:
    return Verdict.DROP if direction is Direction.TO_SERVER and b".self-test." in packet else Verdict.PASS


async def idle(_: object) -> None:
    """What a connection is for, in these tests."""


@pytest.mark.slow
async def test_a_message_that_the_library_cannot_read_ends_in_the_dead_queue_and_takes_no_other_along(
    amqp_url: str, namespace: Namespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    eventually: Eventually,
) -> None:  # fmt: skip
    """Without our transport nothing stands between the library and its sender: the limit of the public path."""
    ids = [f"m{n}" for n in range(30)]
    messages = [event(namespace, "caf\udce9" if n == 20 else id_) for n, id_ in enumerate(ids)]
    async with consuming(amqp_url, namespace), publishing(amqp_url, namespace) as publisher:
        pass  # declares and binds
    async with publishing(amqp_url, namespace) as publisher:
        await publisher.publish(messages)
    take_no_transport(monkeypatch)
    async with consuming(amqp_url, namespace, path="public", watchdog_seconds=0.2, longest_delay_seconds=0.1) as inbox:
        seen: dict[str | None, Source] = {}
        while len(seen) < 29:
            seen |= {d.properties.message_id: d.queue for d in await take(inbox, 1)}
        await eventually(lambda: is_dead(amqp_url, namespace), 60)

        assert set(seen) == set(ids) - {"m20"}
        assert set(seen.values()) == {Source.INBOX}, "no other was delivered so often that the broker gave it up"
        losses = unreadable(caplog)
        assert DELIVERY_LIMIT <= len(losses) <= DELIVERY_LIMIT + 1
        assert losses[-1] == f"{namespace}.inbox"

        inbox._careful_until = 0.0  # five minutes later
        both = f"{namespace}.dead, {namespace}.inbox"
        await eventually(lambda: unreadable(caplog)[-1] == both and inbox.is_up, 20)


async def is_dead(amqp_url: str, namespace: str) -> bool:
    async with bare_channel(amqp_url) as channel:
        queue = await channel.declare_queue(f"{namespace}.dead", passive=True)
        return queue.declaration_result.message_count == 1


def unreadable(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The queues that each warning named."""
    return [getattr(record, "source", "") for record in caplog.records if record.msg == Event.DELIVERY_UNREADABLE]
