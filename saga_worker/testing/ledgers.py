"""What the witnesses of a run wrote down: producer ledger, sink ledger, and a dump of the read-only views.

Takes files and a database, hands typed lines to `checker`. A line is on disk when `Ledger.append` returns, and a
line torn by a crash is left out, never guessed at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import asyncpg

Row = Mapping[str, Any]

VIEWS = ("v_saga", "v_journal", "v_inbox", "v_outbox", "v_timer")


@dataclass(frozen=True, slots=True)
class Publication:
    """One line of the producer: `intent` before the publish, then what the broker said: ok, returned or unknown."""

    source: str
    id: str
    type: str
    sha256: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery at a participant. `effect` says that the participant did something because of this very copy."""

    destination: str
    type: str
    message_id: str
    sha256: str
    saga_id: str
    seq: int
    undoes: str | None = None
    redelivered: bool = False
    effect: bool = True


@dataclass(frozen=True, slots=True)
class Views:
    """The views as rows by column name, read in one snapshot."""

    saga: Sequence[Row] = field(default_factory=tuple)
    journal: Sequence[Row] = field(default_factory=tuple)
    inbox: Sequence[Row] = field(default_factory=tuple)
    outbox: Sequence[Row] = field(default_factory=tuple)
    timer: Sequence[Row] = field(default_factory=tuple)


class Ledger:
    """An append-only file of JSON lines, one fsync per batch."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b")
        self._drop_torn_line()

    def append(self, lines: Iterable[Mapping[str, object]]) -> None:
        """On disk when this returns."""
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        self._file.write(text.encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drop_torn_line(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        self._file.truncate(content.rfind(b"\n") + 1)


def read_lines(path: Path) -> Iterator[Row]:
    """The whole lines of a ledger; what a crash left without its newline is skipped."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"{path}:{number} is not JSON ({error}); a ledger is written by appending only."
                ) from error


def read_producer(path: Path) -> list[Publication]:
    return [
        Publication(source=row["source"], id=row["id"], type=row["type"], sha256=row["sha256"], outcome=row["outcome"])
        for row in read_lines(path)
    ]


def read_sink(path: Path) -> list[Delivery]:
    names = Delivery.__slots__
    return [Delivery(**{name: row[name] for name in names if name in row}) for row in read_lines(path)]


async def read_views(database_url: str, *, schema: str = "saga_worker") -> Views:
    """The views of a live database, all as of one moment."""
    connection = await asyncpg.connect(database_url.replace("postgresql+asyncpg://", "postgresql://"), timeout=10)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            quoted = '"' + schema.replace('"', '""') + '"'
            rows = {view: await connection.fetch(f"SELECT * FROM {quoted}.{view}") for view in VIEWS}
    finally:
        await connection.close()
    return _views({view: [_plain(record) for record in records] for view, records in rows.items()})


def write_dump(views: Views, directory: Path) -> None:
    """One JSON-lines file per view, the form that `read_dump` takes."""
    directory.mkdir(parents=True, exist_ok=True)
    for view in VIEWS:
        rows: Sequence[Row] = getattr(views, view.removeprefix("v_"))
        (directory / f"{view}.jsonl").write_text("".join(json.dumps(dict(row), default=str) + "\n" for row in rows))


def read_dump(directory: Path) -> Views:
    return _views({view: list(read_lines(directory / f"{view}.jsonl")) for view in VIEWS})


def _views(rows: Mapping[str, Sequence[Row]]) -> Views:
    return Views(**{view.removeprefix("v_"): rows[view] for view in VIEWS})


def _plain(record: asyncpg.Record) -> dict[str, Any]:
    """UUIDs as text, so that a dump and a live read compare equal."""
    return {name: value if isinstance(value, str | int | list | None) else str(value) for name, value in record.items()}
