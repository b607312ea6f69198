"""Wire types, answers of a command class, JSON in and out."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
from pydantic import Field, ValidationError

from saga_worker import Command, DefinitionError, Done, Event, Message, Rejected, UndoOf
from saga_worker.saga.errors import PoisonMessage
from saga_worker.saga.messages import decode, encode, rejection_models, reply_models, undone_model, wire_types


class Line(Message):
    sku: str
    count: int


class OrderPlaced(Event):
    order_id: str = Field(alias="orderId")
    lines: tuple[Line, ...] = ()
    notes: dict[str, int] = Field(default_factory=dict)


class WorkItem(Event, types=("W_Complete order", "W_Assess.potential fraud")):
    case: str


class Renamed(Event, type="shop.Order Placed"):
    order: UUID


class Cleared(Message): ...


class Suspicious(Message):
    case: str


class Fraud(Message):
    rule: str


class ScoreOrder(Command[Cleared | Suspicious, Fraud]):
    order: str


class ForgetScore(UndoOf[ScoreOrder, Cleared]):
    order: str


class Ping(Command):
    pass


class PingAgain(Ping):
    pass


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (OrderPlaced, ("order_placed",)),
        (WorkItem, ("W_Complete order", "W_Assess.potential fraud")),
        (Renamed, ("shop.Order Placed",)),
        (ScoreOrder, ("score_order",)),
        (Done, ("done",)),
        (type("HTTPDone", (Event,), {}), ("http_done",)),
        (type("Child", (Renamed,), {}), ("child",)),
    ],
)
def test_the_wire_type_is_declared_or_the_snake_case_of_the_class(
    model: type[Message], expected: tuple[str, ...]
) -> None:
    assert wire_types(model) == expected


@pytest.mark.parametrize("wire_type", ["", "x" * 256, "é" * 128, "a\nb", "a\0b"])
def test_a_wire_type_that_amqp_cannot_carry_is_refused(wire_type: str) -> None:
    with pytest.raises(DefinitionError, match="wire type"):
        type("Wrong", (Event,), {}, type=wire_type)


def test_types_as_one_text_is_refused() -> None:
    with pytest.raises(DefinitionError, match="write type='ab'"):
        type("Wrong", (Event,), {}, types="ab")


def test_a_message_knows_the_type_it_arrived_as() -> None:
    body = b'{"case": "7"}'

    assert decode(body, WorkItem, "W_Assess.potential fraud").wire_type == "W_Assess.potential fraud"
    assert decode(body, WorkItem, "W_Complete order").wire_type == "W_Complete order"
    assert WorkItem(case="7").wire_type == "W_Complete order"


def test_the_type_it_arrived_as_is_no_part_of_a_message() -> None:
    arrived = decode(b'{"case": "7"}', WorkItem, "W_Assess.potential fraud")

    assert arrived == WorkItem(case="7")
    assert json.loads(encode(arrived)) == {"case": "7"}


def test_a_message_survives_the_wire_by_its_aliases() -> None:
    order = OrderPlaced.model_validate({"orderId": "4711", "lines": [{"sku": "a", "count": 2}]})

    assert json.loads(encode(order)) == {"orderId": "4711", "lines": [{"sku": "a", "count": 2}], "notes": {}}
    assert decode(encode(order), OrderPlaced, "order_placed") == order


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Fraud(rule="x").rule = "y"  # type: ignore[misc]


def test_a_number_that_json_does_not_have_makes_no_message() -> None:
    class Measured(Event):
        value: float

    with pytest.raises(ValidationError, match="finite"):
        Measured(value=float("nan"))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"orderId": "1", "lines": [{"sku": "SECRET", "count": "SECRET"}]}', "lines.0.count: int_parsing"),
        (b'{"order_id": "SECRET"}', "orderId: missing, order_id: extra_forbidden"),
        (b'{"orderId": "1", "notes": {"SECRET": "SECRET"}}', "notes.*: int_parsing"),
        (b'["SECRET"]', "(document): model_type"),
        (b'{"orderId": "SECRET', "(document): json_invalid"),
    ],
)
def test_a_refusal_names_fields_and_kinds_but_no_values(body: bytes, expected: str) -> None:
    with pytest.raises(PoisonMessage) as refused:
        decode(body, OrderPlaced, "order_placed")

    assert refused.value.reason == "schema_mismatch"
    assert refused.value.error == f"order_placed does not fit OrderPlaced: {expected}"


def test_a_refusal_stays_short_however_much_is_wrong() -> None:
    body = json.dumps({"orderId": "1", "lines": [{}] * 500})

    with pytest.raises(PoisonMessage, match="and 990 more") as refused:
        decode(body.encode(), OrderPlaced, "order_placed")
    assert len(refused.value.error) < 1000


def test_a_class_may_allow_fields_that_it_does_not_know() -> None:
    class Loose(Event, extra="ignore"):
        key: str

    assert decode(b'{"key": "1", "new": 2}', Loose, "loose") == Loose(key="1")


def test_a_command_class_knows_its_answers() -> None:
    assert reply_models(ScoreOrder) == {"cleared": Cleared, "suspicious": Suspicious}
    assert rejection_models(ScoreOrder) == {"fraud": Fraud}


@pytest.mark.parametrize("command", [Ping, PingAgain])
def test_a_command_that_declares_no_answers_has_done_and_rejected(command: type[Command]) -> None:
    assert reply_models(command) == {"done": Done}
    assert rejection_models(command) == {"rejected": Rejected}


def test_an_undo_knows_its_command_and_its_own_answers() -> None:
    assert undone_model(ForgetScore) is ScoreOrder
    assert reply_models(ForgetScore) == {"cleared": Cleared}
    assert rejection_models(ForgetScore) == {"rejected": Rejected}


def test_two_answers_of_one_type_are_refused() -> None:
    class OtherCleared(Message, type="cleared"): ...

    class Twice(Command[Cleared | OtherCleared]): ...

    with pytest.raises(DefinitionError, match="two answers have the wire type 'cleared'"):
        reply_models(Twice)
