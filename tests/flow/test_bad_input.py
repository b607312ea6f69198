"""What bad input gets: it is stored as it came, has one row with a reason and a sentence, and delays nobody.

The rows of the catalogue are named by their numbers (B01 …). They go over the wire from a client that is not ours,
with a good order behind each of them.
"""

from __future__ import annotations

import asyncio
import json
import unicodedata
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

import pytest

from saga_worker.saga.routing import command_id, ref_of
from saga_worker.testing.namespaces import Namespace
from tests.flow.plain_client import Plain, bind, publish
from tests.flow.records import Records, fate
from tests.flow.wire import Wire
from tests.flow.workers import Workers

Eventually = Callable[..., Awaitable[Any]]
SECRET: Final = "hunter2"


def order(key: str, **changes: Any) -> bytes:
    fields: dict[str, Any] = {"order_id": key, "lines": {"tea": 1}, "cents": 5, "card": "tok_1"}
    return json.dumps(fields | changes).encode()


BODIES: Final[Mapping[str, tuple[bytes, str]]] = {
    "B01 empty": (b"", "invalid_json"),
    "B01 blank": (b" \n ", "invalid_json"),
    "B02 not UTF-8": (b'{"order_id": "\xff"}', "invalid_encoding"),
    "B02 overlong": (b'{"order_id": "\xc0\xaf"}', "invalid_encoding"),
    "B02 UTF-16": ('{"order_id": "1"}'.encode("utf-16"), "invalid_encoding"),
    "B03 byte order mark": (b"\xef\xbb\xbf" + order("b03"), "invalid_encoding"),
    "B04 truncated": (order("b04")[:-1], "invalid_json"),
    "B04 trailing text": (order("b04") + b" x", "invalid_json"),
    "B04 single quotes": (b"{'order_id': '1'}", "invalid_json"),
    "B04 comment": (b'{"order_id": "1" /* one */}', "invalid_json"),
    "B05 NaN": (b'{"order_id": "1", "cents": NaN}', "invalid_json"),
    "B05 Infinity": (b'{"order_id": "1", "cents": -Infinity}', "invalid_json"),
    "B06 1e400": (b'{"order_id": "1", "cents": 1e400}', "number_out_of_range"),
    "B07 1e131073": (b'{"order_id": "1", "cents": 1e131073}', "number_out_of_range"),
    "B07 200,000 digits": (b'{"order_id": "1", "cents": %s}' % (b"9" * 200_000), "number_out_of_range"),
    "B09 NUL in a text": (b'{"order_id": "a\\u0000"}', "nul_character"),
    "B09 NUL in a key": (b'{"order_id": "1", "\\u0000": 1}', "nul_character"),
    "B10 raw NUL": (b'{"order_id": "a\0"}', "invalid_json"),
    "B10 control byte": (b'{"order_id": "a\x07"}', "invalid_json"),
    "B11 half a surrogate pair": (b'{"order_id": "\\ud800"}', "invalid_encoding"),
    "B14 number": (b"5", "not_an_object"),
    "B14 array": (b"[{}]", "not_an_object"),
    "B14 null": (b"null", "not_an_object"),
    "B16 over the limit": (order("b16", card="x" * 300_000), "payload_too_large"),
    "B24 extra field": (order("b24", password=SECRET), "schema_mismatch"),
    "B24 missing field": (b'{"order_id": "b24 missing"}', "schema_mismatch"),
    "B24 wrong type": (order("b24 type", cents=SECRET), "schema_mismatch"),
    "B24 no key": (b'{"cents": 5}', "bad_key"),
    "B24 key of another kind": (order("x", order_id=5), "bad_key"),
}


@dataclass(frozen=True, slots=True)
class Shop:
    """A worker with its wire, and the way to send it bad and good messages by turns."""

    wire: Wire
    records: Records
    amqp_url: str
    eventually: Eventually

    async def receives(self, messages: Sequence[Plain], fates: Callable[[], Awaitable[object]]) -> None:
        """Publish each with a good order behind it; wait for all good ones, and until `fates` no more fails."""
        good = [Plain(f"good {number}", order(f"good {number}")) for number in range(len(messages))]
        turns = [message for pair in zip(messages, good, strict=True) for message in pair]
        before = {row["id"] for row in await self.records.rows()}
        await asyncio.to_thread(publish, self.amqp_url, str(self.wire.namespace), turns)
        await self.eventually(lambda: self._applied(good))
        await self.eventually(fates)
        rows = [row for row in await self.records.rows() if row["id"] not in before]
        new = [row for row in rows if row["source"] not in ("services", "activity")]  # those follow from the good ones
        assert Counter(row["body"] for row in new) == Counter(
            message.body for message in turns
        )  # each once, as it came
        await self._assert_prompt()
        await self._assert_all_acknowledged()

    async def _applied(self, good: Sequence[Plain]) -> bool:
        fates = await self.records.fates()
        assert [fates.get(str(message.id)) for message in good] == ["done"] * len(good)
        return True

    async def _assert_prompt(self) -> None:
        slowest = await self.records.value(
            "SELECT max(j.committed_at - i.received_at) FROM saga_worker.v_journal j "
            "JOIN saga_worker.v_inbox i USING (consumer, source, message_id) WHERE message_id LIKE 'good %'"
        )
        assert slowest.total_seconds() < 10  # who waits for a lease or a time-out waits longer

    async def _assert_all_acknowledged(self) -> None:
        async def queues_are_empty() -> bool:
            return await self.wire.waiting("inbox") == await self.wire.waiting("dead") == 0

        await self.eventually(queues_are_empty)


@pytest.fixture(params=["fast path", "general path", "public AMQP path"])
async def shop(
    request: pytest.FixtureRequest, workers: Workers, wire: Wire, records: Records, amqp_url: str,
    eventually: Eventually, caplog: pytest.LogCaptureFixture,
) -> AsyncIterator[Shop]:  # fmt: skip
    amqp_path = "public" if request.param == "public AMQP path" else "lean"
    worker = await workers.start(
        body_limit_bytes=250_000, fast_path=request.param != "general path", amqp_path=amqp_path
    )
    yield Shop(wire, records, amqp_url, eventually)
    await eventually(lambda: worker.deliveries.unacknowledged == 0)
    assert [record.message for record in caplog.records if record.exc_info or record.levelname == "ERROR"] == []


async def test_a_body_that_cannot_be_read_becomes_one_dead_letter_of_the_same_bytes(shop: Shop) -> None:
    expected = {name: f"dead: {reason}" for name, (_, reason) in BODIES.items()}

    async def fates() -> bool:
        found = await shop.records.fates()
        assert {name: found.get(name) for name in BODIES} == expected
        return True

    await shop.receives([Plain(name, body) for name, (body, _) in BODIES.items()], fates)

    rows = [row for row in await shop.records.rows() if row["message_id"] in BODIES]
    assert {row["message_id"]: row["body"] for row in rows} == {name: body for name, (body, _) in BODIES.items()}
    assert len(rows) == len(BODIES)
    assert [row for row in rows if len(row["error"].split()) < 4 or SECRET in row["error"]] == []


async def test_what_stands_outside_the_body_is_judged_too(shop: Shop) -> None:
    unfit = {
        "b17": Plain("b17", order("b17"), properties={"content_type": "text/xml"}),
        "b18": Plain("b18", order("b18"), properties={"content_encoding": "gzip"}),
        "b19": Plain(None, order("b19")),
        "b20 NUL": Plain("b20\0", order("b20 NUL")),
        "b20 line": Plain("b20\n", order("b20 line")),
        "b20 bytes": Plain(b"b20\xff", order("b20 bytes")),
        "b23 line": Plain(
            "b23", order("b23"), type="order\nplaced", to=(f"{shop.wire.namespace}.events", "order_placed")
        ),
    }

    async def fates() -> bool:
        by_body = {row["body"]: fate(row) for row in await shop.records.rows()}
        assert {key: by_body.get(each.body) for key, each in unfit.items()} == {
            "b17": "dead: unsupported_content_type",
            "b18": "dead: unsupported_encoding",
            "b19": "dead: missing_message_id",
            "b20 NUL": "dead: invalid_message_id",
            "b20 line": "dead: invalid_message_id",
            "b20 bytes": "dead: invalid_message_id",
            "b23 line": "dead: invalid_type",
        }
        return True

    await shop.receives(list(unfit.values()), fates)
    without_id = next(row for row in await shop.records.rows() if row["body"] == order("b19"))
    assert without_id["message_id"].startswith("sha256:")


async def test_ids_are_compared_byte_by_byte_and_per_producer(shop: Shop) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    ids = ["long " + "x" * 250, composed, decomposed, "Case", "case", " blank "]
    accepted = [Plain(id, order(f"b20 {number}")) for number, id in enumerate(ids)]
    accepted += [
        Plain("same", order("b22 shop")),
        Plain("same", order("b22 app"), properties={"app_id": "app"}),
        Plain("b17 none", order("b17 none"), properties={"content_type": None}),
        Plain("b21", order("b21")),
    ]

    async def fates() -> bool:
        by_body = {row["body"]: fate(row) for row in await shop.records.rows()}
        assert [by_body.get(each.body) for each in accepted] == ["done"] * len(accepted)
        assert by_body.get(order("b21", cents=6)) == "dead: id_reused"
        return True

    await shop.receives([*accepted, Plain("b21", order("b21", cents=6))], fates)
    assert await shop.records.value("SELECT state ->> 'cents' FROM saga_worker.v_saga WHERE key = 'b21'") == "5"


async def test_a_type_that_nobody_knows_is_parked_and_never_imported(shop: Shop) -> None:
    types = ["os.system", "../x", "weather_changed"]
    await asyncio.to_thread(bind, shop.amqp_url, str(shop.wire.namespace), *types)

    async def fates() -> bool:
        found = await shop.records.fates()
        assert [found.get(f"b23 {type_}") for type_ in types] == ["parked: no_definition"] * 3
        return True

    await shop.receives([Plain(f"b23 {type_}", order("b23"), type=type_) for type_ in types], fates)


async def test_a_message_for_a_saga_that_cannot_take_it_is_told_why(shop: Shop) -> None:
    ref = ref_of("checkout", "known")
    inbox = ("", f"{shop.wire.namespace}.inbox")
    unknown = command_id(UUID(int=7), 1)
    charge = b'{"payment": "p-1"}'
    messages = {
        "b25 no saga yet": Plain("b25 no saga yet", b'{"order_id": "nobody", "by": "x"}', type="order_cancelled"),
        "b25 no such saga": _reply("b25 no such saga", unknown, charge, to=inbox),
        "b25 never issued": _reply("b25 never issued", command_id(ref, 99), charge, to=inbox),
        "b25 not our form": _reply("b25 not our form", "their-id-1", charge, to=inbox),
        "b25 no type": replace(_reply("b25 no type", command_id(ref, 1), charge, to=inbox), type=None),
        "b24 reply": _reply("b24 reply", command_id(ref, 1), charge, to=inbox),
    }
    expected = {
        "b25 no saga yet": "parked: unknown_saga",
        "b25 no such saga": "dead: unknown_command",
        "b25 never issued": "dead: unknown_command",
        "b25 not our form": "dead: unknown_command",
        "b25 no type": "dead: missing_type",
        "b24 reply": "dead: schema_mismatch",
    }
    await shop.wire.publish("order_placed", order("known"), id="first")
    await shop.wire.next("score_order")

    async def fates() -> bool:
        found = await shop.records.fates()
        assert {name: found.get(name) for name in expected} == expected
        return True

    await shop.receives(list(messages.values()), fates)


async def test_an_event_that_the_state_does_not_allow_waits_or_is_ignored(shop: Shop) -> None:
    """features: 92"""
    shop.wire.serve()
    reviewed = b'{"order_id": "known", "fraud": false, "reviewer": "ann"}'
    messages = [Plain("b26", reviewed, type="fraud_reviewed"), Plain("b27", order("known"))]

    async def finished() -> bool:
        return await shop.records.status("known") == "completed"

    async def fates() -> bool:
        found = await shop.records.fates()
        assert [found.get("b26"), found.get("b27")] == ["ignored: saga_finished", "ignored: duplicate_start"]
        return True

    await shop.wire.publish("order_placed", order("known"), id="first")
    await shop.eventually(finished)
    await shop.receives(messages, fates)


async def test_what_nobody_takes_up_dies_when_its_parking_is_over(
    workers: Workers, wire: Wire, records: Records, amqp_url: str, namespace: Namespace, eventually: Eventually
) -> None:
    """features: 17"""
    await workers.start(parking_seconds=1)
    await asyncio.to_thread(bind, amqp_url, str(namespace), "weather_changed")
    review = b'{"order_id": "4711", "fraud": false, "reviewer": "ann"}'
    early = [
        Plain("b23", b"{}", type="weather_changed"),
        Plain("b25", b'{"order_id": "nobody", "by": "x"}', type="order_cancelled"),
        Plain("start", order("4711")),
        Plain("b27", review, type="fraud_reviewed"),
    ]
    await asyncio.to_thread(publish, amqp_url, str(namespace), early)

    async def fates() -> bool:
        assert await records.fates() == {
            "b23": "dead: unknown_type",
            "b25": "dead: unknown_saga",
            "start": "done",
            "b27": "dead: not_expected",
        }
        return True

    await eventually(fates)
    assert [row for row in await records.rows() if row["state"] == "dead" and not row["error"]] == []


def _reply(id: str, correlation_id: str, body: bytes, *, to: tuple[str, str]) -> Plain:
    return Plain(id, body, type="charged", to=to, properties={"correlation_id": correlation_id})
