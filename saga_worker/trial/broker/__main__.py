"""`python -m saga_worker.trial.broker`: the trial broker in a process of its own.

Prints one JSON line with the URL as soon as it listens; SIGTERM or SIGINT end it cleanly with exit code 0. Exit
code 2: it may not or cannot listen where it was told to.
"""

import argparse
import asyncio
import json
import logging
import signal
import sys

from .server import TrialBroker


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m saga_worker.trial.broker",
        description="AMQP 0-9-1 in memory, for demo and tests. Keeps nothing; listens on this machine only.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port (default)")
    parser.add_argument(
        "--lenient", action="store_true", help="behave as RabbitMQ 3.10; the default refuses what RabbitMQ 4.3 refuses"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(_serve(options.host, options.port, strict=not options.lenient))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


async def _serve(host: str, port: int, *, strict: bool) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    broker = TrialBroker(strict=strict)
    print(json.dumps({"url": await broker.start(host, port)}), flush=True)
    await stopped.wait()
    await broker.stop()


if __name__ == "__main__":
    sys.exit(main())
