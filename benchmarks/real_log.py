"""A real event log through two worker processes: events per second, and each application at the end that the log tells.

    ./dev bench real_log --log loan_applications.jsonl.gz [--against COMMIT] --json

The events of 13,087 applications for a loan, in the order in which they happened, go through `loan_application.py` as
fast as the workers take them. With `--against` each pair also runs an older commit, on the same machine and with the
same load; both must leave the same end states. `--sagas` takes so many applications. There is no target among R1–R15.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.harness.amqp import Message, pack_properties
from benchmarks.harness.command import Options, Result, main, say
from benchmarks.harness.deployment import Product, Run, Workload, WrongRun, until
from benchmarks.harness.pairs import judge_pairs, measure_pairs
from benchmarks.harness.servers import REPOSITORY, Servers
from benchmarks.harness.verdicts import Target

NAME = "real_log"
FIGURES: tuple[str, ...] = ()
WORKERS = 2
FASTER: Final = Target("events/s ÷ those of the older commit", 3)
BESIDE: Final = REPOSITORY.parent / "shared" / "data" / "loan_applications.jsonl.gz"
ENDS: Final = {"A_DECLINED": "declined", "A_CANCELLED": "cancelled", "A_ACTIVATED": "activated"}
STATUS: Final = {"declined": "compensated", "cancelled": "compensated", "activated": "completed"}
ANSWERS: Final = {"check_credit": 'credit_checked:{"hold":"h"}', "release_hold": "done:{}", "pay_out": "done:{}"}


@dataclass(frozen=True, slots=True)
class Log:
    """Events as they were published, and the outcome of each application, None for one that is still open."""

    events: list[tuple[str, str, str, bytes]]  # id, type, source, body
    outcomes: dict[str, str | None]

    @property
    def ended(self) -> int:
        return sum(outcome is not None for outcome in self.outcomes.values())


def read(path: Path, applications: int | None) -> Log:
    """The events of the first `applications` in the log, or of all."""
    log = Log([], {})
    with gzip.open(path, "rb") as lines:
        for line in lines:
            entry = json.loads(line)
            application = entry["data"]["application"]
            if application not in log.outcomes and len(log.outcomes) == applications:
                continue
            body = json.dumps(entry["data"], separators=(",", ":")).encode()
            log.events.append((entry["id"], entry["type"], entry["source"], body))
            log.outcomes[application] = ENDS.get(entry["type"], log.outcomes.get(application))
    return log


class LoanApplications(Product):
    """Workers of the tree in `root`, whose definitions they load. A saga of this workload is an event of the log."""

    def __init__(self, servers: Servers, log: Log, root: Path, *, settings: dict[str, str]) -> None:
        definitions = root / "definitions" / "loan_application.py"
        workload = Workload("loan_application", definitions, "A_SUBMITTED", "-", 1, 1, answers=ANSWERS)
        super().__init__(servers, workload=workload, workers=WORKERS, settings=settings)
        self._log = log
        self._root = root
        self.end_states: dict[str, tuple[str, str | None]] = {}

    def worker_environment(self) -> dict[str, str]:
        return super().worker_environment() | {"PYTHONPATH": f"{self._root}{os.pathsep}{REPOSITORY}"}

    async def prepare(self) -> None:
        if self.start_process("-P", "-m", "saga_worker", "db", "upgrade").wait():
            raise WrongRun("saga-worker db upgrade failed.")

    def worker_command(self) -> Sequence[str]:
        return ("-P", "-m", "saga_worker", "run")  # -P: the package of PYTHONPATH, not that of this directory

    async def play(self) -> Run:
        return await self.measure(len(self._log.events), warm_up=0)

    async def complete(self, sagas: int) -> float:
        exchange = f"{self.namespace}.events"
        messages = [
            Message(exchange, type_, pack_properties(message_id=id_, type=type_, app_id=source), body)
            for id_, type_, source, body in self._log.events
        ]
        self.started = sagas
        began = time.monotonic()
        await self.amqp.publish_all(messages)
        await until(self._is_over, seconds=1200, alive=self.workers)
        return time.monotonic() - began

    async def _is_over(self) -> bool:
        """Every saga that is to end has ended, and no event waits anywhere. The cheap questions come first."""
        ended = await self.database.fetchval("SELECT count(*) FROM saga_worker.saga WHERE finished_at IS NOT NULL")
        if ended < self._log.ended or (await self.amqp.depth(f"{self.namespace}.inbox"))[0]:
            return False
        stored = await self.database.fetchval(
            "SELECT count(*) FROM saga_worker.inbox WHERE source = 'bank' AND state IN (3, 4)"
        )
        return bool(stored == len(self._log.events))

    async def check_tables(self, sagas: int) -> None:
        """Each application ended as the log says; each event was applied or ignored, once; nothing is left to send."""
        rows = await self.database.fetch("SELECT key, status, state ->> 'outcome' AS outcome FROM saga_worker.v_saga")
        self.end_states = {row["key"]: (row["status"], row["outcome"]) for row in rows}
        for application, outcome in self._log.outcomes.items():
            status, found = self.end_states.get(application, ("missing", None))
            if found != outcome or status != STATUS.get(outcome or "", status):
                raise WrongRun(f"Application {application} is {status} with {found}; the log says {outcome}.")
        found = await self.database.fetchrow(
            "SELECT (SELECT count(*) FROM saga_worker.saga) AS sagas,"
            " (SELECT count(*) FROM saga_worker.inbox WHERE source = 'bank' AND state IN (3, 4)) AS events,"
            " (SELECT count(*) FROM saga_worker.inbox WHERE state NOT IN (3, 4)) AS not_done,"
            " (SELECT count(*) - count(DISTINCT (consumer, source, message_id)) FROM saga_worker.journal) AS doubled,"
            " (SELECT count(*) FROM saga_worker.outbox) AS unsent"
        )
        wanted = {"sagas": len(self._log.outcomes), "events": sagas, "not_done": 0, "doubled": 0, "unsent": 0}
        if dict(found or {}) != wanted:
            raise WrongRun(f"The tables hold {dict(found or {})}; wanted {wanted}.")


@dataclass(frozen=True, slots=True)
class Round:
    """A run of each tree."""

    runs: dict[str, Run]

    @property
    def is_disturbed(self) -> bool:
        return any(run.usage.is_disturbed for run in self.runs.values())

    def ratios(self) -> dict[str, float]:
        """Empty without an older commit to compare with."""
        if "before" not in self.runs:
            return {}
        return {"against": self.runs["now"].events_per_second / self.runs["before"].events_per_second}

    def document(self) -> dict[str, Any]:
        return {name: run.document() for name, run in self.runs.items()}


async def measure(options: Options, servers: Servers) -> Result:
    """Events per second of the real log; no target of R1–R15."""
    path = options.log or BESIDE
    if not path.is_file():
        say(f"{NAME}: there is no log; name one with --log loan_applications.jsonl.gz.")
        return Result(NAME, {}, {"skipped": "no log was given"})
    log = read(path, options.sagas)
    with _trees(options.against) as trees:
        rounds = await measure_pairs(NAME, options, partial(one_round, options, servers, log, trees))
    outcomes = Counter(outcome or "open" for outcome in log.outcomes.values())
    detail: dict[str, Any] = {
        "events": len(log.events), "outcomes": dict(outcomes), "workers": WORKERS,
        "events_per_second": {
            name: round(median(each.runs[name].events_per_second for each in rounds)) for name in rounds[0].runs
        },
        "rounds": [each.document() for each in rounds],
    }  # fmt: skip
    if options.against is not None:
        detail["against"] = {"commit": options.against, "target": FASTER.text}
        detail["against"] |= asdict(judge_pairs(rounds, {"against": FASTER})["against"])
    return Result(NAME, {}, detail)


async def one_round(options: Options, servers: Servers, log: Log, trees: dict[str, Path]) -> Round:
    runs, end_states = {}, []
    for name, root in trees.items():
        async with LoanApplications(servers, log, root, settings=_settings(options, name)) as deployment:
            runs[name] = await deployment.play()
        end_states.append(deployment.end_states)
    if any(states != end_states[0] for states in end_states):
        raise WrongRun("The two commits left different end states.")
    return Round(runs)


def _settings(options: Options, name: str) -> dict[str, str]:
    return options.product_settings() if name == "now" else {}  # an older commit may not know them


@contextmanager
def _trees(commit: str | None) -> Iterator[dict[str, Path]]:
    """Where the package of each contender is; an older one is unpacked for the time being."""
    if commit is None:
        yield {"now": REPOSITORY}
        return
    archive = subprocess.run(["git", "archive", commit], cwd=REPOSITORY, check=True, stdout=subprocess.PIPE).stdout
    with tempfile.TemporaryDirectory(prefix="saga-worker-before-") as directory:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(directory, filter="data")
        yield {"before": Path(directory), "now": REPOSITORY}


if __name__ == "__main__":
    main(__doc__ or "", measure)
