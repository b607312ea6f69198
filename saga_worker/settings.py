"""The one settings model: environment variables `SAGA_WORKER_…` (and keyword arguments) in, checked values out.

Guarantees that a wrong value ends in a `ConfigurationError` that names the variable and never shows a secret.
Handed to every stage by the composition root; `describe` is the form that may be logged.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from saga_worker.saga.errors import ConfigurationError

PREFIX: Final = "SAGA_WORKER_"
DAY: Final = 86_400
# Read by other parts: fault points, the test plugin, and the directory of secret files below.
FOREIGN: Final = ("SAGA_WORKER_FAULT", "SAGA_WORKER_TEST_", "SAGA_WORKER_SECRETS_DIR")
_ENCODE: Final = (
    "percent-encode special characters in user and password ('#' is %23, '/' is %2F, '?' is %3F, '@' is %40)"
)
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")

Count = Annotated[int, Field(ge=1, le=32_767)]  # a smallint in the tables
Age = Annotated[float, Field(gt=0, le=3650 * DAY, allow_inf_nan=False)]


class Settings(BaseSettings):
    """What an operator can set. Keyword arguments win over the environment, the environment over secret files.

    An absent URL is an empty string until `require` asks for it: not every command needs both servers.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, populate_by_name=True, hide_input_in_errors=True, frozen=True, extra="forbid"
    )

    database_url: SecretStr = SecretStr("")
    amqp_url: SecretStr = SecretStr("")
    schema_: str = Field("saga_worker", validation_alias="SAGA_WORKER_SCHEMA")
    namespace: str = "saga"
    definitions: str = "definitions"  # a directory, a file or a dotted module
    batch_size: int = Field(200, ge=1, le=200)  # sagas in one transaction; the lock table is sized for 200
    prefetch: int = Field(1000, ge=1, le=65_535)
    partitions: int = Field(1, ge=1, le=256)  # of the inbox; the same for all workers and publishers of a namespace
    activity_concurrency: int = Field(200, ge=1, le=100_000)  # attempts of activities at a time in one process
    pool_size: int = Field(8, ge=2, le=200)
    lease_seconds: float = Field(15, ge=2, le=3600, allow_inf_nan=False)
    parking_seconds: Age = 14 * DAY
    dedup_window_seconds: Age = 14 * DAY
    poll_seconds: float = Field(1.0, gt=0, le=3600, allow_inf_nan=False)
    max_attempts: Count = 5
    max_crashes: Count = 3
    reply_grace_seconds: float = Field(5, ge=0, le=3600, allow_inf_nan=False)
    body_limit_bytes: int = Field(1_000_000, ge=1, le=100_000_000)
    http_bind: str | None = None  # "port" or "host:port" for /livez /readyz /metrics; None: not served
    grace_seconds: float = Field(30, ge=0, le=DAY, allow_inf_nan=False)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "console"
    pgbouncer: bool = False
    begin_traces: bool = False  # a saga whose start has no traceparent begins a trace, whose id is the saga's
    definition_changes: Literal["refuse", "warn"] = "refuse"  # that would break open sagas of the same version
    amqp_path: Literal["auto", "lean", "public"] = "auto"  # of the hot frames; auto: lean if its self-test passes
    fast_path: bool = True  # apply a delivery in the transaction that stores it, where its saga is free

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(_secrets_dir=_secrets_directory(), **values)
        except ValidationError as error:
            # `errors()` holds the input, password included; only its coordinates leave this block.
            sentence = " ".join(_sentence(detail) for detail in error.errors(include_url=False))
        else:
            return
        raise ConfigurationError(sentence)

    @field_validator("database_url")
    @classmethod
    def _database_url(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if not url:
            return value
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in ("postgresql", "postgres", "postgresql+asyncpg"):
            raise ValueError("must start with postgresql://")
        _check_hosts(url)
        return SecretStr("postgresql://" + rest)

    @field_validator("amqp_url")
    @classmethod
    def _amqp_url(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if url and not url.startswith(("amqp://", "amqps://")):
            raise ValueError("must start with amqp:// or amqps://")
        if url:
            _check_hosts(url)
        return value

    @field_validator("schema_")
    @classmethod
    def _schema(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,40}", value) or value.startswith("pg_"):
            raise ValueError("must be a lower-case SQL name of at most 41 characters that does not start with pg_")
        return value

    @field_validator("namespace")
    @classmethod
    def _namespace(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,59}", value) or value.startswith("amq."):
            raise ValueError("must be letters, digits, '_', '-' or '.', at most 60, and not start with 'amq.'")
        return value

    @field_validator("definitions")
    @classmethod
    def _definitions(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is empty; name a directory, a file or a dotted module, or do not set it")
        return value

    @field_validator("http_bind")
    @classmethod
    def _http_bind(cls, value: str | None) -> str | None:
        if not value:
            return None
        host, _, port = value.rpartition(":")
        if not port.isascii() or not port.isdigit() or int(port) > 65_535:
            raise ValueError("must be PORT or HOST:PORT")
        return f"{host or LOOPBACK[0]}:{int(port)}"

    @field_validator("log_level", "log_format", "amqp_path", "definition_changes", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @property
    def http_address(self) -> tuple[str, int] | None:
        """Host and port of the health server, or None when it is off."""
        if self.http_bind is None:
            return None
        host, _, port = self.http_bind.rpartition(":")
        return host.strip("[]"), int(port)

    def require(self, *names: Literal["database_url", "amqp_url"]) -> Settings:
        """Itself, when the named URLs are set; raises `ConfigurationError` that names the first that is not."""
        for name in names:
            if not getattr(self, name).get_secret_value():
                example = "postgresql://user@host/database" if name == "database_url" else "amqp://user@host/vhost"
                raise ConfigurationError(f"{_variable(name)} is not set; give it a URL such as {example}.")
        return self

    def describe(self) -> dict[str, object]:
        """Every setting in a form that may be shown: of a URL only user, host and database (or vhost)."""
        shown: dict[str, object] = {name.rstrip("_"): getattr(self, name) for name in type(self).model_fields}
        for name, url in (("database_url", self.database_url), ("amqp_url", self.amqp_url)):
            shown[name] = describe_url(url.get_secret_value())
        return shown

    def secrets(self) -> tuple[str, ...]:
        """What must never be printed: the passwords inside the URLs, as written and decoded."""
        urls = (self.database_url.get_secret_value(), self.amqp_url.get_secret_value())
        return tuple(sorted({secret for url in urls for secret in passwords(url)}, key=len, reverse=True))


def describe_url(url: str) -> str:
    """`user@host:port/name` of a URL: no scheme, password or query."""
    if not url:
        return "not set"
    user, _, hosts = _netloc(url).rpartition("@")
    user = unquote(user.partition(":")[0])
    name = url.partition("://")[2].partition("/")[2].partition("?")[0]
    return f"{user}@{hosts}/{name}" if user else f"{hosts}/{name}"


def passwords(url: str) -> set[str]:
    """The password of `url` in every spelling in which a driver could repeat it; empty when it is the user's name."""
    user, _, password = _netloc(url).rpartition("@")[0].partition(":")
    found = {password, unquote(password)}
    for field in url.partition("?")[2].split("&"):
        name, _, value = field.partition("=")
        if name in ("password", "sslpassword"):
            found |= {value, unquote(value)}
    return {secret for secret in found if secret and secret != unquote(user)}


def unknown_variables(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """One sentence for each `SAGA_WORKER_…` variable that nothing reads, most likely a slip of the pen."""
    environ = os.environ if environ is None else environ
    known = {_variable(name) for name in Settings.model_fields}
    strange = sorted(n for n in environ if n.startswith(PREFIX) and n not in known and not n.startswith(FOREIGN))
    return tuple(_stranger(name, known) for name in strange)


def _stranger(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.8)
    return f"{name} is not a setting and is not read{f'; did you mean {near[0]}?' if near else '.'}"


def _variable(name: str) -> str:
    return PREFIX + name.rstrip("_").upper()


def _netloc(url: str) -> str:
    # Not urlsplit: it refuses what it cannot read, and this also serves half-broken URLs.
    return re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]


def _check_hosts(url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"is not a URL; {_ENCODE}") from None
    behind = url.partition("://")[2].removeprefix(parts.netloc)
    if parts.fragment or ("@" not in parts.netloc and "@" in parts.path + parts.query.partition("=")[0]):
        raise ValueError(f"has a '/', '?' or '#' where user and password should be, or ends in a '#…'; {_ENCODE}")
    hosts = parts.netloc.rpartition("@")[2]
    if "@" in unquote(hosts) or not (hosts or "host=" in parts.query):
        raise ValueError("names no host")
    for host in hosts.split(","):
        port = host.rpartition("]")[2].rpartition(":")[2] if ":" in host.rpartition("]")[2] else ""
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
            hint = f"; {_ENCODE}" if "@" in behind else ""
            raise ValueError(f"has a port that is not a number from 1 to 65535{hint}")


def _sentence(detail: Any) -> str:
    location = str(detail["loc"][0]) if detail["loc"] else ""
    name = location if location.startswith(PREFIX) else _variable(location)
    if detail["type"] == "extra_forbidden":
        return f"{name} is not a setting."
    if detail["type"] == "value_error":
        return f"{name} {detail['ctx']['error']}."
    # pydantic's own texts for numbers, booleans and literals hold the rule, never the input.
    return f"{name}: {str(detail['msg']).rstrip('.')}."


def _secrets_directory() -> Path | None:
    directory = os.environ.get("SAGA_WORKER_SECRETS_DIR")
    if directory is None:
        return None
    if not Path(directory).is_dir():
        raise ConfigurationError("SAGA_WORKER_SECRETS_DIR is not a directory.")
    return Path(directory)
