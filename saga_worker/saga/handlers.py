"""What can be read off the author's handlers without running them: which fields they set, where they roll back to.

Takes functions, looks at their own code only, and hands plain names to `checks` and `hints`. Seen is
`state.field = …` and `Rollback("name", …)` as they stand in the handler. Not seen is what a function does that the
handler calls, `setattr`, and a change inside a field (`state.list.append(…)`); `state.count += 1` is not taken for
setting it, since such changes do not overwrite each other.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from saga_worker.saga.children import EachStep, SubsagaStep
from saga_worker.saga.own_work import ActivityStep, LocalStep
from saga_worker.saga.retry import Rollback
from saga_worker.saga.steps import CommandOf

if TYPE_CHECKING:
    from saga_worker.saga.definition import Saga

Handler = Callable[..., Any]
_KEYWORDS: Final = ("KW_NAMES", "CALL_KW", "CALL_FUNCTION_KW")


def handlers_of(saga: Saga[Any], step_id: str) -> Iterator[Handler]:
    """What may change the state when this step is answered."""
    step = saga.steps[step_id]
    if isinstance(step, CommandOf | ActivityStep | SubsagaStep | EachStep):
        yield from (handler for handler in (step.on_reply, step.on_rejected) if handler is not None)
    if isinstance(step, EachStep) and step.on_item is not None:
        yield step.on_item
    if isinstance(step, LocalStep):
        yield step.work
    for arms in saga.arms.values():
        yield from (arm.handler for arm in arms if arm.step_id == step_id and arm.handler is not None)


def all_handlers(saga: Saga[Any]) -> Iterator[Handler]:
    """Every function of the saga that gives a verdict."""
    for step_id in saga.steps:
        yield from handlers_of(saga, step_id)
    yield from dict.fromkeys(on.handler for on in saga.handlers.values())


def fields_set(handler: Handler) -> frozenset[str]:
    """The fields of its first parameter that it sets as a whole."""
    code = getattr(handler, "__code__", None)
    if code is None or not code.co_argcount:
        return frozenset()
    state = code.co_varnames[0]
    return frozenset(
        str(then.argval) for first, then in pairwise(_instructions(code)) if then.opname == "STORE_ATTR"
        and first.opname.startswith("LOAD_FAST") and _loaded_last(first) == state
    )  # fmt: skip


def savepoints_named(handler: Handler) -> frozenset[str]:
    """The savepoints that it names as a constant: `Rollback("name", …)`."""
    code = getattr(handler, "__code__", None)
    if code is None:
        return frozenset()
    names = getattr(handler, "__globals__", {})
    instructions = _instructions(code)
    found: set[str] = set()
    for place, (first, then) in enumerate(pairwise(instructions)):
        if first.opname != "LOAD_GLOBAL" or names.get(first.argval) is not Rollback:
            continue
        call = next((i for i in instructions[place + 1 :] if i.opname in _KEYWORDS or i.opname == "CALL"), None)
        if then.opname == "LOAD_CONST" and isinstance(then.argval, str) and (call is None or call.opname == "CALL"):
            found.add(then.argval)
    return frozenset(found)


def _instructions(code: Any) -> list[dis.Instruction]:
    """Without those that do nothing for a reader."""
    return [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "PRECALL", "PUSH_NULL", "NOP")]


def _loaded_last(instruction: dis.Instruction) -> object:
    """The name that is on top afterwards; one instruction may load two."""
    loaded = instruction.argval
    return loaded[-1] if isinstance(loaded, tuple) else loaded
