"""Every reason code that the package can write: read out of its source, so that none is forgotten."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[2] / "saga_worker"
# Their first argument is a reason; `attend` writes the attention list, `_fit` refuses a property by its name.
CARRIERS: Final = frozenset(
    {"PoisonMessage", "Ignored", "Parked", "Refused", "Applied", "Stay", "Proceed", "attend", "_dead"}
)
ATTENTION: Final = PACKAGE / "saga" / "fold" / "attention.py"
SQL: Final = re.compile(r"\breason\s*=\s*'([a-z_]+)'")
CODE: Final = re.compile(r"[a-z]+(_[a-z]+)*")
NOT_OURS: Final = ("trial", "testing")


def reason_codes() -> dict[str, set[str]]:
    """Code → the files that write it."""
    found: dict[str, set[str]] = {}
    for place, code in [*_from_python(), *_from_sql()]:
        if CODE.fullmatch(code):
            found.setdefault(code, set()).add(place)
    return found


def _from_sql() -> Iterator[tuple[str, str]]:
    for file in sorted((PACKAGE / "sql").glob("*.sql")):
        for code in SQL.findall(file.read_text(encoding="utf-8")):
            yield file.name, code


def _from_python() -> Iterator[tuple[str, str]]:
    trees = {
        file: ast.parse(file.read_text(encoding="utf-8"))
        for file in sorted(PACKAGE.rglob("*.py"))
        if file.relative_to(PACKAGE).parts[0] not in NOT_OURS
    }
    constants = {name: value for tree in trees.values() for name, value in _constants(tree)}
    yield from (
        (ATTENTION.name, text.rstrip(": ")) for _, text in _constants(trees[ATTENTION])
    )  # all of them are reasons
    for file, tree in trees.items():
        for node in ast.walk(tree):
            for argument in _reasons(node):
                for code in _texts(argument, constants):
                    yield file.name, code


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield target.id, value.value


def _reasons(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions in `node` itself that become a reason."""
    match node:
        case ast.Assign(targets=[ast.Name(id="reason")], value=value):
            yield value
        case ast.Call():
            yield from _reasons_of_call(node)


def _reasons_of_call(call: ast.Call) -> Iterator[ast.expr]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in CARRIERS and call.args:
        yield from call.args[:2] if name == "_dead" else call.args[:1]
    match call:
        case ast.Call(func=ast.Name(id="_fit"), args=[_, ast.Constant(value=str(field))]):
            yield ast.Constant(f"invalid_{field}")
    yield from (keyword.value for keyword in call.keywords if keyword.arg == "reason")


def _texts(argument: ast.expr, constants: dict[str, str]) -> Iterator[str]:
    """The texts that an argument can be: literals, names of constants, either side of a condition."""
    match argument:
        case ast.Constant(value=str(text)):
            yield text
        case ast.Name(id=name) if name in constants:
            yield constants[name]
        case ast.IfExp(body=body, orelse=other):
            yield from _texts(body, constants)
            yield from _texts(other, constants)
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
            yield text.partition(":")[0]
        case _:
            return
