"""`saga-worker saga signal`: an event for one saga, from an operator or a script, without a producer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from saga_worker.admin.definition_commands import place_option
from saga_worker.admin.options import (
    actor_option,
    json_option,
    load_settings,
    run_async,
    wait_option,
    why_option,
)

if TYPE_CHECKING:
    from saga_worker.saga.registry import Registry
    from saga_worker.settings import Settings
    from saga_worker.signals import Sent

LOOK_SECONDS = 0.1
UNDECIDED = "ready"
REFUSED = ("dead", "ignored")


@click.command(
    epilog="""\b
Example:
  saga-worker saga signal checkout/4711 order_approved --body '{"approver": "ann"}' --why "called in"

\b
The field of the key may be left out of the body."""
)
@click.argument("name", metavar="DEFINITION/KEY")
@click.argument("type_", metavar="TYPE")
@click.option("--body", default="{}", show_default=True, help="The event as a JSON object.")
@click.option("--id", "id_", help="The message id: the same id is stored once. Default: a new UUID.")
@click.option("--source", default="signal", show_default=True, help="The source; numbered events have one line each.")
@place_option
@wait_option(5.0, "Wait so long until a worker has decided about it; 0: do not wait.")
@why_option
@actor_option
@json_option
def signal(
    name: str, type_: str, body: str, id_: str | None, source: str, place: str | None, wait_seconds: float,
    why: str | None, actor: str, as_json: bool,
) -> None:  # fmt: skip
    """Send an event to one saga by its key, and say what became of it.

    It is like an event that a producer has published, for this saga only. One that comes before its saga, or before
    the wait that takes it, is parked until then. What the definition could never take is refused at once.
    """
    from saga_worker.loading import load

    definition, slash, key = name.partition("/")
    if not (definition and slash and key):
        raise click.UsageError("Name the saga as DEFINITION/KEY, such as checkout/4711.")
    settings = load_settings("database_url", definitions=place)
    order = _Order(definition, key, type_, body.encode("utf-8", "surrogateescape"), id_, source, why, actor)
    run_async(_signal(settings, load(settings.definitions), order, wait_seconds, as_json))


class _Order(NamedTuple):
    """What is to be sent, and who says so."""

    definition: str
    key: str
    type: str
    body: bytes
    id: str | None
    source: str
    why: str | None
    actor: str


async def _signal(settings: Settings, registry: Registry, order: _Order, wait_seconds: float, as_json: bool) -> None:
    from saga_worker.admin.connect import acting
    from saga_worker.wake_up import tell

    async with acting(settings) as database:
        async with database.transaction() as connection:
            sent = await _store(connection, settings, registry, order)
        state, reason, alive = "duplicate", None, 1
        if sent.row_id is not None:
            async with database.autocommit() as connection:
                await tell(connection)
                alive = int(await connection.fetchval("admin_workers"))
            state, reason = await _outcome(database, sent.row_id, wait_seconds if alive else 0)
    _report(sent, state, reason, alive=alive, as_json=as_json)


async def _store(connection: Any, settings: Settings, registry: Registry, order: _Order) -> Sent:
    from pydantic_core import to_json

    from saga_worker import signals
    from saga_worker.envelope import EnvelopeLimits
    from saga_worker.sql import storable

    saga = await signals.definition_of(connection, registry, order.definition, order.key)
    row = signals.signal_row(
        saga, order.key, order.type, order.body, message_id=order.id, source=order.source,
        limits=EnvelopeLimits(body_bytes=settings.body_limit_bytes),
    )  # fmt: skip
    sent = await signals.store(connection, row)
    if sent.row_id is not None:
        target, after = f"saga/{order.definition}/{order.key}", to_json({"type": order.type, "row": sent.row_id})
        await connection.execute(
            "insert_audit", order.actor, "signal", storable(order.why), [target], [None], [after.decode()]
        )
    return sent


async def _outcome(database: Any, row_id: int, wait_seconds: float) -> tuple[str, str | None]:
    """State and reason of the row, as soon as a worker has decided about it or the time is over."""
    import asyncio

    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_seconds
    while True:
        async with database.autocommit() as connection:
            row = await connection.fetchrow("admin_outcomes", [row_id])
        if row["state"] != UNDECIDED or loop.time() >= deadline:
            return row["state"], row["reason"]
        await asyncio.sleep(LOOK_SECONDS)


def _report(sent: Sent, state: str, reason: str | None, *, alive: int, as_json: bool) -> None:
    """What became of it; exit code 1 when the saga will not take it."""
    from saga_worker.admin.output import print_json, say

    if as_json:
        print_json({"id": sent.message_id, "row": sent.row_id, "state": state, "reason": reason})
    else:
        click.echo(f"{sent.message_id}: {state}" + (f" ({reason})" if reason else ""))
    if state == UNDECIDED:
        say("It is stored, and applied when a worker comes to it; do not send it again." if alive else _NO_WORKER)
    if state == "parked":
        say("It waits until the saga takes it; `saga-worker inbox list --state parked` lists what waits.")
    if state in REFUSED:
        raise click.exceptions.Exit(1)


_NO_WORKER = "No worker runs; it is stored, and applied when one does."
