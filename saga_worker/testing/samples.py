"""Messages that nobody had to write: an example of a model, made from its fields.

Takes a pydantic model, guarantees an instance that it accepts, with the key of a saga where a pointer says it stands,
or an error that names the field for which the author has to say more.
"""

from __future__ import annotations

import types
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)
_PLAIN: Final[dict[Any, Any]] = {
    str: "x", int: 1, float: 1.0, bool: True, bytes: b"x", Decimal: "1", UUID: str(UUID(int=1)),
    datetime: datetime(2026, 1, 1, tzinfo=UTC).isoformat(), date: "2026-01-01", time: "12:00:00",
    timedelta: "PT1H", Any: "x", object: "x",
}  # fmt: skip


def sample(model: type[M], *, pointer: str | None = None, key: object = None) -> M:
    """An instance of `model`; with `pointer` (JSON, by wire names) the saga key stands there."""
    values = _fields_of(model)
    if pointer is not None:
        _put(values, pointer, key)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors(include_input=False))
        raise ValueError(
            f"no example of {model.__name__} could be made up ({fields}); give one in samples=[…]"
        ) from None


def _fields_of(model: type[BaseModel]) -> dict[str, Any]:
    return {
        field.validation_alias if isinstance(field.validation_alias, str) else field.alias or name: _value(
            field.annotation
        )
        for name, field in model.model_fields.items()
        if field.is_required()
    }


def _value(annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _value(arguments[0])
    if origin is Literal:
        return arguments[0]
    if origin in (Union, types.UnionType):
        return None if type(None) in arguments else _value(arguments[0])
    if origin in (list, set, frozenset) or annotation in (list, set, frozenset):
        return []
    if origin is tuple:
        return [] if len(arguments) == 2 and arguments[1] is Ellipsis else [_value(each) for each in arguments]
    if origin is dict or annotation is dict:
        return {}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _fields_of(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return next(iter(annotation)).value
    return _PLAIN.get(annotation, "x")


def _put(values: dict[str, Any], pointer: str, key: object) -> None:
    *above, last = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    for part in above:
        values = values.setdefault(part, {})
    values[last] = key
