"""Reads what definitions need from the author's functions: where they stand, what they return, what they take.

Takes functions, guarantees a `DefinitionError` with file and line for everything that does not fit, and hands
plain facts to the steps.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from saga_worker.saga.errors import DefinitionError

T = TypeVar("T")


def where(function: Callable[..., Any]) -> str:
    """`file:line` of a function."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(function)


def where_called() -> str:
    """`file:line` of the first caller outside this package's core: the author's line."""
    frame = _authors_frame()
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def step_name(make: Callable[..., Any], name: str | None, *, what: str = "step") -> str:
    """The id of a step (or of what else `make` is for): its name, else its function's."""
    found = name if name is not None else getattr(make, "__name__", "<lambda>")
    if found == "<lambda>":
        raise DefinitionError(f"{where(make)}: a {what} made of a lambda has no name; give it name=…")
    return checked_name(found, what, source=where(make))


def checked_name(name: str, what: str, *, source: str) -> str:
    """`name`, if it can stand in tables, headers and log lines."""
    if not name or not name.isprintable() or len(name.encode()) > 200:
        raise DefinitionError(f"{source}: the name of this {what} has to be 1 to 200 bytes of printable text.")
    return name


def returned_class(make: Callable[..., Any], base: type[T], *, step: str, what: str = "step") -> type[T]:
    """The class in the return annotation of a maker, which has to be one `base`."""
    remedy = f"{what} {step}: annotate {step}'s function with the one {base.__name__} class that it returns"
    try:
        annotation = typing.get_type_hints(make, localns=local_names(make)).get("return")
    except Exception as error:
        raise DefinitionError(f"{where(make)}: {remedy} ({type(error).__name__}: {error}).") from error
    if not (isinstance(annotation, type) and issubclass(annotation, base)):
        raise DefinitionError(f"{where(make)}: {remedy}.")
    return annotation


def local_names(function: Callable[..., Any]) -> dict[str, Any] | None:
    """The names beside a local function that its annotations may mean; of others they would hide its module's."""
    return dict(_authors_frame().f_locals) if "<locals>" in getattr(function, "__qualname__", "") else None


def takes(function: Callable[..., Any], count: int) -> bool:
    """Whether it can be called with so many arguments; True of a builtin that does not say."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def check_callable(function: object) -> None:
    if not callable(function):
        raise DefinitionError(f"{where_called()}: {function!r} is no function; give the function itself.")


def check_handler(handler: Callable[..., Any], *parameters: str) -> None:
    """Refuses what cannot be called with these parameters, or would have to be awaited."""
    check_callable(handler)
    shape = f"{getattr(handler, '__name__', 'handler')}({', '.join(parameters)})"
    if inspect.iscoroutinefunction(handler) or inspect.isgeneratorfunction(handler):
        raise DefinitionError(f"{where(handler)}: {shape} runs inside a transaction; make it a plain function.")
    if not takes(handler, len(parameters)):
        raise DefinitionError(f"{where(handler)}: this function is called as {shape}; take exactly these.")


def check_coroutine(function: Callable[..., Any], *parameters: str) -> None:
    """Refuses what is not `async def` or cannot be called with these parameters."""
    check_callable(function)
    shape = f"{getattr(function, '__name__', 'function')}({', '.join(parameters)})"
    if not inspect.iscoroutinefunction(function):
        raise DefinitionError(f"{where(function)}: {shape} is awaited; make it an async function.")
    if not takes(function, len(parameters)):
        raise DefinitionError(f"{where(function)}: this function is called as {shape}; take exactly these.")


def _authors_frame() -> FrameType:
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_between(str(frame.f_globals.get("__name__", ""))):
        frame = frame.f_back
    return frame


def _is_between(module: str) -> bool:
    """Not the author's: the core, or the module through which abstract classes are made."""
    return module.startswith("saga_worker.saga.") or module == "abc"
