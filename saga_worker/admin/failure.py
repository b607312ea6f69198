"""From an exception to one sentence and an exit code.

Guarantees that nothing that looks like a password of the configured URLs is printed, whatever a library put
into its message. Used by `cli.main` at its outermost boundary.
"""

from __future__ import annotations

import os
import re
import ssl
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import click

from saga_worker.saga.errors import ConfigurationError, DefinitionError, SagaWorkerError

FAILED: Final = 1
WRONG_USAGE: Final = 2


class Unavailable(SagaWorkerError):
    """A server cannot be reached or refuses the login; the sentence names server, host and what to look at."""


def report(error: Exception, *, debug: bool = False) -> int:
    """Print what went wrong on stderr; the exit code."""
    redact = _redactor(os.environ)
    if debug:
        click.echo(redact("".join(traceback.format_exception(error))), err=True)
    click.echo(f"Error: {redact(sentence(error))}", err=True)
    return WRONG_USAGE if isinstance(error, ConfigurationError | DefinitionError) else FAILED


def sentence(error: BaseException) -> str:
    """What to tell the operator, on one line and without control characters."""
    from saga_worker.telemetry import escape_controls

    if isinstance(error, BaseExceptionGroup):
        return sentence(error.exceptions[0])
    text = " ".join(str(error).split())
    if isinstance(error, SagaWorkerError):
        return escape_controls(text)
    known = _database_sentence(error)
    return escape_controls(known or f"{type(error).__name__}: {text}. --debug (before the command) shows where.")


@contextmanager
def reaching(server: str, where: str) -> Iterator[None]:
    """Errors of connecting inside the block become sentences; `where` is the shown form of the URL.

    A refused login and a missing database are `ConfigurationError` (exit code 2), the rest `Unavailable`.
    """
    try:
        yield
    except (SagaWorkerError, BrokenPipeError):
        raise  # a sentence already; or whoever read our output has gone: the drivers' own pipes come wrapped
    except Exception as error:
        causes = list(_chain(error))
        for cause in causes:
            if reason := _WRONG_SETTING.get(type(cause).__name__) or _unknown_option(cause):
                raise ConfigurationError(f"{server} at {where} {reason}.") from error
        if reason := next(filter(None, map(_unreachable, causes)), None):
            end = "" if reason.endswith("?") else "."
            raise Unavailable(f"{server} at {where} {reason}{end}") from error
        raise


# By name: the drivers are not imported for a sentence.
_WRONG_SETTING: Final = {
    "InvalidPasswordError": "refused the login; check user and password",
    "InvalidAuthorizationSpecificationError": "refused the login; check user, database and pg_hba.conf",
    "InvalidCatalogNameError": "has no such database; create it first",
    "ClientConfigurationError": "cannot be reached with this URL; check its options",
}


def _unknown_option(cause: BaseException) -> str | None:
    """What a driver does not know in a URL goes to PostgreSQL (or its pooler) as a parameter, which refuses it."""
    found = re.match(r"(?:unrecognized configuration|unsupported startup) parameter:? \"?([\w.]+)", str(cause))
    if found is None or type(cause).__name__ not in ("UndefinedObjectError", "ProtocolViolationError"):
        return None
    return f"does not know {found[1]}, an option in the query of this URL; remove it or correct its name"


def _unreachable(cause: BaseException) -> str | None:
    """The end of the sentence when `cause` says that a server cannot be used now; None for all others."""
    match type(cause).__name__:
        case "CannotConnectNowError" | "TooManyConnectionsError":
            return f"takes no connection now ({' '.join(str(cause).split())})"
        case "gaierror":
            return "has a host name that does not resolve"
        case "ConnectionDoesNotExistError":
            return "ended the connection"
    if isinstance(cause, TimeoutError):
        return "did not answer in time"
    if isinstance(cause, ConnectionRefusedError):
        return "refused the connection; is it running, and is the port right?"
    if isinstance(cause, ssl.SSLError):
        return "cannot be reached over TLS; check its certificate and the URL's ssl options"
    if isinstance(cause, OSError):
        return "cannot be reached"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            yield from _chain(current.exceptions[0])
        current = current.__cause__ or current.__context__


def _database_sentence(error: BaseException) -> str | None:
    asyncpg = sys.modules.get("asyncpg")
    if asyncpg is None:
        return None
    for cause in _chain(error):
        if isinstance(cause, asyncpg.UndefinedTableError | asyncpg.InvalidSchemaNameError):
            return "The database has no tables of saga_worker, or older ones; run `saga-worker db upgrade`."
        if isinstance(cause, asyncpg.InsufficientPrivilegeError):
            return f"PostgreSQL refused: {cause.args[0]}."
        if isinstance(cause, asyncpg.PostgresError):
            return f"PostgreSQL answered {getattr(cause, 'sqlstate', None)} ({type(cause).__name__}): {cause.args[0]}."
    return None


def _redactor(environ: Mapping[str, str]) -> Callable[[str], str]:
    # From the raw environment: the failure may be that the settings could not be read.
    from saga_worker.settings import passwords
    from saga_worker.telemetry import redactor

    urls = [value for name, value in environ.items() if name.startswith("SAGA_WORKER_") and "://" in value]
    return redactor(secret for url in urls for secret in passwords(url))
