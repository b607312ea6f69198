"""The proxy that counts statements sees what a driver sends."""

from __future__ import annotations

import asyncpg

from benchmarks.harness.statements import Transaction, counting


async def test_statements_and_round_trips_of_a_committed_transaction_are_counted(database_url: str) -> None:
    async with counting(database_url) as (url, counter):
        connection = await asyncpg.connect(url)
        nothing = "SELECT * FROM saga_worker.inbox WHERE false"
        storing = await connection.prepare(f"INSERT INTO saga_worker.inbox OVERRIDING SYSTEM VALUE {nothing}")
        counter.transactions.clear()
        async with connection.transaction():
            await connection.execute("SELECT 1")
            await storing.fetch()
            await storing.fetch()
        rolled_back = connection.transaction()
        await rolled_back.start()
        await connection.execute("SELECT 1")
        await rolled_back.rollback()
        await connection.execute("SELECT 1")
        await connection.close()

    assert counter.transactions == [Transaction(3, 5, is_batch=True), Transaction(1, 1)]
    assert counter.document()["statements_per_batch"] == 3
    assert counter.document()["other_transactions"] == 1
