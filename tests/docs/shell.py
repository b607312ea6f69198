"""Runs the lines that a page prints as a shell would, on servers of the test."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from tests.flow.processes import Processes, Run

Eventually = Callable[..., Awaitable[Any]]
SERVERS: Final = ["-m", "saga_worker.trial"]


@dataclass
class Shell:
    """Several terminals of a reader in one folder; what a line starts in the foreground runs on beside the others."""

    processes: Processes
    eventually: Eventually
    settings: dict[str, str] = field(default_factory=dict)  # of workers
    variables: set[str] = field(default_factory=set)
    worker: Run | None = None
    others: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.processes.folder

    async def read(self, line: str, shows: Sequence[str] = ()) -> str:
        """Do what the line says; what it printed, which has each of the lines `shows` in it."""
        words = shlex.split(line, comments=True)
        match words:
            case []:
                return ""
            case ["export", assignment]:
                self.variables.add(assignment.partition("=")[0])
                return ""
            case ["createdb", *_, _]:  # the name in the URL; the test's database is there already
                return ""
            case ["pip", "install", *packages]:
                assert [p for p in packages if not p.startswith("-") and find_spec(p) is None] == []
                return ""
            case ["python", *arguments] if arguments == SERVERS:
                return await asyncio.to_thread(self._servers)
            case ["python", "-m", "pytest", *arguments]:
                return await self._until(lambda: self._pytest(arguments), shows)
            case ["python", script]:
                self.others.append(self._start(script))
                return ""
            case ["saga-worker", "run", *arguments]:
                await self.start(*arguments)
                return ""
            case ["saga-worker", *arguments]:
                # A line may look at what the line before it has only set in motion, so it is tried until it succeeds.
                return await self._until(lambda: self.processes.command(*arguments), shows)
        raise AssertionError(f"the page says {line!r}, and this test does not know how to do that")

    async def start(self, *arguments: str) -> None:
        """A worker; one that runs already is stopped first."""
        if self.worker is not None:
            assert await asyncio.to_thread(self.worker.stop) == 0
        self.worker = self.processes.start(*arguments, definitions=None, **self.settings)
        await self.eventually(self.worker.is_ready)

    def end_others(self) -> str:
        """Kill what runs beside the worker; all that it printed."""
        for process in self.others:
            process.kill()
        printed = [process.communicate()[0] for process in self.others]
        self.others.clear()
        return "".join(printed)

    async def _until(self, run: Callable[[], subprocess.CompletedProcess[str]], shows: Sequence[str]) -> str:
        async def succeeds() -> str:
            done = await asyncio.to_thread(run)
            printed = done.stdout + done.stderr
            assert done.returncode == 0, printed
            for line in shows:
                assert re.search(".*".join(map(re.escape, line.split("…"))), printed), f"no {line!r} in:\n{printed}"
            return printed or "nothing"

        return await self.eventually(succeeds, deadline=60)  # type: ignore[no-any-return]

    def _pytest(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        own = ["-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(self.folder)]
        return self._run("-m", "pytest", *own, *arguments)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, env=self.processes.environment(), capture_output=True,
            text=True, timeout=280, check=False,
        )  # fmt: skip

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=self.folder, env=self.processes.environment(), stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def _servers(self) -> str:
        """They come up and say where; the page goes on with those of the test."""
        process = self._start(*SERVERS)
        assert process.stdout is not None
        try:
            said = [process.stdout.readline() for _ in range(2)]
            urls = [re.fullmatch(r"export (SAGA_WORKER_\w+_URL)=(\w+)://.*\n", line) for line in said]
            assert [url and url.groups() for url in urls] == [
                ("SAGA_WORKER_DATABASE_URL", "postgresql"), ("SAGA_WORKER_AMQP_URL", "amqp"),
            ]  # fmt: skip
        finally:
            process.terminate()
            process.communicate(timeout=60)
        assert process.returncode == 0
        return "".join(said)
