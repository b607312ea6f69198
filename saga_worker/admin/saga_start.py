"""`saga-worker saga start`: start a saga from the command line, and wait for its end if that is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from saga_worker.admin.definition_commands import place_option
from saga_worker.admin.options import json_option, load_settings, run_async

if TYPE_CHECKING:
    from saga_worker.client import Run, Snapshot
    from saga_worker.saga.definition import Saga
    from saga_worker.settings import Settings

ACCEPTED_SECONDS = 5.0
SOURCE = "cli"


@click.command(
    epilog="""\b
Examples:
  echo '{"order_id": "4711", "cents": 1250}' | saga-worker saga start checkout --input -
  saga-worker saga start checkout --input order.json --idempotency-key order-4711 --wait 60"""
)
@click.argument("name")
@click.option("--input", "file", type=click.File("rb"), required=True, help="The start event as JSON; - is stdin.")
@click.option("--type", "type_", help="The type of the event, where more than one starts this saga.")
@click.option("--key", help="The key of the saga, put where the event has it; refused if the event says another.")
@click.option("--idempotency-key", help="Starts with the same one are one start; default: a new UUID.")
@click.option(
    "--wait", "wait_seconds", metavar="SECONDS", type=click.FloatRange(0, 86_400),
    help="Wait so long for the end of the saga; fails unless it has completed by then.",
)  # fmt: skip
@place_option
@json_option
def start(
    name: str, file: Any, type_: str | None, key: str | None, idempotency_key: str | None, wait_seconds: float | None,
    place: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Start a saga of the definition NAME. No broker is needed: the event is stored in the database.

    Without --wait it is told whether a worker has accepted the start, if one does so within some seconds.
    """
    from saga_worker.admin.definition_commands import find

    saga = find(name, None, place)
    type_ = _type(saga, type_)
    body = _body(saga, type_, file.read(), key)
    run_async(_start(load_settings("database_url"), saga, type_, body, idempotency_key, wait_seconds, as_json))


def _type(saga: Saga[Any], type_: str | None) -> str:
    """The type that was given, or the only one that there is."""
    if not saga.starts:
        raise click.UsageError(f"No event starts {saga.name}: only sagas that have it as a step do.")
    if type_ is None and len({id(start) for start in saga.starts.values()}) > 1:
        raise click.UsageError(f"Several events start {saga.name}; say --type, one of: {', '.join(saga.starts)}.")
    if type_ is not None and type_ not in saga.starts:
        raise click.UsageError(f"{type_} does not start {saga.name}; what does: {', '.join(saga.starts)}.")
    return type_ or next(iter(saga.starts))


def _body(saga: Saga[Any], type_: str, body: bytes, key: str | None) -> bytes:
    """The event, with `--key` in its place."""
    if key is None:
        return body.strip()
    from pydantic_core import to_json

    from saga_worker.envelope.document import read_object
    from saga_worker.saga.errors import PoisonMessage
    from saga_worker.saga.routing import KeyKind, canonical_key, put_at_pointer

    try:
        document = read_object(body.strip())
        value: object = int(key) if saga.key_kind is KeyKind.INT and key.lstrip("-").isdecimal() else key
        canonical = canonical_key(value, saga.key_kind)
        there = put_at_pointer(document, saga.starts[type_].pointer, value)
        if canonical_key(there, saga.key_kind) != canonical:
            raise click.UsageError("The event has another key than --key says; leave one of them out.")
    except PoisonMessage as refusal:
        raise click.UsageError(refusal.error) from None
    return to_json(document)


async def _start(
    settings: Settings, saga: Saga[Any], type_: str, body: bytes, idempotency_key: str | None,
    wait_seconds: float | None, as_json: bool,
) -> None:  # fmt: skip
    from saga_worker.admin.failure import reaching
    from saga_worker.client import Client
    from saga_worker.settings import describe_url

    with reaching("PostgreSQL", describe_url(settings.database_url.get_secret_value())):
        async with Client(settings, source=SOURCE) as client:
            run = await client.send_raw(saga, type_, body, idempotency_key=idempotency_key)
            if wait_seconds is None:
                await _tell_whether_accepted(run, as_json=as_json)
            else:
                _tell_the_end(run, await run.ended(wait_seconds), as_json=as_json)


async def _tell_whether_accepted(run: Run[Any], *, as_json: bool) -> None:
    from saga_worker.admin.output import print_document, say
    from saga_worker.client import NotDecided

    try:
        outcome = str(await run.accepted(ACCEPTED_SECONDS))
    except NotDecided as undecided:
        outcome = "stored"
        say(str(undecided))
    print_document(
        {"saga": str(run), "outcome": outcome, "idempotency_key": run.idempotency_key, "is_repeat": run.is_repeat},
        as_json=as_json,
    )


def _tell_the_end(run: Run[Any], ended: Snapshot[Any], *, as_json: bool) -> None:
    from saga_worker.admin.output import print_document

    document = {
        "saga": str(run), "saga_id": ended.saga_id, "status": ended.status.label, "reason": ended.reason,
        "unsettled": ended.unsettled, "result": None if ended.result is None else ended.result.model_dump(mode="json"),
        "state": ended.state.model_dump(mode="json"),
    }  # fmt: skip
    print_document(document, as_json=as_json)
    if not ended.is_completed:
        raise click.exceptions.Exit(1)
