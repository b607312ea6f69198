"""`saga-worker publish`: one event from the command line, or a file of them, with confirms.

Takes events, guarantees that what is counted as published was confirmed by the broker and reached a queue, and that
with a ledger every event has a line on disk before it goes out. Publishing a file again changes nothing: the ids are
the same, and consumers know them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from saga_worker.admin.options import json_option, load_settings, run_async, wait_option

if TYPE_CHECKING:
    from saga_worker.admin.event_file import BrokenLine, Event
    from saga_worker.admin.output import Advance
    from saga_worker.admin.sender import Tally
    from saga_worker.settings import Settings

BROKEN_LINES_SHOWN = 20


@click.command(
    epilog="""\b
Examples:
  saga-worker publish order_placed '{"order_id": "4711", "cents": 1250}' --id order-4711
  saga-worker publish --file events.jsonl.gz --ledger published.jsonl

\b
A line of a file: {"id": "…", "type": "…", "source": "…", "time": "…", "data": {…}}; source and time may be missing."""
)
@click.argument("type_", metavar="TYPE", required=False)
@click.argument("data", metavar="JSON", required=False)
@click.option("--id", "id_", help="The message id; default: a new UUID, which is printed.")
@click.option("--source", default="cli", show_default=True, help="The source (app_id) where the event names none.")
@click.option("--traceparent", help="The W3C trace context that this event belongs to; its saga goes on with it.")
@click.option(
    "--file", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON lines, or .gz."
)
@click.option("--limit", type=click.IntRange(1), help="Publish at most so many lines of the file.")
@click.option(
    "--ledger", type=click.Path(dir_okay=False, path_type=Path), help="Append what was published to this file."
)
@wait_option(10.0, "Wait so long for the broker.")
@json_option
def publish(
    type_: str | None, data: str | None, id_: str | None, source: str, traceparent: str | None, path: Path | None,
    limit: int | None, ledger: Path | None, wait_seconds: float, as_json: bool,
) -> None:  # fmt: skip
    """Publish one event, or a file of them, and wait until the broker has confirmed.

    Fails if an event reaches no queue: then no worker that takes its type was ever started.
    """
    if (path is None) == (type_ is None) or (path is None) != (data is not None):
        raise click.UsageError("Give either TYPE and JSON, or --file.")
    if path is not None and id_ is not None:
        raise click.UsageError("--id is for one event; the lines of a file have their own.")
    if path is not None and traceparent is not None:
        raise click.UsageError("--traceparent is for one event.")
    _check_source(source)
    terms = _Terms(ledger, wait_seconds)
    if path is not None:
        _publish_file(load_settings("amqp_url"), path, terms, source=source, limit=limit, as_json=as_json)
    else:
        assert type_ is not None and data is not None
        event = _event(type_, data, id_, source, traceparent)
        _publish_one(load_settings("amqp_url"), event, terms, as_json=as_json)


class _Terms(NamedTuple):
    """How events are published, one or many."""

    ledger: Path | None
    wait_seconds: float


def _check_source(source: str) -> None:
    from saga_worker.admin.event_file import check_name

    try:
        check_name(source, "source", may_be_empty=True)
    except ValueError as problem:
        raise click.UsageError(f"--source: {problem}.") from None


def _event(type_: str, data: str, id_: str | None, source: str, traceparent: str | None) -> Event:
    from uuid_utils import uuid7

    from saga_worker.admin.event_file import Event, check_data, check_name

    try:
        check_name(type_, "type")
        check_name(id_ or "-", "id")
        _check_trace(traceparent)
        body = check_data(data)
        return Event(id=id_ or str(uuid7()), type=type_, source=source, body=body, traceparent=traceparent)
    except ValueError as problem:
        raise click.UsageError(f"The event {problem}.") from None


def _check_trace(traceparent: str | None) -> None:
    from saga_worker.saga.trace import read_trace

    if traceparent is not None and read_trace(traceparent) is None:
        raise ValueError("has no valid traceparent: 00-<32 hexadecimal digits>-<16>-<2>, all in lower case")


def _publish_one(settings: Settings, event: Event, terms: _Terms, *, as_json: bool) -> None:
    from saga_worker.admin.output import print_json

    tally = run_async(_send(settings, iter([event]), terms))
    outcome = "ok" if tally.published else "returned" if tally.returned else "unknown" if tally.unknown else "refused"
    if as_json:
        print_json({"id": event.id, "type": event.type, "source": event.source, "outcome": outcome})
    elif tally.published:
        click.echo(event.id)
    _finish(tally)


def _publish_file(
    settings: Settings, path: Path, terms: _Terms, *, source: str, limit: int | None, as_json: bool
) -> None:
    from itertools import islice

    from saga_worker.admin.event_file import read_events
    from saga_worker.admin.output import print_summary, progress

    started = time.monotonic()
    broken: list[int] = []
    with progress("publishing", limit) as advance:
        events = _usable(islice(read_events(path, default_source=source), limit), broken)
        tally = run_async(_send(settings, _counted(events, advance), terms))
    summary = tally.figures() | {"broken": len(broken), "seconds": round(time.monotonic() - started, 3)}
    print_summary(summary, as_json=as_json)
    _finish(tally, broken=len(broken))


async def _send(settings: Settings, events: Iterator[Event], terms: _Terms) -> Tally:
    from saga_worker.admin.failure import reaching
    from saga_worker.admin.ledger import Ledger
    from saga_worker.admin.sender import send_all
    from saga_worker.settings import describe_url

    with Ledger(terms.ledger) as written, reaching("RabbitMQ", describe_url(settings.amqp_url.get_secret_value())):
        return await send_all(settings, events, written, wait_seconds=terms.wait_seconds)


def _usable(lines: Iterator[Event | BrokenLine], broken: list[int]) -> Iterator[Event]:
    """The events; broken lines are named on stderr, the first few of them."""
    from saga_worker.admin.event_file import Event
    from saga_worker.admin.output import say

    for line in lines:
        if isinstance(line, Event):
            yield line
            continue
        broken.append(line.number)
        if len(broken) <= BROKEN_LINES_SHOWN:
            say(f"Line {line.number} {line.problem}.")
        elif len(broken) == BROKEN_LINES_SHOWN + 1:
            say("More broken lines follow; they are counted only.")


def _counted(events: Iterator[Event], advance: Advance) -> Iterator[Event]:
    for event in events:
        yield event
        advance(1)


def _finish(tally: Tally, *, broken: int = 0) -> None:
    """Say what went wrong, and end with 1 if anything did."""
    from saga_worker.admin.output import say

    if tally.returned:
        say(f"{tally.returned} events reached no queue: no worker has ever taken {', '.join(sorted(tally.homeless))}.")
    if tally.unknown:
        say(f"The broker did not confirm {tally.unknown} events; publish them again, the same ids change nothing.")
    for problem in tally.problems:
        say(f"Refused: {problem}.")
    if broken or tally.failed:
        raise click.exceptions.Exit(1)
