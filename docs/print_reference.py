"""Prints `docs/reference.md` from the docstrings of every public name: `__all__` of the packages in `PACKAGES`.

Run `./dev reference`, or `python docs/print_reference.py`, after a change of one; a test compares the page with the
code. A new name needs a docstring and nothing else: it goes to the section of its module, and `SECTIONS` may name that.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PAGE = Path(__file__).with_name("reference.md")
WIDTH = 110

OPENING = """\
# Reference

Every public name with its signature and docstring, printed by `./dev reference`; do not edit it by hand. How they
belong together is told by [language.md](language.md), [starting.md](starting.md) and the [tutorial](tutorial.md).

Names are imported from `saga_worker`, those of the last two sections from `saga_worker.client` and
`saga_worker.testing`. Type variables: `S` is the state of a saga, `E` an event, `R` and `X` replies and rejections,
`I` and `O` input and output.
"""

PACKAGES = ("saga_worker", "saga_worker.client", "saga_worker.testing")
# Module → title of its section, in the order of the page; modules of one title share it. Others come last.
SECTIONS = {
    "saga.messages": "Messages",
    "saga.definition": "Sagas",
    "saga.routing": "Sagas",
    "saga.second_start": "Sagas",
    "saga.entity": "Sagas",
    "saga.steps": "Steps: commands, waits, sleeps, events",
    "saga.own_work": "Steps that do their own work",
    "saga.activity": "Activities for many sagas",
    "saga.placed": "Activities for many sagas",
    "saga.children": "Steps that are sagas",
    "saga.forms": "The flow",
    "saga.retry": "Verdicts, undo and retries",
    "saga.durations": "Durations",
    "saga.errors": "Errors",
    "saga.terminal": "Errors",
    "saga.queries": "Queries",
}
CLIENTS, TESTING = "Clients", "Testing"
# What decorators return, beside the names that authors import.
RETURNED = {
    "saga.definition": ("Start",),
    "saga.steps": ("CommandOf", "WaitStep", "SleepStep", "SavepointStep", "EmitStep"),
    "saga.own_work": ("ActivityStep", "LocalStep"),
    "saga.activity": ("FunctionActivity",),
    "saga.placed": ("PlacedStep",),
    "saga.children": ("ChildStep", "SubsagaStep", "EachStep"),
}
Node = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign | ast.AnnAssign


@dataclass(frozen=True)
class Entry:
    """A public name: where it is written, and where it is imported from (None: from nowhere)."""

    name: str
    module: str
    package: str | None

    @property
    def section(self) -> str:
        if self.package == "saga_worker.client":
            return CLIENTS
        if self.package == "saga_worker.testing":
            return TESTING
        module = self.module.removeprefix("saga_worker.")
        return SECTIONS.get(module, module.rpartition(".")[2].replace("_", " ").capitalize())

    @property
    def nodes(self) -> list[Node]:
        """Its definition; of a function with overloads all of them."""
        return _named(_tree(self.module).body, self.name)

    @property
    def line(self) -> int:
        return self.nodes[0].lineno

    @property
    def docstring(self) -> str:
        return _docstring(self.nodes, _tree(self.module).body)

    def members(self) -> Iterator[tuple[str, list[Node], str]]:
        """Public methods and properties of a class, in order: name, definitions, docstring."""
        owner = self.nodes[-1]
        if not isinstance(owner, ast.ClassDef):
            return
        functions = [node for node in owner.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        for name in dict.fromkeys(node.name for node in functions):
            nodes = _named(owner.body, name)
            docstring = _docstring(nodes, owner.body)
            if name.startswith("_"):
                is_shown = bool(docstring) and name.startswith("__") and name != "__init__"
            else:
                is_shown = bool(docstring) or self.package is not None
            if is_shown:
                yield name, nodes, docstring


def entries() -> list[Entry]:
    """All of them, in the order of the page."""
    found = [Entry(name, _home(package, name), package) for package in PACKAGES for name in _names(package)]
    known = {(entry.name, entry.module) for entry in found}
    for module, names in RETURNED.items():
        home = f"saga_worker.{module}"
        found += [Entry(name, home, None) for name in names if (name, home) not in known]
    modules, titles = [*SECTIONS], [*dict.fromkeys(SECTIONS.values())]

    def place(entry: Entry) -> tuple[int, str, bool, int, int]:
        title, module = entry.section, entry.module.removeprefix("saga_worker.")
        order = titles.index(title) if title in titles else len(titles) + (title in (CLIENTS, TESTING))
        return order, title, entry.package is None, modules.index(module) if module in modules else 0, entry.line

    return sorted(found, key=place)


def page() -> str:
    """The whole page."""
    parts = [OPENING]
    section = ""
    for entry in entries():
        if entry.section != section:
            section = entry.section
            parts.append(f"## {section}\n")
        parts.append(_entry(entry))
    return "\n".join(parts)


def _entry(entry: Entry) -> str:
    lines = [f"### {entry.name}", "", "```python", *_header(entry), "```", "", *_text(entry.docstring)]
    if entry.package is None:
        lines += ["Nobody makes one by hand or imports it: declaring something returns it.", ""]
    for name, nodes, docstring in entry.members():
        lines += [f"#### {entry.name}.{name}", "", "```python", *_signatures(nodes), "```", "", *_text(docstring)]
    return "\n".join(lines)


def _header(entry: Entry) -> list[str]:
    """What is written at the top of a definition."""
    node = entry.nodes[-1]
    match node:
        case ast.ClassDef():
            return _class(node, _source(entry.module), is_made=entry.package is not None)
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return _signatures(entry.nodes)
        case _:
            return _source(entry.module)[node.lineno - 1 : node.end_lineno]


def _signatures(nodes: Sequence[Node]) -> list[str]:
    """Of a function; of one with overloads theirs."""
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    overloads = [node for node in functions if "overload" in _decorators(node)]
    return [line for node in overloads or functions[-1:] for line in _function(node)]


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    decorators = _decorators(node)
    if "property" in decorators:
        return [f"{node.name}{returns}  # a property"]
    words = ["classmethod"] * ("classmethod" in decorators) + ["async"] * isinstance(node, ast.AsyncFunctionDef)
    return _call(" ".join([*words, "def", node.name]), _parameters(node), returns)


def _class(node: ast.ClassDef, source: list[str], *, is_made: bool) -> list[str]:
    bases = [ast.unparse(base) for base in node.bases if ast.unparse(base) not in ("ABC",)]
    made = _named(node.body, "__init__")
    subclassed = _named(node.body, "__init_subclass__")
    if subclassed and isinstance(subclassed[-1], ast.FunctionDef):
        keywords = [p for p in _parameters(subclassed[-1]) if not p.startswith("*")]
        return _call(f"class {node.name}", [*bases, *keywords], "")
    title = f"class {node.name}({', '.join(bases)})" if bases else f"class {node.name}"
    if not is_made:
        return [title]
    if made and isinstance(made[-1], ast.FunctionDef):
        return [title, "", *_call(node.name, _parameters(made[-1]), "")]
    fields = [field for field in node.body if isinstance(field, ast.Assign | ast.AnnAssign) and _is_shown(field)]
    return [f"{title}:" if fields else title, *(source[n - 1] for f in fields for n in range(f.lineno, _end(f) + 1))]


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Each as it is written, without the first of a method."""
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    plain = [*[None] * (len(positional) - len(arguments.defaults)), *arguments.defaults]
    shown = [_parameter(a, d) for a, d in zip(positional, plain, strict=True)]
    if arguments.posonlyargs:
        shown.insert(len(arguments.posonlyargs), "/")
    if arguments.vararg is not None:
        shown.append(f"*{_parameter(arguments.vararg, None)}")
    elif arguments.kwonlyargs:
        shown.append("*")
    shown += [_parameter(a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    if arguments.kwarg is not None:
        shown.append(f"**{_parameter(arguments.kwarg, None)}")
    is_method = bool(positional) and positional[0].arg in ("self", "cls")
    shown = shown[1:] if is_method else shown
    return shown[1:] if shown[:1] == ["/"] else shown


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    text = argument.arg + (f": {ast.unparse(argument.annotation)}" if argument.annotation is not None else "")
    equals = " = " if argument.annotation is not None else "="
    return text if default is None else f"{text}{equals}{ast.unparse(default)}"


def _call(name: str, parameters: list[str], returns: str) -> list[str]:
    """On one line if it fits, else a parameter on each."""
    if len(line := f"{name}({', '.join(parameters)}){returns}") <= WIDTH:
        return [line]
    return [f"{name}(", *(f"    {parameter}," for parameter in parameters), f"){returns}"]


def _is_shown(field: ast.Assign | ast.AnnAssign) -> bool:
    target = field.target if isinstance(field, ast.AnnAssign) else field.targets[0]
    return isinstance(target, ast.Name) and (not target.id.startswith("_") or target.id == "_")


def _text(docstring: str) -> list[str]:
    """Markdown of a docstring: what stands indented under `::` is a listing."""
    lines = ast.literal_eval(repr(docstring)).splitlines()
    text: list[str] = []
    is_listing = False
    for line in lines:
        if line.strip() == "::":
            text.append("```python")
            is_listing = True
        elif is_listing and line and not line.startswith("    "):
            while not text[-1]:
                text.pop()
            text += ["```", "", line]
            is_listing = False
        elif is_listing:
            if line or text[-1] != "```python":
                text.append(line.removeprefix("    "))
        else:
            text.append(line)
    return [*text, *["```"] * is_listing, ""]


def _docstring(nodes: list[Node], body: list[ast.stmt]) -> str:
    """The last one's; of an assignment the text below it."""
    if not nodes:
        return ""
    node = nodes[-1]
    if not isinstance(node, ast.Assign | ast.AnnAssign):
        return ast.get_docstring(node) or ""
    following = body[body.index(node) + 1] if body.index(node) + 1 < len(body) else None
    if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
        return re.sub(r"\n +", "\n", str(following.value.value)).strip()
    return ""


def _named(body: list[ast.stmt], name: str) -> list[Node]:
    found: list[Node] = []
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            found.append(node)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            found.append(node)
    return found


def _decorators(node: Node) -> list[str]:
    return [ast.unparse(each) for each in getattr(node, "decorator_list", [])]


def _names(package: str) -> list[str]:
    return list(importlib.import_module(package).__all__)


def _home(package: str, name: str) -> str:
    """The module in which a name is written; of what does not say so, the one that its package imports it from."""
    imported = [node for node in ast.walk(_tree(package)) if isinstance(node, ast.ImportFrom) and node.module]
    return next(str(node.module) for node in imported if name in [alias.name for alias in node.names])


def _end(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno


def _source(module: str) -> list[str]:
    return _path(module).read_text(encoding="utf-8").splitlines()


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text(encoding="utf-8"))


def _path(module: str) -> Path:
    return Path(str(importlib.import_module(module).__file__))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
