"""`saga-worker saga events`: the events that a saga has taken, in their order, with what they said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from saga_worker.admin.options import json_option, limit_option, load_settings, run_async

if TYPE_CHECKING:
    from saga_worker.queries import TakenEvent
    from saga_worker.settings import Settings

SHOWN = ("revision", "decided_at", "type", "source", "message_id", "body")


@click.command(epilog="\b\nExample:\n  saga-worker saga events checkout/4711 --json")
@click.argument("name", metavar="SAGA_ID|DEFINITION/KEY")
@limit_option(200)
@json_option
def events(name: str, limit: int, as_json: bool) -> None:
    """List the events that a saga has taken, in the order in which it took them; of many the newest.

    Their types and bodies are there as long as the inbox keeps settled messages (SAGA_WORKER_DEDUP_WINDOW_SECONDS).
    """
    from saga_worker.admin.output import RowPrinter
    from saga_worker.admin.saga_commands import identify

    identify(name)
    taken = run_async(_events(load_settings("database_url"), name, limit))
    with RowPrinter(SHOWN, as_json=as_json) as printer:
        for event in taken:
            printer.add(_document(event, as_json=as_json))


async def _events(settings: Settings, name: str, limit: int) -> list[TakenEvent]:
    from saga_worker import queries
    from saga_worker.admin.connect import looking
    from saga_worker.admin.saga_commands import identify

    async with looking(settings) as connection:
        return await queries.events(connection, await queries.find(connection, *identify(name), name=name), limit=limit)


def _document(event: TakenEvent, *, as_json: bool) -> dict[str, Any]:
    from saga_worker.admin.stored_message import decoded

    body: object = None
    if event.body is not None:
        body = decoded(event.body) if as_json else event.body.decode("utf-8", "backslashreplace")
    return {name: getattr(event, name) for name in SHOWN} | {"body": body}
