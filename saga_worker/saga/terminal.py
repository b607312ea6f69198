"""Which errors of an author's function say that trying again is no use.

Asked in this order, and the first answer holds: a `TerminalError` itself; the step's own mapper; the classes of the
step and those registered for the process; the mapper of the process. When nobody says so, the step's `retry` decides.
What is registered belongs to the process: register it where the definitions are, so that every worker has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from saga_worker.saga.errors import TerminalError

ErrorMapper: TypeAlias = Callable[[Exception], TerminalError | None]

_CLASSES: Final[set[type[Exception]]] = set()
_MAPPERS: Final[list[ErrorMapper]] = []  # of the process: none, or one


def register_terminal_errors(*classes: type[Exception]) -> None:
    """From now on errors of these classes, and of theirs, are not tried again in any saga."""
    _CLASSES.update(classes)


def unregister_terminal_errors(*classes: type[Exception]) -> None:
    """Take these back; one that was not registered is no error."""
    _CLASSES.difference_update(classes)


def clear_terminal_errors() -> None:
    """Forget all that was registered, and the mapper of the process."""
    _CLASSES.clear()
    _MAPPERS.clear()


def set_error_mapper(mapper: ErrorMapper | None) -> None:
    """The mapper that is asked last, for all sagas of this process; None: there is none."""
    _MAPPERS[:] = [] if mapper is None else [mapper]


def resolve_terminal_error(
    error: Exception, *, mapper: ErrorMapper | None = None, classes: Sequence[type[Exception]] = ()
) -> TerminalError | None:
    """What `error` means for a step with this mapper and these classes; None: it may be tried again.

    A mapper that raises has given no answer.
    """
    if isinstance(error, TerminalError):
        return error
    if (mapped := _ask(mapper, error)) is not None:
        return mapped
    if isinstance(error, (*classes, *_CLASSES)):
        return TerminalError("", may_have_worked=bool(getattr(error, "may_have_worked", False)))
    return _ask(_MAPPERS[0], error) if _MAPPERS else None


def _ask(mapper: ErrorMapper | None, error: Exception) -> TerminalError | None:
    if mapper is None:
        return None
    try:
        answer = mapper(error)
    except Exception:
        return None
    return answer if isinstance(answer, TerminalError) else None
