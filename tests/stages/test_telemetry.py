"""Logging and metrics: one line per event whatever an id holds, no secret, no unbounded label."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from saga_worker.sweepers.sweeper import Sweeper
from saga_worker.telemetry import REGISTRY, Event, Field, configure_logging, escape_controls, redactor

CANARY = "cAnArY-paSs"
HOSTILE = "a\nlevel=error forged\x1b[2J\u202e\u2028\ud800"
Configure = Callable[[str], io.StringIO]
Eventually = Callable[..., Awaitable[Any]]


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Sets logging up into a buffer, and puts back what was there."""
    root = logging.getLogger()
    package = logging.getLogger("saga_worker")
    before = (root.handlers[:], root.level, package.level)

    def configure_(format_: str) -> io.StringIO:
        stream = io.StringIO()
        configure_logging("info", format_, secrets=[CANARY], stream=stream)
        return stream

    yield configure_
    root.handlers[:], root.level, package.level = before


@pytest.mark.parametrize("format_", ["json", "console"])
def test_a_hostile_id_stays_one_line_without_controls(configure: Configure, format_: str) -> None:
    stream = configure(format_)

    logging.getLogger("saga_worker.x").info(Event.ROW_DEAD, extra={Field.MESSAGE_ID: HOSTILE, Field.SOURCE: [HOSTILE]})

    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.isascii() and text[:-1].isprintable()
    assert "forged" in text


@pytest.mark.parametrize("format_", ["json", "console"])
def test_no_secret_is_logged_not_even_by_a_traceback(configure: Configure, format_: str) -> None:
    stream = configure(format_)

    try:
        raise ValueError(f"cannot connect to amqp://u:{CANARY}@mq/")
    except ValueError:
        logging.getLogger("saga_worker.x").exception(f"failed {CANARY}", extra={"url": CANARY, CANARY: 1})

    text = stream.getvalue()
    assert "ValueError: cannot connect" in text
    assert CANARY not in text


def test_a_json_line_has_event_level_time_and_fields(configure: Configure) -> None:
    stream = configure("json")

    logging.getLogger("saga_worker.x").warning(Event.BROKER_LOST, extra={Field.SECONDS: 0.5, Field.STAGE: "relay"})

    line = json.loads(stream.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "broker_lost", "level": "warning", "logger": "saga_worker.x", "seconds": 0.5, "stage": "relay",
    }  # fmt: skip


@pytest.mark.parametrize("format_", ["json", "console"])
def test_several_names_are_words_with_commas(configure: Configure, format_: str) -> None:
    stream = configure(format_)

    logging.getLogger("saga_worker.x").info("x", extra={"roles": ["advance", "relay"]})

    assert "advance, relay" in stream.getvalue()
    assert "['" not in stream.getvalue()


def test_a_long_text_is_cut(configure: Configure) -> None:
    stream = configure("json")

    logging.getLogger("saga_worker.x").info("x", extra={"message_id": "y" * 1_000_000})

    assert len(stream.getvalue()) < 3_000


def test_other_libraries_are_heard_only_when_it_matters(configure: Configure) -> None:
    stream = configure("json")

    logging.getLogger("some.library").info("chatter")
    logging.getLogger("saga_worker.x").debug("detail")
    logging.getLogger("some.library").warning("trouble")

    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["trouble"]


def test_printable_text_is_left_alone() -> None:
    assert escape_controls("Grüße, 東京, naïve – 'x' \\n") == "Grüße, 東京, naïve – 'x' \\n"


def test_the_longest_secret_is_taken_first() -> None:
    assert redactor(["pass", "password"])("password pass") == "*** ***"


def test_no_metric_is_labelled_by_what_messages_say() -> None:
    closed = {
        "consumer",
        "state",
        "reason",
        "path",
        "error",
        "definition",
        "kind",
        "status",
        "outcome",
        "name",
        "stage",
        "step",
    }

    labels = {label for collector in REGISTRY._collector_to_names for label in getattr(collector, "_labelnames", ())}

    assert labels <= closed


class Broken(Sweeper):
    async def sweep(self) -> bool:
        raise OSError("no route to host")


async def test_a_pass_that_fails_is_logged_with_its_stage_and_counted(
    caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    def failures() -> float:
        return REGISTRY.get_sample_value("saga_worker_stage_failures_total", {"stage": "Broken"}) or 0.0

    before = failures()
    sweeper = Broken(interval_seconds=60)
    sweeper.start()
    await eventually(lambda: failures() == before + 1)
    await sweeper.stop()

    (line,) = [record for record in caplog.records if record.getMessage() == Event.STAGE_FAILED]
    assert (line.stage, line.levelname) == ("Broken", "WARNING")  # type: ignore[attr-defined]
