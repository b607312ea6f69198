"""`saga-worker inbox`: look at the stored messages, give dead ones another try, or put them away for good."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from saga_worker.admin.options import (
    actor_option,
    json_option,
    limit_option,
    load_settings,
    run_async,
    since_option,
    why_option,
)

if TYPE_CHECKING:
    from saga_worker.admin.listing import InboxFilter
    from saga_worker.admin.replay import Tally
    from saga_worker.inbox import DeadFilter
    from saga_worker.settings import Settings
    from saga_worker.sql.connection import Database

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
STATES = ("ready", "parked", "held", "done", "ignored", "dead")
SHOWN = ("id", "state", "reason", "type", "consumer", "saga_key", "message_id", "source", "attempts", "received_at")


def _filters(command: Decorated) -> Decorated:
    """The filters that `list`, `replay` and `discard` share."""
    for option in (
        since_option,
        click.option("--definition", help="Only messages of this definition."),
        click.option("--saga-key", help="Only messages of the saga with this key."),
        click.option("--type", "type_", help="Only messages of this type."),
        click.option("--reason", help="Only with this reason, such as schema_mismatch."),
    ):
        command = option(command)
    return command


@click.group(epilog="\b\nExample:\n  saga-worker inbox list --state dead --since 2h")
def inbox() -> None:
    """List and show stored messages, replay or discard dead ones."""


@inbox.command("list", epilog="\b\nExample:\n  saga-worker inbox list --state dead --reason handler_error --json")
@click.option("--state", type=click.Choice(STATES), help="Only rows in this state.")
@_filters
@limit_option(50)
@json_option
def list_(
    state: str | None, reason: str | None, type_: str | None, saga_key: str | None, definition: str | None,
    since: datetime | timedelta | None, limit: int, as_json: bool,
) -> None:  # fmt: skip
    """List stored messages, newest first."""
    from saga_worker.admin.listing import InboxFilter

    wanted = InboxFilter(state=state, reason=reason, type=type_, saga_key=saga_key, definition=definition, since=since)
    run_async(_list(load_settings("database_url"), wanted, limit, as_json))


async def _list(settings: Settings, wanted: InboxFilter, limit: int, as_json: bool) -> None:
    from saga_worker.admin import listing
    from saga_worker.admin.connect import reading
    from saga_worker.admin.output import RowPrinter, say

    with RowPrinter(SHOWN, as_json=as_json) as printer:
        async with reading(settings) as connection:
            async for row in listing.fetch(connection, listing.inbox_rows(settings.schema_, wanted, limit=limit)):
                printer.add(row)
    _warn_of_reason(wanted.reason, printer.count)
    if printer.count == limit:
        say(f"Only the newest {limit} are shown; --limit shows more.")


def _warn_of_reason(reason: str | None, found: int) -> None:
    """Nothing was found under a reason that nothing writes: most likely a slip of the pen."""
    from saga_worker.admin.output import say
    from saga_worker.admin.reasons import REASONS

    if reason is not None and not found and reason not in REASONS:
        say(f"Warning: nothing matches, and {reason} is no reason of this release; known are {', '.join(REASONS)}.")


@inbox.command(epilog="\b\nExample:\n  saga-worker inbox show 4711")
@click.argument("row_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))
@json_option
def show(row_id: int, as_json: bool) -> None:
    """Show one message whole: body, properties, error, attempts and times."""
    run_async(_show(load_settings("database_url"), row_id, as_json))


async def _show(settings: Settings, row_id: int, as_json: bool) -> None:
    from saga_worker.admin.connect import looking
    from saga_worker.admin.output import print_document
    from saga_worker.admin.stored_message import readable

    async with looking(settings) as connection:
        row = await connection.fetchrow("admin_inbox_row", row_id)
    if row is None:
        raise click.ClickException(f"There is no inbox row {row_id}; it may have left with the retention.")
    print_document(readable(dict(row)), as_json=as_json)


@inbox.command(
    epilog="""\b
Examples:
  saga-worker inbox replay 4711 4712 --why "address service is back"
  saga-worker inbox replay --reason handler_error --since 2h --dry-run"""
)
@click.argument("ids", metavar="[ID]...", nargs=-1, type=click.IntRange(1, 2**63 - 1))
@_filters
@click.option("--all", "everything", is_flag=True, help="Every dead letter.")
@click.option("--dry-run", is_flag=True, help="Say how many would be replayed, and stop.")
@click.option("--yes", is_flag=True, help="Do not ask; needed with filters when nobody can be asked.")
@why_option
@actor_option
@json_option
def replay(
    ids: tuple[int, ...], reason: str | None, type_: str | None, saga_key: str | None, definition: str | None,
    since: datetime | timedelta | None, everything: bool, dry_run: bool, yes: bool, why: str | None, actor: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Make dead letters ready again, by id or by filter; a message is applied at most once however often.

    With --since: those that failed last since then. Fails if any of the rows named could not be replayed.
    """
    from saga_worker.admin.listing import InboxFilter

    wanted = InboxFilter(reason=reason, type=type_, saga_key=saga_key, definition=definition, since=since)
    settings, matching = _choose(ids, wanted, everything=everything)
    if dry_run:
        _dry_run("would_replay", matching, as_json=as_json)
        return
    if not ids and matching and not yes:
        _ask("replay", matching)
    tally = run_async(_replay(settings, ids, wanted, matching, actor=actor, why=why))
    _report(tally, ids, as_json=as_json)


@inbox.command(
    epilog="""\b
Examples:
  saga-worker inbox discard 4711 --why "the order was entered by hand"
  saga-worker inbox discard --reason schema_mismatch --since 2h --dry-run --why test"""
)
@click.argument("ids", metavar="[ID]...", nargs=-1, type=click.IntRange(1, 2**63 - 1))
@_filters
@click.option("--all", "everything", is_flag=True, help="Every dead letter.")
@click.option("--dry-run", is_flag=True, help="Say how many would be discarded, and stop.")
@click.option("--yes", is_flag=True, help="Do not ask; needed with filters when nobody can be asked.")
@click.option("--why", required=True, help="Why, for the audit.")
@actor_option
@json_option
def discard(
    ids: tuple[int, ...], reason: str | None, type_: str | None, saga_key: str | None, definition: str | None,
    since: datetime | timedelta | None, everything: bool, dry_run: bool, yes: bool, why: str, actor: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Put dead letters away for good: they are never applied, and leave with the retention.

    A saga that was held up by one goes on with what stands behind it, as if the message had not come.
    """
    from saga_worker.admin.listing import InboxFilter

    wanted = InboxFilter(reason=reason, type=type_, saga_key=saga_key, definition=definition, since=since)
    settings, matching = _choose(ids, wanted, everything=everything)
    if dry_run:
        _dry_run("would_discard", matching, as_json=as_json)
        return
    if not ids and matching and not yes:
        _ask("discard", matching)
    discarded = run_async(_discard(settings, ids, wanted, matching, actor=actor, why=why))
    _report_discarded(discarded, ids, as_json=as_json)


def _choose(ids: tuple[int, ...], wanted: InboxFilter, *, everything: bool) -> tuple[Settings, int]:
    """The settings, and how many dead letters are meant: those of the ids, or all that fit the filters."""
    if ids and (everything or not wanted.is_empty):
        raise click.UsageError("Ids and filters exclude each other: give ids alone, or filters, or --all.")
    if bool(ids) + (not wanted.is_empty) + everything != 1:
        raise click.UsageError("Give ids, or filters, or --all.")
    settings = load_settings("database_url")
    if ids:
        return settings, len(set(ids))
    matching = run_async(_count(settings, wanted))
    _warn_of_reason(wanted.reason, matching)
    return settings, matching


async def _count(settings: Settings, wanted: InboxFilter) -> int:
    from saga_worker.admin import listing
    from saga_worker.admin.connect import reading

    async with reading(settings) as connection:
        return int((await connection.execute(listing.dead_count(settings.schema_, wanted))).scalar_one())


def _dry_run(what: str, matching: int, *, as_json: bool) -> None:
    from saga_worker.admin.output import print_summary

    print_summary({what: matching}, as_json=as_json)


def _ask(verb: str, matching: int) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError(f"{matching} dead letters match; say --yes to {verb} them.")
    click.confirm(f"{verb.capitalize()} {matching} dead letters?", abort=True, err=True)


async def _replay(
    settings: Settings, ids: tuple[int, ...], wanted: InboxFilter, matching: int, *, actor: str, why: str | None
) -> Tally:
    from saga_worker.admin.connect import acting
    from saga_worker.admin.output import progress
    from saga_worker.admin.replay import Actor, replay_all

    async with acting(settings) as database:
        which = await _which(database, ids, wanted)
        with progress("replaying", matching) as advance:
            return await replay_all(database, which, Actor(actor, why), advance)


async def _discard(
    settings: Settings, ids: tuple[int, ...], wanted: InboxFilter, matching: int, *, actor: str, why: str
) -> int:
    from saga_worker.admin.connect import acting
    from saga_worker.admin.output import progress
    from saga_worker.admin.replay import Actor, discard_all

    async with acting(settings) as database:
        which = await _which(database, ids, wanted)
        with progress("discarding", matching) as advance:
            return await discard_all(database, which, Actor(actor, why), advance)


async def _which(database: Database, ids: tuple[int, ...], wanted: InboxFilter) -> DeadFilter:
    """The same filter for the inbox; an age is counted on the clock of the database."""
    from saga_worker.inbox import DeadFilter

    since = wanted.since
    if isinstance(since, timedelta):
        async with database.autocommit() as connection:
            since = await connection.fetchval("admin_clock") - since
    return DeadFilter(
        ids=ids or None, reason=wanted.reason, type=wanted.type, saga_key=wanted.saga_key, since=since,
        consumer=wanted.definition,
    )  # fmt: skip


def _report_discarded(discarded: int, ids: tuple[int, ...], *, as_json: bool) -> None:
    from saga_worker.admin.output import print_summary, say

    not_dead = len(set(ids)) - discarded if ids else 0
    print_summary({"discarded": discarded, "not_dead": not_dead}, as_json=as_json)
    if not_dead:
        say(f"{not_dead} of the ids are not dead letters: unknown, or replayed or discarded already.")
        raise click.exceptions.Exit(1)


def _report(tally: Tally, ids: tuple[int, ...], *, as_json: bool) -> None:
    from saga_worker.admin.output import print_summary, say

    not_dead = len(set(ids)) - tally.replayed - len(tally.expired) - len(tally.homeless) if ids else 0
    print_summary(
        {
            "replayed": tally.replayed,
            "not_dead": not_dead,
            "expired": len(tally.expired),
            "without_saga": len(tally.homeless),
        },
        as_json=as_json,
    )
    if not_dead:
        say(f"{not_dead} of the ids are not dead letters: unknown, or replayed already.")
    if tally.expired:
        say(f"The sagas of {len(tally.expired)} rows have left with the retention; these rows are refused for good.")
    for row_id, problem in list(tally.homeless.items())[:20]:
        say(f"Row {row_id} stays dead: {problem}")
    if not_dead or tally.expired or tally.homeless:
        raise click.exceptions.Exit(1)
