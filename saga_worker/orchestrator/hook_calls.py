"""The hooks that a process has registered, called after a commit: each once, and none of them can break anything."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from saga_worker.saga import hooks
from saga_worker.saga.changes import SagaChange
from saga_worker.saga.decide import describe_error
from saga_worker.telemetry import Event, Field

log = logging.getLogger(__name__)


def call(changes: Sequence[SagaChange]) -> None:
    """Tell whoever wants to know what became of the steps of these sagas, whose transaction has committed."""
    if not hooks.any_hooks():
        return
    for change in changes:
        for hook, function, context in hooks.calls(change):
            try:
                function(context)
            except Exception as error:
                log.error(
                    Event.HOOK_RAISED,
                    extra={
                        Field.DEFINITION: context.definition,
                        Field.SAGA: str(context.saga_id),
                        Field.STEP: context.step,
                        Field.REASON: hook.value,
                        Field.ERROR: describe_error(error, function),
                    },
                )
