"""Which feature is shown by which test, and whether those tests notice when the product breaks.

    python -m tests.features                         row → state → tests, one line each; --json: one document
    python -m tests.features --mutate 20 --seed 1    breaks one line for each of 20 rows, in a copy of the tree

Reads docs/features.md, the defects of docs/defects.md, and the lines `features: 72, 81; L3, M7` in docstrings of tests
(of a module: all its tests), without importing any test. Exits with 1 if a row or a defect has no test, a test names a
row that no page has, or no test of a row noticed what was broken for it; with 2 if pages, labels or options cannot be
understood, or tests fail before anything is broken.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.mutants import NotGreen, Workshop

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "features.md"
DEFECTS: Final = ROOT / "docs" / "defects.md"
STATES: Final = ("done", "partly", "open")
ELSEWHERE: Final = "## Rows without an answer here"
# Tests that need neither PostgreSQL nor RabbitMQ: files, or folders.
SERVERLESS: Final = (
    "tests/saga/",
    "tests/docs/test_language.py",
    "tests/stages/test_activity_slots.py",
    "tests/stages/test_backoff.py",
    "tests/stages/test_envelope.py",
    "tests/stages/test_graph.py",
    "tests/stages/test_loading.py",
    "tests/stages/test_saga_report.py",
)
_NAME: Final = re.compile(r"L?[1-9]\d*")
_DEFECT: Final = re.compile(r"M[1-9]\d*")
_LABEL: Final = re.compile(r"^[ \t]*features:(.*)$", re.MULTILINE)


class NotUnderstood(Exception):
    """The page or a label is not written as this script reads it; the text says where and what."""


@dataclass(frozen=True, slots=True)
class Row:
    """One feature of the page; `missing` is what its state says after `partly:` or `open:`."""

    row: str
    section: str
    feature: str
    form: str
    state: str
    missing: str


@dataclass(frozen=True, slots=True)
class Page:
    """The rows that want tests, by name and in the order of the page, and the names of those that want none.

    `defects`: what must not come back, by name; each wants a test, too.
    """

    rows: Mapping[str, Row]
    elsewhere: frozenset[str]
    defects: Mapping[str, str] = field(default_factory=dict)


def read_page(text: str) -> Page:
    """The page as data; raises `NotUnderstood` for a line that is nearly a row, and for a row that stands twice."""
    listed, _, elsewhere = text.partition(ELSEWHERE)
    rows: dict[str, Row] = {}
    section = ""
    for number, line in enumerate(listed.splitlines(), 1):
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif re.match(r"\| *L?\d", line):
            row = _row(line, section, number)
            if row.row in rows:
                raise NotUnderstood(f"line {number}: row {row.row} stands on the page twice")
            rows[row.row] = row
    names = [name for line in elsewhere.splitlines() if line.startswith("* ") for name in _span(line)]
    if twice := sorted(name for name, count in Counter([*rows, *names]).items() if count > 1):
        raise NotUnderstood(f"these rows stand on the page twice: {', '.join(twice)}")
    return Page(rows, frozenset(names))


def read_defects(text: str) -> dict[str, str]:
    """The defects of their page, by name: `| M1 | defect | our answer |`, numbered in their order."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not re.match(r"\| *M\d", line):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != 3 or not all(cells) or cells[0] != f"M{len(found) + 1}":
            raise NotUnderstood(f"line {number}: write | M{len(found) + 1} | defect | our answer |")
        found[cells[0]] = cells[1]
    return found


def _row(line: str, section: str, number: int) -> Row:
    cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
    state, _, missing = cells[-1].partition(":")
    if len(cells) != 4 or not _NAME.fullmatch(cells[0]) or state not in STATES:
        raise NotUnderstood(f"line {number}: write | row | feature | our form | {', '.join(STATES)}: … |")
    if (state == "partly") > bool(missing.strip()):
        raise NotUnderstood(f"line {number}: row {cells[0]} is partly there; say what is missing")
    return Row(cells[0], section, cells[1], cells[2], state, missing.strip())


def _span(line: str) -> Iterator[str]:
    """The names at the front of `* 20, 74–78, L10–L15: why`."""
    for part in line.removeprefix("* ").partition(":")[0].split(","):
        first, _, last = part.strip().partition("–")
        if not _NAME.fullmatch(first) or (last and not _NAME.fullmatch(last)):
            raise NotUnderstood(f"{part.strip()!r} is neither a row nor a span of rows: {line}")
        letter, start = ("L", first[1:]) if first.startswith("L") else ("", first)
        for number in range(int(start), int((last or first).removeprefix("L")) + 1):
            yield f"{letter}{number}"


def read_labels(root: Path = ROOT) -> dict[str, list[str]]:
    """Row → ids of the tests that name it, as pytest takes them: `tests/…/test_x.py::test_y`, or a whole file."""
    found: dict[str, list[str]] = {}
    for path in sorted((root / "tests").rglob("test_*.py")):
        name = path.relative_to(root).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"), name)
        whole = _labels(tree, name)
        for row in whole:
            found.setdefault(row, []).append(name)
        for id_, test in _tests(tree, name):
            for row in _labels(test, id_):
                if row not in whole:
                    found.setdefault(row, []).append(id_)
    return found


def _tests(node: ast.Module | ast.ClassDef, place: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in node.body:
        if isinstance(child, ast.ClassDef) and child.name.startswith("Test"):
            yield from _tests(child, f"{place}::{child.name}")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and child.name.startswith("test"):
            yield f"{place}::{child.name}", child


def _labels(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef, place: str) -> list[str]:
    """The rows that a docstring names, each once."""
    names = [
        name.strip() for label in _LABEL.findall(ast.get_docstring(node) or "") for name in re.split("[,;]", label)
    ]
    if wrong := [name for name in names if not (_NAME.fullmatch(name) or _DEFECT.fullmatch(name))]:
        raise NotUnderstood(f"{place}: {wrong[0]!r} is no row; write features: 72, 81; L3, M7")
    return list(dict.fromkeys(names))


def problems(page: Page, labels: Mapping[str, Sequence[str]]) -> list[str]:
    """What is wrong, one sentence each; nothing: every row has a test, and every test names rows of the page."""
    unknown = [
        f"{test} names row {row}, which is not on the page"
        for row, tests in labels.items()
        if row not in page.rows and row not in page.elsewhere and row not in page.defects
        for test in tests
    ]
    untested = [
        f"row {row.row} is {row.state} and has no test" for row in page.rows.values() if not labels.get(row.row)
    ]
    unguarded = [f"defect {name} has no test: {what}" for name, what in page.defects.items() if not labels.get(name)]
    return unknown + untested + unguarded


def summary(page: Page, labels: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """How many rows there are, by state and by whether a test names them."""
    states = Counter(row.state for row in page.rows.values())
    tested = sum(1 for row in page.rows if labels.get(row))
    return {
        "rows": len(page.rows),
        **{state: states[state] for state in STATES},
        "with a test": tested,
        "without a test": len(page.rows) - tested,
        "done without a test": sum(1 for row in page.rows.values() if row.state == "done" and not labels.get(row.row)),
        "defects": len(page.defects),
        "defects without a test": sum(1 for name in page.defects if not labels.get(name)),
    }


def report(page: Page, labels: Mapping[str, Sequence[str]], *, as_json: bool) -> int:
    """Print every row with its tests and what is wrong; the exit code."""
    wrong, counts = problems(page, labels), summary(page, labels)
    if as_json:
        rows = [asdict(row) | {"tests": list(labels.get(row.row, ()))} for row in page.rows.values()]
        defects = [{"defect": n, "what": what, "tests": list(labels.get(n, ()))} for n, what in page.defects.items()]
        _print_json({"rows": rows, "defects": defects, "summary": counts, "problems": wrong})
    else:
        for row in page.rows.values():
            print(f"{row.row:>4}  {row.state:<6}  {', '.join(labels.get(row.row, ())) or 'missing'}")
        for name in page.defects:
            print(f"{name:>4}  defect  {', '.join(labels.get(name, ())) or 'missing'}")
        print(", ".join(f"{count} {what}" for what, count in counts.items()))
        for problem in wrong:
            print(problem, file=sys.stderr)
    return 1 if wrong else 0


# -- mutation ---------------------------------------------------------------------------------------------------------


def serverless(tests: Sequence[str]) -> list[str]:
    """Those of the tests that need no server."""
    return [test for test in tests if test.startswith(SERVERLESS)]


def mutate(page: Page, labels: Mapping[str, Sequence[str]], count: int, seed: int, *, as_json: bool) -> int:
    """Break a line for each of `count` rows drawn by `seed`, print what became of it; the exit code."""
    tests = {row: found for row in page.rows if (found := serverless(labels.get(row, ())))}
    drawn = random.Random(seed).sample(list(tests), min(count, len(tests)))
    if len(drawn) < count:
        print(f"Only {len(drawn)} rows have tests that need no server.", file=sys.stderr)
    outcomes = []
    with Workshop(ROOT) as workshop:
        for row, trial in workshop.attempts({row: tests[row] for row in drawn}, seed):
            outcomes.append({"row": row, "result": "red" if trial.is_red else "survived", "tries": trial.tries})
            if not as_json:
                _print_trial(row, trial.tries)
    red = sum(1 for outcome in outcomes if outcome["result"] == "red")
    if as_json:
        _print_json({"seed": seed, "rows": outcomes, "summary": {"rows": len(outcomes), "red": red}})
    else:
        print(f"{len(outcomes)} rows, {red} noticed, {len(outcomes) - red} survived; seed {seed}")
    return 0 if red == len(outcomes) else 1


def _print_trial(row: str, tries: Sequence[Mapping[str, Any]]) -> None:
    for tried in tries:
        result = "red" if tried["red"] else "survived"
        print(f"{row:>4}  {result:<8}  {tried['place']}  {tried['before']}  →  {tried['after']}", flush=True)
    if not tries:
        print(f"{row:>4}  survived  its tests run no line of the product that could be broken", flush=True)


def _print_json(document: dict[str, Any]) -> None:
    print(json.dumps(document, ensure_ascii=False, indent=1))


# -- the command ------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="./dev features", description="Which feature is shown by which test.")
    parser.add_argument("--json", action="store_true", help="one document instead of lines")
    parser.add_argument("--mutate", type=_count, metavar="N", help="break a line for each of N rows, in a copy")
    parser.add_argument("--seed", type=int, default=1, help="which rows and lines are drawn (1)")
    options = parser.parse_args(arguments)
    try:
        page, labels = read_page(PAGE.read_text(encoding="utf-8")), read_labels()
        page = replace(page, defects=read_defects(DEFECTS.read_text(encoding="utf-8")))
        if options.mutate is None:
            return report(page, labels, as_json=options.json)
        return mutate(page, labels, options.mutate, options.seed, as_json=options.json)
    except (NotUnderstood, NotGreen) as error:
        print(error, file=sys.stderr)
        return 2


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("give a number above zero")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
