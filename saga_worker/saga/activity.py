"""Activities that belong to no saga: classes and functions with an input and an output of their own.

Takes what authors write once for many sagas, guarantees when the class is made (or the function decorated) that the
annotations say what goes in and what comes out, and hands it to `placed`, which gives it a place in one saga.
"""

from __future__ import annotations

import inspect
import typing
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from datetime import timedelta
from types import UnionType
from typing import (
    Any,
    Concatenate,
    Final,
    Generic,
    NoReturn,
    Self,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    overload,
)

from pydantic import BaseModel

from saga_worker.saga.errors import DefinitionError
from saga_worker.saga.messages import Event, snake_case
from saga_worker.saga.own_work import O
from saga_worker.saga.retry import Retry, Undo
from saga_worker.saga.source import check_callable, checked_name, local_names, where, where_called
from saga_worker.saga.terminal import ErrorMapper

I = TypeVar("I", bound=BaseModel)  # noqa: E741  # the input of an activity

CTX: Final = "ctx"
OF_THE_EVENT: Final = ("event", "event_type", "event_payload")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What an activity says of its tries itself, as `Saga.activity` has it; the step that places it may differ."""

    timeout: timedelta | None = None
    retry: Retry | None = None
    undo: Undo | None = None
    undo_timeout: timedelta | None = None
    undo_retry: Retry | None = None
    terminal: tuple[type[Exception], ...] | None = None
    as_terminal: ErrorMapper | None = None
    concurrency: int | None = None
    repeatable: bool | None = None
    undo_repeatable: bool | None = None

    def over(self, other: Bounds) -> Bounds:
        """These, and where they say nothing those of `other`."""
        mine = {each.name: getattr(self, each.name) for each in fields(self)}
        return Bounds(
            **{name: getattr(other, name) if value is None else value for name, value in mine.items()}
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """How a function of the author is called: by which of the optional parameters, and what it bears."""

    takes: frozenset[str]
    bears_unknown: bool = False  # a compensation that can be called without an output
    may_wait: bool = False


@dataclass(frozen=True, slots=True, init=False)
class WaitFor:
    """What `execute` returns to wait for the first of these events, and be entered again with it.

    When nothing comes within `timeout` the saga compensates; past the pivot it asks for attention. While it waits, the
    activity may have had an effect: a compensation that takes `Output | None` is called with None, or with `so_far`,
    an output that says what was done so far; one that takes `Output` is called only if there is a `so_far`.
    """

    events: tuple[type[Event], ...]
    timeout: timedelta
    so_far: BaseModel | None

    def __init__(
        self, event: type[Event], /, *others: type[Event], timeout: timedelta, so_far: BaseModel | None = None
    ) -> None:
        if timeout <= timedelta(0):
            raise ValueError(f"WaitFor: timeout is {timeout}; give a duration above zero")
        object.__setattr__(self, "events", (event, *others))
        object.__setattr__(self, "timeout", timeout)
        object.__setattr__(self, "so_far", so_far)


class Activity(ABC, Generic[I, O]):
    """A step for many sagas: one object does the work for all of them, and holds nothing of any.

    ::

        class ChargeCard(Activity[Charge, Charged], timeout=seconds(10), retry=Retry.exponential(5)):
            def __init__(self, gateway: Gateway) -> None:
                self.gateway = gateway

            async def execute(self, inp: Charge) -> Charged: ...
            async def compensate(self, inp: Charge, out: Charged) -> None: ...  # may be left out

    `execute` is called at least once for each attempt. `compensate` gets the input and the output that were recorded
    for this saga, read by their models again. If it takes `Charged | None` it is also called (with None) when nobody
    knows whether `execute` worked, as `Undo.HYBRID` says; else only for what was done, as `Undo.STRICT` says. Both
    may take `ctx: ActivityContext`.

    An `execute` that returns `Charged | WaitFor` may wait for an event and be entered again with it: it also takes
    `event: TheEvent | None = None`, or `event_type: str | None = None, event_payload: dict[str, Any] | None = None`,
    which are None the first time. Each entry has an idempotency key of its own.

    `input_model` and `output_model` are set when a class is made. Raises `DefinitionError` for annotations that do
    not say what goes in and what comes out. Class keywords are defaults for `Saga.step`.
    """

    input_model: type[BaseModel]
    output_model: type[BaseModel]
    bounds: Bounds = Bounds()
    execute_shape: Shape
    compensate_shape: Shape | None = None

    def __init_subclass__(
        cls, *, timeout: timedelta | None = None, retry: Retry | None = None, undo: Undo | None = None,
        undo_timeout: timedelta | None = None, undo_retry: Retry | None = None,
        terminal: tuple[type[Exception], ...] | None = None, as_terminal: ErrorMapper | None = None,
        concurrency: int | None = None, repeatable: bool | None = None, undo_repeatable: bool | None = None,
        **more: Any,
    ) -> None:  # fmt: skip
        super().__init_subclass__(**more)
        given = Bounds(
            timeout=timeout, retry=retry, undo=undo, undo_timeout=undo_timeout, undo_retry=undo_retry,
            terminal=terminal, as_terminal=as_terminal, concurrency=concurrency, repeatable=repeatable,
            undo_repeatable=undo_repeatable,
        )  # fmt: skip
        cls.bounds = given.over(cls.bounds)
        if cls.__dict__.get("__module__") == __name__:
            return  # the function form reads its function
        source = where_called()
        models = _models_of(cls, source)
        if models is None:
            return  # a generic base: its models come with the classes that derive from it
        cls.input_model, cls.output_model = models
        if cls.execute is Activity.execute:
            return  # an abstract base
        cls.execute_shape = _read_execute(cls.execute, *models, is_method=True)[2]
        taking_back = cast("Callable[..., Any] | None", cls.compensate)  # a class may say that it has none
        if taking_back is None or taking_back is Activity.compensate:
            cls.compensate_shape = None
        else:
            cls.compensate_shape = _read_compensate(taking_back, *models, is_method=True)

    @abstractmethod
    async def execute(self, inp: I, /, *args: Any, **kwargs: Any) -> O | WaitFor:
        """The work; raise `TerminalError` when trying again is no use."""
        raise NotImplementedError

    async def compensate(self, inp: I, out: O, /, *args: Any, **kwargs: Any) -> None:
        """Takes the work back."""
        raise NotImplementedError

    @property
    def has_compensation(self) -> bool:
        """Whether it says how it is taken back."""
        return self.compensate_shape is not None

    @property
    def step_name(self) -> str:
        """The name of a step that gives none."""
        return snake_case(type(self).__name__)


class FunctionActivity(Activity[I, O], Generic[I, O]):
    """What `activity` makes of a function. It can be called as the function that it was."""

    def __init__(
        self, work: Callable[Concatenate[I, ...], Awaitable[O | WaitFor]], bounds: Bounds, name: str | None
    ) -> None:
        self.input_model, self.output_model, self.execute_shape = _read_execute(work, None, None, is_method=False)
        self.bounds = bounds
        self.__doc__ = work.__doc__
        self._work: Final = work
        self._name: Final = name if name is not None else getattr(work, "__name__", "<lambda>")
        checked_name(self._name, "activity", source=where(work))
        self._undo: Callable[..., Awaitable[None]] | None = None
        self.is_placed: bool = False  # some saga knows by now whether it has an undo

    def __call__(self, inp: I, /, *args: Any, **kwargs: Any) -> Awaitable[O | WaitFor]:
        return self._work(inp, *args, **kwargs)

    async def execute(self, inp: I, /, *args: Any, **kwargs: Any) -> O | WaitFor:
        return await self._work(inp, *args, **kwargs)

    async def compensate(self, inp: I, out: O, /, *args: Any, **kwargs: Any) -> None:
        assert self._undo is not None
        await self._undo(inp, out, *args, **kwargs)

    def undo(self, work: Callable[Concatenate[I, O, ...], Awaitable[None]], /) -> Self:
        """Takes the work back, as `Activity.compensate` does."""
        if self.is_placed:
            raise DefinitionError(
                f"{where(work)}: activity {self._name} is a step of a saga already; declare its undo before that."
            )
        if self._undo is not None:
            raise DefinitionError(f"{where(work)}: activity {self._name} has an undo already; keep one.")
        self.compensate_shape = _read_compensate(work, self.input_model, self.output_model, is_method=False)
        self._undo = work
        return self

    @property
    def step_name(self) -> str:
        return self._name


@overload
def activity(work: Callable[Concatenate[I, ...], Awaitable[O | WaitFor]], /) -> FunctionActivity[I, O]: ...


@overload
def activity(
    work: Callable[Concatenate[I, ...], Awaitable[O | WaitFor]], /, *,
    compensate: Callable[Concatenate[I, O, ...], Awaitable[None]], timeout: timedelta | None = None,
    retry: Retry | None = None, undo: Undo | None = None, undo_timeout: timedelta | None = None,
    undo_retry: Retry | None = None, terminal: tuple[type[Exception], ...] | None = None,
    as_terminal: ErrorMapper | None = None, concurrency: int | None = None, repeatable: bool | None = None,
    undo_repeatable: bool | None = None, name: str | None = None,
) -> FunctionActivity[I, O]: ...  # fmt: skip


@overload
def activity(
    work: Callable[Concatenate[I, ...], Awaitable[O | WaitFor]], /, *, timeout: timedelta | None = None,
    retry: Retry | None = None, undo: Undo | None = None, undo_timeout: timedelta | None = None,
    undo_retry: Retry | None = None, terminal: tuple[type[Exception], ...] | None = None,
    as_terminal: ErrorMapper | None = None, concurrency: int | None = None, repeatable: bool | None = None,
    undo_repeatable: bool | None = None, name: str | None = None,
) -> FunctionActivity[I, O]: ...  # fmt: skip


@overload
def activity(
    *, timeout: timedelta | None = None, retry: Retry | None = None, undo: Undo | None = None,
    undo_timeout: timedelta | None = None, undo_retry: Retry | None = None,
    terminal: tuple[type[Exception], ...] | None = None, as_terminal: ErrorMapper | None = None,
    concurrency: int | None = None, repeatable: bool | None = None, undo_repeatable: bool | None = None,
    name: str | None = None,
) -> _Decorator: ...  # fmt: skip


def activity(
    work: Callable[..., Awaitable[Any]] | None = None, /, *,
    compensate: Callable[..., Awaitable[None]] | None = None, timeout: timedelta | None = None,
    retry: Retry | None = None, undo: Undo | None = None, undo_timeout: timedelta | None = None,
    undo_retry: Retry | None = None, terminal: tuple[type[Exception], ...] | None = None,
    as_terminal: ErrorMapper | None = None, concurrency: int | None = None, repeatable: bool | None = None,
    undo_repeatable: bool | None = None, name: str | None = None,
) -> Any:  # fmt: skip
    """An activity for many sagas made of an async function: as a decorator, with or without options, or by a call.

    The function takes its input, a pydantic model, and may take `ctx`; it returns its output, another model.
    `compensate`, or `@the_activity.undo`, takes it back. The options are defaults for `Saga.step`.
    """
    bounds = Bounds(
        timeout=timeout, retry=retry, undo=undo, undo_timeout=undo_timeout, undo_retry=undo_retry, terminal=terminal,
        as_terminal=as_terminal, concurrency=concurrency, repeatable=repeatable, undo_repeatable=undo_repeatable,
    )  # fmt: skip
    decorate = _Decorator(bounds, name, compensate)
    return decorate if work is None else decorate(work)


@dataclass(frozen=True, slots=True)
class _Decorator:
    bounds: Bounds
    name: str | None
    compensate: Callable[..., Awaitable[None]] | None

    def __call__(self, work: Callable[Concatenate[I, ...], Awaitable[O | WaitFor]], /) -> FunctionActivity[I, O]:
        made = FunctionActivity(work, self.bounds, self.name)
        return made if self.compensate is None else made.undo(self.compensate)


def _models_of(cls: type[Activity[Any, Any]], source: str) -> tuple[type[BaseModel], type[BaseModel]] | None:
    """What stands for input and output in this class; None for a generic base that leaves them open."""
    arguments = _arguments(cls)
    name = cls.__qualname__
    if any(isinstance(argument, TypeVar) for argument in arguments):
        if getattr(cls, "__parameters__", ()):
            return None
        raise DefinitionError(
            f"{source}: {name} does not say what goes in and what comes out; derive it from"
            f" {cls.__bases__[0].__name__}[TheInput, TheOutput]."
        )
    for argument, what in zip(arguments, ("input", "output"), strict=True):
        if not _is_model(argument):
            raise DefinitionError(f"{source}: {name}: its {what} is {argument!r}; give a pydantic BaseModel class.")
    return arguments[0], arguments[1]


def _arguments(cls: type[Any]) -> tuple[Any, ...]:
    """The type arguments of `Activity` in this class, with those of the generic bases between them put in."""
    for base in cls.__dict__.get("__orig_bases__", cls.__bases__):
        origin = get_origin(base) or base
        if isinstance(origin, type) and issubclass(origin, Activity):
            given = get_args(base) or origin.__parameters__  # type: ignore[attr-defined]
            if origin is Activity:
                return tuple(given)
            meant = dict(zip(origin.__parameters__, given, strict=False))  # type: ignore[attr-defined]
            return tuple(meant.get(argument, argument) for argument in _arguments(origin))
    return (I, O)


def _read_execute(
    work: Callable[..., Any], wanted_in: Any, wanted_out: Any, *, is_method: bool
) -> tuple[type[BaseModel], type[BaseModel], Shape]:
    """Input, output and shape of the function that does the work; of a method they are those of its class."""
    reader = _Reader(work, is_method=is_method)
    (first,) = reader.positional(1, "one input")
    takes = reader.optional(1, (CTX, *OF_THE_EVENT))
    taken = reader.model(reader.hints.get(first), wanted_in, f"annotate {first} with the pydantic model that goes in")
    members = _members(reader.hints.get("return"))
    rest = [member for member in members if member is not WaitFor]
    remedy = "annotate what it returns: one pydantic model, or that | WaitFor"
    given = reader.model(rest[0] if len(rest) == 1 else None, wanted_out, remedy)
    may_wait = len(rest) < len(members)
    if may_wait and takes.isdisjoint(OF_THE_EVENT):
        reader.refuse(f"it may wait, and is then entered again with an event; take one of {', '.join(OF_THE_EVENT)}")
    return taken, given, Shape(takes, may_wait=may_wait)


def _read_compensate(work: Callable[..., Any], wanted_in: Any, wanted_out: Any, *, is_method: bool) -> Shape:
    reader = _Reader(work, is_method=is_method)
    first, second = reader.positional(2, "the input and the output that were recorded")
    takes = reader.optional(2, (CTX,))
    reader.model(reader.hints.get(first), wanted_in, f"annotate {first} with {wanted_in.__name__}, which went in")
    members = _members(reader.hints.get(second))
    rest = [member for member in members if member is not type(None)]
    reader.model(
        rest[0] if len(rest) == 1 else None, wanted_out,
        f"annotate {second} with {wanted_out.__name__}, which came out, or with {wanted_out.__name__} | None",
    )  # fmt: skip
    if reader.hints.get("return", type(None)) is not type(None):
        reader.refuse("a compensation returns nothing; annotate it with None")
    return Shape(takes, bears_unknown=len(rest) < len(members))


class _Reader:
    """One function of an author, with what its signature says."""

    def __init__(self, work: Callable[..., Any], *, is_method: bool) -> None:
        self._work: Final = work
        self._name: Final = getattr(work, "__qualname__", repr(work))
        check_callable(work)
        if not inspect.iscoroutinefunction(work):
            self.refuse("it is awaited; make it an async function")
        try:
            self.hints: Final = typing.get_type_hints(work, localns=local_names(work))
        except Exception as error:
            self.refuse(
                "its annotations cannot be read; import the names in them, or move them out of TYPE_CHECKING"
                f" ({type(error).__name__}: {error})"
            )
        parameters = list(inspect.signature(work).parameters.values())
        self._parameters: Final = parameters[1:] if is_method else parameters

    def positional(self, count: int, what: str) -> list[str]:
        """The names of the first parameters, which take what it works on."""
        first = self._parameters[:count]
        if len(first) < count or any(p.kind not in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in first):
            self.refuse(
                f"it is called with {what}; take {'a parameter' if count == 1 else f'{count} parameters'} for it"
            )
        return [p.name for p in first]

    def optional(self, after: int, known: tuple[str, ...]) -> frozenset[str]:
        """Which of the `known` parameters it takes; others are not given to it."""
        rest = [p for p in self._parameters[after:] if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        for parameter in rest:
            if parameter.name not in known:
                self.refuse(
                    f"nobody gives it {parameter.name}; besides what it works on it may take {', '.join(known)}"
                )
        return frozenset(parameter.name for parameter in rest)

    def model(self, hint: Any, wanted: Any, remedy: str) -> type[BaseModel]:
        """The model that a hint names, which has to fit the one that is `wanted`, if there is one."""
        if isinstance(hint, TypeVar) and wanted is not None:
            model: type[BaseModel] = wanted
            return model
        if not _is_model(hint):
            self.refuse(remedy)
        if wanted is not None and hint is not wanted:
            self.refuse(f"{hint.__name__} is annotated where the class says {wanted.__name__}; write the same in both")
        return cast("type[BaseModel]", hint)

    def refuse(self, problem: str) -> NoReturn:
        raise DefinitionError(f"{where(self._work)}: {self._name}: {problem}.") from None


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_model(candidate: object) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)
