"""Keys, references and ids of our own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NewType
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, Field

from saga_worker import DefinitionError, Event, KeyKind, Message
from saga_worker.saga.errors import PoisonMessage
from saga_worker.saga.keys import KeyPath, record_key
from saga_worker.saga.routing import (
    MAX_SEQ,
    canonical_key,
    command_id,
    parse_command_id,
    pointer_to,
    ref_of,
    resolve_pointer,
)

AN_ID = UUID("0b8e1b7e-6d3f-4d8e-9c1a-5f6a7b8c9d0e")


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("4711", KeyKind.TEXT, "4711"),
        (" Ünïcode ", KeyKind.TEXT, " Ünïcode "),
        ("x" * 255, KeyKind.TEXT, "x" * 255),
        (KeyKind.TEXT, KeyKind.TEXT, "text"),
        (4711, KeyKind.INT, "4711"),
        (-1, KeyKind.INT, "-1"),
        (2**63, KeyKind.INT, "9223372036854775808"),
        (AN_ID, KeyKind.UUID, str(AN_ID)),
        (str(AN_ID), KeyKind.UUID, str(AN_ID)),
        (str(AN_ID).upper(), KeyKind.UUID, str(AN_ID)),
    ],
)
def test_a_key_has_one_spelling(value: object, kind: KeyKind, expected: str) -> None:
    assert canonical_key(value, kind) == expected


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("", KeyKind.TEXT),
        ("x" * 256, KeyKind.TEXT),
        ("é" * 128, KeyKind.TEXT),
        ("a\nb", KeyKind.TEXT),
        ("a\0b", KeyKind.TEXT),
        ("\x85", KeyKind.TEXT),
        ("\ud800", KeyKind.TEXT),
        (1, KeyKind.TEXT),
        (None, KeyKind.TEXT),
        ("4711", KeyKind.INT),
        (1.0, KeyKind.INT),
        (True, KeyKind.INT),
        (None, KeyKind.INT),
        (10**300, KeyKind.INT),
        ("", KeyKind.UUID),
        (AN_ID.hex, KeyKind.UUID),
        (f"{{{AN_ID}}}", KeyKind.UUID),
        (f"urn:uuid:{AN_ID}", KeyKind.UUID),
        (1, KeyKind.UUID),
        ({}, KeyKind.UUID),
    ],
)
def test_everything_else_is_a_bad_key(value: object, kind: KeyKind) -> None:
    with pytest.raises(PoisonMessage) as refused:
        canonical_key(value, kind)

    assert refused.value.reason == "bad_key"


def test_a_bad_key_is_refused_without_showing_it() -> None:
    with pytest.raises(PoisonMessage, match=r"^The key is text; the definition's keys are int\.$"):
        canonical_key("SECRET", KeyKind.INT)


def test_a_reference_is_the_hash_of_definition_and_key() -> None:
    assert ref_of("checkout", "4711") == UUID("7df25b4f-398e-8577-6b46-ef292b4985ad")
    assert ref_of("checkout", "4711") != ref_of("checkout4711", "")


@given(ref=st.uuids(), seq=st.integers(0, MAX_SEQ))
def test_a_command_id_can_be_read_back(ref: UUID, seq: int) -> None:
    text = command_id(ref, seq)

    assert len(text.split(".")[0]) == 22
    assert parse_command_id(text) == (ref, seq)


@given(
    base64url=st.text("AQgwBZaz09_-", min_size=22, max_size=22),
    seq=st.text("0123456789", min_size=1, max_size=11),
)
def test_only_the_exact_form_is_a_command_id(base64url: str, seq: str) -> None:
    text = f"{base64url}.{seq}"
    parsed = parse_command_id(text)

    assert parsed is None or command_id(*parsed) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        str(AN_ID),
        command_id(AN_ID, 1) + "\n",
        " " + command_id(AN_ID, 1),
        command_id(AN_ID, 1).replace(".", ".0"),
        command_id(AN_ID, MAX_SEQ + 1),
        command_id(AN_ID, 1).replace(".1", "."),
        command_id(AN_ID, 1).replace(".1", ".١"),
        command_id(AN_ID, 1).replace(".1", ".-1"),
    ],
)
def test_a_text_that_is_nearly_a_command_id_is_none(text: str) -> None:
    assert parse_command_id(text) is None


@given(st.lists(st.text(), max_size=4), st.integers())
def test_a_pointer_leads_to_what_it_was_made_for(names: list[str], value: int) -> None:
    document: object = value
    for name in reversed(names):
        document = {"other": 0, name: document}

    assert resolve_pointer(document, pointer_to(tuple(names))) == value


@pytest.mark.parametrize("document", [{}, {"a": 1}, {"a": {"c": 1}}, {"a": ["b"]}, [], None, 1, "a"])
def test_a_pointer_to_nothing_is_a_bad_key(document: object) -> None:
    with pytest.raises(PoisonMessage) as refused:
        resolve_pointer(document, "/a/b")

    assert refused.value.reason == "bad_key"


CaseId = NewType("CaseId", str)


class Customer(Message):
    number: int = Field(alias="customerNo")


class OrderPlaced(Event):
    order: str
    public: UUID
    case: CaseId = CaseId("")
    customer: Customer
    lines: tuple[str, ...] = ()
    gift: bool = False
    note: str | None = None
    slash: str = Field(alias="a/b~c")
    either: str = Field(validation_alias=AliasChoices("one", "two"))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (lambda e: e.order, KeyPath("/order", KeyKind.TEXT)),
        (lambda e: e.public, KeyPath("/public", KeyKind.UUID)),
        (lambda e: e.case, KeyPath("/case", KeyKind.TEXT)),
        (lambda e: e.customer.number, KeyPath("/customer/customerNo", KeyKind.INT)),
        (lambda e: e.slash, KeyPath("/a~1b~0c", KeyKind.TEXT)),
    ],
)
def test_a_key_function_is_recorded_as_a_pointer_by_wire_alias(key: Callable[[Any], Any], expected: KeyPath) -> None:
    assert record_key(OrderPlaced, key, source="here:1") == expected


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (lambda e: e.ordre, "OrderPlaced has no field ordre; it has order, "),
        (lambda e: e.customer, "a key field is str, int or UUID"),
        (lambda e: e.gift, "a key field is str, int or UUID"),
        (lambda e: e.note, "never optional"),
        (lambda e: e.lines, "a key field is str, int or UUID"),
        (lambda e: e, "a key field is str, int or UUID"),
        (lambda e: e.either, "one plain alias"),
        (lambda e: e.order.upper(), "order is no model"),
        (lambda e: e.order + "x", "a plain path of fields"),
        (lambda e: f"order-{e.order}", "a plain path of fields"),
        (lambda e: str(e.order), "a plain path of fields"),
        (lambda e: e.order or e.case, "a plain path of fields"),
        (lambda e: e.order if e.case == "x" else e.note, "a plain path of fields"),
        (lambda e: e.lines[0], "a plain path of fields"),
        (lambda e: {e.order: 1}, "a plain path of fields"),
        (lambda e: "fixed", "a plain path of fields"),
        (lambda e: None, "a plain path of fields"),
        (lambda: 1, "a plain path of fields"),
    ],
)
def test_a_key_that_is_no_path_of_fields_is_refused_with_the_remedy(key: Callable[..., Any], problem: str) -> None:
    with pytest.raises(DefinitionError, match=problem) as refused:
        record_key(OrderPlaced, key, source="orders.py:12")

    assert str(refused.value).startswith("orders.py:12: ")
