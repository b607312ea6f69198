"""Stored payloads of an older shape: what an author makes of them before their model reads them.

Takes functions of raw JSON objects, one list for each model, in the order they were declared; hands JSON of today's
shape to whoever validates it. A model that has none is not even looked up as long as nobody declares any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from saga_worker.saga.errors import DefinitionError
from saga_worker.saga.source import check_handler, where

Upcaster: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]

UPCASTERS: Final[dict[type[BaseModel], list[Upcaster]]] = {}


def upcast(model: type[BaseModel]) -> Callable[[Upcaster], Upcaster]:
    """Declares what makes older payloads of `model` readable: a message that came, a result, the state of a saga.

    The function gets the raw JSON object of every payload of this very class (not of models inside or derived) and
    returns it in today's shape; so it leaves alone what has that already. Several run in the order they are declared.
    It is run like a handler: it only looks at what it is given, and when it raises, the input is tried again.
    """

    def register(function: Upcaster) -> Upcaster:
        check_handler(function, "payload")
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise DefinitionError(f"{where(function)}: upcast({model!r}) names no pydantic model; give the class.")
        UPCASTERS.setdefault(model, []).append(function)
        return function

    return register


def upcasted(model: type[BaseModel], raw: bytes) -> bytes:
    """`raw` in today's shape; as it is if no upcaster is declared for `model`, or if it is no JSON object."""
    upcasters = UPCASTERS.get(model)
    if upcasters is None:
        return raw
    try:
        payload = from_json(raw)
    except ValueError:
        return raw  # the model will say what is wrong with it
    if not isinstance(payload, dict):
        return raw
    for upcaster in upcasters:
        payload = upcaster(payload)
        if not isinstance(payload, dict):
            raise TypeError(f"the upcaster of {model.__name__} returned {type(payload).__name__}; return a dict")
    return to_json(payload)
