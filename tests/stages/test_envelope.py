"""Bytes and properties to rows: what is accepted, what is refused and under which code."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from saga_worker.envelope import (
    Delivery,
    EnvelopeLimits,
    Properties,
    Source,
    dump_delivery,
    dump_properties,
    load_delivery,
    load_properties,
    read,
)
from saga_worker.inbox import NewRow
from saga_worker.saga.routing import KeyKind, Route, command_id, ref_of
from saga_worker.saga.rows import Role, RowState

LIMITS = EnvelopeLimits(body_bytes=300_000, kept_bytes=1_000, parking_seconds=60)
REF = UUID("0198d6a0-0000-7000-8000-000000000001")


@dataclass
class Table:
    by_type: dict[str, list[Route]] = field(default_factory=dict)


def route(definition: str, pointer: str = "/order_id", kind: KeyKind = KeyKind.TEXT) -> Route:
    return Route(definition, 1, "order_placed", Role.EVENT, pointer, kind)


ROUTES = Table({"order_placed": [route("checkout")]})


def delivery(
    body: bytes = b'{"order_id":"o-1"}', *, exchange: str = "saga.events", routing_key: str = "order_placed",
    queue: Source = Source.INBOX, redelivered: bool = False, **properties: object,
) -> Delivery:  # fmt: skip
    given = Properties(message_id="m-1", type="order_placed", app_id="shop")
    for name, value in properties.items():
        setattr(given, name, value)
    return Delivery(body, given, exchange, routing_key, redelivered, 1, queue)


def only(rows: list[NewRow]) -> NewRow:
    assert len(rows) == 1
    return rows[0]


def refused(message: Delivery) -> NewRow:
    row = only(read(message, ROUTES, LIMITS))
    assert row.state is RowState.DEAD
    assert row.ref is None
    assert row.error
    return row


def test_an_event_becomes_a_ready_row_of_its_saga() -> None:
    """features: 88"""
    row = only(read(delivery(), ROUTES, LIMITS))

    assert (row.state, row.role, row.consumer) == (RowState.READY, Role.EVENT, "checkout")
    assert (row.source, row.message_id, row.type) == ("shop", "m-1", "order_placed")
    assert (row.saga_key, row.ref) == ("o-1", ref_of("checkout", "o-1"))
    assert not row.suspect


def test_an_event_for_two_definitions_becomes_two_rows() -> None:
    table = Table({"order_placed": [route("checkout"), route("loyalty", "/customer/id", KeyKind.INT)]})
    rows = read(delivery(b'{"order_id":"o-1","customer":{"id":7}}'), table, LIMITS)

    assert [(row.consumer, row.saga_key) for row in rows] == [("checkout", "o-1"), ("loyalty", "7")]
    assert len({row.dedup for row in rows}) == 2


def test_a_key_that_one_definition_cannot_use_kills_only_that_row() -> None:
    table = Table({"order_placed": [route("checkout"), route("loyalty", "/customer/id", KeyKind.INT)]})
    first, second = read(delivery(), table, LIMITS)

    assert first.state is RowState.READY
    assert (second.state, second.reason, second.consumer) == (RowState.DEAD, "bad_key", "loyalty")


def test_a_type_that_no_route_knows_is_parked_without_a_saga() -> None:
    row = only(read(delivery(type="os.system"), ROUTES, LIMITS))

    assert (row.state, row.reason, row.ref, row.consumer) == (RowState.PARKED, "no_definition", None, "")
    assert row.expires_at_seconds == 60


def test_a_missing_type_is_the_routing_key() -> None:
    """features: 88"""
    assert only(read(delivery(type=None), ROUTES, LIMITS)).type == "order_placed"


BAD_BODIES = {
    "empty": (b"", "invalid_json"),
    "blank": (b" \n", "invalid_json"),
    "truncated": (b'{"a":', "invalid_json"),
    "trailing text": (b'{"a":1} x', "invalid_json"),
    "second document": (b'{"a":1}{}', "invalid_json"),
    "single quotes": (b"{'a':1}", "invalid_json"),
    "comment": (b'{"a":1/**/}', "invalid_json"),
    "NaN": (b'{"a":NaN}', "invalid_json"),
    "Infinity": (b'{"a":-Infinity}', "invalid_json"),
    "raw NUL": (b'{"a":"\x00"}', "invalid_json"),
    "NUL outside": (b'{\x00"a":1}', "invalid_json"),
    "control byte": (b'{"a":"\x01"}', "invalid_json"),
    "not UTF-8": (b'{"a":"\xff"}', "invalid_encoding"),
    "overlong": (b'{"a":"\xc0\xaf"}', "invalid_encoding"),
    "UTF-16": ('{"a":1}'.encode("utf-16"), "invalid_encoding"),
    "UTF-16 without a mark": ('{"a":1}'.encode("utf-16-le"), "invalid_encoding"),
    "byte order mark": (b'\xef\xbb\xbf{"a":1}', "invalid_encoding"),
    "lone surrogate": (b'{"a":"\\ud800"}', "invalid_encoding"),
    "lone second half": (b'{"a":"\\udc00"}', "invalid_encoding"),
    "1e400": (b'{"a":1e400}', "number_out_of_range"),
    "-1E+400": (b'{"a":-1E+400}', "number_out_of_range"),
    "1e131073": (b'{"a":1e131073}', "number_out_of_range"),
    "250 digits and e99": (b'{"a":' + b"1" * 250 + b"e99}", "number_out_of_range"),
    "400 digits with a point": (b'{"a":' + b"1" * 400 + b".0}", "number_out_of_range"),
    "200,000 digits": (b'{"a":' + b"1" * 200_000 + b"}", "number_out_of_range"),
    "escaped NUL": (b'{"a":"\\u0000"}', "nul_character"),
    "escaped NUL in a key": (b'{"a":{"\\u0000":1}}', "nul_character"),
    "scalar": (b"1", "not_an_object"),
    "array": (b"[]", "not_an_object"),
    "null": (b"null", "not_an_object"),
    "repeated member": (b'{"a":1,"a":2}', "duplicate_key"),
    "repeated member, spaced": (b'{"a":1,"a" :2}', "duplicate_key"),
    "repeated member, escaped": (b'{"a":1,"\\u0061":2}', "duplicate_key"),
    "repeated member, inside": (b'{"a":[{"b":1,"b":1}]}', "duplicate_key"),
    "too deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too_deep"),
}


@pytest.mark.parametrize(("body", "reason"), BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_bad_body_becomes_one_dead_row_that_keeps_it(body: bytes, reason: str) -> None:
    started = time.perf_counter()
    row = refused(delivery(body))
    took = time.perf_counter() - started

    assert row.reason == reason
    assert row.body == body[:1_000]
    assert took < 0.1  # B07 asks for 10 ms; ten times that for a busy machine


@pytest.mark.parametrize(
    "body",
    [
        b'{"order_id":"o-1","n":9007199254740993123}',
        b'{"order_id":"o-1","n":1e308,"m":1e-400}',
        b'{"order_id":"o-1","text":"NaN 1e400 \\\\u0000 {\\"a\\":1,\\"a\\":2}"}',
        b'{"order_id":"o-1","id":"5e123456-0000"}',
        b'{"order_id" : "o-1", "lines": {"order_id": 1}}\r\n',
        '{"order_id":"o-1","text":"\\ud83d\\ude00 é"}'.encode(),
    ],
)
def test_a_body_that_only_looks_suspicious_is_accepted(body: bytes) -> None:
    assert only(read(delivery(body), ROUTES, LIMITS)).state is RowState.READY


def test_the_place_of_a_fault_is_named_and_no_value_is() -> None:
    row = refused(delivery(b'{"card":\n "4111111111111111" "x"}'))

    assert row.error is not None
    assert "line 2, column" in row.error
    assert "4111" not in row.error


def test_a_body_over_the_limit_is_refused_undecoded_with_size_and_hash() -> None:
    body = b'{"order_id":"' + b"x" * 300_000 + b'"}'
    row = refused(delivery(body))

    assert row.reason == "payload_too_large"
    assert row.error is not None
    assert f"{len(body)} bytes" in row.error
    assert "sha256" in row.error
    assert len(row.body) == 1_000


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"content_type": "text/plain"}, "unsupported_content_type"),
        ({"content_type": "application/json; charset=latin-1"}, "unsupported_content_type"),
        ({"content_encoding": "gzip"}, "unsupported_encoding"),
        ({"message_id": None}, "missing_message_id"),
        ({"message_id": ""}, "missing_message_id"),
        ({"message_id": "a\x00b"}, "invalid_message_id"),
        ({"message_id": "a\nb"}, "invalid_message_id"),
        ({"message_id": "caf\udce9"}, "invalid_message_id"),
        ({"app_id": "caf\udce9"}, "invalid_source"),
        ({"type": "a\x00b"}, "invalid_type"),
        ({"type": "x" * 256}, "invalid_type"),
    ],
)
def test_properties_that_cannot_be_used_are_refused(properties: dict[str, Any], reason: str) -> None:
    row = refused(delivery(**properties))

    assert row.reason == reason
    for text in (row.message_id, row.source, row.type):
        text.encode()
        assert "\x00" not in text


@pytest.mark.parametrize("kind", [None, "", "application/json", "Application/JSON; charset=UTF-8"])
def test_json_under_its_usual_names_is_accepted(kind: str | None) -> None:
    assert only(read(delivery(content_type=kind), ROUTES, LIMITS)).state is RowState.READY


@pytest.mark.parametrize("message_id", ["x" * 255, " ", "Ä", "A\u0308", "a'; DROP TABLE inbox"])
def test_message_ids_are_kept_to_the_letter(message_id: str) -> None:
    assert only(read(delivery(message_id=message_id), ROUTES, LIMITS)).message_id == message_id


def test_the_stand_in_id_is_the_same_for_every_delivery_of_one_message() -> None:
    first = refused(delivery(message_id=None))
    redelivered = delivery(
        message_id=None, redelivered=True, headers={"x-delivery-count": 3, "x-first-death-queue": "q"}
    )
    other = delivery(b'{"order_id":"o-2"}', message_id=None)

    assert first.message_id == refused(redelivered).message_id
    assert first.message_id != refused(other).message_id


def test_a_message_that_answers_a_command_of_ours_is_a_reply_only() -> None:
    row = only(read(delivery(correlation_id=command_id(REF, 3), type="order_placed"), ROUTES, LIMITS))

    assert (row.role, row.ref, row.state, row.consumer) == (Role.REPLY, REF, RowState.READY, "")
    assert row.correlation_id == command_id(REF, 3)


def test_another_correlation_id_is_metadata_on_an_event() -> None:
    """features: 88"""
    row = only(read(delivery(correlation_id="their-own"), ROUTES, LIMITS))

    assert (row.role, row.state, row.correlation_id) == (Role.EVENT, RowState.READY, "their-own")


def test_a_reply_to_no_command_of_ours_is_dead() -> None:
    assert refused(delivery(exchange="", correlation_id="their-own")).reason == "unknown_command"


@pytest.mark.parametrize("correlation_id", [None, command_id(REF, 3)])
def test_a_reply_without_type_is_dead(correlation_id: str | None) -> None:
    assert refused(delivery(exchange="", type=None, correlation_id=correlation_id)).reason == "missing_type"


def test_what_the_broker_gave_up_is_a_suspect() -> None:
    row = only(read(delivery(queue=Source.DEAD), ROUTES, LIMITS))

    assert (row.state, row.suspect) == (RowState.READY, True)


def test_the_third_delivery_of_the_dead_queue_is_stored_unread() -> None:
    second = delivery(b"{", queue=Source.DEAD, redelivered=True, headers={"x-delivery-count": 1})
    third = delivery(b"{", queue=Source.DEAD, redelivered=True, headers={"x-delivery-count": 2})
    forged = delivery(b"{", queue=Source.DEAD, headers={"x-delivery-count": 99})

    assert refused(second).reason == "invalid_json"
    assert refused(third).reason == "delivery_limit"
    assert refused(forged).reason == "invalid_json"


def test_a_fault_of_our_own_loses_nothing() -> None:
    class Broken:
        @property
        def by_type(self) -> dict[str, list[Route]]:
            raise RuntimeError("secret")

    row = only(read(delivery(), Broken(), LIMITS))

    assert (row.state, row.reason) == (RowState.DEAD, "unreadable")
    assert "secret" not in (row.error or "")


def test_properties_come_back_from_json_as_they_were() -> None:
    given = Properties(
        content_type="application/json", message_id="m", timestamp=1_700_000_000, delivery_mode=2, app_id="caf\udce9",
        headers={
            "text": "é", "none": None, "true": True, "int": -5, "float": 1.5, "bytes": b"\x00\xff", "raw": "\udcff",
            "decimal": Decimal("12.50"), "time": datetime(2026, 1, 2, tzinfo=UTC),
            "table": {"$bytes": "not a tag", "list": [1, [b"x", {"a": None}]]},
        },
    )  # fmt: skip

    assert load_properties(dump_properties(given)) == given


def test_a_stored_delivery_can_be_read_once_more() -> None:
    first = delivery(type=None, headers={"a": 1})
    again = load_delivery(dump_delivery(first), first.body)

    assert read(again, ROUTES, LIMITS) == read(first, ROUTES, LIMITS)
    assert again == replace(first, redelivered=True, delivery_tag=0)
