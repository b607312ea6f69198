"""docs/language.md is one file: it runs, its tests pass, its claims about messages hold, mypy and pyright accept it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

import saga_worker
from saga_worker.loading import load
from saga_worker.saga.errors import PoisonMessage
from saga_worker.saga.messages import decode
from saga_worker.testing import SagaTest
from tests.docs.blocks import ROOT, blocks

PAGE: Final = ROOT / "docs" / "language.md"
TEXT: Final = "\n\n".join(block.text for block in blocks(PAGE, "python"))
INSIDE: Final = ("KeyKind", "Step")  # defaults and annotations that the page need not import


@pytest.fixture(scope="module")
def page() -> ModuleType:
    module = ModuleType("page")
    sys.modules["page"] = module
    exec(compile(TEXT, str(PAGE), "exec", dont_inherit=True), vars(module))
    return module


def test_the_page_runs_and_its_tests_pass(page: ModuleType) -> None:
    tests = [value for name, value in vars(page).items() if name.startswith("test_")]

    assert len(tests) >= 2
    for test in tests:
        test()


def test_the_page_can_be_loaded_by_a_worker(tmp_path: Path) -> None:
    """But for the saga that is wrong on purpose."""
    wrong = next(block.text for block in blocks(PAGE, "python") if 'Saga("lonely"' in block.text)
    (tmp_path / "trip.py").write_text(TEXT.replace(wrong, ""))

    names = ("ask", "buy", "guest", "party", "points", "tour", "trip")
    assert load(tmp_path / "trip.py").versions() == (*((name, 1) for name in names), ("trip", 2))


def test_every_name_for_authors_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")

    assert [name for name in saga_worker.__all__ if name not in text and name not in INSIDE] == []


@pytest.mark.parametrize(
    ("body", "is_taken"),
    [
        ({"trip": "t", "nights": 3}, True),
        ({"trip": "t", "nights": "3", "insured": "yes"}, True),
        ({"trip": "t", "nights": 3, "insured": 1}, True),
        ({"trip": "t", "nights": 2.5}, False),
        ({"trip": 4711, "nights": 3}, False),
        ({"trip": "t", "nights": 3, "extra": 1}, False),
    ],
)
def test_fields_are_coerced_and_refused_as_the_page_says(page: ModuleType, body: Any, is_taken: bool) -> None:
    def read() -> None:
        decode(json.dumps(body).encode(), page.TripBooked, "trip_booked")

    if is_taken:
        read()
    else:
        with pytest.raises(PoisonMessage):
            read()


def test_types_and_extra_fields_are_as_the_page_says(page: ModuleType) -> None:
    approved = decode(b'{"trip": "t", "approver": "ann"}', page.Approved, "trip_approved_v2")
    decode(b'{"trip": "t", "by": "ann", "more": 1}', page.TripCancelled, "shop.trip-cancelled")

    assert approved.wire_type == "trip_approved_v2"
    assert page.Approved(trip="t", approver="ann").wire_type == "trip_approved"
    assert page.TripCancelled(trip="t", by="ann").wire_type == "shop.trip-cancelled"
    assert page.TripBooked(trip="t", nights=1).wire_type == "trip_booked"


def test_an_early_approval_waits_and_a_strict_unknown_is_unsettled(page: ModuleType) -> None:
    early = SagaTest(page.trip).given(page.TripBooked(trip="t", nights=20))
    early.event(page.Approved(trip="t", approver="ann")).expect_outcome("parked: not_expected_yet")
    early.expect(page.HoldRoom).reply(page.RoomHeld(booking="b")).expect(page.IssueTicket)

    strict = SagaTest(page.trip).given(page.TripBooked(trip="t", nights=2, insured=True))
    strict.expect(page.HoldRoom).reply(page.RoomHeld(booking="b")).expect(page.Insure).advance(saga_worker.seconds(31))
    strict.expect(page.FreeRoom).expect_nothing()
    assert strict.unsettled == 1


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.slow
def test_mypy_accepts_the_page(tmp_path: Path) -> None:
    (tmp_path / "trip.py").write_text(TEXT)
    cache = ROOT / ".mypy_cache" / "readme"
    done = run(
        sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}", "trip.py", cwd=tmp_path
    )

    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.slow
def test_pyright_accepts_the_page(tmp_path: Path) -> None:
    (tmp_path / "trip.py").write_text(TEXT)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    done = run(sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, cwd=tmp_path)

    assert json.loads(done.stdout)["generalDiagnostics"] == []
