"""Sagas over RabbitMQ and PostgreSQL, with a transactional inbox and outbox.

The names below are all that a file of definitions needs. They are looked up on first use, because the command line
has to answer `--help` before pydantic is imported.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "Activity",
    "ActivityContext",
    "ActivityFailed",
    "ChildFailed",
    "Command",
    "Compensate",
    "CompensationContext",
    "Complete",
    "DefinitionError",
    "Done",
    "Entity",
    "Event",
    "KeyKind",
    "Message",
    "OnExhausted",
    "OnTimeout",
    "OnUndoFailed",
    "Outputs",
    "Query",
    "Rejected",
    "Retry",
    "Rollback",
    "Saga",
    "SecondStart",
    "Step",
    "StepContext",
    "Tally",
    "TerminalError",
    "Undo",
    "UndoOf",
    "Verdict",
    "WaitFor",
    "activity",
    "choice",
    "clear_hooks",
    "clear_terminal_errors",
    "days",
    "hours",
    "minutes",
    "parallel",
    "pivot",
    "register_hooks",
    "register_terminal_errors",
    "repeat_until",
    "resolve_terminal_error",
    "seconds",
    "set_error_mapper",
    "unregister_terminal_errors",
    "upcast",
    "when",
]

if TYPE_CHECKING:
    from saga_worker.saga.activity import Activity, WaitFor, activity
    from saga_worker.saga.children import ChildFailed, Tally
    from saga_worker.saga.definition import Saga
    from saga_worker.saga.durations import days, hours, minutes, seconds
    from saga_worker.saga.entity import Entity
    from saga_worker.saga.errors import DefinitionError, TerminalError
    from saga_worker.saga.forms import choice, parallel, pivot, repeat_until, when
    from saga_worker.saga.hooks import CompensationContext, StepContext, clear_hooks, register_hooks
    from saga_worker.saga.messages import Command, Done, Event, Message, Rejected, UndoOf
    from saga_worker.saga.own_work import ActivityContext, ActivityFailed
    from saga_worker.saga.placed import Outputs
    from saga_worker.saga.queries import Query
    from saga_worker.saga.retry import (
        Compensate,
        Complete,
        OnExhausted,
        OnTimeout,
        OnUndoFailed,
        Retry,
        Rollback,
        Undo,
        Verdict,
    )
    from saga_worker.saga.routing import KeyKind
    from saga_worker.saga.second_start import SecondStart
    from saga_worker.saga.steps import Step
    from saga_worker.saga.terminal import (
        clear_terminal_errors,
        register_terminal_errors,
        resolve_terminal_error,
        set_error_mapper,
        unregister_terminal_errors,
    )
    from saga_worker.saga.upcast import upcast
else:
    _HOMES = {
        "children": ("ChildFailed", "Tally"),
        "activity": ("Activity", "WaitFor", "activity"),
        "definition": ("Saga",),
        "durations": ("days", "hours", "minutes", "seconds"),
        "entity": ("Entity",),
        "errors": ("DefinitionError", "TerminalError"),
        "forms": ("choice", "parallel", "pivot", "repeat_until", "when"),
        "hooks": ("CompensationContext", "StepContext", "clear_hooks", "register_hooks"),
        "messages": ("Command", "Done", "Event", "Message", "Rejected", "UndoOf"),
        "own_work": ("ActivityContext", "ActivityFailed"),
        "placed": ("Outputs",),
        "queries": ("Query",),
        "retry": (
            "Compensate",
            "Complete",
            "OnExhausted",
            "OnTimeout",
            "OnUndoFailed",
            "Retry",
            "Rollback",
            "Undo",
            "Verdict",
        ),
        "routing": ("KeyKind",),
        "second_start": ("SecondStart",),
        "steps": ("Step",),
        "terminal": (
            "clear_terminal_errors",
            "register_terminal_errors",
            "resolve_terminal_error",
            "set_error_mapper",
            "unregister_terminal_errors",
        ),
        "upcast": ("upcast",),
    }

    def __getattr__(name: str) -> object:
        from importlib import import_module

        for module, names in _HOMES.items():
            if name in names:
                found = getattr(import_module(f"saga_worker.saga.{module}"), name)
                globals()[name] = found
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
