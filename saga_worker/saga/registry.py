"""All definitions that a process has loaded.

Takes checked sagas, guarantees that names, versions, keys and pointers agree among them, and hands `decide` a
definition and the consumers their routes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from saga_worker.saga.children import EachStep, SubsagaStep
from saga_worker.saga.definition import Entry, Saga
from saga_worker.saga.errors import DefinitionError
from saga_worker.saga.routing import Route
from saga_worker.saga.rows import Role


class Registry:
    """Sagas by name and version; raises `DefinitionError` for any that do not fit."""

    def __init__(self, sagas: Iterable[Saga[Any]]) -> None:
        self._sagas: dict[tuple[str, int], Saga[Any]] = {}
        for saga in sagas:
            self._add(saga)
        self._latest = {name: self._sagas[name, version] for name, version in sorted(self._sagas)}
        self._check_versions()

    def find(self, name: str, version: int) -> Saga[Any] | None:
        """The definition that a saga of this name and version runs by; None: not loaded here."""
        return self._sagas.get((name, version))

    def latest(self, name: str) -> Saga[Any] | None:
        """The definition that new sagas of this name start with; None: not loaded here."""
        return self._latest.get(name)

    def names(self) -> tuple[str, ...]:
        return tuple(self._latest)

    def versions(self) -> tuple[tuple[str, int], ...]:
        return tuple(sorted(self._sagas))

    def routes(self) -> tuple[Route, ...]:
        """One route for every event type that a definition takes."""
        return tuple(
            Route(saga.name, saga.version, wire_type, Role.EVENT, entry.pointer, saga.key_kind)
            for _, saga in sorted(self._sagas.items())
            for wire_type, entry in sorted(dict(saga.entries()).items())
        )

    def _add(self, saga: Saga[Any]) -> None:
        saga.check()
        other = self._sagas.setdefault((saga.name, saga.version), saga)
        for step in saga.steps.values():
            if isinstance(step, SubsagaStep | EachStep) and (step.child.name, step.child.version) not in self._sagas:
                self._add(step.child)
        if other is not saga:
            raise DefinitionError(
                f"{saga.source}: saga {saga.name} version {saga.version} is defined at {other.source} already; "
                "give one of them another name or version."
            )

    def _check_versions(self) -> None:
        """A key has to lead to the same saga, whichever version reads it."""
        first: dict[tuple[str, str], tuple[Saga[Any], Entry]] = {}
        for saga in self._sagas.values():
            for wire_type, entry in saga.entries():
                other, entry_there = first.setdefault((saga.name, wire_type), (saga, entry))
                if (other.key_kind, entry_there.pointer) != (saga.key_kind, entry.pointer):
                    raise DefinitionError(
                        f"{entry.source}: saga {saga.name} version {saga.version} finds the key of {wire_type} in "
                        f"another way than version {other.version} at {entry_there.source}; use the same key in both."
                    )
