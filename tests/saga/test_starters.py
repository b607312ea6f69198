"""Who asked for an answer in the event that started a saga gets it from the step that ends the saga."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from saga_worker import Compensate, DefinitionError, Event, Saga, SecondStart, Verdict, days
from saga_worker.saga.decide import decide
from saga_worker.saga.inputs import Applied, Decision, EventArrived, Given, Ignored, Raised, ReplyToStarter
from saga_worker.saga.instance import Instance
from saga_worker.saga.messages import encode
from saga_worker.saga.records import dump_progress, load_progress
from saga_worker.saga.starters import MAX_STARTERS, Starter
from saga_worker.testing.one_saga import SAGA_ID, START

GIVEN = Given(START, 0.0, SAGA_ID)


class Asked(Event):
    job: str


class Over(Event):
    job: str
    well: bool = True


class Job(BaseModel):
    job: str
    box: str | None = None


class Receipt(BaseModel):
    text: str


def receipt(job: Job) -> Receipt:
    if job.job == "raise":
        raise ValueError("no receipt")
    return Receipt(text=f"done: {job.job}")


def job(**options: Any) -> Saga[Job, Receipt]:
    chosen: dict[str, Any] = {"result": receipt} | options
    saga: Saga[Job, Receipt] = Saga("job", state=Job, deadline=days(1), **chosen)
    saga.starts_on(Asked, key=lambda e: e.job)(lambda event: Job(job=event.job))
    over = saga.wait("over")

    @over.on(Over, key=lambda e: e.job)
    def is_over(job: Job, event: Over) -> Verdict:
        return None if event.well else Compensate("badly done")

    saga.flow(over)
    return saga


def tell(saga: Saga[Any, Any], instance: Instance | None, event: Event, starter: Starter | None = None) -> Decision:
    arrived = EventArrived(event.wire_type, event.model_dump()["job"], encode(event), "shop", None, starter)
    decision = decide(saga, instance, arrived, GIVEN)
    if decision.instance is not None:
        progress = decision.instance.progress
        assert load_progress(dump_progress(progress)) == progress
    return decision


def replies(decision: Decision) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (e.reply_to, e.correlation_id, json.loads(e.body)) for e in decision.effects if isinstance(e, ReplyToStarter)
    ]


def test_the_starter_is_answered_with_the_result_when_the_saga_completes() -> None:
    """features: L22"""
    saga = job()
    begun = tell(saga, None, Asked(job="j"), Starter("amq.gen-1", "c-1"))
    ended = tell(saga, begun.instance, Over(job="j"))

    assert replies(begun) == []
    assert ended.instance is not None and ended.instance.seq == 1
    assert replies(ended) == [
        ("amq.gen-1", "c-1", {
            "saga_id": str(SAGA_ID), "saga": "job", "key": "j", "status": "completed", "reason": None,
            "result": {"text": "done: j"},
        })
    ]  # fmt: skip
    assert b'"result":{"text":"done: j"}' in dump_progress(ended.instance.progress)


def test_a_failure_is_an_answer_without_result() -> None:
    """features: L22"""
    saga = job()
    begun = tell(saga, None, Asked(job="j"), Starter("q", "c"))
    [(_, _, said)] = replies(tell(saga, begun.instance, Over(job="j", well=False)))

    assert (said["status"], said["reason"], said["result"]) == ("compensated", "badly done", None)


def test_nobody_is_answered_who_did_not_ask_or_whose_saga_has_no_result() -> None:
    unasked = tell(job(), None, Asked(job="j"))
    plain = job(result=None)
    without = tell(plain, None, Asked(job="j"), Starter("q", "c"))

    assert b"starters" not in dump_progress(unasked.instance.progress)  # type: ignore[union-attr]
    assert replies(tell(job(), unasked.instance, Over(job="j"))) == []
    assert replies(tell(plain, without.instance, Over(job="j"))) == []
    assert b"starters" not in dump_progress(without.instance.progress)  # type: ignore[union-attr]


def test_whoever_joins_is_answered_too_also_after_the_end() -> None:
    """features: 66; L22"""
    saga = job(second_start=SecondStart.JOIN)
    begun = tell(saga, None, Asked(job="j"), Starter("one", "c-1"))
    joined = tell(saga, begun.instance, Asked(job="j"), Starter("two", "c-2"))
    ended = tell(saga, joined.instance, Over(job="j"))
    late = tell(saga, ended.instance, Asked(job="j"), Starter("three", "c-3"))

    assert joined.outcome == late.outcome == Applied("joined_run")
    assert [(to, id_) for to, id_, _ in replies(ended)] == [("one", "c-1"), ("two", "c-2")]
    assert [(to, said) for to, _, said in replies(late)] == [("three", replies(ended)[0][2])]
    assert late.instance is not None and (late.instance.seq, late.instance.status.label) == (3, "completed")
    assert tell(saga, late.instance, Asked(job="j")).outcome == Ignored("joined_run")


def test_no_more_than_a_hundred_are_noted() -> None:
    saga = job(second_start=SecondStart.JOIN)
    decision = tell(saga, None, Asked(job="j"), Starter("0", "0"))
    for number in range(1, MAX_STARTERS):
        decision = tell(saga, decision.instance, Asked(job="j"), Starter(str(number), str(number)))
    one_more = tell(saga, decision.instance, Asked(job="j"), Starter("more", "more"))

    assert one_more.outcome == Ignored("joined_run")
    assert len(replies(tell(saga, decision.instance, Over(job="j")))) == MAX_STARTERS


def test_the_next_run_answers_its_own_starter_only() -> None:
    """features: 55"""
    saga = job(second_start=SecondStart.RESTART)
    first = tell(saga, None, Asked(job="j"), Starter("one", "c-1"))
    ended = tell(saga, first.instance, Over(job="j"))
    second = tell(saga, ended.instance, Asked(job="j"), Starter("two", "c-2"))
    [(to, _, said)] = replies(tell(saga, second.instance, Over(job="j")))

    assert (to, said["status"]) == ("two", "completed")


def test_a_result_that_raises_leaves_the_saga_open() -> None:
    saga = job()
    begun = tell(saga, None, Asked(job="raise"))
    ended = tell(saga, begun.instance, Over(job="raise"))

    assert isinstance(ended.outcome, Raised) and "no receipt" in ended.outcome.error
    assert ended.instance is begun.instance


@pytest.mark.parametrize("result", [lambda: None, lambda state: state])
def test_a_result_is_a_function_of_the_state_to_a_model(result: Any) -> None:
    with pytest.raises(DefinitionError, match=r"the result of saga job|take exactly these"):
        job(result=result)
