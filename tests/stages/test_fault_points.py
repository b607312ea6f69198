"""Fault points: inert unless armed, and then exactly at the passing that was named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import saga_worker
from saga_worker.faults import POINTS, InjectedFault, arm, fault_point
from saga_worker.saga.errors import ConfigurationError


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    arm(None)


def test_a_point_that_is_not_armed_does_nothing() -> None:
    arm("relay.confirmed=raise")

    for name in POINTS.keys() - {"relay.confirmed"}:
        fault_point(name)


def test_an_armed_point_raises_once_at_the_passing_that_was_named() -> None:
    arm("relay.confirmed:3=raise")
    fault_point("relay.confirmed")
    fault_point("relay.confirmed")

    with pytest.raises(InjectedFault, match=r"relay\.confirmed"):
        fault_point("relay.confirmed")
    fault_point("relay.confirmed")


def test_a_sleep_takes_its_seconds() -> None:
    arm("relay.confirmed=sleep:0.01")
    fault_point("relay.confirmed")
    arm("relay.confirmed=sleep")


@pytest.mark.parametrize(
    "text", ["", "nowhere=kill", "relay.confirmed", "relay.confirmed:0=kill", "relay.confirmed=stop"]
)
def test_a_wrong_setting_is_a_configuration_error_that_names_the_points(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"relay\.confirmed"):
        arm(text)


def test_the_points_of_the_registry_are_those_in_the_code() -> None:
    sources = Path(saga_worker.__file__).parent.rglob("*.py")
    passed = {name for path in sources for name in re.findall(r'fault_point\("([a-z_.]+)"\)', path.read_text())}

    assert passed == set(POINTS)
