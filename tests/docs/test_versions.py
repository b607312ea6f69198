"""docs/versions.md is one file: it runs, its tests pass, a worker loads it, mypy and pyright accept it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

from saga_worker.loading import load
from saga_worker.saga.messages import decode
from saga_worker.saga.upcast import UPCASTERS
from tests.docs.blocks import ROOT, blocks

PAGE: Final = ROOT / "docs" / "versions.md"
TEXT: Final = "\n\n".join(block.text for block in blocks(PAGE, "python"))


@pytest.fixture(scope="module")
def page() -> ModuleType:
    module = ModuleType("versions_page")
    sys.modules["versions_page"] = module
    exec(compile(TEXT, str(PAGE), "exec", dont_inherit=True), vars(module))
    return module


def test_the_page_runs_and_its_tests_pass(page: ModuleType) -> None:
    """features: 80"""
    tests = [value for name, value in vars(page).items() if name.startswith("test_")]

    assert len(tests) == 2
    for test in tests:
        test()


def test_the_upcaster_of_the_page_reads_what_was_stored(page: ModuleType) -> None:
    """features: 165"""
    assert page.Seat in UPCASTERS
    assert decode(b'{"name": "T7"}', page.Seat, "seat") == decode(b'{"table": 7}', page.Seat, "seat")


def test_a_worker_loads_both_versions(tmp_path: Path) -> None:
    (tmp_path / "table.py").write_text(TEXT)

    assert load(tmp_path / "table.py").listed() == ("table/1", "table/2", "table/1>2")


@pytest.mark.slow
def test_the_checkers_accept_the_page(tmp_path: Path) -> None:
    (tmp_path / "table.py").write_text(TEXT)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    cache = ROOT / ".mypy_cache" / "readme"
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}", "table.py"]
    pyright = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    by_mypy = subprocess.run(mypy, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    by_pyright = subprocess.run(pyright, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)

    assert (by_mypy.returncode, by_mypy.stderr) == (0, ""), by_mypy.stdout
    assert json.loads(by_pyright.stdout)["generalDiagnostics"] == []
