"""A million sagas that ended long ago, made by SQL from a few that really ran: the rows have the shape of real ones.

Takes a database in which some sagas have ended; copies their rows under new ids. Saga ids keep the order of time as
real ones do; hashes (`ref`, `dedup`) are spread as real ones are.
"""

from __future__ import annotations

import asyncpg

_STRIDE = 100_000  # between the inbox ids of two copies
_HASH = "md5({column}::text || '-' || n)::uuid"
_TIME = "('x' || substr(translate(saga_id::text, '-', ''), 1, 12))::bit(48)::bigint"  # of a uuidv7
_HEX = "md5(saga_id::text || n)"
_SAGA_ID = (
    f"(lpad(to_hex({_TIME} - ({{copies}} - n) * 1000), 12, '0')"
    f" || '7' || substr({_HEX}, 1, 3) || '8' || substr({_HEX}, 4, 15))::uuid"
)


async def multiply(database: asyncpg.Connection, sagas: int) -> None:
    """Leave `sagas` ended sagas, a multiple of those there are; and as many inbox and journal rows, of every fourth."""
    base = await database.fetchval("SELECT count(*) FROM saga_worker.saga")
    copies = sagas // base
    await database.execute("SET synchronous_commit = off")  # the filling is not what is measured
    few = f"ref IN (SELECT ref FROM saga_worker.saga ORDER BY key LIMIT {base // 4})"
    saga_id = _SAGA_ID.format(copies=copies)
    ref, message_id, id_ = _HASH.format(column="ref"), "message_id || '-' || n", f"n * {_STRIDE} + "
    await _copy(database, "inbox", copies, {
        "id": id_ + "id", "dedup": _HASH.format(column="dedup"), "ref": ref, "saga_key": "saga_key || '-' || n",
        "message_id": message_id,
    }, where=few)  # fmt: skip
    await _copy(database, "journal", copies, {
        "saga_id": saga_id, "ref": ref, "inbox_id": id_ + "inbox_id",
        "message_id": message_id,
    }, where=few)  # fmt: skip
    await _copy(database, "saga", copies, {  # the last, because `few` asks for the few that are there
        "saga_id": saga_id, "ref": ref, "key": "key || '-' || n",
    })  # fmt: skip
    await database.execute("SELECT setval('saga_worker.inbox_id_seq', (SELECT max(id) FROM saga_worker.inbox))")
    for table in ("saga", "inbox", "journal"):
        await database.execute(f"VACUUM (ANALYZE) saga_worker.{table}")


async def _copy(
    database: asyncpg.Connection, table: str, copies: int, new: dict[str, str], *, where: str = "true"
) -> None:
    """Insert every row once for each n below `copies`; columns that are not in `new` stay as they are."""
    columns = await database.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped",
        f"saga_worker.{table}",
    )
    names = [str(row["attname"]) for row in columns]
    values = ", ".join(new.get(name, f'"{name}"') for name in names)
    await database.execute(
        f"INSERT INTO saga_worker.{table} ({', '.join(names)}) OVERRIDING SYSTEM VALUE"
        f" SELECT {values} FROM generate_series(1, {copies - 1}) AS n CROSS JOIN saga_worker.{table} WHERE {where}",
        timeout=1800,
    )
