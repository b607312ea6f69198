"""What a saga gives back to whoever waits for it: a model that a function makes of the state in which it has completed.

Takes the author's function, guarantees that what it returns is the model it is annotated with, and hands JSON to the
saga's row and back to those who read it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic

from pydantic import BaseModel
from typing_extensions import TypeVar

from saga_worker.saga.source import check_handler, returned_class
from saga_worker.saga.upcast import upcasted

R = TypeVar("R", default=Any)


class Result(Generic[R]):
    """The function and the class that it returns."""

    def __init__(self, function: Callable[[Any], R], *, saga: str) -> None:
        check_handler(function, "state")
        self.function: Final = function
        self.model: Final = returned_class(function, BaseModel, step=saga, what="the result of saga")

    def make(self, state: Any) -> bytes:
        """JSON of the result of `state`; raises what the author's function raises, `TypeError` for another class."""
        made = self.function(state)
        if not isinstance(made, self.model):
            raise TypeError(f"the result is {type(made).__name__}; return {self.model.__name__}, as it is annotated")
        body: bytes = made.__pydantic_serializer__.to_json(made, by_alias=False, round_trip=True, warnings=False)
        return body

    def read(self, stored: bytes) -> R:
        """The inverse of `make`."""
        found: R = self.model.__pydantic_validator__.validate_json(
            upcasted(self.model, stored), by_name=True, by_alias=False
        )
        return found
