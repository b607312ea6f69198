"""The trial's participants: one answer and one effect per command id, also when messages repeat or overtake."""

from __future__ import annotations

from typing import Any

from saga_worker.trial.answers import DECLINED_CARD, Memory


def order(**changed: Any) -> dict[str, Any]:
    return {"order_id": "4711", "cents": 1000, "card": "tok_visa", "lines": {"sku": 1}, **changed}


def test_a_repeated_command_gets_the_same_answer_without_a_second_effect() -> None:
    memory = Memory()
    first = memory.answer("a.1", "charge_card", order(), undoes=None)
    again = memory.answer("a.1", "charge_card", order(), undoes=None)

    assert first == (again[0], True)
    assert again[1] is False


def test_an_undo_that_overtakes_its_command_wins() -> None:
    memory = Memory()
    undo, undone = memory.answer("a.2", "cancel_charge", order(), undoes="a.1")
    late, acted = memory.answer("a.1", "charge_card", order(), undoes=None)

    assert (undo.type, undone) == ("done", False)
    assert (late.type, acted) == ("card_declined", False)


def test_two_undos_of_one_command_take_it_back_once() -> None:
    memory = Memory()
    memory.answer("a.1", "charge_card", order(), undoes=None)
    effects = [memory.answer(id, "cancel_charge", order(), undoes="a.1")[1] for id in ("a.2", "a.3")]

    assert effects == [True, False]


def test_a_refusal_has_no_effect_and_nothing_to_undo() -> None:
    memory = Memory()
    refused, acted = memory.answer("a.1", "charge_card", order(card=DECLINED_CARD), undoes=None)

    assert (refused.type, acted) == ("card_declined", False)
    assert memory.answer("a.2", "cancel_charge", order(), undoes="a.1")[1] is False


def test_a_restarted_participant_recalls_what_it_answered_and_took_back() -> None:
    lines: list[dict[str, Any]] = [
        {"message_id": "a.1", "undoes": None, "answer": {"type": "charged", "data": {"payment": "p"}}},
        {"message_id": "b.2", "undoes": "b.1", "answer": {"type": "done", "data": {}, "acted": False}},
    ]
    memory = Memory()
    memory.recall(lines)

    known, acted = memory.answer("a.1", "charge_card", order(), undoes=None)
    assert (known.data, acted) == ({"payment": "p"}, False)
    assert memory.answer("b.1", "charge_card", order(), undoes=None)[1] is False
