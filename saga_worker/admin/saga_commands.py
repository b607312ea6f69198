"""`saga-worker saga`: where a saga is, why it does not move, and another try for one that asks for attention."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from saga_worker.admin import saga_control, timer_commands
from saga_worker.admin.definition_commands import format_option, place_option
from saga_worker.admin.options import (
    actor_option,
    json_option,
    limit_option,
    load_settings,
    run_async,
    since_option,
    wait_option,
    why_option,
)
from saga_worker.admin.saga_events import events
from saga_worker.admin.saga_query import query
from saga_worker.admin.saga_signal import signal
from saga_worker.admin.saga_start import start

if TYPE_CHECKING:
    from saga_worker.admin.listing import SagaFilter
    from saga_worker.admin.saga_report import Facts
    from saga_worker.operator_requests import Target
    from saga_worker.settings import Settings
    from saga_worker.sql.connection import Connection, Database

STATUSES = ("running", "waiting", "compensating", "completed", "compensated", "failed", "paused")
SHOWN = ("saga_id", "name", "key", "status", "reason", "attention", "revision", "updated_at")
JOURNAL_SHOWN = ("revision", "decided_at", "input_kind", "source", "message_id", "from_status", "to_status", "sent_ids")
ROWS_SHOWN = ("id", "state", "reason", "type", "source", "message_id", "attempts", "received_at", "next_at")
OUTBOX_SHOWN = ("message_id", "destination", "type", "owner", "attempts", "next_at", "last_error")
COMMANDS_SHOWN = ("seq", "step", "kind", "fate", "destination", "type", "attempts", "undoes", "undone", "sent_at")
RUNS_SHOWN = ("saga_id", "definition_version", "status", "reason", "started_at", "finished_at")
TIMERS_SHOWN = ("name", "due_at", "epoch")
JOURNAL_ROWS = 200
RETRIED_AT_ONCE = 100_000


class Place(click.ParamType[tuple["datetime", "UUID"]]):
    """Where a page of a listing ends: a time and the id of a saga."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[datetime, UUID]:
        moved_at, _, saga_id = str(value).partition("/")
        try:
            return datetime.fromisoformat(moved_at), UUID(saga_id)
        except ValueError:
            self.fail("give what the page before has named, TIME/SAGA_ID.", param, ctx)


@click.group(epilog="\b\nExample:\n  saga-worker saga show checkout/4711")
def saga() -> None:
    """Start, signal, list, show and ask sagas, try them again, and take their course in hand."""


for command in (start, signal, query, events, *saga_control.COMMANDS, timer_commands.timer):
    saga.add_command(command)


@saga.command("list", epilog="\b\nExample:\n  saga-worker saga list --attention --definition checkout")
@click.option("--status", type=click.Choice(STATUSES), help="Only sagas with this status.")
@click.option("--definition", help="Only sagas of this definition.")
@click.option("--key", help="Only sagas with this key.")
@click.option("--attention", is_flag=True, help="Only sagas that ask for somebody.")
@since_option
@click.option("--after", type=Place(), help="The next page: what the page before has named.")
@limit_option(50)
@json_option
def list_(
    status: str | None, definition: str | None, key: str | None, attention: bool, since: datetime | timedelta | None,
    after: tuple[datetime, UUID] | None, limit: int, as_json: bool,
) -> None:  # fmt: skip
    """List sagas, those that moved last first.

    A saga that moves between two pages comes to the front: it may be missing from the later one.
    """
    from saga_worker.admin.listing import SagaFilter

    wanted = SagaFilter(status=status, definition=definition, key=key, attention=attention, since=since, after=after)
    run_async(_list(load_settings("database_url"), wanted, limit, as_json))


async def _list(settings: Settings, wanted: SagaFilter, limit: int, as_json: bool) -> None:
    from saga_worker.admin import listing
    from saga_worker.admin.connect import reading
    from saga_worker.admin.output import RowPrinter, say

    last = ""
    with RowPrinter(SHOWN, as_json=as_json) as printer:
        async with reading(settings) as connection:
            async for row in listing.fetch(connection, listing.saga_rows(settings.schema_, wanted, limit=limit)):
                printer.add(row)
                last = listing.place_of(row)
    if printer.count == limit:
        say(f"Only {limit} are shown; the next page: --after {last}")


@saga.command(epilog="\b\nExamples:\n  saga-worker saga show checkout/4711\n  saga-worker saga show 0198f2c0-…")
@click.argument("name", metavar="SAGA_ID|DEFINITION/KEY")
@json_option
def show(name: str, as_json: bool) -> None:
    """Where a saga is and why it does not move; then its commands, timers, journal and messages."""
    identify(name)
    run_async(_show(load_settings("database_url"), name, as_json))


async def _show(settings: Settings, name: str, as_json: bool) -> None:
    from saga_worker.admin.connect import looking
    from saga_worker.admin.output import print_json
    from saga_worker.admin.saga_report import explain

    async with looking(settings) as connection:
        facts = await read_facts(connection, name)
        if facts is None:
            await _show_strays(connection, name, as_json=as_json)
            return
    if as_json:
        print_json(_document(facts, explain(facts)))
    else:
        _print_facts(facts, explain(facts))


@saga.command(epilog="\b\nExample:\n  saga-worker saga graph checkout/4711 --format svg > order.svg")
@click.argument("name", metavar="SAGA_ID|DEFINITION/KEY")
@format_option
@place_option
def graph(name: str, format_: str, place: str | None) -> None:
    """Draw the definition of a saga, with what has become of each step."""
    identify(name)
    run_async(_graph(load_settings("database_url"), name, format_, place))


async def _graph(settings: Settings, name: str, format_: str, place: str | None) -> None:
    from saga_worker.admin.connect import looking
    from saga_worker.admin.definition_commands import draw, find

    async with looking(settings) as connection:
        facts = await read_facts(connection, name)
    if facts is None:
        raise click.UsageError(f"There is no saga {name}.")
    definition = find(facts.saga["name"], facts.saga["definition_version"], place)
    click.echo(draw(definition, facts.progress, format_), nl=False)


async def read_facts(connection: Connection, name: str) -> Facts | None:
    """All there is about a saga; None when there is no such saga."""
    from saga_worker.admin.saga_report import Facts
    from saga_worker.saga.records import load_progress

    saga_id, ref = identify(name)
    row = await connection.fetchrow("admin_saga", saga_id, ref)
    if row is None:
        return None
    earlier = row["ref"] is None  # an earlier run of its key: rows and messages belong to the present one
    return Facts(
        saga={name: value for name, value in row.items() if name not in ("progress", "now")},
        progress=load_progress(bytes(row["progress"])),
        now=row["now"],
        journal=_dicts(await connection.fetch("admin_saga_journal", row["saga_id"], JOURNAL_ROWS)),
        inbox=[] if earlier else _dicts(await connection.fetch("admin_saga_rows", row["ref"])),
        outbox=[] if earlier else _dicts(await connection.fetch("admin_saga_outbox", row["ref"])),
        runs=_dicts(await connection.fetch("admin_saga_runs", row["name"], row["key"], row["saga_id"])),
        children=[] if earlier else _dicts(await connection.fetch("admin_saga_children", row["ref"])),
    )


def identify(name: str) -> tuple[UUID | None, UUID | None]:
    """Saga id and ref of what the operator named: one of them is None."""
    from saga_worker.saga.routing import ref_of

    definition, slash, key = name.partition("/")
    if slash:
        return None, ref_of(definition, key)
    try:
        return UUID(name), None
    except ValueError:
        raise click.UsageError(
            "Name the saga by its id (a UUID) or as DEFINITION/KEY, such as checkout/4711."
        ) from None


async def _show_strays(connection: Connection, name: str, *, as_json: bool) -> None:
    """There is no saga; messages may be waiting for it, or its start may have died."""
    from saga_worker.admin.output import print_json, print_rows, say

    _, ref = identify(name)
    rows = _dicts(await connection.fetch("admin_saga_rows", ref)) if ref is not None else []
    if not rows:
        raise click.ClickException(f"There is no saga {name}, and no message waits for it.")
    dead = sum(row["state"] == "dead" for row in rows)
    say(f"There is no saga {name} yet; {len(rows)} messages are stored for it, {dead} of them dead.")
    if as_json:
        print_json({"saga": None, "inbox": rows})
    else:
        print_rows(rows, ROWS_SHOWN)
    raise click.exceptions.Exit(1)


def _document(facts: Facts, explanation: list[str]) -> dict[str, Any]:
    from saga_worker.admin.stored_message import decoded

    state = facts.saga["state"]
    return {
        "explanation": explanation,
        "saga": dict(facts.saga) | {"state": decoded(state.encode()) if state is not None else None},
        "active": facts.progress.active,
        "pivoted": facts.progress.pivoted,
        "commands": _commands(facts),
        "timers": _timers(facts),
        "earlier_runs": facts.runs,
        "journal": facts.journal,
        "inbox": facts.inbox,
        "outbox": facts.outbox,
    }


def _print_facts(facts: Facts, explanation: list[str]) -> None:
    from saga_worker.admin.output import print_document, print_rows

    for sentence in explanation:
        click.echo(sentence)
    click.echo("")
    print_document(facts.saga, as_json=False)
    for title, rows, columns in (
        ("Commands", _commands(facts), COMMANDS_SHOWN),
        ("Timers", _timers(facts), TIMERS_SHOWN),
        (f"Journal (the last {JOURNAL_ROWS})", facts.journal, JOURNAL_SHOWN),
        ("Earlier runs of this key", facts.runs, RUNS_SHOWN),
        ("Messages not settled, and dead letters", facts.inbox, ROWS_SHOWN),
        ("Outbox", facts.outbox, OUTBOX_SHOWN),
    ):
        if rows:
            click.echo(f"\n{title}:")
            print_rows(rows, columns)


def _commands(facts: Facts) -> list[dict[str, Any]]:
    """The commands without their bodies."""
    names = [name for name in COMMANDS_SHOWN if name != "sent_at"]
    return [
        {name: getattr(command, name) for name in names} | {"sent_at": facts.sent_at(command.seq)}
        for _, command in sorted(facts.progress.commands.items())
    ]


def _timers(facts: Facts) -> list[dict[str, Any]]:
    timers = sorted(facts.progress.timers.items(), key=lambda item: item[1].due_at)
    return [{"name": name, "due_at": timer.due_at, "epoch": timer.epoch} for name, timer in timers]


def _dicts(records: Iterable[Iterable[tuple[str, Any]]]) -> list[dict[str, Any]]:
    return [dict(record) for record in records]


@saga.command(
    epilog="""\b
Examples:
  saga-worker saga retry checkout/4711 --why "the card provider is back"
  saga-worker saga retry --all-attention --yes"""
)
@click.argument("names", metavar="[SAGA_ID|DEFINITION/KEY]...", nargs=-1)
@click.option("--all-attention", is_flag=True, help="Every saga that asks for somebody.")
@click.option("--yes", is_flag=True, help="Do not ask; needed with --all-attention when nobody can be asked.")
@wait_option(5.0, "Wait so long until a worker has applied it; 0: do not wait.")
@why_option
@actor_option
@json_option
def retry(
    names: tuple[str, ...], all_attention: bool, yes: bool, wait_seconds: float, why: str | None, actor: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Try again whatever put a saga on the attention list: silence, a refused undo, a rejection past the pivot.

    A saga behind a dead letter is not helped by it: replay the letter.
    """
    if bool(names) is all_attention:
        raise click.UsageError("Name sagas, or say --all-attention.")
    for name in names:
        identify(name)
    if all_attention and not yes and not sys.stdin.isatty():
        raise click.UsageError("Say --yes to retry every saga that asks for somebody.")
    settings = load_settings("database_url")
    ask = all_attention and not yes
    run_async(_retry(settings, names, ask=ask, wait_seconds=wait_seconds, actor=actor, why=why, as_json=as_json))


async def _retry(
    settings: Settings, names: tuple[str, ...], *, ask: bool, wait_seconds: float, actor: str, why: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    from saga_worker import operator_requests
    from saga_worker.admin.connect import acting
    from saga_worker.admin.output import progress

    async with acting(settings) as database:
        targets = await named(database, names) if names else await _all_attention(settings)
        if ask:
            click.confirm(f"Retry {len(targets)} sagas?", abort=True, err=True)
        wanted = operator_requests.Request("retry")
        with progress("asking", len(targets)) as advance:
            ids = await operator_requests.request(database, targets, wanted, actor=actor, why=why, advance=advance)
        alive = await operator_requests.workers_alive(database)
        waited = wait_seconds if alive else 0
        found = await operator_requests.outcomes(database, ids, wait_seconds=waited)
    report_asked(found, asked=len(ids), alive=alive, waited_seconds=waited, as_json=as_json)


async def named(database: Database, names: tuple[str, ...]) -> list[Target]:
    """The sagas of these names, all or none."""
    from saga_worker.operator_requests import Target

    targets = []
    async with database.autocommit() as connection:
        for name in names:
            row = await connection.fetchrow("admin_saga", *identify(name))
            if row is None or row["ref"] is None:
                raise click.ClickException(f"There is no saga {name} (or a newer one has its key); nothing was asked.")
            targets.append(Target(row["ref"], row["name"], row["key"], row["attention"]))
    return targets


async def _all_attention(settings: Settings) -> list[Target]:
    from saga_worker.admin import listing
    from saga_worker.admin.connect import reading
    from saga_worker.operator_requests import Target

    statement = listing.saga_rows(settings.schema_, listing.SagaFilter(attention=True), limit=RETRIED_AT_ONCE)
    async with reading(settings) as connection:
        return [
            Target(row["ref"], row["name"], row["key"], row["attention"])
            async for row in listing.fetch(connection, statement)
            if row["ref"] is not None
        ]


def report_asked(found: Counter[str], *, asked: int, alive: int, waited_seconds: float, as_json: bool) -> None:
    """What became of requests, and exit code 1 unless all were applied or no worker runs."""
    from saga_worker.admin.output import print_summary, say
    from saga_worker.operator_requests import REFUSALS

    print_summary({"asked": asked, **{word: found[word] for word in ("applied", "waiting")}, **found}, as_json=as_json)
    for reason in sorted(found.keys() & REFUSALS.keys()):
        say(f"{found[reason]} of the sagas did not take it: {REFUSALS[reason]}.")
    if not alive:
        say("No worker runs; the requests are stored and applied when one does.")
    elif waited_seconds and found["waiting"]:
        say(
            f"No worker has applied {found['waiting']} of the requests within {waited_seconds:g} s, though {alive} of"
            " them hold their lease: they are busy, lack the definition, or hang. The requests are stored and will be"
            " applied; do not ask again. `saga-worker saga show` says where the saga stands; if it stays so, look at"
            " the workers' logs and restart them."
        )
    if asked != found["applied"] + found["waiting"] or (waited_seconds and found["waiting"]):
        raise click.exceptions.Exit(1)
