"""How sagas of one version become sagas of a newer one: what an author declares, and what is wrong with it.

Takes the function that makes the new state of the old one, and the names that steps have got; hands them to `registry`,
which chains them, and to `carry_over` and `moving`, which apply them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saga_worker.saga import flow
from saga_worker.saga.errors import DefinitionError
from saga_worker.saga.source import check_handler, where

if TYPE_CHECKING:
    from saga_worker.saga.definition import Saga


@dataclass(frozen=True, slots=True)
class Upgrade:
    """From version `from_version`; `old` is its definition, unless the code has it no more."""

    from_version: int
    old: Saga[Any] | None
    make: Callable[[Any], Any]
    steps: Mapping[str, str | None]  # what has another name now; None: it is gone, and what it did stands
    source: str

    def name_of(self, old_name: str) -> str | None:
        """What a step or a loop of the old version is called in the new one; None: it is gone on purpose."""
        return self.steps.get(old_name, old_name)


def declare(
    saga: Saga[Any], old: Saga[Any] | int, make: Callable[[Any], Any], steps: Mapping[str, str | None] | None
) -> None:
    """Add an upgrade to `saga`; raises `DefinitionError` for what shows at once."""
    check_handler(make, "state")
    source = where(make)
    version = old if isinstance(old, int) else old.version
    if not isinstance(old, int) and old.name != saga.name:
        raise DefinitionError(
            f"{source}: saga {saga.name} is upgraded from saga {old.name}; name an older version of {saga.name}."
        )
    if not 1 <= version < saga.version:
        raise DefinitionError(
            f"{source}: saga {saga.name} version {saga.version} is upgraded from version {version}; name an older one."
        )
    if (other := saga.upgrades.get(version)) is not None:
        raise DefinitionError(
            f"{source}: saga {saga.name} version {saga.version} has an upgrade from {version} at {other.source}"
            " already; keep one."
        )
    known = old if not isinstance(old, int) else None
    saga.upgrades[version] = Upgrade(version, known, make, dict(steps or {}), source)


def problems(saga: Saga[Any]) -> Iterator[str]:
    """One line for each name that means nothing, and for each step that would become another kind of step."""
    for upgrade in saga.upgrades.values():
        yield from _names(saga, upgrade)
        if upgrade.old is not None:
            yield from _kinds(saga, upgrade, upgrade.old)


def _names(saga: Saga[Any], upgrade: Upgrade) -> Iterator[str]:
    said = f"{upgrade.source}: saga {saga.name}: the upgrade from version {upgrade.from_version}"
    new = saga.steps.keys() | _loops(saga)
    for old_name, new_name in upgrade.steps.items():
        if new_name is not None and new_name not in new:
            yield f"{said} maps {old_name} to {new_name}, and version {saga.version} has no step of that name."
    if upgrade.old is None:
        names = set(upgrade.steps)
    else:
        names = upgrade.old.steps.keys() | _loops(upgrade.old)
        for unknown in sorted(upgrade.steps.keys() - names):
            yield f"{said} maps {unknown}, which version {upgrade.from_version} does not have; drop it."
    targets = Counter(target for name in names if (target := upgrade.name_of(name)) in new)
    for target, count in targets.items():
        if count > 1:
            yield f"{said} makes {count} steps into {target}; map all but one of them to other steps, or to None."


def _kinds(saga: Saga[Any], upgrade: Upgrade, old: Saga[Any]) -> Iterator[str]:
    for old_id, step in old.steps.items():
        target = saga.steps.get(upgrade.name_of(old_id) or "")
        if target is not None and type(target) is not type(step):
            yield (
                f"{target.source}: saga {saga.name}: {old_id} of version {old.version} is another kind of step than"
                f" {target.id} of version {saga.version}; give the new one another name, or map the old one with"
                f" steps={{{old_id!r}: …}} at {upgrade.source}."
            )


def _loops(saga: Saga[Any]) -> frozenset[str]:
    return frozenset(loop.name for loop in flow.loops(saga.flow_root))
