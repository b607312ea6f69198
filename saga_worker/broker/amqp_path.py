"""Which hot path the connections of one process take.

Takes the setting `amqp_path`; guarantees with `auto` that the lean path is used only after it has been seen to work
with the installed client library on the broker at hand (`self_test`): where it fails, the public path is taken and a
warning says why. Used by every `BrokerConnection`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Literal

from saga_worker.broker.hot_path import HotPath
from saga_worker.broker.lean import LEAN
from saga_worker.broker.public import PUBLIC
from saga_worker.broker.self_test import Inconclusive, self_test
from saga_worker.telemetry import Event, Field

if TYPE_CHECKING:
    from saga_worker.broker.session import Session

log = logging.getLogger(__name__)

Setting = Literal["auto", "lean", "public"]
AGAIN_SECONDS: Final = 60.0
SELF_TEST_SECONDS: Final = 5.0  # some ten round trips, and a broker that is busy
_FIXED: Final = {"lean": LEAN, "public": PUBLIC}


class AmqpPath:
    """One for all connections of a process: what one has found out, the others need not try."""

    def __init__(
        self, setting: Setting = "auto", *, namespace: str = "saga", deadline_seconds: float = SELF_TEST_SECONDS
    ) -> None:
        """`namespace`: queue and exchange of the self-test are named `<namespace>.self-test.<a random part>`.

        A self-test that takes longer than `deadline_seconds` is no verdict.
        """
        self._path = _FIXED.get(setting)
        self._namespace = namespace
        self.deadline_seconds = deadline_seconds  # of a self-test
        self._lock = asyncio.Lock()
        self._again_at: float | None = None
        self.refusal: str | None = None  # why the lean path is not taken though it could be

    async def choose(self, session: Session) -> HotPath | None:
        """The path for this session; None when the self-test has failed on it: go on with a new session.

        A verdict on the library stands for the life of the process. Without one (the broker was too slow, refused
        the test or went away) the first connection made a minute later tries again.
        """
        async with self._lock:
            is_open = self._path is None or (self._again_at is not None and _now() >= self._again_at)
            if is_open and not await self._is_fit(session):
                return None
            return self._path

    async def _is_fit(self, session: Session) -> bool:
        self._again_at = None
        try:
            await self_test(LEAN, session, self._namespace, self.deadline_seconds)
        except Inconclusive as error:
            self._again_at = _now() + AGAIN_SECONDS
            reason = str(error)
        except Exception as error:  # a library that is another inside may raise anything
            reason = f"{type(error).__name__}: {error}"
        else:
            self._path, self.refusal = LEAN, None
            return True
        self._path, self.refusal = PUBLIC, reason
        if not session.is_dismissed:
            log.warning(Event.LEAN_PATH_UNFIT, extra={Field.ERROR: reason})
        return False


def _now() -> float:
    return asyncio.get_running_loop().time()
