"""Numbered events that wait for their turn, of one saga: a line for each source.

Takes parked rows with their numbers, gives out those whose turn it is in constant time each, however many wait.
Used by `fold`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from saga_worker.saga.rows import InboxRow

FIRST: Final = 1  # the number of a source's first event, unless the start of the saga says otherwise


class Lines:
    """Rows by source and number; several rows may have one number."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[int, list[InboxRow]]] = {}
        self._looked: dict[str, int] = {}  # source -> the number that was next the last time

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __iter__(self) -> Iterator[InboxRow]:
        return (row for line in self._waiting.values() for rows in line.values() for row in rows)

    def add(self, row: InboxRow) -> None:
        assert row.sequence is not None
        self._waiting.setdefault(row.source, {}).setdefault(row.sequence, []).append(row)

    def extend(self, rows: Iterable[InboxRow]) -> None:
        """Those of `rows` that have a number."""
        for row in rows:
            if row.sequence is not None:
                self.add(row)

    def take_next(self, sequences: Mapping[str, int]) -> list[InboxRow]:
        """The rows that are next in their lines."""
        taken: list[InboxRow] = []
        for source in list(self._waiting):
            taken += self._take(source, sequences.get(source, FIRST))
        return taken

    def take_all(self) -> list[InboxRow]:
        taken = list(self)
        self._waiting.clear()
        return taken

    def _take(self, source: str, number: int) -> list[InboxRow]:
        """Those with this number; also lower ones, looked for where the line did not move on by one."""
        line = self._waiting[source]
        is_jump = number - self._looked.get(source, -1) not in (0, 1)
        self._looked[source] = number
        rows = [row for n in sorted(n for n in line if n < number) for row in line.pop(n)] if is_jump else []
        rows += line.pop(number, [])
        if not line:
            del self._waiting[source]
        return rows
