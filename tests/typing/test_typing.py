"""mypy and pyright accept what is right and find what is wrong, on exactly the lines that say so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import saga_worker
from saga_worker.loading import load

HERE = Path(__file__).parent
GOOD = ("good.py", "sagas.py", "forms.py", "good_activities.py", "starting.py")
BAD = ("bad.py", "bad2.py", "bad3.py", "bad_activities.py", "bad_starting.py")

# Whatever a definition is written in; a new form is added here, with a wrong use of it in one of BAD.
FORMS = (
    ".starts_on", ".on", ".command", ".reply", ".rejected", ".undo", ".activity", ".result", ".failed", ".step",
    ".local", ".subsaga", ".for_each", ".joined", ".wait", ".every", ".sleep", ".savepoint", ".emit", ".query",
    ".upgrade_from", "Saga", "activity", "parallel", "choice", "when", "repeat_until", "pivot", "Compensate",
    "Complete", "Rollback", "Retry", "WaitFor", "TerminalError", "register_terminal_errors", "set_error_mapper",
)  # fmt: skip

Lines = set[tuple[str, int]]


def marked_lines() -> Lines:
    return {
        (name, number)
        for name in BAD
        for number, line in enumerate((HERE / name).read_text().splitlines(), start=1)
        if "# error" in line
    }


def mypy_errors(cache: Path) -> Lines:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary", f"--cache-dir={cache}"]
    printed = subprocess.run([*command, *GOOD, *BAD], cwd=HERE, capture_output=True, text=True, check=False)
    assert not printed.stderr
    return {(name, int(line)) for name, line in re.findall(r"^(\S+?):(\d+): error:", printed.stdout, re.MULTILINE)}


def pyright_errors() -> Lines:
    # Named files would still be subject to the project's exclusions, so this directory is a project of its own.
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(HERE)]
    printed = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    report = json.loads(printed.stdout)
    found = [item for item in report["generalDiagnostics"] if item["severity"] == "error"]
    return {(Path(item["file"]).name, item["range"]["start"]["line"] + 1) for item in found}


@pytest.fixture(scope="module")
def cache() -> Path:
    return HERE.parents[1] / ".mypy_cache" / "typing"


def test_mypy_refuses_each_marked_line_and_no_other(cache: Path) -> None:
    """features: 14"""
    assert mypy_errors(cache) == marked_lines()


def test_pyright_refuses_each_marked_line_and_no_other() -> None:
    """features: 14"""
    assert pyright_errors() == marked_lines()


def test_what_the_checkers_accept_can_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))  # loading adds this directory

    assert load(HERE / "good.py").names() == ("booking", "guest", "leg")
    assert load(HERE / "sagas.py").names() == ("membership", "repair")
    assert load(HERE / "forms.py").names() == ("house",)


def test_every_name_for_authors_is_used_where_the_checkers_accept_it() -> None:
    text = "".join((HERE / name).read_text() for name in GOOD)

    assert [name for name in saga_worker.__all__ if not re.search(rf"\b{name}\b", text)] == []


def test_each_planted_error_is_named_and_each_form_has_one() -> None:
    text = "".join((HERE / name).read_text() for name in BAD)

    assert re.findall(r"# error(?!: \S)", text) == []
    assert [form for form in FORMS if not re.search(rf"{re.escape(form)}\(?.*# error", text)] == []
