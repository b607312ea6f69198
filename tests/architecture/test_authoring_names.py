"""What a file of definitions may import from `saga_worker`, and what that costs."""

from __future__ import annotations

import subprocess
import sys

import saga_worker

NAMES = """
    Activity ActivityContext ActivityFailed ChildFailed Command Compensate CompensationContext Complete
    DefinitionError Done Entity Event KeyKind Message OnExhausted OnTimeout OnUndoFailed Outputs Query Rejected
    Retry Rollback Saga SecondStart Step StepContext Tally TerminalError Undo UndoOf Verdict WaitFor activity choice
    clear_hooks clear_terminal_errors days hours minutes parallel pivot register_hooks register_terminal_errors
    repeat_until resolve_terminal_error seconds set_error_mapper unregister_terminal_errors upcast when
"""


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_authoring_names_are_pinned() -> None:
    assert saga_worker.__all__ == NAMES.split()
    assert all(hasattr(saga_worker, name) for name in NAMES.split())
    assert set(NAMES.split()) <= set(dir(saga_worker))


def test_another_name_is_an_attribute_error() -> None:
    assert not hasattr(saga_worker, "saga_of_nothing")


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = run("import sys, saga_worker; saga_worker.__version__; print(*sys.modules)").split()

    assert not {"pydantic", "tenacity", "sqlalchemy", "asyncpg", "aio_pika", "asyncio"} & set(loaded)


def test_the_authoring_names_need_no_driver() -> None:
    loaded = run("import sys; from saga_worker import *; print(*sys.modules)").split()

    assert not {"tenacity", "sqlalchemy", "asyncpg", "aio_pika"} & set(loaded)
