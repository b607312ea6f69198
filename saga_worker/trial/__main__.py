"""Servers to try things on: PostgreSQL from a wheel and the trial broker, for as long as this program runs.

    python -m saga_worker.trial

Prints where they are, as two lines for a shell, and serves until Ctrl-C. Everything in them is gone with them.
"""

from __future__ import annotations

import shlex
import signal
import sys
import threading

from saga_worker.trial.demo import servers
from saga_worker.trial.supervisor import ServerUnavailable


def main() -> int:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        started = servers.start(None, None)
    except ServerUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    try:
        print(f"export SAGA_WORKER_DATABASE_URL={shlex.quote(started.database_url)}")
        print(f"export SAGA_WORKER_AMQP_URL={shlex.quote(started.amqp_url)}", flush=True)
        stop.wait()
    finally:
        started.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
