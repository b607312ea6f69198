"""From a key function to the place where the key stands in the JSON.

Takes `lambda e: e.order_id` and the event's class, guarantees that the function is a plain path of fields (it is
run once, on a recorder), and hands its JSON pointer and kind to the definition: consumers read keys without
running anybody's code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from uuid import UUID

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from saga_worker.saga.errors import DefinitionError
from saga_worker.saga.routing import KeyKind, pointer_to

_KINDS: Final = {str: KeyKind.TEXT, int: KeyKind.INT, UUID: KeyKind.UUID}


@dataclass(frozen=True, slots=True)
class KeyPath:
    """Where a key stands, by wire alias, and how it is written."""

    pointer: str
    kind: KeyKind


def record_key(model: type[BaseModel], key: Callable[[Any], object], *, source: str) -> KeyPath:
    """Runs `key` once on a recorder of `model`; raises `DefinitionError` unless it only follows fields."""
    try:
        found = key(_Recorder(model, (), ()))
    except _NotAFieldError as error:
        raise DefinitionError(f"{source}: {error}") from None
    except Exception as error:
        raise DefinitionError(f"{source}: {_REMEDY} (it raised {type(error).__name__})") from error
    if type(found) is not _Recorder:
        raise DefinitionError(f"{source}: {_REMEDY}")
    names: tuple[str, ...] = object.__getattribute__(found, "_names")
    aliases: tuple[str, ...] = object.__getattribute__(found, "_aliases")
    annotation: object = object.__getattribute__(found, "_annotation")
    return KeyPath(pointer_to(aliases), _kind_of(annotation, ".".join((model.__name__, *names)), source))


def record_sequence(model: type[BaseModel], sequence: Callable[[Any], object], *, source: str) -> str:
    """The JSON pointer to the number of an event; raises `DefinitionError` unless it is a plain path to an int."""
    try:
        path = record_key(model, sequence, source=source)
    except DefinitionError:
        path = None
    if path is None or path.kind is not KeyKind.INT:
        raise DefinitionError(
            f"{source}: the sequence has to be a plain path to an int field of {model.__name__}, such as"
            " sequence=lambda e: e.number"
        )
    return path.pointer


_REMEDY: Final = "the key has to be a plain path of fields, such as key=lambda e: e.order_id"


class _NotAFieldError(Exception):
    """The key function did something else than to follow a field."""


class _Recorder:
    """Stands for an event while its key function runs: following a field gives the next recorder."""

    __slots__ = ("_aliases", "_annotation", "_names")

    def __init__(self, annotation: object, names: tuple[str, ...], aliases: tuple[str, ...]) -> None:
        self._annotation = annotation
        self._names = names
        self._aliases = aliases

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return object.__getattribute__(self, name)
        annotation = object.__getattribute__(self, "_annotation")
        names: tuple[str, ...] = object.__getattribute__(self, "_names")
        aliases: tuple[str, ...] = object.__getattribute__(self, "_aliases")
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            raise _NotAFieldError(f"{'.'.join(names)} is no model, so .{name} is no field; {_REMEDY}")
        field = annotation.model_fields.get(name)
        if field is None:
            raise _NotAFieldError(
                f"{annotation.__name__} has no field {name}; it has {', '.join(annotation.model_fields) or 'none'}"
            )
        return _Recorder(field.annotation, (*names, name), (*aliases, _alias(annotation, name, field)))

    def _refuse(self, *_: object) -> NoReturn:
        raise _NotAFieldError(_REMEDY)

    # What would give a value, or a path that depends on one, without leaving a trace.
    __bool__ = __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __hash__ = _refuse
    __str__ = __repr__ = __format__ = __getitem__ = __call__ = __iter__ = __len__ = _refuse


def _alias(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    incoming = field.validation_alias if field.validation_alias is not None else name
    if not isinstance(incoming, str):
        raise _NotAFieldError(f"{model.__name__}.{name} has more than one alias; give a key field one plain alias")
    return incoming


def _kind_of(annotation: object, path: str, source: str) -> KeyKind:
    plain: object = getattr(annotation, "__supertype__", annotation)
    if isinstance(plain, type) and not issubclass(plain, bool):
        for base, kind in _KINDS.items():
            if issubclass(plain, base):
                return kind
    raise DefinitionError(f"{source}: the key {path} is {annotation}; a key field is str, int or UUID, never optional.")
