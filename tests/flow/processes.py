"""`saga-worker` as a shell runs it: processes with the servers of the test in their environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import urlopen

COMMAND = [sys.executable, "-m", "saga_worker"]
ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Run:
    """A `saga-worker run` process."""

    process: subprocess.Popen[str]
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")

    @property
    def port(self) -> int | None:
        """Of its health server, which took a free one; None until it says so."""
        served = [line for line in self.log.splitlines(keepends=True) if '"health_served"' in line and line[-1] == "\n"]
        return json.loads(served[0])["port"] if served else None

    def get(self, page: str) -> tuple[int, str]:
        """Status and body of a page of its health server; 0 while nobody listens."""
        if self.port is None:
            return 0, ""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/{page}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log
        return self.get("readyz")[0] == 200

    def stop(self, number: signal.Signals = signal.SIGTERM, *, deadline: float = 60) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(deadline)


@dataclass(slots=True)
class Processes:
    """`start` begins a worker, `command` runs one command to its end."""

    servers: dict[str, str]
    folder: Path
    runs: list[Run] = field(default_factory=list)

    def environment(self, **settings: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SAGA_WORKER_")}
        own = {f"SAGA_WORKER_{name}": value for name, value in (self.servers | settings).items()}
        return inherited | own

    def command(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments], env=self.environment(**settings), cwd=self.folder, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip

    def start(self, *arguments: str, definitions: Path | None = ROOT / "definitions", **settings: str) -> Run:
        """A worker; with `definitions` None it takes those of its folder."""
        log_file = self.folder / f"worker{len(self.runs)}.log"
        quick = {"POLL_SECONDS": "0.2", "REPLY_GRACE_SECONDS": "0", "LOG_FORMAT": "json", "HTTP_BIND": "0"}
        with log_file.open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                [*COMMAND, "run", *(["--definitions", str(definitions)] if definitions else []), *arguments],
                env=self.environment(**(quick | settings)), cwd=self.folder, stderr=log, text=True,
            )  # fmt: skip
        self.runs.append(Run(process, log_file))
        return self.runs[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for run in self.runs:
            if run.process.poll() is None:
                run.process.kill()
            run.process.wait()


def documents(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """The lines of `--json`."""
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
