"""What commands print: data on stdout (a table, tab-separated lines or JSON lines), talk on stderr.

Guarantees that text from messages cannot act on the terminal: controls are escaped in every form.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Self

import click

from saga_worker.telemetry import escape_controls

Advance = Callable[[int], None]


class RowPrinter:
    """Prints rows as they come: JSON lines of whole rows, tab-separated `columns`, or on a terminal a table at the end.

    `count` is how many there were.
    """

    def __init__(self, columns: Sequence[str], *, as_json: bool) -> None:
        self._columns = columns
        self._as_json = as_json
        self._table: list[Mapping[str, object]] | None = [] if not as_json and sys.stdout.isatty() else None
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def add(self, row: Mapping[str, object]) -> None:
        self._begin()
        self.count += 1
        if self._as_json:
            print_json(row)
        elif self._table is not None:
            self._table.append(row)
        else:
            click.echo("\t".join(cell(row[column]) for column in self._columns))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        self._begin()
        if self._table is not None:
            _print_table(self._table, self._columns)

    def _begin(self) -> None:
        """The header, once it is sure that there is something to head."""
        if not self.count and not self._as_json and self._table is None:
            click.echo("\t".join(self._columns))


def print_rows(rows: Iterable[Mapping[str, object]], columns: Sequence[str], *, as_json: bool = False) -> None:
    """Print rows that are all there."""
    with RowPrinter(columns, as_json=as_json) as printer:
        for row in rows:
            printer.add(row)


def print_document(document: Mapping[str, object], *, as_json: bool) -> None:
    """One thing whole: a JSON object, or a line per field."""
    if as_json:
        print_json(document)
        return
    width = max(map(len, document))
    for name, value in document.items():
        click.echo(f"{name.ljust(width)}  {cell(value)}")


def print_json(document: Mapping[str, object]) -> None:
    """One JSON document on one line; all but ASCII escaped, so that any pipe can carry it."""
    click.echo(json.dumps(document, default=_plain))


def print_summary(summary: Mapping[str, object], *, as_json: bool) -> None:
    """What an action has done: a JSON object, or one line of words and figures."""
    if as_json:
        print_json(summary)
    else:
        click.echo(", ".join(f"{name.replace('_', ' ')}: {cell(value)}" for name, value in summary.items()))


def say(text: str) -> None:
    """Talk: to stderr, never mixed with data."""
    click.echo(escape_controls(text), err=True)


def cell(value: object) -> str:
    """One value as words: times in UTC to the second, nothing as a dash, controls escaped."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, dict | list):
        return escape_controls(json.dumps(value, default=_plain, ensure_ascii=False))
    return escape_controls(str(value))


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Advance]:
    """A progress bar on stderr when it is a terminal; `advance(n)` moves it."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


def _print_table(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell(row[column]), overflow="fold") for column in columns))
    Console().print(table)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return str(value)
