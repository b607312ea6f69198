"""The two servers of the demo: the ones whose URLs are given, else PostgreSQL from a wheel and the trial broker.

Guarantees that what it started ends with the demo. Only with `--keep` they run on in a process of their own, this
module as a program: it prints its URLs as one JSON line and serves until it is told to stop.

    python -m saga_worker.trial.demo.servers --database --broker
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from saga_worker.testing.backends import Backend, resolve_broker, resolve_database
from saga_worker.trial.supervisor import ServerUnavailable


@dataclass(slots=True)
class Servers:
    """Both URLs, and the process that holds the kept ones (None: nothing outlives the demo)."""

    database_url: str = field(repr=False)
    amqp_url: str = field(repr=False)
    is_database_given: bool = False
    is_broker_given: bool = False
    description: str = ""
    keeper: subprocess.Popen[str] | None = None
    stops: list[Callable[[], None]] = field(default_factory=list, repr=False)

    def close(self) -> None:
        """End what was started here, newest first; given and kept servers run on."""
        while self.stops:
            self.stops.pop()()

    def discard_kept(self) -> None:
        """The demo failed before anybody could look: kept servers go as well."""
        if self.keeper is not None:
            self.keeper.terminate()
            self.keeper.wait()


def start(database_url: str | None, amqp_url: str | None) -> Servers:
    """Servers that end with this program. Raises `ServerUnavailable` with what to install."""
    servers = Servers("", "", bool(database_url), bool(amqp_url))
    try:
        database = resolve_database(database_url, prefer="trial")
        servers.stops.append(database.stop)
        broker = resolve_broker(amqp_url, prefer="trial")
        servers.stops.append(broker.stop)
    except BaseException:
        servers.close()
        raise
    servers.database_url, servers.amqp_url = database.url, broker.url
    servers.description = f"{database.description}; {broker.description}"
    return servers


def start_kept(database_url: str | None, amqp_url: str | None) -> Servers:
    """Servers that run on after this program, until `keeper` is told to stop."""
    if database_url and amqp_url:
        return start(database_url, amqp_url)
    command = [sys.executable, "-m", __name__]
    command += ["--database"] * (not database_url) + ["--broker"] * (not amqp_url)
    # Its standard error would hold the caller's pipe open for as long as the servers are kept.
    keeper = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert keeper.stdout is not None
    started: dict[str, str] = json.loads(keeper.stdout.readline() or "{}")
    keeper.stdout.close()
    if "error" in started or not started:
        raise ServerUnavailable(started.get("error", "The servers to keep did not start; try without --keep."))
    database_url, amqp_url = database_url or started["database"], amqp_url or started["broker"]
    return Servers(
        database_url,
        amqp_url,
        is_database_given="database" not in started,
        is_broker_given="broker" not in started,
        description=started["description"],
        keeper=keeper,
    )


def main() -> int:
    """Start what is asked for, say where it is, and serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="The trial's servers, until SIGTERM.")
    parser.add_argument("--database", action="store_true")
    parser.add_argument("--broker", action="store_true")
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    started: dict[str, Backend] = {}
    try:
        if options.database:
            started["database"] = resolve_database(prefer="trial")
        if options.broker:
            started["broker"] = resolve_broker(prefer="trial")
        description = "; ".join(server.description for server in started.values())
        print(json.dumps({name: s.url for name, s in started.items()} | {"description": description}), flush=True)
        stop.wait()
    except ServerUnavailable as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    finally:
        for server in reversed(started.values()):
            server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
