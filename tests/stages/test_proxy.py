"""The fault proxy misbehaves as told, and heals. What it stands before is a real server in every test."""

import asyncio
import time
from collections.abc import AsyncIterator

import aio_pika
import asyncpg
import pytest

from saga_worker.testing import Direction, FaultProxy, eventually
from saga_worker.testing.namespaces import Namespace
from saga_worker.testing.proxy import Verdict


@pytest.fixture
async def echo() -> AsyncIterator[FaultProxy]:
    """A proxy before a TCP server that sends back what it gets."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while packet := await reader.read(65_536):
                writer.write(packet)
                await writer.drain()
        except OSError:
            pass  # a test cut the connection
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, FaultProxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


async def connect(proxy: FaultProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    return reader, writer


async def test_a_megabyte_passes_unchanged_in_both_directions(echo: FaultProxy) -> None:
    reader, writer = await connect(echo)
    sent = bytes(range(256)) * 4096
    writer.write(sent)

    assert await reader.readexactly(len(sent)) == sent
    writer.close()


async def test_the_end_of_one_side_reaches_the_other(echo: FaultProxy) -> None:
    reader, writer = await connect(echo)
    writer.write_eof()

    assert await reader.read() == b""
    writer.close()
    await eventually(lambda: not echo.connections)


async def test_a_delay_holds_each_direction_back(echo: FaultProxy) -> None:
    reader, writer = await connect(echo)
    echo.delay(0.1)
    started = time.monotonic()
    writer.write(b"late")

    assert await reader.readexactly(4) == b"late"
    assert time.monotonic() - started >= 0.2
    writer.close()


async def test_a_stall_that_heals_has_lost_nothing(echo: FaultProxy) -> None:
    reader, writer = await connect(echo)
    echo.stall()
    writer.write(b"held")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(4), 0.1)
    await echo.heal()

    assert await reader.readexactly(4) == b"held"
    writer.close()


async def test_a_stall_holds_the_end_of_a_connection_too(echo: FaultProxy) -> None:
    reader, writer = await connect(echo)
    echo.stall(Direction.TO_CLIENT)
    writer.write_eof()  # the server answers with its own end
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(), 0.1)
    await echo.heal()

    assert await reader.read() == b""
    writer.close()


async def test_a_black_hole_swallows_only_the_direction_it_was_told(echo: FaultProxy) -> None:
    reader, writer = await connect(echo)
    (connection,) = echo.connections
    echo.blackhole(Direction.TO_CLIENT)
    writer.write(b"lost")
    await eventually(lambda: connection.packets[Direction.TO_CLIENT] == 2)
    await echo.heal()
    writer.write(b"here")

    assert await reader.readexactly(4) == b"here"
    writer.close()


async def test_a_hook_changes_what_it_sees(echo: FaultProxy) -> None:
    echo.hook = lambda connection, direction, packet: (
        packet.replace(b"h", b"j") if direction is Direction.TO_SERVER else Verdict.PASS
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
    writer.write(b"hello")

    assert await reader.readexactly(5) == b"jello"
    writer.close()


async def test_refusing_spares_existing_connections_and_healing_keeps_the_port(echo: FaultProxy) -> None:
    reader, writer = await connect(echo)
    port = echo.port
    await echo.refuse()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"still")
    assert await reader.readexactly(5) == b"still"
    await echo.heal()
    _, second = await connect(echo)

    assert echo.port == port
    for each in (writer, second):
        each.close()


async def test_a_reset_is_an_error_and_not_an_orderly_end(echo: FaultProxy) -> None:
    reader, writer = await connect(echo)

    assert echo.reset() == 1
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    await eventually(lambda: not echo.connections)


async def test_a_commit_whose_answer_is_cut_is_in_the_database_and_unknown_to_the_client(
    empty_database_url: str,
) -> None:
    async with FaultProxy.before(empty_database_url) as proxy:
        client = await asyncpg.connect(proxy.rewrite(empty_database_url))
        await client.execute("CREATE TABLE entry (id int PRIMARY KEY)")
        cut = proxy.cut_answer(lambda packet: b"COMMIT" in packet)
        with pytest.raises((asyncpg.ConnectionDoesNotExistError, ConnectionError)):
            async with client.transaction():
                await client.execute("INSERT INTO entry VALUES (1)")
        assert cut.is_set()

    witness = await asyncpg.connect(empty_database_url)
    assert await witness.fetchval("SELECT count(*) FROM entry") == 1
    await witness.close()


async def test_a_publish_whose_confirm_is_cut_is_in_the_queue_and_unknown_to_the_publisher(
    amqp_url: str, namespace: Namespace
) -> None:
    async with await aio_pika.connect(amqp_url) as witness, FaultProxy.before(amqp_url) as proxy:
        queue = await (await witness.channel()).declare_queue(namespace.queue("entries"), durable=True)
        publisher = await aio_pika.connect(proxy.rewrite(amqp_url))
        channel = await publisher.channel(publisher_confirms=True)
        cut = proxy.cut_answer(lambda packet: b"the body" in packet)
        with pytest.raises((aio_pika.exceptions.AMQPError, ConnectionError, asyncio.CancelledError)):
            await channel.default_exchange.publish(aio_pika.Message(b"the body"), queue.name, timeout=60)
        assert cut.is_set()

        message = await queue.get(timeout=60)
        assert message.body == b"the body"
        await message.ack()
