"""What goes over the wire: models with a declared type name, JSON in and out.

Takes bytes and a model, guarantees a frozen, validated message or a `PoisonMessage` that shows no values.
Hands messages to `decide` and bytes to the effects.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType, UnionType
from typing import Any, ClassVar, Final, Generic, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import TypeVar, Unpack

from saga_worker.saga.errors import DefinitionError, PoisonMessage
from saga_worker.saga.upcast import UPCASTERS, upcasted

MAX_TYPE_BYTES: Final = 255  # AMQP's short string: the `type` property and the routing key
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # an escaped NUL, not an escaped backslash before "u0000"
MAX_LISTED_ERRORS: Final = 10
_WORD_START: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ARRIVED_AS: Final = "__arrived_as__"


def snake_case(name: str) -> str:
    return _WORD_START.sub("_", name).lower()


def _check_wire_type(model: type[BaseModel], wire_type: str) -> None:
    if not wire_type or len(wire_type.encode()) > MAX_TYPE_BYTES or _CONTROL.search(wire_type):
        raise DefinitionError(
            f"{model.__module__}.{model.__qualname__}: the wire type {wire_type[:40]!r} is not usable; "
            f"give it 1 to {MAX_TYPE_BYTES} bytes without control characters."
        )


class Message(BaseModel):
    """Anything on the wire. Frozen; unknown fields are refused unless the class says `extra="ignore"`.

    The wire type is the class keyword `type="…"`, by default the snake case of the class name; `types=(…)` lets
    one model stand for several, of which the first is the one it is sent as.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    __wire_types__: ClassVar[tuple[str, ...]] = ("message",)

    def __init_subclass__(
        cls, *, type: str | None = None, types: tuple[str, ...] = (), **config: Unpack[ConfigDict]
    ) -> None:
        super().__init_subclass__(**config)

    @classmethod
    def __pydantic_init_subclass__(cls, *, type: str | None = None, types: Sequence[str] = (), **_: Any) -> None:
        if isinstance(types, str):
            raise DefinitionError(f"{cls.__qualname__}: types is one text; write type={types!r} or a tuple of texts.")
        declared = types if type is None else (type, *types)
        cls.__wire_types__ = tuple(dict.fromkeys(declared)) or (snake_case(cls.__name__),)
        for wire_type in declared:
            _check_wire_type(cls, wire_type)

    @property
    def wire_type(self) -> str:
        """The type it arrived as; of a message made here, the first declared one."""
        arrived: str | None = self.__dict__.get(_ARRIVED_AS)
        return arrived if arrived is not None else self.__wire_types__[0]


class Event(Message):
    """Something that has happened; published to whoever subscribes.

    ::

        class OrderPlaced(Event):  # on the wire: order_placed
            order_id: str
            cents: int
    """


class Done(Message):
    """The reply (`done`, `{}`) of a command that has nothing to say."""


class Rejected(Message):
    """The rejection of a command that declares none of its own: final, not worth a retry."""

    reason: str = ""


R = TypeVar("R", bound=Message, default=Done, covariant=True)
X = TypeVar("X", bound=Message, default=Rejected, covariant=True)
M = TypeVar("M", bound=Message)


class Command(Message, Generic[R, X]):
    """A request to one participant, answered by `R` (it is done) or `X` (rejected, which is final).

    Without words of its own it is answered by `Done` or `Rejected`. Either place may hold a union. Raises
    `DefinitionError` where it is used, if an answer is no `Message` or two answers have one wire type.

    ::

        class ReserveStock(Command[StockReserved, OutOfStock]):
            order_id: str
    """


C = TypeVar("C", bound="Command[Message, Message]", covariant=True)


class UndoOf(Command[R, X], Generic[C, R, X]):
    """The command that takes `C` back, answered by `R` or `X` like any other.

    It may reach a participant that never did what it takes back; the answer is a success all the same.

    ::

        class ReleaseStock(UndoOf[ReserveStock]):
            order_id: str
    """


def wire_types(model: type[Message]) -> tuple[str, ...]:
    """All types that `model` stands for; the first is the one it is sent as."""
    return model.__wire_types__


@cache
def reply_models(command: type[Command[Any, Any]]) -> Mapping[str, type[Message]]:
    """The replies of a command class by wire type."""
    return _by_wire_type(command, _arguments(command)[-2])


@cache
def rejection_models(command: type[Command[Any, Any]]) -> Mapping[str, type[Message]]:
    """The rejections of a command class by wire type."""
    return _by_wire_type(command, _arguments(command)[-1])


def undone_model(undo: type[UndoOf[Any, Any, Any]]) -> type[Command[Any, Any]]:
    """The command class that `undo` takes back."""
    arguments = _arguments(undo)
    if len(arguments) != 3 or not _is_model(arguments[0], Command):
        raise DefinitionError(f"{undo.__qualname__} does not say what it undoes; write UndoOf[TheCommand].")
    model: type[Command[Any, Any]] = arguments[0]
    return model


def decode(body: bytes, model: type[M], wire_type: str) -> M:
    """The message in `body`; raises `PoisonMessage("schema_mismatch")` with field paths, never with values."""
    if UPCASTERS:
        body = upcasted(model, body)
    try:
        message: M = model.__pydantic_validator__.validate_json(body)
    except ValidationError as error:
        raise PoisonMessage("schema_mismatch", _describe(error, model, wire_type)) from None
    if wire_type != model.__wire_types__[0]:
        # Not a private attribute: those cost every instance, this one only those with a second type.
        vars(message)[_ARRIVED_AS] = wire_type
    return message


def refuse_nul(body: bytes, what: str) -> None:
    """Raises `ValueError` when JSON that is to be stored holds a NUL character."""
    if b"\\u0000" in body and _NUL.search(body):
        raise ValueError(f"{what} holds a NUL character, which PostgreSQL cannot store as JSON")


def encode(message: Message) -> bytes:
    """JSON by wire alias, nothing left out."""
    return message.__pydantic_serializer__.to_json(message, by_alias=True)


def _arguments(command: type[Command[Any, Any]]) -> tuple[Any, ...]:
    """The type arguments of `Command[…]` or `UndoOf[…]` where the class was derived, with defaults filled in."""
    for base in command.__mro__:
        metadata = getattr(base, "__pydantic_generic_metadata__", None)
        if metadata and metadata["origin"] in (Command, UndoOf):
            return tuple(metadata["args"])
    return (Done, Rejected)


def _by_wire_type(command: type[Command[Any, Any]], argument: Any) -> Mapping[str, type[Message]]:
    members = get_args(argument) if get_origin(argument) in (Union, UnionType) else (argument,)
    models: dict[str, type[Message]] = {}
    for model in members:
        if not _is_model(model, Message):
            raise DefinitionError(f"{command.__qualname__}: {model!r} is no Message; answers are Message classes.")
        for wire_type in wire_types(model):
            if wire_type in models:
                raise DefinitionError(
                    f"{command.__qualname__}: two answers have the wire type {wire_type!r}; "
                    f'tell them apart by class {model.__qualname__}(Message, type="…").'
                )
            models[wire_type] = model
    return MappingProxyType(models)


def _is_model(candidate: object, base: type[BaseModel]) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, base)


def _describe(error: ValidationError, model: type[BaseModel], wire_type: str) -> str:
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    known = _field_names(model)
    listed = [f"{_path(e['loc'], known, e['type'])}: {e['type']}" for e in errors[:MAX_LISTED_ERRORS]]
    more = f" and {len(errors) - len(listed)} more" if len(errors) > len(listed) else ""
    return f"{wire_type} does not fit {model.__qualname__}: {', '.join(listed)}{more}"


def _path(location: tuple[int | str, ...], known: frozenset[str], kind: str) -> str:
    """Keys of mappings are the sender's values: shown as `*`. The name of an unknown field is worth showing."""
    parts = [str(part) if isinstance(part, int) or part in known else "*" for part in location]
    if kind == "extra_forbidden" and isinstance(location[-1], str):
        parts[-1] = _CONTROL.sub("?", location[-1][:60])
    return ".".join(parts) or "(document)"


@cache
def _field_names(model: type[BaseModel]) -> frozenset[str]:
    """Names and aliases of all fields of `model` and of the models inside it."""
    names: set[str] = set()
    seen: set[object] = set()
    waiting: list[Any] = [model]
    while waiting:
        annotation = waiting.pop()
        waiting += get_args(annotation)
        if not _is_model(annotation, BaseModel) or annotation in seen:
            continue
        seen.add(annotation)
        for name, field in annotation.model_fields.items():
            names |= {alias for alias in (name, field.alias, field.validation_alias) if isinstance(alias, str)}
            waiting.append(field.annotation)
    return frozenset(names)
