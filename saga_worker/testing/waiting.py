"""Takes a condition and waits until it holds, within a deadline; raises with what it last saw. For tests.

Also runs a coroutine beside whatever event loop the test uses, for fixtures that are not async themselves.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, overload

Seen = TypeVar("Seen")
LONGEST_PAUSE = 0.1
DEADLINE_SECONDS = 30.0  # of a condition that should hold soon: a loaded machine may stall for some of it


@overload
async def eventually(condition: Callable[[], Awaitable[Seen]], deadline: float = DEADLINE_SECONDS) -> Seen: ...
@overload
async def eventually(condition: Callable[[], Seen], deadline: float = DEADLINE_SECONDS) -> Seen: ...
async def eventually(condition: Callable[[], Any], deadline: float = DEADLINE_SECONDS) -> Any:
    """Return the first true value of `condition()`, which may be async and may assert.

    A false value or an AssertionError means "not yet"; any other exception is raised at once. After `deadline` seconds
    an AssertionError tells the last value, or carries the last failed assertion as its cause.
    """
    started = time.monotonic()
    pause = 0.002
    while True:
        seen, failed = await _look(condition)
        if failed is None and seen:
            return seen
        if time.monotonic() - started > deadline:
            last = f"the last check failed: {failed}" if failed else f"last saw {seen!r}"
            raise AssertionError(f"{_name(condition)} did not hold within {deadline:g} s; {last}") from failed
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)


def run_beside(work: Coroutine[Any, Any, Seen]) -> Seen:
    """Run a coroutine to its end in a loop and thread of its own; possible where a loop is already running."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()


async def _look(condition: Callable[[], Any]) -> tuple[Any, AssertionError | None]:
    try:
        outcome = condition()
        return (await outcome if inspect.isawaitable(outcome) else outcome), None
    except AssertionError as error:
        return None, error


def _name(condition: Callable[[], object]) -> str:
    name: str = getattr(condition, "__qualname__", repr(condition))
    return name.rpartition("<locals>.")[2]
