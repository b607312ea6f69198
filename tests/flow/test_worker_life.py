"""The life of a worker: it waits for its servers, says how it is, refuses what cannot work, and ends in order."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from saga_worker.testing import FaultProxy
from saga_worker.worker import StageEnded
from tests.flow.processes import Processes
from tests.flow.records import Records
from tests.flow.wire import Wire
from tests.flow.workers import Workers

Eventually = Callable[..., Awaitable[Any]]
ORDERS: Final = 300
DEFINITION: Final = Path(__file__).parents[2] / "definitions" / "checkout.py"
SERVERS: Final = ("amqp_url", "database_url")


def order(key: str) -> dict[str, Any]:
    return {"order_id": key, "lines": {"tea": 1}, "cents": 5, "card": "tok_1"}


async def has_ended(records: Records) -> bool:
    return await records.status("4711") == "completed"


@pytest.fixture
async def proxy(request: pytest.FixtureRequest) -> AsyncIterator[FaultProxy]:
    """Before the server that the test names; nobody can connect until `heal`. Ask for it before the workers."""
    async with FaultProxy.before(request.getfixturevalue(request.param)) as proxy:
        await proxy.refuse()
        yield proxy


# -- starting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxy", ["amqp_url"], indirect=True)
async def test_a_worker_starts_before_its_broker(
    proxy: FaultProxy, workers: Workers, wire: Wire, records: Records, amqp_url: str, eventually: Eventually
) -> None:
    worker = await workers.start(amqp_url=proxy.rewrite(amqp_url))
    assert not all(part() for part in worker.readiness().values())

    await proxy.heal()
    await eventually(lambda: all(part() for part in worker.readiness().values()))
    wire.serve()
    await wire.publish("order_placed", order("4711"), id="o-1")
    await eventually(lambda: has_ended(records))


@pytest.mark.parametrize("proxy", ["database_url"], indirect=True)
async def test_a_worker_starts_before_its_database(
    proxy: FaultProxy, workers: Workers, wire: Wire, records: Records, database_url: str, eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    worker = workers.build(database_url=proxy.rewrite(database_url))
    starting = asyncio.create_task(worker.start())
    await eventually(lambda: "database_lost" in caplog.messages)
    assert not starting.done()

    await proxy.heal()
    await asyncio.wait_for(starting, 60)
    wire.serve()
    await wire.publish("order_placed", order("4711"), id="o-1")
    await eventually(lambda: has_ended(records))


@pytest.mark.parametrize(("proxy", "server"), [(name, name) for name in SERVERS], indirect=["proxy"])
async def test_a_worker_whose_server_was_away_goes_on_by_itself(
    proxy: FaultProxy, server: str, workers: Workers, wire: Wire, records: Records, eventually: Eventually,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    await proxy.heal()
    settings: dict[str, Any] = {server: proxy.rewrite(request.getfixturevalue(server))}
    worker = await workers.start(**settings)
    await wire.publish("order_placed", order("4711"), id="o-1")
    score = await wire.next("score_order")

    await proxy.refuse()
    proxy.reset()
    await eventually(lambda: not all(part() for part in worker.readiness().values()))
    wire.serve()
    await wire.answer(score, "cleared")
    await proxy.heal()
    await eventually(lambda: has_ended(records))
    await eventually(lambda: all(part() for part in worker.readiness().values()))


# -- refusing to start --------------------------------------------------------------------------------------------


def test_without_its_tables_it_ends_with_a_sentence(processes: Processes, empty_database_url: str) -> None:
    done = processes.command("run", "--definitions", str(DEFINITION), DATABASE_URL=empty_database_url)

    assert done.returncode == 1
    assert "saga-worker db upgrade" in done.stderr
    assert "Traceback" not in done.stderr


BROKEN: Final = {
    "syntax": ("def x(:", "SyntaxError"),
    "import": ("import no_such_module", "no_such_module"),
    "empty": ("", "no saga"),
    "no flow": (
        "from pydantic import BaseModel\nfrom saga_worker import Saga\nclass S(BaseModel): ...\nx = Saga('x', state=S)",
        "flow",
    ),
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_broken_definition_ends_it_with_2_and_names_the_file(
    processes: Processes, tmp_path: Path, mistake: str
) -> None:
    source, word = BROKEN[mistake]
    file = tmp_path / "broken.py"
    file.write_text(source)
    done = processes.command("run", "--definitions", str(file))

    assert done.returncode == 2
    assert "broken.py" in done.stderr and word in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("AMQP_URL", "http://guest:hunter2@127.0.0.1/"),
        ("DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:port/shop"),
        ("PREFETCH", "many"),
        ("SCHEMA", "Drop Table"),
        ("LEASE_SECONDS", "-1"),
        ("HTTP_BIND", "somewhere"),
    ],
)
def test_a_broken_setting_ends_it_with_2_and_names_the_field(processes: Processes, setting: str, value: str) -> None:
    done = processes.command("run", "--definitions", str(DEFINITION), **{setting: value})

    assert done.returncode == 2
    assert f"SAGA_WORKER_{setting}" in done.stderr
    assert "hunter2" not in done.stderr and "Traceback" not in done.stderr


# -- telling how it is --------------------------------------------------------------------------------------------


async def test_its_health_pages_tell_how_it_is(
    processes: Processes, wire: Wire, records: Records, eventually: Eventually
) -> None:
    run = processes.start()
    await eventually(run.is_ready)
    wire.serve()
    await wire.publish("order_placed", order("4711"), id="o-1")
    await eventually(lambda: has_ended(records))

    assert run.get("livez") == (200, "ok\n")
    assert json.loads(run.get("readyz")[1])["parts"] == dict.fromkeys(
        ("started", "database", "publisher", "consumer"), True
    )
    received = 'saga_worker_inbox_received_total{consumer="checkout"} 5.0'
    await eventually(lambda: received in run.get("metrics")[1])
    assert run.stop() == 0
    assert [json.loads(line)["level"] for line in run.log.splitlines() if '"error"' in line] == []


# -- ending -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_worker_that_is_asked_to_stop_under_load_leaves_nothing_to_a_lease(
    processes: Processes, wire: Wire, records: Records, eventually: Eventually
) -> None:
    """The next one goes on at once: with a lease of an hour, nothing can have been left to it."""
    wire.serve()
    first = processes.start(LEASE_SECONDS="3600")
    await eventually(first.is_ready)
    publishing = [asyncio.create_task(wire.publish("order_placed", order(f"{n}"), id=f"{n}")) for n in range(ORDERS)]
    await wire.next("ship_order")
    stopping = asyncio.create_task(asyncio.to_thread(first.stop))
    await asyncio.gather(*publishing)
    assert await stopping == 0
    assert await records.value("SELECT count(*) FROM saga_worker.v_saga WHERE status <> 'completed'") > 0

    second = processes.start(LEASE_SECONDS="3600")

    async def all_shipped() -> bool:
        shipped = await records.value("SELECT count(*) FROM saga_worker.v_saga WHERE status = 'completed'")
        return bool(shipped == ORDERS)

    await eventually(all_shipped, deadline=40)
    assert wire.count("ship_order") == ORDERS
    assert second.stop() == 0
    assert await records.broken_promises() == []


async def test_it_ends_in_order_while_it_still_waits_for_its_database(
    processes: Processes, eventually: Eventually
) -> None:
    run = processes.start(DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    await eventually(lambda: "database_lost" in run.log)

    assert await asyncio.to_thread(run.stop) == 0
    assert "worker_stopped" in run.log and "Traceback" not in run.log


@pytest.mark.parametrize(("proxy", "server"), [(name, name) for name in SERVERS], indirect=["proxy"])
async def test_it_ends_in_time_while_a_server_is_away(
    proxy: FaultProxy, server: str, processes: Processes, eventually: Eventually, request: pytest.FixtureRequest
) -> None:
    await proxy.heal()
    settings: dict[str, Any] = {server.upper(): proxy.rewrite(request.getfixturevalue(server))}
    run = processes.start(**settings, GRACE_SECONDS="2", LEASE_SECONDS="3600")
    await eventually(lambda: asyncio.to_thread(run.is_ready))
    await proxy.refuse()
    proxy.reset()
    await eventually(lambda: "broker_lost" in run.log or "stage_failed" in run.log)

    assert await asyncio.to_thread(run.stop) == 0
    assert "worker_stopped" in run.log and "Traceback" not in run.log


async def test_a_second_signal_ends_it_at_once(
    processes: Processes, proxy_that_stalls: FaultProxy, eventually: Eventually
) -> None:
    stalling = proxy_that_stalls.rewrite(processes.servers["AMQP_URL"])
    run = processes.start(AMQP_URL=stalling, GRACE_SECONDS="3600")
    await eventually(lambda: "worker_started" in run.log)
    run.process.send_signal(signal.SIGTERM)
    await eventually(lambda: "worker_draining" in run.log)
    run.process.send_signal(signal.SIGTERM)

    assert await asyncio.to_thread(run.process.wait, 60) in (0, 1)


@pytest.fixture
async def proxy_that_stalls(amqp_url: str) -> AsyncIterator[FaultProxy]:
    async with FaultProxy.before(amqp_url) as proxy:
        proxy.stall()
        yield proxy


async def test_a_worker_that_has_lost_a_stage_ends_instead_of_limping(workers: Workers) -> None:
    worker = await workers.start()
    worker.refuse_to_limp()
    consuming = next(stage for stage in worker.stages() if stage.get_name() == "consumer")

    consuming.cancel()
    await asyncio.wait([consuming])

    with pytest.raises(StageEnded, match="consumer ended by itself"):
        worker.refuse_to_limp()
