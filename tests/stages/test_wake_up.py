"""Hints across processes: heard by listeners, coalesced, heard again after the connection was cut."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from saga_worker.wake_up import Listener, Teller

Eventually = Callable[..., Awaitable[Any]]


async def test_what_one_process_tells_another_hears(database_url: str, eventually: Eventually) -> None:
    heard = asyncio.Event()
    listener = Listener(database_url, "saga_worker", on_news=heard.set)
    teller = Teller(database_url, "saga_worker")
    listener.start()
    teller.start()
    await eventually(heard.is_set)  # once at the start: something may have been missed
    heard.clear()

    teller.tell()

    await eventually(heard.is_set)
    await listener.stop()
    await teller.stop()


async def test_many_tellings_become_few_notifications(database_url: str, eventually: Eventually) -> None:
    heard: list[int] = []
    listener = Listener(database_url, "saga_worker", on_news=lambda: heard.append(1))
    teller = Teller(database_url, "saga_worker")
    listener.start()
    teller.start()
    await eventually(lambda: heard)

    for _ in range(500):
        teller.tell()
        await asyncio.sleep(0)
    await eventually(lambda: len(heard) > 1)

    assert len(heard) < 50
    await listener.stop()
    await teller.stop()


async def test_a_listener_whose_connection_is_killed_listens_again(database_url: str, eventually: Eventually) -> None:
    heard: list[int] = []
    listener = Listener(database_url, "saga_worker", on_news=lambda: heard.append(1))
    listener.start()
    await eventually(lambda: len(heard) == 1)
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    await eventually(lambda: len(heard) == 2)

    await connection.close()
    await listener.stop()
