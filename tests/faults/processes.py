"""Processes of one run by name: started, watched through their logs, signalled, ended.

Guarantees that none of them outlives the program that started them, however that ends. Hands exit codes and log
lines to `campaign`.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saga_worker.testing import eventually
from saga_worker.trial.supervisor import Supervisor, last_lines

DEADLINE = 60.0


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that came to its end."""

    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The lines of `--json`."""
        return [json.loads(line) for line in self.out.splitlines()]


class Processes:
    """Each name has at most one process at a time, and a log of its own for each start."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._supervisor = Supervisor(directory, remove=False)
        self._starts: dict[str, int] = {}
        self._ended: set[str] = set()

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Start it and return its process id."""
        self._starts[name] = self._starts.get(name, 0) + 1
        self._ended.discard(name)
        return self._supervisor.start(name, command, log=self._log(name), environment=environment)

    async def until_said(self, name: str, word: str, deadline: float = DEADLINE) -> None:
        """Wait until the log holds `word`; raises with the last words of a process that ended before it."""

        def said() -> bool:
            if word in self.log(name):
                return True
            if (code := self.code(name)) is not None and word not in self.log(name):
                raise RuntimeError(f"{name} ended with {code} before it said {word}:\n{last_lines(self._log(name))}")
            return False

        await eventually(said, deadline)

    async def until_ended(self, name: str, deadline: float = DEADLINE) -> int:
        """The exit code; minus the number of the signal that killed it. Raises with its last words when it stays."""
        try:
            await eventually(lambda: self.code(name) is not None, deadline)
        except AssertionError:
            self.signal(name, signal.SIGABRT)  # with PYTHONFAULTHANDLER it says where it was
            await eventually(lambda: self.code(name) is not None, deadline)
            raise RuntimeError(f"{name} did not end:\n{last_lines(self._log(name), count=60)}") from None
        code = self.code(name)
        assert code is not None
        self._ended.add(name)
        return code

    def code(self, name: str) -> int | None:
        return self._supervisor.wait(name, seconds=0)

    def signal(self, name: str, number: int) -> None:
        self._supervisor.signal(name, number)

    def log(self, name: str) -> str:
        """What the process wrote since its last start."""
        path = self._log(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def lines(self, name: str, event: str) -> list[dict[str, Any]]:
        """The structured log lines about `event`."""
        return [json.loads(line) for line in self.log(name).splitlines() if f'"{event}"' in line and line[0] == "{"]

    @property
    def running(self) -> list[str]:
        return [name for name in self._starts if name not in self._ended and self.code(name) is None]

    def close(self) -> None:
        """End whatever still runs, without ceremony."""
        try:
            for name in self.running:
                self.signal(name, signal.SIGKILL)
        finally:
            self._supervisor.close()

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.{self._starts[name]}.log"


async def run(command: Sequence[str], environment: Mapping[str, str], *, timeout: float = DEADLINE) -> Ran:
    """A command to its end; killed when it takes too long."""
    process = await asyncio.create_subprocess_exec(
        *command, env=dict(environment), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())
