"""What an event is about, for the header by which a partitioned inbox spreads events.

Takes the routes of the database; reads a key as consumers do. With one partition there is nothing to read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic_core import from_json

from saga_worker import routes
from saga_worker.admin.connect import looking
from saga_worker.admin.event_file import Event
from saga_worker.saga.errors import PoisonMessage
from saga_worker.saga.routing import Route, canonical_key, resolve_pointer
from saga_worker.settings import Settings


@dataclass(frozen=True, slots=True)
class Keys:
    """`by_type`: the route that says where the key stands. Of several definitions the first by name counts."""

    by_type: Mapping[str, Route] = field(default_factory=dict)

    @classmethod
    async def load(cls, settings: Settings) -> Keys:
        """The routes as they are now; asks for the database's URL only when there are partitions."""
        if settings.partitions == 1:
            return cls()
        async with looking(settings.require("database_url")) as connection:
            table = await routes.load(connection)
        return cls({type_: min(found, key=lambda r: r.definition) for type_, found in table.by_type.items() if found})

    def of(self, event: Event) -> str | None:
        """The key; None where no route or no key is: the consumers will say what is wrong with it."""
        route = self.by_type.get(event.type)
        if route is None:
            return None
        try:
            return canonical_key(resolve_pointer(from_json(event.body), route.key_pointer), route.key_kind)
        except (PoisonMessage, ValueError):
            return None
