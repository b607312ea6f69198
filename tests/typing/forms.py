"""The forms that good.py lacks: branches, choices, loops, sleeps, savepoints, numbered events, reusable activities,
and what surrounds a definition: stories of `SagaTest`, clients. A type checker has to accept all of it."""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from saga_worker import (
    Activity,
    ActivityContext,
    Command,
    Compensate,
    DefinitionError,
    Done,
    Event,
    Message,
    Outputs,
    Rejected,
    Retry,
    Rollback,
    Saga,
    SecondStart,
    Step,
    TerminalError,
    Undo,
    UndoOf,
    Verdict,
    WaitFor,
    activity,
    choice,
    clear_terminal_errors,
    days,
    hours,
    minutes,
    parallel,
    pivot,
    register_terminal_errors,
    repeat_until,
    resolve_terminal_error,
    seconds,
    set_error_mapper,
    unregister_terminal_errors,
    when,
)
from saga_worker.client import Client, Run, Snapshot
from saga_worker.testing import SagaTest


class HouseWanted(Event):
    house: str
    number: int = 1


class PlanChanged(Event):
    house: str
    number: int
    floors: int


class Inspected(Event):
    house: str
    passed: bool


class Wall(Message):
    metres: float


class NoBricks(Message):
    missing: int


class BuildWall(Command[Wall, NoBricks]):
    house: str


class TearDown(UndoOf[BuildWall]):
    house: str


class Paint(Command):
    house: str


class Wired(Event):
    house: str


class House(BaseModel):
    house: str
    floors: int = 1
    walls: float = 0
    colour: str | None = None
    passed: bool = False


house = Saga("house", state=House, deadline=days(400), second_start=SecondStart.REJECT)


@house.starts_on(HouseWanted, key=lambda e: e.house, sequence=lambda e: e.number)
def wanted(event: HouseWanted) -> House:
    return House(house=event.house)


@house.on(PlanChanged, key=lambda e: e.house, sequence=lambda e: e.number)
def changed(state: House, event: PlanChanged) -> Verdict:
    state.floors = event.floors
    return None


@house.command("masons", timeout=hours(1), retry=Retry.exponential(None, cap=hours(6)))
def wall(state: House) -> BuildWall:
    return BuildWall(house=state.house)


@wall.reply
def built(state: House, reply: Wall) -> None:
    state.walls += reply.metres


@wall.rejected
def no_bricks(state: House, why: NoBricks) -> Rollback:
    return Rollback("bare ground", f"{why.missing} bricks are missing")


@wall.undo
def tear_down(state: House) -> TearDown:
    return TearDown(house=state.house)


@house.command("painters", timeout=hours(1), undo=Undo.NONE)
def paint(state: House) -> Paint:
    return Paint(house=state.house)


@paint.reply
def painted(state: House, reply: Done) -> Verdict:
    return None


@paint.rejected
def not_painted(state: House, why: Rejected) -> Compensate:
    return Compensate(why.reason)


@house.command("painters", timeout=hours(1), undo=Undo.NONE)
def whitewash(state: House) -> Paint:
    return Paint(house=state.house)


@house.local(undo=Undo.NONE, retry=Retry.fixed(3, seconds(1)), as_terminal=lambda error: TerminalError(str(error)))
async def enter(state: House, session: AsyncSession) -> Verdict:
    return None


@house.activity(timeout=minutes(1), undo_timeout=minutes(2), undo_retry=Retry.none(), concurrency=3)
async def survey(state: House, ctx: ActivityContext) -> House:
    assert isinstance(ctx.trace_headers.get("traceparent", ""), str)
    return state


@survey.result
def surveyed(state: House, result: House) -> None:
    state.floors = result.floors


@survey.undo
async def forget_survey(state: House, ctx: ActivityContext) -> None: ...


inspection = house.wait("inspection", timeout=days(30))


@inspection.on(Inspected, key=lambda e: e.house, where=lambda state, event: event.passed)
def passed(state: House, event: Inspected) -> Verdict:
    state.passed = event.passed
    return None


inspection_again = house.wait("second inspection", timeout=days(30))


@inspection_again.on(Inspected, key=lambda e: e.house)
def passed_again(state: House, event: Inspected) -> Verdict:
    return None if event.passed else Compensate("failed twice")


dry = house.sleep("dry", lambda state: days(state.floors))
settle = house.sleep("settle", timedelta(hours=1))
bare_ground = house.savepoint("bare ground", times=2)

# -- activities for many sagas --------------------------------------------------------------------------------------


class Address(BaseModel):
    street: str


class Meter(BaseModel):
    number: int


class Connect(Activity[Address, Meter], timeout=seconds(10), retry=Retry.exponential(5)):
    def __init__(self, provider: str) -> None:
        self.provider = provider

    async def execute(self, inp: Address, ctx: ActivityContext) -> Meter:
        return Meter(number=ctx.attempt)

    async def compensate(self, inp: Address, out: Meter | None) -> None: ...


class Await(Activity[Address, Meter], timeout=minutes(1), undo=Undo.NONE):
    async def execute(self, inp: Address, event: Wired | None = None) -> Meter | WaitFor:
        return WaitFor(Wired, timeout=days(3)) if event is None else Meter(number=1)


@activity(timeout=seconds(5))
async def bill(meter: Meter) -> Address:
    return Address(street=str(meter.number))


@bill.undo
async def credit(meter: Meter, address: Address) -> None: ...


connect = house.step(Connect("town"), input=lambda state: Address(street=state.house))


@connect.result
def connected(state: House, meter: Meter) -> Verdict:
    state.floors += meter.number
    return None


billed = house.step(bill, after=connect, input=lambda meter: meter)


def street(state: House, outputs: Outputs) -> Address:
    return Address(street=str(outputs[connect].number) if connect in outputs else state.house)


second_line = house.step(Connect("country"), input=street, timeout=minutes(1), name="second line")
by_dict = house.step(Connect("village"), input=lambda state: {"street": state.house}, name="by dict")
register_terminal_errors(ZeroDivisionError)
set_error_mapper(lambda error: TerminalError("no use") if isinstance(error, KeyError) else None)
set_error_mapper(None)
unregister_terminal_errors(ZeroDivisionError)
clear_terminal_errors()
error: TerminalError | None = resolve_terminal_error(KeyError("x"), mapper=None, classes=(KeyError,))

# -- the flow -------------------------------------------------------------------------------------------------------

steps: list[Step[House]] = [enter, survey]


def is_sound() -> bool:
    try:
        house.check()
    except DefinitionError:
        return False
    return True


house.flow(
    bare_ground,
    parallel(wall, [connect, billed], join="all"),
    parallel(*steps, join=1),
    parallel(settle, second_line, by_dict, join="any"),
    choice(
        (lambda state: state.floors > 2, [dry, paint]),
        (lambda state: state.colour is None, (whitewash,)),
        otherwise=[],
    ),
    repeat_until(lambda state: state.passed, inspection, times=3, name="until it passes"),
    when(lambda state: state.floors > 3, inspection_again),
    pivot(house.sleep("moved in", days(1))),
)

# -- around it ------------------------------------------------------------------------------------------------------


def story() -> House:
    test = SagaTest(house, tolerant=True).given(HouseWanted(house="1"))
    test.expect(BuildWall(house="1")).reply(Wall(metres=2)).expect_activity(connect).result(Meter(number=1))
    test.reject(NoBricks(missing=1), to=BuildWall).late_reply(Wall(metres=1), to=BuildWall)
    test.advance(days(1)).expect_local(enter).local(change=lambda state: setattr(state, "floors", 2))
    test.local_fails("no").fail("no", terminal=True, of=survey).expect_status("completed", reason="done")
    return test.state


async def asks(client: Client) -> float:
    run: Run[House] = await client.start(wanted, HouseWanted(house="1"), idempotency_key="1")
    ended: Snapshot[House] = await run.ended(timeout=1)
    found = await client.get(house, "1")
    return ended.state.walls if found is None else found.state.walls
