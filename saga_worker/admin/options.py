"""Options that several commands share, and how a command gets its settings. Light: `--help` imports it."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

if TYPE_CHECKING:
    from saga_worker.settings import Settings

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Result = TypeVar("Result")
MAXIMUM_ROWS = 100_000


def json_option(command: Decorated) -> Decorated:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, one document per line.")(command)


def limit_option(default: int) -> Callable[[Decorated], Decorated]:
    help_ = f"At most so many rows (up to {MAXIMUM_ROWS})."
    return click.option("--limit", type=click.IntRange(1, MAXIMUM_ROWS), default=default, show_default=True, help=help_)


def since_option(command: Decorated) -> Decorated:
    help_ = "Only newer ones: an age (30m, 2h, 7d) or a time (2026-11-20T08:00:00Z)."
    return click.option("--since", type=Since(), help=help_)(command)


def actor_option(command: Decorated) -> Decorated:
    help_ = "Who acts, for the audit; default: the user of the operating system."
    return click.option("--actor", help=help_, callback=lambda _, __, value: value or _user())(command)


def why_option(command: Decorated) -> Decorated:
    return click.option("--why", help="Why, for the audit.")(command)


def wait_option(default: float, help_: str) -> Callable[[Decorated], Decorated]:
    return click.option(
        "--wait", "wait_seconds", metavar="SECONDS", type=click.FloatRange(0, 86_400), default=default,
        show_default=True, help=help_,
    )  # fmt: skip


UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Since(click.ParamType[timedelta | datetime]):
    """An age becomes a timedelta (subtracted in the database's clock), a time an aware datetime."""

    name = "age|time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta | datetime:
        if age := re.fullmatch(r"(\d{1,6})([smhdw])", str(value)):
            return timedelta(**{UNITS[age[2]]: int(age[1])})
        try:
            time = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail("give an age such as 30m, 2h, 7d, or a time such as 2026-11-20T08:00:00Z.", param, ctx)
        return time if time.tzinfo else time.replace(tzinfo=UTC)


def load_settings(*needed: Literal["database_url", "amqp_url"], **overrides: Any) -> Settings:
    """The settings, with the URLs that the command needs; variables that nothing reads are named on stderr."""
    from saga_worker.settings import Settings, unknown_variables

    for warning in unknown_variables():
        click.echo(f"Warning: {warning}", err=True)
    return Settings(**{name: value for name, value in overrides.items() if value is not None}).require(*needed)


def run_async(main: Coroutine[Any, Any, Result]) -> Result:
    import asyncio

    return asyncio.run(main)


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without an entry in passwd
        import os

        return f"uid {os.getuid()}"
