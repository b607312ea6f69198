"""The children that one saga has asked for, as `SagaTest` tells of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from saga_worker.saga.inputs import MoreChildren, StartChildren, UndoChildren
from saga_worker.saga.routing import child_message_id, parse_child_message_id
from saga_worker.testing.one_saga import OneSaga

PARENT: Final = UUID(int=0x9A4E)  # of a saga that a test starts as a child


@dataclass(frozen=True, slots=True)
class Child:
    """A child that was started, or asked to go back; `message_id` is what its answer names."""

    step: str
    definition: str
    item: int | None
    message_id: str
    body: bytes


def children_started(one: OneSaga) -> list[Child]:
    """In the order in which they were started."""
    started: list[Child] = []
    noted: dict[int, StartChildren] = {}
    for effect in one.effects:
        if isinstance(effect, StartChildren):
            noted[effect.seq] = effect
            started += _numbered(one, effect, range(1, effect.started + 1), effect.seq)
        elif isinstance(effect, MoreChildren):
            items = range(effect.first, effect.first + effect.count)
            started += _numbered(one, noted[effect.seq], items, effect.seq)
    return started


def children_asked_back(one: OneSaga) -> list[Child]:
    """In the order in which they were asked; of those that are asked together, the last first."""
    noted = {effect.seq: effect for effect in one.effects if isinstance(effect, StartChildren)}
    return [
        child
        for effect in one.effects
        if isinstance(effect, UndoChildren)
        for child in _numbered(
            one, noted[effect.seq], range(effect.first + effect.count - 1, effect.first - 1, -1), effect.undo
        )
    ]


def children_left(one: OneSaga) -> list[Child]:
    """Those that were started and not asked to go back."""
    gone = {
        (effect.seq, item if effect.is_many else None)
        for effect in one.effects
        if isinstance(effect, UndoChildren)
        for item in range(effect.first, effect.first + effect.count)
    }
    return [child for child in children_started(one) if _place(child) not in gone]


def _place(child: Child) -> tuple[int, int | None]:
    """The number of its step, and its own."""
    parsed = parse_child_message_id(child.message_id)
    assert parsed is not None
    return parsed[1], parsed[2]


def _numbered(one: OneSaga, begun: StartChildren, items: range, seq: int) -> list[Child]:
    return [
        Child(
            step=begun.step, definition=begun.definition, item=item if begun.is_many else None,
            message_id=child_message_id(one.ref, seq, item if begun.is_many else None),
            body=begun.children[item - 1][1],
        )
        for item in items
    ]  # fmt: skip
