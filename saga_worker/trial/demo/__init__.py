"""`saga-worker demo`: real sagas on this machine, faults and all, and a summary that was checked.

Takes a number of orders, guarantees that all processes end with the program (unless `keep`) and that the exit code is 0
only when nothing was lost, doubled or stuck.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from saga_worker.sql.migrate import upgrade
from saga_worker.trial.demo import board as boards
from saga_worker.trial.demo import servers as demo_servers
from saga_worker.trial.demo.crew import Crew, Place
from saga_worker.trial.demo.play import Outcome, Play, stopwatch
from saga_worker.trial.demo.servers import Servers
from saga_worker.trial.demo.traces import remove_traces
from saga_worker.trial.demo.watch import Watch
from saga_worker.trial.supervisor import ServerUnavailable


def main(
    sagas: int,
    *,
    json_output: bool = False,
    keep: bool = False,
    database_url: str | None = None,
    amqp_url: str | None = None,
) -> int:
    """0: every order shipped or was taken back, and every promise holds. URLs default to the environment's."""
    database_url = database_url or os.environ.get("SAGA_WORKER_DATABASE_URL") or None
    amqp_url = amqp_url or os.environ.get("SAGA_WORKER_AMQP_URL") or None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended like by Ctrl-C: everything is cleaned up
    try:
        return asyncio.run(_main(sagas, json_output=json_output, keep=keep, urls=(database_url, amqp_url)))
    except ServerUnavailable as error:
        print(error, file=sys.stderr)
        return 1


async def _main(sagas: int, *, json_output: bool, keep: bool, urls: tuple[str | None, str | None]) -> int:
    seconds = stopwatch()
    start = demo_servers.start_kept if keep else demo_servers.start
    servers = await asyncio.to_thread(start, *urls)
    place = _place(servers)
    is_kept = False
    try:
        outcome = await _play(sagas, servers, place, seconds=seconds, keep=keep)
        is_kept = keep
    finally:
        if not is_kept:
            await remove_traces(servers, place)
            servers.discard_kept()
        await asyncio.to_thread(servers.close)
    _report(outcome, seconds(), boards.kept(servers, place) if keep else {}, json_output=json_output)
    return 0 if outcome.is_good else 1


def _place(servers: Servers) -> Place:
    """Own names on servers that others use, the default ones on servers that are only for this."""
    suffix = secrets.token_hex(4)
    return Place(
        servers.database_url,
        servers.amqp_url,
        f"demo_{suffix}" if servers.is_database_given else "saga_worker",
        f"demo-{suffix}" if servers.is_broker_given else "saga",
        Path(tempfile.mkdtemp(prefix="saga-worker-demo-")),
    )


async def _play(sagas: int, servers: Servers, place: Place, *, seconds: Callable[[], float], keep: bool) -> Outcome:
    crew = Crew(place, keep_files=keep)
    watch = Watch(place.database_url, place.schema)
    board = boards.Board(crew, watch, seconds=seconds)
    try:
        board.say(servers.description)
        await upgrade(place.database_url, schema=place.schema)
        await watch.open()
        board.start()
        return await Play(sagas, place, crew, watch, say=board.say).run()
    finally:
        await board.stop()
        await watch.close()
        await asyncio.to_thread(crew.close)


def _report(outcome: Outcome, seconds: float, where: dict[str, str], *, json_output: bool) -> None:
    if where:
        boards.print_kept(where)
    boards.print_problems(outcome)
    if json_output:
        print(boards.as_json(outcome, seconds, where), flush=True)
    else:
        boards.print_summary(outcome, seconds)
