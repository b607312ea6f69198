"""Entities: state that belongs to a key for as long as it likes, and functions that change it one at a time.

Takes an author's functions as `Saga` does, guarantees that an entity needs no start (its first event makes it, with the
defaults of its state) and that it comes to rest after each event until the next, and hands on a saga like any other:
the same steps, the same decisions, the same rows.

Its flow is a circle: a savepoint, a wait for its next event, the author's steps, and the savepoint again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn
from uuid import UUID

from pydantic import BaseModel, ValidationError

from saga_worker.saga.definition import Saga, Start
from saga_worker.saga.errors import DefinitionError
from saga_worker.saga.flow import HOME, IDLE, Flow, circle_of
from saga_worker.saga.keys import record_key
from saga_worker.saga.messages import wire_types
from saga_worker.saga.retry import Verdict
from saga_worker.saga.routing import KeyKind
from saga_worker.saga.second_start import SecondStart
from saga_worker.saga.source import where, where_called
from saga_worker.saga.steps import E, S, SavepointStep, Step, WaitStep

OFTEN = 2**31  # a circle may be taken back as often as there are numbers for messages


class Entity(Saga[S]):
    """State `S` of a key, changed by one event at a time; all fields of `S` have defaults.

    What follows from an event, the steps of `flow`, is over before the next event has its turn.
    """

    lives_on = True

    def __init__(self, name: str, *, state: type[S], version: int = 1, key_kind: KeyKind | None = None) -> None:
        super().__init__(name, state=state, version=version, key_kind=key_kind, second_start=SecondStart.RESTART)
        _check_defaults(name, state, self.source)
        self._home: SavepointStep[S] = SavepointStep(HOME, OFTEN, source=self.source)
        self._idle: WaitStep[S] = self.wait(IDLE)
        self._add(self._home)
        self._without_steps = circle_of((self._home, self._idle))

    @property
    def flow_root(self) -> Flow[S]:
        """What follows from an event; nothing as long as `flow` was not called."""
        return self._flow if self._flow is not None else self._without_steps

    def on(
        self, event: type[E], *, key: Callable[[E], str | int | UUID], sequence: Callable[[E], int] | None = None
    ) -> Callable[[Callable[[S, E], Verdict]], Callable[[S, E], Verdict]]:
        """An event that changes the entity, and makes it where there is none. One at a time for a key.

        One that comes while the steps after another are under way waits for its turn. `sequence` as in `starts_on`;
        the numbers begin with 1.
        """
        take = self._idle.on(event, key=key, sequence=sequence)

        def register(handler: Callable[[S, E], Verdict]) -> Callable[[S, E], Verdict]:
            taken, source = take(handler), where(handler)
            path = record_key(event, key, source=source)
            start = Start(self, event, key, path.pointer, path.kind, lambda _: self.state_model(), source)
            self.starts.update(dict.fromkeys(wire_types(event), start))
            return taken

        return register

    def starts_on(self, event: Any, *, key: Any, sequence: Any = None) -> NoReturn:
        """Not for entities: their first event makes them."""
        raise DefinitionError(
            f"{where_called()}: entity {self.name} has no start but its first event; declare it with"
            f" @{self.name}.on(…)."
        )

    def flow(self, *steps: Step[S]) -> None:
        """What follows from an event, once its handler has changed the state; may be left out."""
        super().flow(self._home, self._idle, *steps)

    def _flow_of(self, steps: tuple[Step[S], ...]) -> Flow[S]:
        return circle_of(steps)


def _check_defaults(name: str, state: type[BaseModel], source: str) -> None:
    try:
        state()
    except ValidationError as error:
        missing = ", ".join(".".join(map(str, each["loc"])) for each in error.errors(include_input=False))
        raise DefinitionError(
            f"{source}: entity {name}: {state.__name__} cannot be made without values for {missing}; its first event"
            " makes an entity, so give these fields defaults."
        ) from None
