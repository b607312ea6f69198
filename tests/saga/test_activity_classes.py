"""What is read off activity classes and functions when they are made, and when they are given a place in a saga."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pytest
from pydantic import BaseModel, Field

from saga_worker import (
    Activity,
    ActivityContext,
    DefinitionError,
    Event,
    Outputs,
    Retry,
    Saga,
    Undo,
    WaitFor,
    activity,
    days,
    minutes,
    seconds,
)
from saga_worker.saga.placed import PlacedStep
from saga_worker.testing import SagaTest

if TYPE_CHECKING:
    from decimal import Decimal

I = TypeVar("I", bound=BaseModel)  # noqa: E741
O = TypeVar("O", bound=BaseModel)  # noqa: E741
T = TypeVar("T", bound=BaseModel)


class Ordered(Event):
    order: str
    cents: int = 100


class Order(BaseModel):
    order: str
    cents: int


class Charge(BaseModel):
    order: str
    cents: int = Field(validation_alias="amount", serialization_alias="amount")

    model_config = {"populate_by_name": True}


class Charged(BaseModel):
    payment: str


class Parcel(BaseModel):
    order: str


class Shipped(BaseModel):
    tracking: str


class Page(BaseModel, Generic[T]):
    items: list[T]


class Card(Activity[Charge, Charged], timeout=seconds(10)):
    async def execute(self, inp: Charge) -> Charged:
        return Charged(payment=inp.order)


# -- models, through generic and abstract bases ---------------------------------------------------------------------


class Audited(Activity[I, O], ABC, Generic[I, O], retry=Retry.fixed(7)):
    """A base that does something around the work of others."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def execute(self, inp: I) -> O:
        self.log.append(type(inp).__name__)
        return await self.work(inp)

    @abstractmethod
    async def work(self, inp: I) -> O: ...


class ToCarrier(Audited[Parcel, O], ABC, Generic[O]):
    """Says what goes in, and leaves open what comes out."""


class Dhl(ToCarrier[Shipped], timeout=seconds(5)):
    async def work(self, inp: Parcel) -> Shipped:
        return Shipped(tracking=inp.order)

    async def compensate(self, inp: Parcel, out: Shipped) -> None: ...


class Express(Dhl, timeout=seconds(1)):
    """Inherits what goes in and what comes out."""


class Twisted(Activity[O, I], ABC, Generic[I, O]):
    """The other way round."""


class Untwisted(Twisted[Shipped, Parcel]):
    async def execute(self, inp: Parcel) -> Shipped:
        return Shipped(tracking=inp.order)


class Paged(Activity[Parcel, Page[Shipped]]):
    async def execute(self, inp: Parcel) -> Page[Shipped]:
        return Page(items=[])


def test_models_are_found_through_generic_and_abstract_bases() -> None:
    """features: 1, 6"""
    assert (Dhl.input_model, Dhl.output_model) == (Parcel, Shipped)
    assert (Express.input_model, Express.output_model) == (Parcel, Shipped)
    assert (Untwisted.input_model, Untwisted.output_model) == (Parcel, Shipped)
    assert Paged.output_model is Page[Shipped]
    assert not hasattr(Audited, "input_model") and not hasattr(ToCarrier, "input_model")
    assert Express.compensate_shape is not None and not Express.compensate_shape.bears_unknown


async def test_a_base_can_wrap_the_work_of_those_that_derive_from_it() -> None:
    """features: 6, 146"""
    dhl = Dhl()
    assert await dhl.execute(Parcel(order="o")) == Shipped(tracking="o")
    assert dhl.log == ["Parcel"]
    with pytest.raises(TypeError, match="abstract"):
        ToCarrier()  # type: ignore[abstract]


def test_class_keywords_are_inherited_and_a_step_may_say_otherwise() -> None:
    """features: 9"""
    saga = Saga("s", state=Order, deadline=days(1))

    def parcel(order: Order) -> Parcel:
        return Parcel(order=order.order)

    one = saga.step(Express(), input=parcel)
    other = saga.step(Express(), input=parcel, timeout=minutes(1), retry=Retry.none(), name="other")
    assert (one.id, one.timeout, one.retry.attempts, one.undo_mode) == ("express", seconds(1), 7, Undo.STRICT)
    assert (other.timeout, other.undo_timeout, other.retry.attempts) == (minutes(1), minutes(1), 1)


# -- what is refused when the class is made -------------------------------------------------------------------------


def plain_function() -> Any:
    class Bad(Activity[Charge, Charged]):
        def execute(self, inp: Charge) -> Charged:  # type: ignore[override]
            return Charged(payment="")


def without_input_annotation() -> Any:
    class Bad(Activity[Charge, Charged]):
        async def execute(self, inp) -> Charged:  # type: ignore[no-untyped-def]
            return Charged(payment="")


def without_return_annotation() -> Any:
    class Bad(Activity[Charge, Charged]):
        async def execute(self, inp: Charge):  # type: ignore[no-untyped-def]
            return Charged(payment="")


def another_input() -> Any:
    class Bad(Activity[Charge, Charged]):
        async def execute(self, inp: Parcel) -> Charged:  # type: ignore[override]
            return Charged(payment="")


def another_output() -> Any:
    class Bad(Activity[Charge, Charged]):
        async def execute(self, inp: Charge) -> Shipped:  # type: ignore[override]
            return Shipped(tracking="")


def two_outputs() -> Any:
    class Bad(Activity[Charge, Charged]):
        async def execute(self, inp: Charge) -> Charged | Shipped:  # type: ignore[override]
            return Charged(payment="")


def only_a_wait() -> Any:
    class Bad(Activity[Charge, Charged]):
        async def execute(self, inp: Charge, event: Ordered | None = None) -> WaitFor:
            return WaitFor(Ordered, timeout=days(1))


def a_wait_without_its_event() -> Any:
    class Bad(Activity[Charge, Charged]):
        async def execute(self, inp: Charge) -> Charged | WaitFor:
            return WaitFor(Ordered, timeout=days(1))


def no_model_as_input() -> Any:
    class Bad(Activity[int, Charged]):  # type: ignore[type-var]
        async def execute(self, inp: int) -> Charged:
            return Charged(payment="")


def no_model_as_output() -> Any:
    class Bad(Activity[Charge, None]):  # type: ignore[type-var]
        async def execute(self, inp: Charge) -> None: ...


def nothing_said() -> Any:
    class Bad(Activity):  # type: ignore[type-arg]
        async def execute(self, inp: Charge) -> Charged:
            return Charged(payment="")


def a_generic_base_left_open() -> Any:
    class Bad(Audited):  # type: ignore[type-arg]
        async def work(self, inp: Charge) -> Charged:
            return Charged(payment="")


def an_unreadable_annotation() -> Any:
    class Bad(Activity[Charge, Charged]):
        async def execute(self, inp: Decimal) -> Charged:  # type: ignore[override]
            return Charged(payment="")


def another_parameter() -> Any:
    class Bad(Activity[Charge, Charged]):
        async def execute(self, inp: Charge, gateway: str) -> Charged:
            return Charged(payment="")


def no_parameter() -> Any:
    class Bad(Activity[Charge, Charged]):
        async def execute(self) -> Charged:  # type: ignore[override]
            return Charged(payment="")


def compensation_of_another_output() -> Any:
    class Bad(Card):
        async def compensate(self, inp: Charge, out: Shipped) -> None: ...  # type: ignore[override]


def compensation_without_output() -> Any:
    class Bad(Card):
        async def compensate(self, inp: Charge) -> None: ...  # type: ignore[override]


def compensation_that_returns() -> Any:
    class Bad(Card):
        async def compensate(self, inp: Charge, out: Charged) -> Charged:  # type: ignore[override]
            return out


def compensation_that_is_not_awaited() -> Any:
    class Bad(Card):
        def compensate(self, inp: Charge, out: Charged) -> None: ...  # type: ignore[override]


REFUSED: dict[Callable[[], Any], str] = {
    plain_function: "execute: it is awaited; make it an async function",
    without_input_annotation: "execute: annotate inp with the pydantic model that goes in",
    without_return_annotation: "execute: annotate what it returns: one pydantic model, or that | WaitFor",
    another_input: "execute: Parcel is annotated where the class says Charge; write the same in both",
    another_output: "execute: Shipped is annotated where the class says Charged",
    two_outputs: "execute: annotate what it returns: one pydantic model",
    only_a_wait: "execute: annotate what it returns: one pydantic model",
    a_wait_without_its_event: "execute: it may wait, and is then entered again with an event; take one of event, ",
    no_model_as_input: "Bad: its input is <class 'int'>; give a pydantic BaseModel class",
    no_model_as_output: "Bad: its output is <class 'NoneType'>; give a pydantic BaseModel class",
    nothing_said: r"Bad does not say what goes in and what comes out; derive it from Activity\[TheInput, TheOutput\]",
    a_generic_base_left_open: r"derive it from Audited\[TheInput, TheOutput\]",
    an_unreadable_annotation: r"its annotations cannot be read; import the names .* \(NameError: name 'Decimal'",
    another_parameter: "execute: nobody gives it gateway; besides what it works on it may take ctx, event",
    no_parameter: "execute: it is called with one input; take a parameter for it",
    compensation_of_another_output: "compensate: Shipped is annotated where the class says Charged",
    compensation_without_output: "compensate: it is called with the input and the output that were recorded; take 2",
    compensation_that_returns: "compensate: a compensation returns nothing; annotate it with None",
    compensation_that_is_not_awaited: "compensate: it is awaited; make it an async function",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_wrong_annotations_are_refused_when_the_class_is_made(make: Callable[[], Any]) -> None:
    """features: 5"""
    first = make.__code__.co_firstlineno
    with pytest.raises(DefinitionError, match=REFUSED[make]) as refused:
        make()
    file, line = str(refused.value).split(": ", 1)[0].rsplit(":", 1)
    assert Path(file) == Path(__file__) and first < int(line) <= first + 3


def test_functions_are_refused_for_the_same_reasons() -> None:
    """features: 5, 19"""
    with pytest.raises(DefinitionError, match="annotate what it returns"):

        @activity  # type: ignore[arg-type]
        async def nothing(inp: Charge) -> None: ...

    with pytest.raises(DefinitionError, match="besides what it works on it may take ctx"):

        @activity(timeout=seconds(1))
        async def state(inp: Charge, state: Order) -> Charged:
            return Charged(payment="")

    @activity
    async def charge(inp: Charge) -> Charged:
        return Charged(payment="")

    with pytest.raises(DefinitionError, match="Shipped is annotated where the class says Charged"):

        @charge.undo  # type: ignore[arg-type]
        async def wrong(inp: Charge, out: Shipped) -> None: ...

    charge.undo(give_back)
    with pytest.raises(DefinitionError, match="activity charge has an undo already"):
        charge.undo(give_back)


async def give_back(inp: Charge, out: Charged) -> None: ...


# -- which parameters are given ---------------------------------------------------------------------------------------


def shop() -> Saga[Order]:
    saga = Saga("shop", state=Order, deadline=days(1))
    saga.starts_on(Ordered, key=lambda e: e.order)(lambda event: Order(order=event.order, cents=event.cents))
    return saga


def charge_of(order: Order) -> Charge:
    return Charge(order=order.order, cents=order.cents)


class BearsUnknown(Card):
    async def compensate(self, inp: Charge, out: Charged | None, ctx: ActivityContext) -> None: ...


class NeedsOutput(Card):
    async def compensate(self, inp: Charge, out: Charged) -> None: ...


class NoLonger(NeedsOutput):
    compensate = None  # type: ignore[assignment]


def test_the_undo_follows_from_what_the_compensation_bears() -> None:
    """features: 4, 41, 42"""

    def placed(work: Activity[Charge, Charged], **options: Any) -> PlacedStep[Order, Charge, Charged]:
        step: PlacedStep[Order, Charge, Charged] = shop().step(work, input=charge_of, **options)
        return step

    assert placed(BearsUnknown()).undo_mode is Undo.HYBRID
    assert placed(BearsUnknown(), undo=Undo.STRICT).undo_mode is Undo.STRICT
    assert placed(NeedsOutput()).undo_mode is Undo.STRICT
    assert not placed(Card()).has_undo
    assert not placed(NoLonger()).has_undo
    assert not placed(NeedsOutput(), undo=Undo.NONE).has_undo
    with pytest.raises(DefinitionError, match=r"let its compensate take Charged \| None, or say undo=Undo.STRICT"):
        placed(NeedsOutput(), undo=Undo.HYBRID)
    with pytest.raises(DefinitionError, match="a reusable activity; take it back in its compensate"):
        placed(Card()).undo(give_back)


def test_a_step_has_a_time_out_and_a_name_of_its_own() -> None:
    """features: 15"""
    saga = shop()

    class Bare(Activity[Charge, Charged]):
        async def execute(self, inp: Charge) -> Charged:
            return Charged(payment="")

    with pytest.raises(DefinitionError, match="step bare has no time-out; give timeout=… here, or where"):
        saga.step(Bare(), input=charge_of)
    saga.step(Card(), input=charge_of)
    with pytest.raises(DefinitionError, match=r"saga shop has a step card at .* already"):
        saga.step(Card(), input=charge_of)
    with pytest.raises(DefinitionError, match="is no activity; give an object of a class derived from Activity"):
        saga.step(Card, input=charge_of)  # type: ignore[call-overload]


# -- maps -------------------------------------------------------------------------------------------------------------


def to_charge(order: Order) -> Charge:
    return Charge(order=order.order, cents=order.cents)


def to_dict(order: Order) -> dict[str, Any]:
    return {"order": order.order, "amount": order.cents}


def with_outputs(order: Order, outputs: Outputs) -> Charge:
    return to_charge(order)


def from_base(order: BaseModel) -> Charge:
    raise AssertionError


def from_charged(charged: Charged) -> Parcel:
    return Parcel(order=charged.payment)


def from_state(order: Order) -> Parcel:
    return Parcel(order=order.order)


def from_parcel(parcel: Parcel) -> Charge:
    raise AssertionError


def to_shipped(order: Order) -> Shipped:
    raise AssertionError


async def awaited(order: Order) -> Charge:
    raise AssertionError


@pytest.mark.parametrize("make", [to_charge, to_dict, with_outputs, from_base, lambda order: {}])
def test_a_map_that_fits_is_taken(make: Any) -> None:
    """features: 11, 13, 14"""
    shop().step(Card(), input=make)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (from_parcel, "its input map takes Parcel as parcel, but it gets Order"),
        (to_shipped, r"its input map returns Shipped; return Charge or dict\[str, Any\]"),
        (awaited, "its input map is called inside a transaction; make it a plain function"),
        (lambda: Charge(order="", cents=1), r"its input map is called as \(state\) or \(state, outputs\)"),
        (lambda a, b, c: {}, r"its input map is called as \(state\) or \(state, outputs\)"),
    ],
)
def test_a_map_that_cannot_fit_is_refused(make: Any, problem: str) -> None:
    """features: 14"""
    with pytest.raises(DefinitionError, match=f"{__file__}:\\d+: step card: {problem}"):
        shop().step(Card(), input=make)


def test_the_map_of_a_step_that_takes_an_output_is_held_to_that() -> None:
    """features: 10, 14"""
    saga, other = shop(), shop()
    charged = saga.step(Card(), input=charge_of)
    saga.step(Dhl(), after=charged, input=from_charged)
    with pytest.raises(DefinitionError, match="step express: its input map takes Order as order, but it gets Charged"):
        saga.step(Express(), after=charged, input=from_state)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match=r"its input map is called as \(output\)"):
        saga.step(Express(), after=charged, input=lambda a, b: {})  # type: ignore[misc, arg-type]
    own = saga.activity(timeout=seconds(1), name="own")(own_work)
    with pytest.raises(DefinitionError, match="records no output; name what an earlier step"):
        saga.step(Express(), after=own, input=lambda out: {})
    foreign = other.step(Card(), input=charge_of)
    late = saga.step(Express(), after=foreign, input=from_charged)
    saga.flow(list(saga.steps.values())[1], charged, own, late)
    with pytest.raises(DefinitionError) as refused:
        saga.check()
    assert "step express comes after=card, which belongs to another saga" in str(refused.value)
    assert "step dhl takes what card returns, but card does not stand before it" in str(refused.value)


async def own_work(order: Order, ctx: ActivityContext) -> Charged:
    raise AssertionError


def test_a_dict_is_read_by_name_or_alias_and_stored_by_name() -> None:
    """features: 13"""
    saga = shop()
    card = saga.step(Card(), input=lambda order: {"order": order.order, "amount": "7"})
    again = saga.step(Card(), input=lambda order: {"order": order.order, "cents": 8}, name="again")
    saga.flow(card, again)
    told = SagaTest(saga).given(Ordered(order="o")).expect_activity(card, input=Charge(order="o", cents=7))
    told.result(Charged(payment="p")).expect_activity(again, input=Charge(order="o", cents=8))


@pytest.mark.parametrize("made", [None, 7, Parcel(order="o"), [("order", "o")]])
def test_a_map_that_makes_something_else_is_an_error_of_its_author(made: Any) -> None:
    """features: 13"""
    saga = shop()
    saga.flow(saga.step(Card(), input=lambda order: made))
    told = SagaTest(saga, tolerant=True).event(Ordered(order="o")).expect_status("absent").advance(days(1))
    row = next(iter(told.one.rows.values()))
    assert row.reason == "handler_error"
    error = (
        f"TypeError: the input map of step card returned {type(made).__name__}; return Charge or a dict of its fields"
    )
    assert told.one.errors[row.id].startswith(error)


def test_outputs_are_known_by_step_and_by_id() -> None:
    """features: 10, 12"""
    saga = shop()
    seen: list[dict[str, Any]] = []

    def parcel(order: Order, outputs: Outputs) -> Parcel:
        seen.append(outputs.by_id())
        if charged in outputs and again in outputs:
            return Parcel(order=outputs[charged].payment + outputs[again].payment)
        with pytest.raises(LookupError, match="step dhl has returned nothing yet"):
            _ = outputs[dhl]
        return Parcel(order="nothing")

    charged = saga.step(Card(), input=charge_of)
    again = saga.step(Card(), input=charge_of, name="again")
    dhl = saga.step(Dhl(), input=parcel)
    express = saga.step(Express(), input=parcel)
    saga.flow(charged, dhl, again, express)
    told = SagaTest(saga).given(Ordered(order="o")).result(Charged(payment="p"))
    told.expect_activity(charged).expect_activity(dhl, input=Parcel(order="nothing")).result(Shipped(tracking="t"))
    told.result(Charged(payment="q")).expect_activity(again).expect_activity(express, input=Parcel(order="pq"))

    assert seen == [
        {"card": {"payment": "p"}},
        {"card": {"payment": "p"}, "dhl": {"tracking": "t"}, "again": {"payment": "q"}},
    ]
