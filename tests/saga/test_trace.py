"""Trace context: what is valid, which trace a saga belongs to, and what its messages carry."""

from __future__ import annotations

from uuid import UUID

import pytest
from msgspec.structs import replace
from pydantic_core import to_json

from saga_worker.envelope import Delivery, Properties, Source, dump_delivery
from saga_worker.saga.decide import decide
from saga_worker.saga.fold import Limits, fold
from saga_worker.saga.inputs import Decision, EventArrived, Given, Input, PublishEvent, ReplyArrived, SendCommand
from saga_worker.saga.instance import Instance
from saga_worker.saga.records import dump_progress, load_progress
from saga_worker.saga.routing import command_id
from saga_worker.saga.rows import InboxRow, Role, RowState
from saga_worker.saga.trace import Trace, new_trace, read_trace, stored_trace
from saga_worker.testing.one_saga import SAGA_ID, START
from tests.saga.scripted import Begun, Signal, line
from tests.saga.test_fold import REF

ID = "4bf92f3577b34da6a3ce929d0e0e4736"
OTHER = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{ID}-00f067aa0ba902b7-01"
CHILD = f"00-{ID}-b7ad6b7169203331-01"
STRANGER = f"00-{OTHER}-b7ad6b7169203331-01"
GIVEN = Given(START, 0.0, SAGA_ID)
BEGUN = Begun(review=True).model_dump_json().encode()


@pytest.mark.parametrize(
    "text",
    [
        "", "00", PARENT.upper(), f"00-{'0' * 32}-00f067aa0ba902b7-01", f"00-{ID}-{'0' * 16}-01", f" {PARENT}",
        f"ff-{ID}-00f067aa0ba902b7-01", f"{PARENT}-more", f"{PARENT}\n", f"00-{ID[1:]}-00f067aa0ba902b7-01",
        f"0x-{ID}-00f067aa0ba902b7-01", PARENT.replace("-", "_"), PARENT.replace("4", "\u0664"), 7, None, b"", [PARENT],
    ],
)  # fmt: skip
def test_a_parent_that_is_not_valid_is_none(text: object) -> None:
    """features: 161"""
    assert read_trace(text, "a=1") is None


def test_a_valid_parent_is_kept_to_the_letter() -> None:
    assert read_trace(PARENT) == Trace(PARENT)
    assert read_trace(PARENT[:-2] + "00", "a=1,b@c=2") == Trace(PARENT[:-2] + "00", "a=1,b@c=2")
    assert Trace(PARENT).id == ID


@pytest.mark.parametrize("rest", ["", "-more", "-more\nlines"])
def test_a_parent_of_a_later_version_goes_on_as_the_one_that_we_know(rest: str) -> None:
    assert read_trace(f"cc-{ID}-00f067aa0ba902b7-03{rest}") == Trace(PARENT)


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (" a=1 , b=2 ,", "a=1 , b=2 ,"),
        ("", ""), ("a", ""), ("A=1", ""), ("a=1\n", ""), ("a=\u00e9", ""), ("a=b=c", ""), (7, ""),
        ("a=" + "x" * 257, ""), ("a=1," * 128 + "b=2", ""),
    ],
)  # fmt: skip
def test_a_state_that_is_not_valid_is_left_out(state: object, kept: str) -> None:
    assert read_trace(PARENT, state) == Trace(PARENT, kept)


def test_the_trace_of_a_stored_message_is_that_of_its_headers() -> None:
    def stored(**headers: object) -> bytes:
        properties = Properties(message_id="traceparent", headers=headers)  # type: ignore[arg-type]
        return dump_delivery(Delivery(b"{}", properties, "x", "y", False, 1, Source.INBOX))

    assert stored_trace(stored(traceparent=PARENT, tracestate='a="')) == Trace(PARENT, 'a="')
    assert stored_trace(stored(traceparent=PARENT, **{"$x": 1})) == Trace(PARENT)
    assert stored_trace(stored(other={"traceparent": PARENT})) is None
    assert stored_trace(stored(other=f'"traceparent":"{PARENT}"')) is None
    assert stored_trace(stored(traceparent=b"\xff")) is None
    assert stored_trace(stored()) is None
    assert stored_trace(to_json({"actor": "x"})) is None


def start(parent: str | None, given: Given = GIVEN) -> Decision:
    return decide(line(), None, EventArrived("begun", "k", BEGUN, trace=read_trace(parent)), given)


def after(instance: Instance | None, given_input: Input) -> Decision:
    return decide(line(), instance, given_input, GIVEN)


def parents(decision: Decision) -> list[str | None]:
    """Of the messages that a decision sends."""
    sent = [effect for effect in decision.effects if isinstance(effect, SendCommand | PublishEvent)]
    assert sent
    return [effect.trace.parent if effect.trace is not None else None for effect in sent]


def test_a_command_carries_the_trace_of_the_start() -> None:
    """features: 123, 161"""
    begun = start(PARENT)

    assert parents(begun) == [PARENT]
    assert begun.instance is not None and begun.instance.progress.trace == Trace(PARENT)
    assert load_progress(dump_progress(begun.instance.progress)) == begun.instance.progress


def test_the_next_command_is_a_child_of_the_reply() -> None:
    """features: 161"""
    replied = after(start(PARENT).instance, ReplyArrived(1, "yes", b"{}", read_trace(CHILD)))

    assert parents(replied) == [CHILD]


@pytest.mark.parametrize("of_reply", [None, STRANGER])
def test_without_a_trace_in_the_reply_or_with_another_one_the_saga_keeps_its_own(of_reply: str | None) -> None:
    """features: 123"""
    replied = after(start(PARENT).instance, ReplyArrived(1, "yes", b"{}", read_trace(of_reply)))

    assert parents(replied) == [PARENT]


def test_a_saga_without_a_trace_takes_that_of_the_first_message_that_has_one() -> None:
    begun = start(None)
    assert parents(begun) == [None]
    assert b"trace" not in dump_progress(begun.instance.progress)  # type: ignore[union-attr]

    assert parents(after(begun.instance, ReplyArrived(1, "yes", b"{}", read_trace(CHILD)))) == [CHILD]


def test_a_message_that_is_parked_or_refused_leaves_no_trace() -> None:
    begun = start(None).instance
    early = EventArrived("signal", "k", Signal().model_dump_json().encode(), trace=read_trace(PARENT))

    for given_input in (early, ReplyArrived(1, "no such reply", b"{}", read_trace(PARENT))):
        assert after(begun, given_input).instance is begun


def test_a_trace_is_begun_only_if_the_settings_say_so() -> None:
    """features: 123"""
    begins = replace(GIVEN, begins_traces=True)
    saga_id = UUID("01980f2e-5e0c-7cc1-9d7a-5d8b34c0a9f1")

    (begun,) = parents(start(None, replace(begins, saga_id=saga_id)))
    assert begun == "00-01980f2e5e0c7cc19d7a5d8b34c0a9f1-9d7a5d8b34c0a9f1-01"
    assert read_trace(begun) == new_trace(saga_id)
    assert parents(start(PARENT, begins)) == [PARENT]


def test_of_rows_that_are_folded_together_each_message_carries_the_trace_of_its_own() -> None:
    """features: 161"""

    def row(number: int, role: Role, type_: str, body: bytes, parent: str, seq: int | None = None) -> InboxRow:
        return InboxRow(
            id=number, dedup=UUID(int=number), consumer="line", source="s", message_id=f"{number}", type=type_,
            role=role, ref=REF, saga_key="k", correlation_id=command_id(REF, seq) if seq is not None else None,
            state=RowState.READY, reason=None, suspect=False, attempts=0, crashes=0, first_failed_at=None,
            next_at=None, expires_at=None, received_at=START, body=body, trace=read_trace(parent),
        )  # fmt: skip

    rows = [row(1, Role.EVENT, "begun", BEGUN, PARENT), row(2, Role.REPLY, "yes", b"{}", CHILD, 1)]
    change = fold(line(), REF, None, rows, GIVEN, Limits())

    assert parents(Decision(change.after, tuple(change.effects), None)) == [PARENT, CHILD]  # type: ignore[arg-type]
