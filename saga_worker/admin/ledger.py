"""The producer's ledger: what was meant to be published, and what the broker said to it.

A line is on disk when `write` returns: intents before the publish, outcomes after the confirm. After a crash an
intent without an outcome may or may not have been received; everything else is certain.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from saga_worker.admin.event_file import Event


class Ledger:
    """An append-only file of JSON lines, one fsync per group; without a path it keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("a+b") if path is not None else None
        if self._file is not None:
            self._drop_torn_line()

    def write(self, events: Iterable[tuple[Event, str]]) -> None:
        """Append one line per event and outcome: intent, ok, returned or unknown."""
        if self._file is None:
            return
        for event, outcome in events:
            line = {
                "id": event.id,
                "source": event.source,
                "type": event.type,
                "sha256": hashlib.sha256(event.body).hexdigest(),
                "outcome": outcome,
            }
            self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _drop_torn_line(self) -> None:
        assert self._file is not None
        size = end = self._file.seek(0, os.SEEK_END)
        while end > 0:  # backwards in blocks: a ledger may be larger than memory
            start = max(0, end - 65_536)
            self._file.seek(start)
            newline = self._file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            self._file.truncate(end)
        self._file.seek(0, os.SEEK_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
