"""`saga-worker saga timer list | fire | move | cancel`: the armed timers of one saga, seen and moved.

A timer is asked about under the epoch that it had when the command looked: the worker that decides (`saga.decide.
timer_control`) refuses when it has fired or was armed anew since.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from saga_worker.admin.options import Since, json_option, load_settings, run_async
from saga_worker.admin.saga_control import ask, asking

if TYPE_CHECKING:
    from saga_worker.saga.instance import Timer
    from saga_worker.settings import Settings

SHOWN = ("name", "due_at", "epoch", "failures", "deaths")

_name = click.argument("name", metavar="SAGA_ID|DEFINITION/KEY")
_timer = click.argument("timer_name", metavar="TIMER")


@click.group(epilog="\b\nExample:\n  saga-worker saga timer list checkout/4711")
def timer() -> None:
    """List the timers of a saga, let one fire now or at another time, or keep it from firing."""


@timer.command("list", epilog="\b\nExample:\n  saga-worker saga timer list checkout/4711 --json")
@_name
@json_option
def list_(name: str, as_json: bool) -> None:
    """List the armed timers of a saga, the next one first; without a time: it does not fire by itself."""
    from saga_worker.admin.output import print_rows

    print_rows(_rows(_armed(name)), SHOWN, as_json=as_json)


@timer.command(epilog="\b\nExample:\n  saga-worker saga timer fire checkout/4711 timeout:3")
@_name
@_timer
@asking()
def fire(name: str, timer_name: str, **options: Any) -> None:
    """Let TIMER fire now, as if its time had come."""
    ask((name,), "timer_fire", {"timer": _seen(name, timer_name)}, **options)


@timer.command(
    epilog="""\b
Examples:
  saga-worker saga timer move checkout/4711 deadline --due 7d --why "the customer is on holiday"
  saga-worker saga timer move checkout/4711 "sleep:cooling off" --due 2026-12-01T08:00:00Z"""
)
@_name
@_timer
@click.option("--due", type=Since(), required=True, help="From now on (30m, 2h, 7d), or a time (2026-11-20T08:00:00Z).")
@asking()
def move(name: str, timer_name: str, due: timedelta | datetime, **options: Any) -> None:
    """Let TIMER fire at another time, on the clock of the database; one that has been cancelled, too."""
    when: dict[str, object] = (
        {"after_seconds": due.total_seconds()} if isinstance(due, timedelta) else {"due_at": due.isoformat()}
    )
    ask((name,), "timer_move", {"timer": _seen(name, timer_name), **when}, **options)


@timer.command(epilog="\b\nExample:\n  saga-worker saga timer cancel checkout/4711 deadline --why 'no hurry'")
@_name
@_timer
@asking()
def cancel(name: str, timer_name: str, **options: Any) -> None:
    """Keep TIMER from firing by itself; `fire` and `move` still can.

    What it bounds may then last for ever, and nobody is told.
    """
    ask((name,), "timer_cancel", {"timer": _seen(name, timer_name)}, **options)


def _seen(name: str, timer_name: str) -> str:
    """The timer with its epoch."""
    armed = _armed(name)
    if timer_name not in armed:
        names = ", ".join(sorted(armed)) or "none at all"
        raise click.ClickException(f"The saga {name} has no timer {timer_name}; armed are: {names}.")
    return f"{timer_name}:{armed[timer_name].epoch}"


def _armed(name: str) -> dict[str, Timer]:
    from saga_worker.admin.saga_commands import identify

    identify(name)
    return run_async(_read(load_settings("database_url"), name))


async def _read(settings: Settings, name: str) -> dict[str, Timer]:
    from saga_worker.admin.connect import looking
    from saga_worker.admin.saga_commands import read_facts

    async with looking(settings) as connection:
        facts = await read_facts(connection, name)
    if facts is None:
        raise click.ClickException(f"There is no saga {name}.")
    return facts.progress.timers


def _rows(armed: dict[str, Timer]) -> Sequence[dict[str, object]]:
    from saga_worker.saga.instance import NEVER

    return [
        {
            "name": name,
            "due_at": armed[name].due_at if armed[name].due_at < NEVER else None,
            "epoch": armed[name].epoch,
            "failures": armed[name].failures,
            "deaths": armed[name].deaths,
        }
        for name in sorted(armed, key=lambda name: armed[name].due_at)
    ]
