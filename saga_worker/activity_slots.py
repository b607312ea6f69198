"""Room for attempts of activities in this process: so many in all, and of some steps no more than they say.

Takes slots for attempts that begin and gives them back when their outcome is committed; guarantees that no more run at
a time. `orchestrator` takes them in the transaction that starts an activity, the runner for what it claims.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID


class ActivitySlots:
    """Counts attempts that run or are about to, and those that have ended and whose outcome is not committed yet."""

    def __init__(self, total: int, bounds: Mapping[str, int], *, on_free: Callable[[], None]) -> None:
        """`bounds` by "definition/step". `on_free` is called when there is room after somebody was refused."""
        self._total = total
        self._bounds = bounds
        self._on_free = on_free
        self._running: Counter[str] = Counter()  # by "definition/step"; "claim": for whatever is claimed
        self._kept: Counter[UUID] = Counter()  # by saga
        self._kept_in_all = 0
        self.is_closed = False
        self.is_full = False  # somebody was refused: when there is room, it is worth looking

    def free(self, name: str | None = None) -> int:
        """For attempts of this step, or of any that has no bound."""
        free = self._total - self._running.total() - self._kept_in_all
        bound = self._bounds.get(name) if name is not None else None
        return free if bound is None else min(free, bound - self._running[name or ""])

    def take(self, ref: UUID, definition: str, step: str) -> bool:
        """A slot for an attempt of this step, if there is one.

        A saga whose activity has just ended goes on in the same slot: were it free for all, those that wait to be
        claimed would get it, and the saga's next activity would have to be claimed too, in a transaction of its own.
        """
        name = f"{definition}/{step}"
        goes_on = self._kept[ref] > 0
        if goes_on:
            self._let_go(ref)
        if self.is_closed or self.free(name) <= 0:
            self.is_full = True
            return False
        self._running[name] += 1
        return True

    def give_back(self, slots: Sequence[tuple[str, str]]) -> None:
        """Slots that were taken and not used."""
        self._running.subtract(f"{definition}/{step}" for definition, step in slots)
        self._tell()

    def begin(self, definition: str, step: str) -> None:
        """An attempt runs, whose slot was taken or reserved before."""
        self._running[f"{definition}/{step}"] += 1

    def end(self, ref: UUID, definition: str, step: str) -> None:
        """It runs no more, and its saga keeps the slot until the outcome is committed."""
        self._running[f"{definition}/{step}"] -= 1
        self._kept[ref] += 1
        self._kept_in_all += 1

    def settle(self, refs: Sequence[UUID]) -> None:
        """Outcomes are committed, or given up: slots in which their sagas did not go on are free for all."""
        for ref in refs:
            if self._kept[ref] > 0:
                self._let_go(ref)
        self._tell()

    def reserve(self, count: int, name: str | None) -> None:
        """For what is about to be claimed; undone with a negative count."""
        self._running[name or "claim"] += count

    def _let_go(self, ref: UUID) -> None:
        self._kept_in_all -= 1
        self._kept[ref] -= 1
        if not self._kept[ref]:
            del self._kept[ref]

    def _tell(self) -> None:
        if self.is_full:
            self._on_free()
