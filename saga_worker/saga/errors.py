"""Every error this package raises on purpose, each class saying whose fault it is and what happens next."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel


class SagaWorkerError(Exception):
    """Root of the tree."""


class DefinitionError(SagaWorkerError):
    """The author's: a definition that cannot work. The process refuses to start (exit code 2)."""


class ConfigurationError(SagaWorkerError):
    """The operator's: a setting or a file is wrong. The process refuses to start (exit code 2)."""


class TerminalError(SagaWorkerError):
    """The author's, raised on purpose by an activity or a local step: this will not work, so do not try again.

    It says that nothing was done. With `may_have_worked` it says that this is not known: the step's undo is run.
    With `partial`, a pydantic model, it says that a part was done, and what the undo needs to know of it: the
    compensation of a reusable activity gets it in place of an output (so it has to be of the output model), the
    `failed` handler of another activity as `why.partial`. Local steps are rolled back, and have no part.
    """

    def __init__(self, reason: str, *, may_have_worked: bool = False, partial: BaseModel | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.may_have_worked = may_have_worked
        self.partial = partial


class PoisonMessage(SagaWorkerError):
    """The sender's: the message is wrong and stays wrong. It is stored as a dead letter with `reason`.

    `reason` is a code (`schema_mismatch`, `bad_key`, …); the text says what and where, without values.
    """

    def __init__(self, reason: str, error: str) -> None:
        super().__init__(error)
        self.reason = reason
        self.error = error


class QueryRefused(SagaWorkerError):
    """The caller's: there is no such saga or query, or the version that the saga runs by is not loaded here."""


class QueryFailed(SagaWorkerError):
    """The author's: a query raised. The saga does not know that it was asked."""


class IllegalTransition(SagaWorkerError):
    """Ours: a decision asked for a status change that the table does not allow. The transaction is rolled back."""

    def __init__(self, current: str, target: str) -> None:
        super().__init__(f"A saga cannot go from {current} to {target}; please report this with its journal.")
        self.current = current
        self.target = target


class LeaseLost(SagaWorkerError):
    """Nobody's: another worker has written first. The transaction is rolled back and the work left to the other."""


class SchemaMismatch(SagaWorkerError):
    """The operator's: the database schema does not fit this release; `saga-worker db upgrade` mends it."""
