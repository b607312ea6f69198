"""`saga-worker saga compensate | pause | resume | cancel | mark-undone | wake`: an operator takes sagas in hand.

Nothing here changes a saga: each command is an inbox row that a worker decides about under the saga's lock
(`saga.decide.control`), beside a row of the audit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from saga_worker.admin.options import actor_option, json_option, load_settings, run_async, wait_option, why_option

if TYPE_CHECKING:
    from saga_worker.operator_requests import Request
    from saga_worker.settings import Settings

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def asking(*, needs_why: bool = False) -> Callable[[Decorated], Decorated]:
    """The options of every command that asks something of sagas."""

    def add(command: Decorated) -> Decorated:
        command = json_option(actor_option(command))
        if needs_why:
            command = click.option("--why", required=True, help="Why, for the saga and for the audit.")(command)
        else:
            command = why_option(command)
        return wait_option(5.0, "Wait so long until a worker has applied it; 0: do not wait.")(command)

    return add


_names = click.argument("names", metavar="SAGA_ID|DEFINITION/KEY...", nargs=-1, required=True)


@click.command(epilog='\b\nExample:\n  saga-worker saga compensate checkout/4711 --why "the customer has called"')
@_names
@asking(needs_why=True)
def compensate(names: tuple[str, ...], **options: Any) -> None:
    """Take back what a saga has done: its steps are undone, newest first, and no further step is begun.

    A saga past its pivot does not take this. A paused one does, and is paused no more.
    """
    ask(names, "compensate", **options)


@click.command(epilog='\b\nExample:\n  saga-worker saga pause checkout/4711 --why "until the prices are mended"')
@_names
@asking()
def pause(names: tuple[str, ...], **options: Any) -> None:
    """Let a saga stand still: messages for it are held, and none of its timers fires.

    What it has asked for already is answered or not, and the answer is held, too. Time goes on: timers that have become
    due fire when it is resumed, after what was held.
    """
    ask(names, "pause", **options)


@click.command(epilog="\b\nExample:\n  saga-worker saga resume checkout/4711")
@_names
@asking()
def resume(names: tuple[str, ...], **options: Any) -> None:
    """Let a paused saga go on from where it stands: what was held comes first, in the order in which it came."""
    ask(names, "resume", **options)


@click.command(epilog='\b\nExample:\n  saga-worker saga cancel checkout/4711 --why "settled by hand"')
@_names
@asking(needs_why=True)
def cancel(names: tuple[str, ...], **options: Any) -> None:
    """End a saga as it is: nothing more is sent, run or undone, and it ends as failed.

    What it has done stays, and nobody watches what it may have done: you have seen to that. To have it taken back, use
    `compensate`.
    """
    ask(names, "cancel", **options)


@click.command(
    "mark-undone",
    epilog='\b\nExample:\n  saga-worker saga mark-undone checkout/4711 charge --why "refunded by hand, no. 77"',
)
@click.argument("name", metavar="SAGA_ID|DEFINITION/KEY")
@click.argument("step")
@asking()
def mark_undone(name: str, step: str, **options: Any) -> None:
    """Say that what STEP did was taken back outside: its undo is not sent (again), and older ones wait for it no more.

    Of a step in a loop this is about all rounds so far.
    """
    ask((name,), "mark_undone", {"step": step}, **options)


@click.command(epilog='\b\nExample:\n  saga-worker saga wake checkout/4711 approval --why "approved on paper"')
@click.argument("name", metavar="SAGA_ID|DEFINITION/KEY")
@click.argument("step")
@asking()
def wake(name: str, step: str, **options: Any) -> None:
    """End the wait or the sleep STEP without its event, or before its time: the saga goes on with what comes after it.

    No handler of the wait runs. To end a wait as its event would, send that: `saga-worker saga signal`.
    """
    ask((name,), "wake", {"step": step}, **options)


COMMANDS = (compensate, pause, resume, cancel, mark_undone, wake)


def ask(
    names: tuple[str, ...], command: str, arguments: dict[str, object] | None = None, *, wait_seconds: float,
    why: str | None, actor: str, as_json: bool,
) -> None:  # fmt: skip
    """Ask this of each of the sagas, and say what became of it."""
    from saga_worker.admin.saga_commands import identify
    from saga_worker.operator_requests import Request

    for name in names:
        identify(name)
    wanted = Request(command, arguments or {})
    settings = load_settings("database_url")
    run_async(_ask(settings, names, wanted, wait_seconds=wait_seconds, actor=actor, why=why, as_json=as_json))


async def _ask(
    settings: Settings, names: tuple[str, ...], wanted: Request, *, wait_seconds: float, actor: str, why: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    from saga_worker import operator_requests
    from saga_worker.admin.connect import acting
    from saga_worker.admin.saga_commands import named, report_asked

    async with acting(settings) as database:
        ids = await operator_requests.request(database, await named(database, names), wanted, actor=actor, why=why)
        alive = await operator_requests.workers_alive(database)
        waited = wait_seconds if alive else 0
        found = await operator_requests.outcomes(database, ids, wait_seconds=waited)
    report_asked(found, asked=len(ids), alive=alive, waited_seconds=waited, as_json=as_json)
