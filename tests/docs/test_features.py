"""docs/features.md and the labels of the tests fit each other, and what `./dev features` says of them is true."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.features import (
    DEFECTS,
    PAGE,
    ROOT,
    SERVERLESS,
    NotUnderstood,
    main,
    problems,
    read_defects,
    read_labels,
    read_page,
    summary,
)
from tests.mutants import mutants

LISTED: Final = read_page(PAGE.read_text(encoding="utf-8"))
SPANS: Final = {
    "A": [*range(1, 20), 22],
    "B": range(25, 54),
    "C": [*range(54, 65), *range(66, 74), 79, 80],
    "D": range(81, 97),
    "G": [*range(115, 119), *range(120, 124)],
    "H": range(132, 135),
    "I": [140, 143, 145, 146],
    "K": [*range(161, 168), 170],
}
BEYOND: Final = [*range(1, 10), 16, 17, 19, 22, 28, 29, 30]
SMALL: Final = """\
## A. Some

| row | feature | our form | state |
|---|---|---|---|
| 1 | First | `one` | done |
| L2 | Second | | open |

## Rows without an answer here

* 3, 5–6: why
"""


def test_every_row_stands_on_the_page_once_in_its_section() -> None:
    wanted = {(section, str(number)) for section, numbers in SPANS.items() for number in numbers}
    wanted |= {("L", f"L{number}") for number in BEYOND}

    assert {(row.section[0], row.row) for row in LISTED.rows.values()} == wanted  # none stands there twice: read_page
    assert len(LISTED.rows) + len(LISTED.elsewhere) == 170 + 31


def test_a_row_says_what_it_is_and_what_is_missing_of_it() -> None:
    assert [row.row for row in LISTED.rows.values() if not row.feature or not (row.form or row.state == "open")] == []


def test_no_test_names_a_row_that_the_page_does_not_have_and_what_is_done_has_a_test() -> None:
    labels = read_labels()

    defects = read_defects(DEFECTS.read_text(encoding="utf-8"))
    assert labels.keys() - LISTED.rows.keys() - LISTED.elsewhere - defects.keys() == set()
    assert len(defects) == 37
    assert [name for name in defects if not labels.get(name)] == []
    assert [row.row for row in LISTED.rows.values() if row.state == "done" and not labels.get(row.row)] == []


def test_what_needs_no_server_exists() -> None:
    assert [place for place in SERVERLESS if not (ROOT / place).exists()] == []


def test_a_page_is_read_as_it_is_written() -> None:
    page = read_page(SMALL)

    assert [(row.row, row.section, row.form, row.state) for row in page.rows.values()] == [
        ("1", "A. Some", "`one`", "done"), ("L2", "A. Some", "", "open"),
    ]  # fmt: skip
    assert page.elsewhere == {"3", "5", "6"}


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("| L2 |", "| 1 |", "row 1 stands on the page twice"),
        ("| done |", "| doen |", "line 5: write"),
        ("| done |", "| partly |", "row 1 is partly there; say what is missing"),
        ("`one`", "`one|two`", "line 5: write"),
        ("5–6", "1–6", "stand on the page twice: 1"),
        ("5–6", "five", "'five' is neither a row nor a span of rows"),
    ],
)
def test_a_page_that_is_nearly_right_is_refused(right: str, wrong: str, problem: str) -> None:
    with pytest.raises(NotUnderstood, match=problem.replace("|", r"\|")):
        read_page(SMALL.replace(right, wrong, 1))


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A tree with tests of every form of label."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_some.py").write_text(
        'def test_one():\n    """features: 1, L2; 9"""\n\n'
        'async def test_two():\n    """It is so.\n\n    features: L2\n    """\n\n'
        'def helps():\n    """features: 77"""\n\n'
        "class TestMore:\n    def test_three(self):\n        '''features: 3'''\n"
    )
    (tmp_path / "tests" / "test_whole.py").write_text(
        '"""All of it.\n\nfeatures: 1\n"""\n'
        'def test_four():\n    """features: 1, 3"""\n\nraise RuntimeError("imported")\n'
    )
    return tmp_path


def test_labels_are_found_without_an_import_and_told_from_other_text(labelled: Path) -> None:
    some, whole = "tests/test_some.py", "tests/test_whole.py"

    assert read_labels(labelled) == {
        "1": [f"{some}::test_one", whole],
        "L2": [f"{some}::test_one", f"{some}::test_two"],
        "9": [f"{some}::test_one"],
        "3": [f"{some}::TestMore::test_three", f"{whole}::test_four"],
    }


@pytest.mark.parametrize("label", ["72 81", "", "L", "M", "N3", "72, ", "07"])
def test_a_label_that_is_nearly_right_is_refused_with_its_place(tmp_path: Path, label: str) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(f'def test_it():\n    """\n    features: {label}\n    """\n')

    with pytest.raises(NotUnderstood, match=r"^tests/test_it.py::test_it: .* is no row"):
        read_labels(tmp_path)


def test_a_defect_without_a_test_is_a_problem(labelled: Path) -> None:
    defects = read_defects("| M1 | it is lost | it is not |\n| M2 | it is late | it is not |\n")
    page = replace(read_page(SMALL), defects=defects)
    labels = {"1": ["a"], "L2": ["a"], "M2": ["a"]}

    assert problems(page, labels) == ["defect M1 has no test: it is lost"]
    with pytest.raises(NotUnderstood, match=r"line 1: write \| M1 \| defect"):
        read_defects("| M2 | it is lost | it is not |\n")


def test_a_row_without_a_test_and_a_row_that_is_not_there_are_problems(labelled: Path) -> None:
    page, labels = read_page(SMALL), read_labels(labelled)
    only_first = {row: tests for row, tests in labels.items() if row == "1"}

    assert problems(page, labels) == ["tests/test_some.py::test_one names row 9, which is not on the page"]
    assert problems(page, only_first) == ["row L2 is open and has no test"]
    assert summary(page, only_first) == {
        "rows": 2, "done": 1, "partly": 0, "open": 1, "with a test": 1, "without a test": 1, "done without a test": 0,
        "defects": 0, "defects without a test": 0,
    }  # fmt: skip


def test_the_document_has_every_row_with_its_tests(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--json"])
    document = json.loads(capsys.readouterr().out)

    assert code == (1 if document["problems"] else 0)
    assert [row["row"] for row in document["rows"]] == list(LISTED.rows)
    assert document["summary"]["without a test"] == sum(1 for row in document["rows"] if not row["tests"])


def test_a_line_is_broken_in_every_way_that_runs_with_it() -> None:
    source = '''\
def f(x: int = 1, *, y: bool = False) -> "int":
    """1"""
    grün = f"{x > 1}" if y else "é"
    if x and not y:
        y.done = x == 2
    while y:
        g(x)
    return grün
'''
    found = mutants("m.py", source.encode(), set(range(1, 9)))

    broken = [source.encode()[: m.start] + m.after.encode() + source.encode()[m.end :] for m in found]
    assert [(m.line, m.before, m.after) for m in found] == [
        (3, "y", "(not (y))"), (4, "x and (not y)", "(x or not y)"), (4, "not y", "(y)"),
        (5, "y.done = x == 2", "pass"), (5, "x == 2", "(x != 2)"), (5, "2", "3"),
        (6, "y", "(not (y))"), (7, "g(x)", "pass"), (8, "grün", "None"),
    ]  # fmt: skip
    for text in broken:
        compile(text, "m.py", "exec")
    assert mutants("m.py", source.encode(), {7}) == [found[-2]]
