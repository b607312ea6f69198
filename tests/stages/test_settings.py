from __future__ import annotations

from pathlib import Path

import pytest

from saga_worker.saga.errors import ConfigurationError
from saga_worker.settings import Settings, describe_url, passwords, unknown_variables

CANARY = "cAnArY-paSs"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [n for n in os.environ if n.startswith("SAGA_WORKER_") and not n.startswith("SAGA_WORKER_TEST_")]:
        monkeypatch.delenv(name)


def test_the_environment_sets_and_keywords_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGA_WORKER_SCHEMA", "orders")
    monkeypatch.setenv("SAGA_WORKER_BATCH_SIZE", "50")

    settings = Settings(batch_size=20)

    assert (settings.schema_, settings.batch_size, settings.lease_seconds) == ("orders", 20, 15)


def test_the_schema_can_be_given_by_keyword() -> None:
    assert Settings(schema_="orders").schema_ == "orders"


def test_a_secret_file_gives_a_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "saga_worker_database_url").write_text(f"postgresql://u:{CANARY}@db/orders")
    monkeypatch.setenv("SAGA_WORKER_SECRETS_DIR", str(tmp_path))

    assert Settings().database_url.get_secret_value() == f"postgresql://u:{CANARY}@db/orders"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_every_spelling_of_a_database_scheme_becomes_one(scheme: str) -> None:
    assert Settings(database_url=f"{scheme}://db/x").database_url.get_secret_value() == "postgresql://db/x"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE_URL", f"mysql://user:{CANARY}@db/orders"),
        ("DATABASE_URL", f"user:{CANARY}@db/orders"),
        ("DATABASE_URL", f"postgresql://user:{CANARY}@db:port/orders"),
        ("DATABASE_URL", f"postgresql://user:{CANARY}@db:0/orders"),
        ("DATABASE_URL", f"postgresql://user:{CANARY}@[::1/orders"),
        ("DATABASE_URL", f"postgresql://user:{CANARY}@/orders"),
        ("AMQP_URL", f"http://user:{CANARY}@mq/"),
        ("AMQP_URL", f"amqp://user:{CANARY}@mq:99999/"),
        ("SCHEMA", 'x"; drop table saga'),
        ("SCHEMA", "pg_catalog"),
        ("NAMESPACE", "a b"),
        ("NAMESPACE", "amq.x"),
        ("DEFINITIONS", ""),
        ("DEFINITIONS", "  "),
        ("LEASE_SECONDS", "inf"),
        ("LEASE_SECONDS", "1e9"),
        ("POLL_SECONDS", "nan"),
        ("POLL_SECONDS", "1e9"),
        ("GRACE_SECONDS", "inf"),
        ("PARKING_SECONDS", "inf"),
        ("MAX_ATTEMPTS", "40000"),
        ("POOL_SIZE", "-3"),
        ("BATCH_SIZE", "many"),
        ("LEASE_SECONDS", "0"),
        ("HTTP_BIND", "localhost"),
        ("LOG_FORMAT", "xml"),
        ("PGBOUNCER", "perhaps"),
    ],
)
def test_a_wrong_value_names_its_variable_and_shows_no_secret(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(f"SAGA_WORKER_{variable}", value)

    with pytest.raises(ConfigurationError) as caught:
        Settings()

    assert f"SAGA_WORKER_{variable}" in str(caught.value)
    assert CANARY not in str(caught.value)
    assert caught.value.__context__ is None  # no ValidationError hangs on it, with its input


@pytest.mark.parametrize("variable", ["DATABASE_URL", "AMQP_URL"])
@pytest.mark.parametrize("password", ["{}#b", "{}/b", "{}?b", "12#{}", "12/{}", "12?{}", "{}?a=b"])
def test_a_password_that_has_to_be_encoded_is_told_how(
    monkeypatch: pytest.MonkeyPatch, variable: str, password: str
) -> None:
    scheme = "postgresql" if variable == "DATABASE_URL" else "amqp"
    monkeypatch.setenv(f"SAGA_WORKER_{variable}", f"{scheme}://u:{password.format(CANARY)}@host/x")

    with pytest.raises(ConfigurationError, match="percent-encode") as caught:
        Settings()

    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql://db/x?user=a@b", "postgresql://u:a%23b%2F@db/x", "postgresql://u@db/a@b"])
def test_an_at_sign_elsewhere_is_no_password(url: str) -> None:
    assert Settings(database_url=url).database_url.get_secret_value() == url


def test_no_sentence_ends_twice() -> None:
    with pytest.raises(ConfigurationError, match=r"not start with 'amq\.'\.$"):
        Settings(namespace="amq.x")


def test_several_hosts_are_a_url() -> None:
    settings = Settings(database_url=f"postgresql://u:{CANARY}@a:5432,b:5433/orders?target_session_attrs=read-write")

    assert settings.describe()["database_url"] == "u@a:5432,b:5433/orders"


def test_what_may_be_shown_has_user_host_and_database_only() -> None:
    settings = Settings(
        database_url=f"postgresql://u:{CANARY}@db:5433/orders?password={CANARY}2", amqp_url=f"amqp://m:{CANARY}@mq/v"
    )

    shown = settings.describe()

    assert shown["database_url"] == "u@db:5433/orders"
    assert shown["amqp_url"] == "m@mq/v"
    assert CANARY not in str(shown) + repr(settings) + str(settings)
    assert set(settings.secrets()) == {CANARY, CANARY + "2"}


def test_passwords_are_found_as_written_and_decoded() -> None:
    assert passwords("postgresql://u:p%40ss@db/x") == {"p%40ss", "p@ss"}
    assert passwords("amqp://guest:guest@mq/") == set()
    assert describe_url("") == "not set"


def test_a_url_that_a_command_needs_is_asked_for_by_name() -> None:
    with pytest.raises(ConfigurationError, match="SAGA_WORKER_AMQP_URL is not set"):
        Settings(database_url="postgresql://db/x").require("database_url", "amqp_url")


def test_variables_that_nothing_reads_are_named() -> None:
    environ = {
        "SAGA_WORKER_DATABSE_URL": f"postgresql://u:{CANARY}@db/x",
        "SAGA_WORKER_FAULT": "x",
        "SAGA_WORKER_TEST_DATABASE_URL": "y",
        "SAGA_WORKER_SCHEMA": "z",
        "HOME": "/",
    }

    (sentence,) = unknown_variables(environ)

    assert "SAGA_WORKER_DATABSE_URL" in sentence
    assert "did you mean SAGA_WORKER_DATABASE_URL" in sentence
    assert CANARY not in sentence


@pytest.mark.parametrize(
    ("value", "address"),
    [("9464", ("127.0.0.1", 9464)), ("0.0.0.0:80", ("0.0.0.0", 80)), ("[::1]:9464", ("::1", 9464)), ("", None)],
)
def test_the_health_server_is_on_loopback_unless_told(value: str, address: tuple[str, int] | None) -> None:
    assert Settings(http_bind=value).http_address == address
