"""Each fault test runs on a database and a namespace of its own; with the options below, once in each mode.

`pytest tests/faults --path fast,general --amqp lean,public --batch 1,7,200` runs them in all twelve. A test that is
parametrized by the path itself runs once for each: its own.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from saga_worker.testing.namespaces import Namespace
from tests.faults.campaign import Place
from tests.faults.modes import AMQP_PATHS, PATHS, Mode

MODE: Final = re.compile(rf"({'|'.join(PATHS)})-({'|'.join(AMQP_PATHS)})-\d+")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults", "fault tests in several modes (each option takes a list with commas)")
    group.addoption("--path", dest="fault_paths", help=f"of a delivery: {', '.join(PATHS)}")
    group.addoption("--amqp", dest="fault_amqp_paths", help=f"of AMQP frames: {', '.join(AMQP_PATHS)}")
    group.addoption("--batch", dest="fault_batches", help="deliveries and sagas in a transaction, at most: 1 to 200")


def pytest_configure(config: pytest.Config) -> None:
    _modes(config)  # a slip in an option ends the run here


def _modes(config: pytest.Config) -> list[Mode]:
    """None of them: as the settings are by themselves."""
    # Without this directory on the command line pytest reads this file too late for the options.
    paths, amqp_paths, batches = (
        config.getoption(name, default=None) for name in ("fault_paths", "fault_amqp_paths", "fault_batches")
    )
    if not (paths or amqp_paths or batches):
        return []
    return [
        Mode(path, amqp, int(batch))
        for path, amqp, batch in itertools.product(
            _listed(paths, PATHS), _listed(amqp_paths, AMQP_PATHS), _listed(batches or "200")
        )
    ]


def _listed(given: str | None, known: Sequence[str] = ()) -> list[str]:
    chosen = given.split(",") if given else [known[0]]
    if known and (strange := set(chosen) - set(known)):
        raise pytest.UsageError(f"{', '.join(strange)} is none of {', '.join(known)}")
    return chosen


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    modes = _modes(metafunc.config)
    if modes and "mode" in metafunc.fixturenames:
        metafunc.parametrize("mode", modes, ids=str)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a test that has a path of its own would only repeat."""
    repeated = [item for item in items if isinstance(item, pytest.Function) and _is_on_another_path(item)]
    if repeated:
        config.hook.pytest_deselected(items=repeated)
        items[:] = [item for item in items if item not in repeated]


def _is_on_another_path(item: pytest.Function) -> bool:
    parameters: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    mode, own = parameters.get("mode"), parameters.get("path")
    return mode is not None and own is not None and mode.path != own


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """A line for each mode."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            if (mode := MODE.search(report.nodeid)) is not None:
                counts[mode.group()][outcome] += 1
    for mode_name, figures in counts.items():
        said = ", ".join(f"{number} {outcome}" for outcome, number in figures.items())
        terminalreporter.write_line(f"{mode_name:>20}: {said}")


@pytest.fixture
def mode() -> Mode | None:
    """None: as the settings are by themselves."""
    return None


@pytest.fixture
def place(database_url: str, amqp_url: str, namespace: Namespace, tmp_path: Path, mode: Mode | None) -> Place:
    return Place(database_url, amqp_url, namespace, tmp_path, mode.settings if mode is not None else {})
