"""`saga-worker saga query`: an author's question to one saga, answered from its row, whatever the saga is doing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from saga_worker.admin.definition_commands import place_option
from saga_worker.admin.options import json_option, load_settings, run_async

if TYPE_CHECKING:
    from pydantic import BaseModel

    from saga_worker.saga.registry import Registry
    from saga_worker.settings import Settings


@click.command(epilog="\b\nExample:\n  saga-worker saga query checkout/4711 progress --definitions ./definitions")
@click.argument("name", metavar="SAGA_ID|DEFINITION/KEY")
@click.argument("question", metavar="QUERY")
@place_option
@json_option
def query(name: str, question: str, place: str | None, as_json: bool) -> None:
    """Ask a saga a question that its definition answers (`@saga.query`).

    The answer is made here, from the state that was last committed: it takes no lock, waits for no step, and changes
    nothing.
    """
    from saga_worker.admin.output import print_document
    from saga_worker.admin.saga_commands import identify
    from saga_worker.loading import load

    identify(name)
    settings = load_settings("database_url", definitions=place)
    answer = run_async(_ask(settings, load(settings.definitions), name, question))
    print_document(answer.model_dump(mode="json"), as_json=as_json)


async def _ask(settings: Settings, registry: Registry, name: str, question: str) -> BaseModel:
    from saga_worker import queries
    from saga_worker.admin.connect import looking
    from saga_worker.admin.saga_commands import identify

    async with looking(settings) as connection:
        return await queries.ask_by_name(connection, registry, *identify(name), question, name=name)
