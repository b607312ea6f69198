"""`/livez`, `/readyz` and `/metrics` of one worker process, over HTTP on the address of the setting `http_bind`.

Takes readiness as cheap callables (no I/O: the stages know how they are); guarantees that it handles no signal,
logs no request and exposes no ids. Started and stopped by the worker; a taken port is a `ConfigurationError`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from saga_worker import telemetry
from saga_worker.saga.errors import ConfigurationError
from saga_worker.settings import LOOPBACK

logger = logging.getLogger(__name__)

Answer = Callable[[], bool]
STOP_SECONDS: Final = 3.0


def application(
    readiness: Mapping[str, Answer], *, alive: Answer | None = None, registry: CollectorRegistry = telemetry.REGISTRY
) -> Starlette:
    """The three pages. Ready means that every part says so; alive that the event loop answers (and `alive` agrees)."""

    async def livez(_: Request) -> Response:
        healthy = alive is None or alive()
        return PlainTextResponse("ok\n" if healthy else "not alive\n", status_code=200 if healthy else 503)

    async def readyz(_: Request) -> Response:
        parts = {name: answer() for name, answer in readiness.items()}
        ready = all(parts.values())
        return JSONResponse({"ready": ready, "parts": parts}, status_code=200 if ready else 503)

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return Starlette(routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)])


class HealthServer:
    """Serves `application` from the running event loop until `stop`."""

    def __init__(self, address: tuple[str, int], app: Starlette) -> None:
        self._address = address
        self._server = _Server(
            uvicorn.Config(
                app, log_config=None, access_log=False, lifespan="off", server_header=False,
                limit_concurrency=64, timeout_keep_alive=5, timeout_graceful_shutdown=1,
            )
        )  # fmt: skip
        self._task: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen; `port` is the one taken, which is logged (of use when 0 was asked for)."""
        listener = _listen(self._address)
        self.port = listener.getsockname()[1]
        if self._address[0] in LOOPBACK:
            logger.info(telemetry.Event.HEALTH_SERVED, extra={"port": self.port})
        else:
            logger.warning(
                telemetry.Event.HEALTH_SERVED,
                extra={telemetry.Field.REASON: "served beyond this machine, without a login", "port": self.port},
            )
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="health server")

    async def stop(self) -> None:
        """Close the listener and every connection; safe to call when it never started."""
        if self._task is None:
            return
        self._server.should_exit = True
        done, _ = await asyncio.wait([self._task], timeout=STOP_SECONDS)
        if not done:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._task = None


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # SIGTERM belongs to the worker, which stops this server last


def _listen(address: tuple[str, int]) -> socket.socket:
    host, port = address
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigurationError(f"SAGA_WORKER_HTTP_BIND: cannot listen on {host}:{port}: {error.strerror}.") from error
