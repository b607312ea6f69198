"""Lines of the product broken one at a time, in a copy of the tree, and the tests that should notice it.

Takes ids of tests; guarantees that nothing is written into the checkout, that only lines are broken which those tests
run (in the call of a test, not while it is imported or set up), and that the tests passed before. Hands back what was
broken, where, and whether a test failed.
"""

from __future__ import annotations

import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, TypeAlias

import pytest

CORE: Final = "saga_worker/saga/"
PRODUCT: Final = "saga_worker/"
TRIES: Final = 6  # lines of a row that are broken until a test notices one
LONGEST: Final = 70  # characters of code in a report
LEAST_SECONDS: Final = 60.0  # a broken loop may never end; slower than ten times the unbroken run counts as noticed
NO_TESTS_RAN: Final = 5  # the exit code of pytest
LEFT_OUT: Final = shutil.ignore_patterns(".*", "__pycache__", "*.pyc", "dist", "build")

OPPOSITE: Final[dict[type[ast.cmpop], ast.cmpop]] = {
    ast.Eq: ast.NotEq(), ast.NotEq: ast.Eq(), ast.Lt: ast.GtE(), ast.GtE: ast.Lt(), ast.Gt: ast.LtE(),
    ast.LtE: ast.Gt(), ast.Is: ast.IsNot(), ast.IsNot: ast.Is(), ast.In: ast.NotIn(), ast.NotIn: ast.In(),
}  # fmt: skip


Place: TypeAlias = tuple[str, int]  # file and line


class NotGreen(Exception):
    """The tests do not pass as they are, so that nothing can be learnt from their failing."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A piece of a file, from byte `start` to byte `end`, and what to write in its place."""

    path: str
    line: int
    start: int
    end: int
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Trial:
    """What was tried on the tests of a row: place, before, after, red; the last one is red if any is."""

    tries: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_red(self) -> bool:
        return any(tried["red"] for tried in self.tries)


@dataclass(frozen=True, slots=True)
class Trace:
    """What some tests run of the product, and how long they take."""

    lines: set[Place]
    seconds: float


def _common(traces: Sequence[set[Place]]) -> set[Place]:
    """Lines that more than half of these tests run: the machinery that serves every feature."""
    counts = Counter(place for lines in traces for place in lines)
    return {place for place, count in counts.items() if 2 * count > len(traces) > 1}


# -- what can be broken -----------------------------------------------------------------------------------------------


def mutants(path: str, source: bytes, lines: set[int]) -> list[Mutant]:
    """Every way to break a statement or expression that begins on one of these lines, in the order of the file."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def mutant(node: ast.expr | ast.stmt, after: str) -> Mutant:
        assert node.end_lineno is not None and node.end_col_offset is not None
        start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        return Mutant(path, node.lineno, start, end, _short(ast.unparse(node)), after)

    found = [mutant(node, after) for node, after in _changes(ast.parse(source)) if node.lineno in lines]
    return sorted(found, key=lambda m: (m.start, m.end, m.after))


def _changes(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Node and replacement, for all that is below `node` and runs when a function does."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            children: list[ast.AST] = list(node.body)  # neither annotations, defaults nor decorators
        case ast.AnnAssign():
            children = [node.value] if node.value is not None else []
        case ast.JoinedStr() | ast.pattern():
            return  # the places of what is inside are not exact; a pattern takes no expression
        case _:
            children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.expr):
        yield from ((node, after) for after in _expressions(node))
    elif isinstance(node, ast.stmt):
        yield from _statements(node)
    if isinstance(node, ast.If | ast.IfExp | ast.While) and _is_plain(node.test):
        yield node.test, f"(not ({ast.unparse(node.test)}))"
    for child in children:
        yield from _changes(child)


def _expressions(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Compare(left=left, ops=[op], comparators=comparators):
            yield f"({ast.unparse(ast.Compare(left, [OPPOSITE[type(op)]], comparators))})"
        case ast.BoolOp(op=joined, values=values):
            yield f"({ast.unparse(ast.BoolOp(ast.Or() if isinstance(joined, ast.And) else ast.And(), values))})"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield f"({ast.unparse(operand)})"
        case ast.Constant(value=bool() as value):
            yield str(not value)
        case ast.Constant(value=int() | float() as number):
            yield str(number + 1)


def _statements(node: ast.stmt) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    match node:
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield value, "None"
        case ast.Assign(targets=targets) if all(isinstance(target, ast.Name | ast.Tuple) for target in targets):
            return  # without it a name would be unbound, which any test notices
        case ast.Assign() | ast.AugAssign() | ast.Raise() | ast.Expr(value=ast.Call() | ast.Await()):
            if not any(isinstance(inner, ast.Yield | ast.YieldFrom) for inner in ast.walk(node)):
                yield node, "pass"


def _is_plain(test: ast.expr) -> bool:
    """Whether nothing else here turns this condition round."""
    return not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant | ast.NamedExpr)


def _short(code: str) -> str:
    line = " ".join(code.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


# -- the copy ---------------------------------------------------------------------------------------------------------


class Workshop:
    """A copy of the tree that lives as long as the `with` block."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._directory = tempfile.TemporaryDirectory(prefix="saga-worker-mutants-")
        self.copy: Final = Path(self._directory.name).resolve() / "tree"

    def __enter__(self) -> Workshop:
        shutil.copytree(self._root, self.copy, ignore=LEFT_OUT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._directory.cleanup()

    def attempts(self, tests: Mapping[str, Sequence[str]], seed: int) -> Iterator[tuple[str, Trial]]:
        """For each row with its tests: break up to six lines that they run, one after the other, until a test fails."""
        traces = {row: self.trace(found) for row, found in tests.items()}
        common = _common([trace.lines for trace in traces.values()])
        for row, trace in traces.items():
            choice = random.Random(f"{seed}:{row}")
            trial = Trial()
            for mutant in self._chosen(trace.lines, common, choice):
                is_red = self._is_noticed(mutant, tests[row], max(LEAST_SECONDS, 10 * trace.seconds))
                place, after = f"{mutant.path}:{mutant.line}", _short(mutant.after)
                trial.tries.append({"place": place, "before": mutant.before, "after": after, "red": is_red})
                if is_red:
                    break
            yield row, trial

    def trace(self, tests: Sequence[str]) -> Trace:
        """The lines of the product that the tests run; raises `NotGreen` if they do not pass."""
        file = self.copy.parent / "lines.json"
        began = time.monotonic()
        done = self._python("-m", "tests.mutants", str(file), *tests)
        if done.returncode != 0:
            raise NotGreen(f"without any change: {' '.join(tests)} exits with {done.returncode}\n{done.stdout}")
        lines = {(path, line) for path, lines in json.loads(file.read_text()).items() for line in lines}
        return Trace(lines, time.monotonic() - began)

    def _chosen(self, lines: set[Place], common: set[Place], choice: random.Random) -> list[Mutant]:
        """One mutant for each of six lines; the core before the rest, what few rows run before what most run."""
        by_place: dict[Place, list[Mutant]] = {}
        for path in sorted({path for path, _ in lines}):
            source = (self.copy / path).read_bytes()
            for mutant in mutants(path, source, {line for other, line in lines if other == path}):
                by_place.setdefault((path, mutant.line), []).append(mutant)
        places = sorted(by_place)
        choice.shuffle(places)
        places.sort(key=lambda place: (not place[0].startswith(CORE), place in common))  # stable: keeps the draw
        return [choice.choice(by_place[place]) for place in places[:TRIES]]

    def _is_noticed(self, mutant: Mutant, tests: Sequence[str], limit: float) -> bool:
        path = self.copy / mutant.path
        source = path.read_bytes()
        path.write_bytes(source[: mutant.start] + mutant.after.encode() + source[mutant.end :])
        try:
            done = self._python("-m", "pytest", "-x", "-q", *tests, timeout=limit)
        except subprocess.TimeoutExpired:
            return True
        finally:
            path.write_bytes(source)
        if done.returncode == NO_TESTS_RAN:
            raise NotGreen(f"no test was run: {' '.join(tests)}")
        return done.returncode != 0

    def _python(self, *arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        # A compiled file would be taken for that of the next mutant of the same second and length.
        environment = os.environ | {"PYTHONPATH": str(self.copy), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [sys.executable, *arguments], cwd=self.copy, env=environment, capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip


# -- inside the copy: which lines a test runs -------------------------------------------------------------------------


class Lines:
    """A plugin for pytest that notes the lines of the product which run while a test is called."""

    def __init__(self, root: Path) -> None:
        self._prefix = f"{root}{os.sep}"
        self.found: dict[str, set[int]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        threading.settrace(self._enter)
        sys.settrace(self._enter)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)

    def _enter(self, frame: FrameType, event: str, argument: object) -> Callable[[FrameType, str, Any], Any] | None:
        code = frame.f_code
        name = code.co_filename.removeprefix(self._prefix)
        if not name.startswith(PRODUCT) or code.co_name == "<module>":
            return None
        lines = self.found.setdefault(Path(name).as_posix(), set())

        def note(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line":
                lines.add(frame.f_lineno)
            return note

        return note


def main() -> int:
    """`FILE TEST …`: run the tests, write the lines of the product that they ran into FILE; the exit code of pytest."""
    file, *tests = sys.argv[1:]
    lines = Lines(Path.cwd().resolve())
    code = pytest.main(["-q", *tests], plugins=[lines])
    Path(file).write_text(json.dumps({path: sorted(found) for path, found in lines.found.items()}))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
