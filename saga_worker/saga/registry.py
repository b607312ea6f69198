"""All definitions that a process has loaded.

Takes checked sagas, guarantees that names, versions, keys and pointers agree among them, and hands `decide` a
definition and the consumers their routes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from saga_worker.saga.children import EachStep, SubsagaStep
from saga_worker.saga.definition import Entry, Saga
from saga_worker.saga.errors import DefinitionError
from saga_worker.saga.instance import Instance, is_over_for_good
from saga_worker.saga.moving import Course, Hop, course
from saga_worker.saga.routing import INTERNAL, Route
from saga_worker.saga.rows import Role


class Registry:
    """Sagas by name and version; raises `DefinitionError` for any that do not fit."""

    def __init__(self, sagas: Iterable[Saga[Any]]) -> None:
        self._sagas: dict[tuple[str, int], Saga[Any]] = {}
        for saga in sagas:
            self._add(saga)
        self._latest = {name: self._sagas[name, version] for name, version in sorted(self._sagas)}
        self._check_versions()
        self.ways: Mapping[tuple[str, int], tuple[Hop, ...]] = self._all_ways()  # of versions that are upgraded here

    def find(self, name: str, version: int) -> Saga[Any] | None:
        """The definition that a saga of this name and version runs by; None: not loaded here."""
        return self._sagas.get((name, version))

    def latest(self, name: str) -> Saga[Any] | None:
        """The definition that new sagas of this name start with; None: not loaded here."""
        return self._latest.get(name)

    def runs_by(self, instance: Instance) -> tuple[Saga[Any] | None, Course | None]:
        """What decides about the next input of this saga, and what brings the saga there before, if it has to move.

        A saga that has no place in a newer version stays under its own. None: nothing that is loaded here may. One that
        is over for good is judged by the newest version where its own is gone.
        """
        version = instance.definition, instance.definition_version
        if (way := self.ways.get(version)) is not None:
            found = course(way, instance)
            if found.hops:
                return found.target, found
        own = self._sagas.get(version)
        if own is None and is_over_for_good(instance):
            return self._latest.get(instance.definition), None
        return own, None

    def names(self) -> tuple[str, ...]:
        return tuple(self._latest)

    def versions(self) -> tuple[tuple[str, int], ...]:
        return tuple(sorted(self._sagas))

    def sagas(self) -> tuple[Saga[Any], ...]:
        """All versions, in order."""
        return tuple(saga for _, saga in sorted(self._sagas.items()))

    def why_stranded(self, instance: Instance) -> str | None:
        """Why this saga of a version that is not loaded here has no place in one that is; None: nothing upgrades it."""
        way = self.ways.get((instance.definition, instance.definition_version))
        return course(way, instance).why_not_further if way is not None else None

    def listed(self) -> tuple[str, ...]:
        """What a worker says that it can run: "name/version", and "name/old>newest" for what it upgrades."""
        loaded = [f"{name}/{version}" for name, version in self.versions()]
        moved = [f"{name}/{version}>{self._latest[name].version}" for name, version in sorted(self.ways)]
        return (*loaded, *moved)

    def routes(self) -> tuple[Route, ...]:
        """One route for every event type that a definition takes."""
        return tuple(
            Route(saga.name, saga.version, wire_type, _role(saga, wire_type), entry.pointer, saga.key_kind)
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

    def _all_ways(self) -> dict[tuple[str, int], tuple[Hop, ...]]:
        known = dict(self._sagas)
        waiting = list(self._sagas.values())
        while waiting:
            saga = waiting.pop()
            for upgrade in saga.upgrades.values():
                if upgrade.old is None or known.get((saga.name, upgrade.from_version)) is upgrade.old:
                    continue
                if (other := known.get((saga.name, upgrade.from_version))) is not None:
                    raise DefinitionError(
                        f"{upgrade.source}: saga {saga.name} is upgraded from a version {upgrade.from_version} at"
                        f" {upgrade.old.source} that is not the one at {other.source}; keep one of the two."
                    )
                upgrade.old.check()
                known[saga.name, upgrade.from_version] = upgrade.old
                waiting.append(upgrade.old)
        nexts: dict[tuple[str, int], Hop] = {}
        for (name, version), saga in sorted(known.items()):  # a newer version's upgrade goes further, and wins
            for upgrade in saga.upgrades.values():
                nexts[name, upgrade.from_version] = Hop(saga, upgrade, (name, version) in self._sagas)
        return {start: self._way(start, nexts) for start in nexts}

    def _way(self, start: tuple[str, int], nexts: Mapping[tuple[str, int], Hop]) -> tuple[Hop, ...]:
        """All the way to the newest version: sagas that are left half-way are a slip more often than not."""
        name, version = start
        way: list[Hop] = []
        while (hop := nexts.get((name, version))) is not None:
            way.append(hop)
            version = hop.saga.version
        if version != (latest := self._latest[name].version):
            raise DefinitionError(
                f"{way[-1].upgrade.source}: saga {name}: version {start[1]} is upgraded to {version}, and nothing leads"
                f" from there to {latest}, the newest; declare @….upgrade_from({version}) for version {latest}, or drop"
                f" this upgrade."
            )
        return tuple(way)

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


def _role(saga: Saga[Any], wire_type: str) -> Role:
    return INTERNAL if saga.internal and wire_type in saga.starts else Role.EVENT
