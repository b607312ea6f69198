"""Who used the machine: CPU seconds by process tree from /proc, and what PostgreSQL counted meanwhile.

Takes the roots of the trees (worker, PostgreSQL, RabbitMQ, harness); a process belongs to its nearest root. Time of
children that have ended is in their parent's account, so short-lived backends are not lost. What the machine was busy
with beyond that is `other`; together with stolen time it says whether wall-clock figures of this run mean anything.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.harness.verdicts import FOREIGN_SHARE

_HERTZ = os.sysconf("SC_CLK_TCK")
_LISTENING = "0A"
Roots = Mapping[str, Iterable[int]]  # name -> process ids


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds between two readings, by name of the tree; `wall` in seconds."""

    wall: float
    cpu: dict[str, float]
    other: float
    steal: float

    @property
    def foreign_share(self) -> float:
        """The part of all cores' time that went to strangers."""
        return (self.other + self.steal) / (self.wall * cores())

    @property
    def is_disturbed(self) -> bool:
        return self.foreign_share > FOREIGN_SHARE

    def microseconds_per(self, events: int) -> dict[str, float]:
        all_of_it = {**self.cpu, "other": self.other, "steal": self.steal}
        return {name: round(seconds / events * 1e6, 1) for name, seconds in all_of_it.items()}


@dataclass(frozen=True, slots=True)
class Reading:
    """The state of all accounts at one moment."""

    at: float
    cpu: dict[str, float]
    busy: float
    steal: float

    @classmethod
    def take(cls, roots: Roots) -> Reading:
        fields = [int(text) / _HERTZ for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        user, nice, system, _, _, irq, softirq, steal = fields[:8]
        return cls(time.monotonic(), _by_tree(roots), user + nice + system + irq + softirq, steal)

    def until(self, later: Reading) -> Usage:
        cpu = {name: max(0.0, later.cpu[name] - before) for name, before in self.cpu.items()}
        other = max(0.0, later.busy - self.busy - sum(cpu.values()))
        return Usage(later.at - self.at, cpu, other, later.steal - self.steal)


def _by_tree(roots: Roots) -> dict[str, float]:
    owner = {pid: name for name, pids in roots.items() for pid in pids}
    processes = _processes()
    totals = dict.fromkeys(roots, 0.0)
    for pid, (_, seconds) in processes.items():
        ancestor = pid
        while ancestor not in owner and ancestor in processes:
            ancestor = processes[ancestor][0]
        if ancestor in owner:
            totals[owner[ancestor]] += seconds
    return totals


def _processes() -> dict[int, tuple[int, float]]:
    """Parent and CPU seconds by process, read again while some of them end: their time is about to move."""
    for _ in range(10):
        before = _pids()
        found = {pid: stat for pid in before if (stat := _stat(pid)) is not None}
        if set(before) <= set(_pids()):
            break
    return found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> tuple[int, float] | None:
    """Parent, and CPU seconds with those of ended children."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), sum(map(int, fields[11:15])) / _HERTZ


def cores() -> int:
    return len(os.sched_getaffinity(0))


def peak_rss_megabytes(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def postmaster_of(backend_pid: int) -> list[int]:
    """The root of the server's processes, in a container too; empty where it runs on another machine."""
    for pid in _pids():
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        inner = re.search(r"^NSpid:.*\s(\d+)$", status, re.MULTILINE)
        if inner and int(inner[1]) == backend_pid and status.startswith("Name:\tpostgres"):
            found = _stat(pid)
            return [found[0]] if found else []
    return []


def broker_processes(port: int) -> list[int]:
    """The node that listens on `port`; every node of this machine where a proxy listens for a container."""
    nodes = [pid for pid in _pids() if _command(pid).startswith("beam")]
    sockets = _listening_sockets(port)
    return [pid for pid in nodes if sockets & _open_sockets(pid)] or nodes


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def _listening_sockets(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:] if Path(table).exists() else ():
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{fields[9]}]")
    return found


def _open_sockets(pid: int) -> set[str]:
    found = set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    except OSError:
        pass  # gone, or not ours to look at
    return found


@dataclass(frozen=True, slots=True)
class DatabaseCounters:
    """WAL bytes and syncs of the whole server; commits in the measured database."""

    wal_bytes: int
    wal_syncs: int
    commits: int

    @classmethod
    async def take(cls, admin: asyncpg.Connection, database: str) -> DatabaseCounters:
        """A backend reports its syncs when it ends or once a second: stop the workers before the last reading."""
        syncs = "SELECT wal_sync FROM pg_stat_wal"
        if admin.get_server_version().major >= 18:
            syncs = "SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'"
        row = await admin.fetchrow(
            "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint AS wal_bytes,"
            f" ({syncs})::bigint AS wal_syncs,"
            " xact_commit AS commits FROM pg_stat_database WHERE datname = $1",
            database,
        )
        assert row is not None
        return cls(*row.values())

    def until(self, later: DatabaseCounters) -> dict[str, int]:
        names = ("wal_bytes", "wal_syncs", "commits")
        return {name: getattr(later, name) - getattr(self, name) for name in names}


def per_event(counted: dict[str, int], events: int) -> dict[str, Any]:
    """What the server counted, as the tables show it."""
    return {
        "wal_bytes_per_event": round(counted["wal_bytes"] / events),
        "wal_syncs_per_1000_events": round(counted["wal_syncs"] / events * 1000, 2),
        "commits_per_1000_events": round(counted["commits"] / events * 1000, 2),
    }
