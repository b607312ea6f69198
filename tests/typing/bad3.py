"""More of what has to be refused, over the forms of forms.py; see bad.py."""

from __future__ import annotations

from forms import (
    Address,
    Await,
    BuildWall,
    Connect,
    House,
    HouseWanted,
    Inspected,
    Meter,
    NoBricks,
    PlanChanged,
    Wall,
    Wired,
    bill,
    connect,
    enter,
    house,
    inspection,
    survey,
    wall,
    wanted,
)
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from saga_worker import (
    Activity,
    ActivityContext,
    Complete,
    Outputs,
    Rollback,
    Saga,
    TerminalError,
    Verdict,
    WaitFor,
    activity,
    choice,
    days,
    minutes,
    parallel,
    pivot,
    register_terminal_errors,
    repeat_until,
    set_error_mapper,
    when,
)
from saga_worker.client import Client
from saga_worker.testing import SagaTest


class Ship(BaseModel):
    name: str


ships = Saga("ships", state=Ship)
Saga("ships", state=Ship, second_start="join")  # error: no word, a SecondStart
cruise = ships.sleep("cruise", days(7))
harbour = ships.savepoint("harbour")

# -- starts, events, numbers ------------------------------------------------------------------------------------------


@house.starts_on(HouseWanted, key=lambda e: e.house, sequence=lambda e: e.house)  # error: a number in a line is an int
def numbered_by_text(event: HouseWanted) -> House:
    return House(house=event.house)


@house.on(PlanChanged, key=lambda e: e.house, sequence=lambda e: e.place)  # error: no such field
def changed(state: House, event: PlanChanged) -> None: ...


@house.on(PlanChanged, key=lambda e: e.house)  # error: another state
def changed_elsewhere(state: Ship, event: PlanChanged) -> None: ...


@house.starts_on(HouseWanted, key=lambda e: e.house)  # error: a start makes the state of its saga
def launch(event: HouseWanted) -> Ship:
    return Ship(name=event.house)


# -- waits, savepoints, sleeps ----------------------------------------------------------------------------------------


@inspection.on(Inspected, key=lambda e: e.house)  # error: an arm of another state
def inspect_ship(state: Ship, event: Inspected) -> None: ...


@inspection.on(Inspected, key=lambda e: e.house, where=lambda state, event: state.decks > 1)  # error: no such field
def inspect_decks(state: House, event: Inspected) -> None: ...


@inspection.on(Inspected, key=lambda e: e.house)  # error: the handler takes another event
def inspect_plan(state: House, event: PlanChanged) -> None: ...


@inspection.every(days(1), times="twice")  # error: no number
def remind(state: House) -> Wired:
    return Wired(house=state.house)


house.savepoint("ground", times=days(1))  # error: a duration is no number
house.sleep("nap", 3)  # error: a number is no duration
house.sleep("nap", lambda state: days(state.decks))  # error: no such field
Rollback("bare ground")  # error: a rollback has a reason
Rollback(to=connect, reason="x")  # error: a savepoint is named
Complete(reason=None)  # error: a reason is a text

# -- the flow ---------------------------------------------------------------------------------------------------------

house.flow(harbour, wall)  # error: a savepoint of another saga
house.flow(parallel(wall, cruise, join="any"))  # error: a sleep of another saga beside it
house.flow(parallel(wall, connect, join="first"))  # error: no such join
house.flow(parallel(wall, connect, join=0.5))  # error: a share is no number
house.flow(pivot(when(lambda state: True, cruise)))  # error: another saga inside a pivot
house.flow(pivot([wall, connect]))  # error: a pivot is one step
house.flow(choice((lambda state: state.decks > 1, [wall])))  # error: no such field
house.flow(choice((lambda state: True, wall)))  # error: an arm has a list of steps
house.flow(choice((lambda state: True, [wall]), otherwise=[cruise]))  # error: another saga in the last arm
house.flow(repeat_until(lambda state: True, wall, times=3))  # error: a loop has a name
house.flow(repeat_until(lambda state: True, wall, name="again"))  # error: a loop has an end
house.flow(repeat_until(wall, connect, times=3, name="again"))  # error: a step is no test
house.flow(when(lambda state: state.decks > 1, wall))  # error: no such field
house.flow(when(True, wall))  # error: a value is no test

# -- own work ---------------------------------------------------------------------------------------------------------


@house.local  # error: another state
async def with_other_state(state: Ship, session: AsyncSession) -> None: ...


@enter.undo  # error: undo of another state
async def leave(state: Ship, session: AsyncSession) -> None: ...


@enter.undo  # error: an undo is awaited
def leave_at_once(state: House, session: AsyncSession) -> None: ...


@survey.undo  # error: undo of another state
async def forget(state: Ship, ctx: ActivityContext) -> None: ...


@survey.undo  # error: an undo has no result
async def forget_with_result(state: House, ctx: ActivityContext) -> House:
    return state


@survey.result  # error: the result of another activity
def surveyed(state: House, result: Meter) -> None: ...


# -- activities for many sagas ----------------------------------------------------------------------------------------


class ReturnsOther(Activity[Address, Meter]):
    async def execute(self, inp: Address) -> Address:  # error: another output than the class says
        return inp


@activity(timeout=minutes(1))  # error: an output is a model
async def count(inp: Address) -> int:
    return 1


@bill.undo  # error: another output
async def credit(meter: Meter, out: Meter) -> None: ...


house.step(Connect("town"), input=lambda state: state)  # error: a state is no input
house.step(Connect("town"), input=lambda state: Address(street=state.streat))  # error: no such field
house.step(bill, after=connect, input=lambda meter: meter.street)  # error: no such field of the earlier output
house.step(Connect("town"), input=lambda state: Address(street="x"), after=cruise)  # error: a sleep has no output
house.step(Connect, input=lambda state: Address(street="x"))  # error: a class is no object
house.step(Await(), input=lambda state: Address(street="x"), timeout=3)  # error: a number is no duration


def reads_wrong(state: House, outputs: Outputs) -> Address:
    return outputs[connect]  # error: the output of another step


@connect.result  # error: another output
def connected(state: House, out: Address) -> None: ...


WaitFor(Wired)  # error: a wait has an end
WaitFor(Meter, timeout=days(1))  # error: a model is no event
register_terminal_errors("ValueError")  # error: a name is no class
set_error_mapper(lambda error: str(error))  # error: a text is no TerminalError
TerminalError()  # error: an error has a reason

# -- around a definition ----------------------------------------------------------------------------------------------

test = SagaTest(house)
test.given(Wall(metres=1))  # error: a reply is no event
test.reply(Wall)  # error: a class is no message
test.expect("BuildWall")  # error: a name is no message
test.reject(NoBricks(missing=1), to=Wall)  # error: a reply is no command
test.late_reply(Wall(metres=1))  # error: of which command
test.expect_activity(wall)  # error: a command is no activity
test.expect_local(survey)  # error: an activity is no local step
test.result(3)  # error: a number is no model
test.local(change=lambda state: state.decks)  # error: no such field
test.advance(60)  # error: a number is no duration
wrong: Ship = test.state  # error: another state
SagaTest(BuildWall)  # error: a command is no saga


async def starts(client: Client) -> Verdict:
    await client.start(wanted, PlanChanged(house="1", number=1, floors=1))  # error: the event of another start
    await client.start("house", HouseWanted(house="1"))  # error: a name is no saga
    run = await client.send(wanted, HouseWanted(house="1"))
    ship: Ship = (await run.ended(timeout=1)).state  # error: another state
    return Complete(ship.name)
