"""A definition as a graph, and where one of its sagas stands in it: Mermaid and DOT; `drawing` makes SVG of the same.

Takes a definition and, for a saga, its progress. Guarantees the same text for the same definition, so that a picture in
a repository changes only when the flow does. Hands text to the commands `definitions graph` and `saga graph`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from saga_worker.saga.children import EachStep, SubsagaStep
from saga_worker.saga.definition import Saga
from saga_worker.saga.forms import Parallel, Pivot, Repeat, When
from saga_worker.saga.instance import CommandKind, Fate, Progress
from saga_worker.saga.own_work import ActivityStep, LocalStep
from saga_worker.saga.steps import CommandOf, EmitStep, SavepointStep, SleepStep, Step, WaitStep


class Kind(StrEnum):
    START = "start"
    END = "end"
    COMMAND = "command"
    ACTIVITY = "activity"
    LOCAL = "local"
    SUBSAGA = "subsaga"
    WAIT = "wait"
    SLEEP = "sleep"
    SAVEPOINT = "savepoint"
    EMIT = "emit"
    TEST = "test"
    FORK = "fork"
    JOIN = "join"
    LOOP = "loop"


class Seen(StrEnum):
    """What has become of a step of one saga."""

    OPEN = "open"
    DONE = "done"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class Node:
    id: str
    kind: Kind
    label: str
    is_pivot: bool = False
    seen: Seen | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    source: str
    target: str
    label: str = ""
    is_back: bool = False  # to the next round of a loop


@dataclass(slots=True)
class Graph:
    title: str
    nodes: list[Node] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)


def graph_of(saga: Saga[Any], progress: Progress | None = None) -> Graph:
    """The flow of `saga`; with `progress` each step says what has become of it."""
    builder = _Builder(saga, _seen(progress) if progress is not None else {})
    starts = " | ".join(saga.starts) or "nothing"
    ends = builder.walk(saga.flow_root.steps, [(builder.add(Kind.START, starts), "")])
    builder.connect(ends, builder.add(Kind.END, "completed"))
    return builder.graph


_Ends = list[tuple[str, str]]  # nodes that lead on, and what stands on the arrow


class _Builder:
    def __init__(self, saga: Saga[Any], seen: dict[str, Seen]) -> None:
        self.graph = Graph(f"{saga.name} {saga.version}")
        self._pivots = saga.flow_root.pivots
        self._seen = seen

    def add(self, kind: Kind, label: str, step_id: str | None = None) -> str:
        name = f"n{len(self.graph.nodes)}"
        seen = self._seen.get(step_id) if step_id is not None else None
        self.graph.nodes.append(Node(name, kind, label, step_id in self._pivots, seen))
        return name

    def connect(self, ends: _Ends, target: str) -> None:
        self.graph.edges += [Edge(source, target, label) for source, label in ends]

    def walk(self, steps: Sequence[Step[Any]], ends: _Ends) -> _Ends:
        """Append these steps behind `ends`; where they lead on."""
        for step in steps:
            match step:
                case When():
                    ends = self._when(step, ends)
                case Parallel():
                    ends = self._parallel(step, ends)
                case Repeat():
                    ends = self._repeat(step, ends)
                case Pivot():
                    ends = self.walk((step.step,), ends)
                case _:
                    kind, label = _words(step)
                    node = self.add(kind, label, step.id)  # type: ignore[attr-defined]  # all others are steps
                    self.connect(ends, node)
                    ends = [(node, "")]
        return ends

    def _when(self, step: When[Any], ends: _Ends) -> _Ends:
        name = getattr(step.test, "__name__", "")
        test = self.add(Kind.TEST, name if name.isidentifier() else "?")
        self.connect(ends, test)
        return [*self.walk(step.then, [(test, "yes")]), *self.walk(step.otherwise, [(test, "no")])]

    def _parallel(self, step: Parallel[Any], ends: _Ends) -> _Ends:
        fork = self.add(Kind.FORK, "")
        self.connect(ends, fork)
        branches = [self.walk(branch, [(fork, "")]) for branch in step.branches]
        wanted = "all" if step.wanted == len(step.branches) else f"{step.wanted} of {len(step.branches)}"
        join = self.add(Kind.JOIN, wanted)
        for branch in branches:
            self.connect(branch, join)
        return [(join, "")]

    def _repeat(self, step: Repeat[Any], ends: _Ends) -> _Ends:
        begin = self.add(Kind.LOOP, step.name)
        self.connect(ends, begin)
        body = self.walk(step.steps, [(begin, "")])
        test = self.add(Kind.TEST, "?")
        self.connect(body, test)
        self.graph.edges.append(Edge(test, begin, f"again, at most {step.times} rounds", is_back=True))
        return [(test, "yes")]


def _words(step: Step[Any]) -> tuple[Kind, str]:
    """What a step is called in a picture."""
    match step:
        case CommandOf():
            return Kind.COMMAND, f"{step.id} → {step.to}"
        case ActivityStep():
            return Kind.ACTIVITY, step.id
        case LocalStep():
            return Kind.LOCAL, step.id
        case SubsagaStep():
            return Kind.SUBSAGA, f"{step.id} ⟶ {step.child.name}"
        case EachStep():
            return Kind.SUBSAGA, f"{step.id} ⟶ {step.child.name}, one for each, {step.max_in_flight} at a time"
        case WaitStep():
            return Kind.WAIT, step.id if step.timeout is None else f"{step.id}, at most {step.timeout}"
        case SleepStep():
            return Kind.SLEEP, step.id
        case SavepointStep():
            return Kind.SAVEPOINT, step.id
        case EmitStep():
            return Kind.EMIT, step.id
        case _:
            raise AssertionError(f"a flow holds no {type(step).__name__}")


def _seen(progress: Progress) -> dict[str, Seen]:
    """By step: its last command decides, unless it is open."""
    found: dict[str, Seen] = dict.fromkeys(progress.savepoints, Seen.DONE)
    fates = {Fate.SENT: Seen.OPEN, Fate.DONE: Seen.DONE, Fate.REJECTED: Seen.REJECTED, Fate.UNKNOWN: Seen.UNKNOWN}
    for _, record in sorted(progress.commands.items()):
        if record.kind is CommandKind.FORWARD:
            found[record.step] = Seen.UNDONE if record.undone else fates[record.fate]
    return found | dict.fromkeys(progress.active, Seen.OPEN)


# -- as text ------------------------------------------------------------------------------------------------------

COLOURS: Final = {
    Seen.OPEN: "#fff3b0", Seen.DONE: "#cdeac0", Seen.REJECTED: "#f7c6c5", Seen.UNKNOWN: "#e2d1f9",
    Seen.UNDONE: "#dddddd",
}  # fmt: skip
_MERMAID: Final = {
    Kind.START: '(["{}"])', Kind.END: '(["{}"])', Kind.COMMAND: '["{}"]', Kind.ACTIVITY: '["{}"]',
    Kind.LOCAL: '[("{}")]', Kind.SUBSAGA: '[["{}"]]', Kind.WAIT: '[/"{}"/]', Kind.SLEEP: '[/"{}"/]',
    Kind.SAVEPOINT: '>"{}"]', Kind.EMIT: '("{}")', Kind.TEST: '{{"{}"}}',
    Kind.FORK: '(("{}"))', Kind.JOIN: '(("{}"))', Kind.LOOP: '(("{}"))',
}  # fmt: skip
_DOT: Final = {
    Kind.START: "oval", Kind.END: "oval", Kind.COMMAND: "box", Kind.ACTIVITY: "component", Kind.LOCAL: "cylinder",
    Kind.SUBSAGA: "box3d",
    Kind.WAIT: "parallelogram", Kind.SLEEP: "parallelogram", Kind.SAVEPOINT: "tab", Kind.EMIT: "cds",
    Kind.TEST: "diamond", Kind.FORK: "point", Kind.JOIN: "circle", Kind.LOOP: "circle",
}  # fmt: skip


def mermaid(graph: Graph) -> str:
    """For a page that renders Mermaid, such as a README on most forges."""
    lines = [f"%% {graph.title}", "flowchart TD"]
    for node in graph.nodes:
        lines.append(f"    {node.id}{_MERMAID[node.kind].format(_mermaid_text(node.label or ' '))}")
    for edge in graph.edges:
        arrow = "-.->" if edge.is_back else "-->"
        label = f'|"{_mermaid_text(edge.label)}"|' if edge.label else ""
        lines.append(f"    {edge.source} {arrow}{label} {edge.target}")
    for seen in Seen:
        if marked := [node.id for node in graph.nodes if node.seen is seen]:
            lines += [f"    classDef {seen} fill:{COLOURS[seen]}", f"    class {','.join(marked)} {seen}"]
    if pivots := [node.id for node in graph.nodes if node.is_pivot]:
        lines += ["    classDef pivot stroke-width:4px", f"    class {','.join(pivots)} pivot"]
    return "\n".join([*lines, ""])


def dot(graph: Graph) -> str:
    """For Graphviz."""
    lines = [f"digraph {_quoted(graph.title)} {{", '    node [style=filled, fillcolor=white, fontname="sans-serif"];']
    for node in graph.nodes:
        colour = f", fillcolor={_quoted(COLOURS[node.seen])}" if node.seen is not None else ""
        width = ", penwidth=3" if node.is_pivot else ""
        lines.append(f"    {node.id} [label={_quoted(node.label)}, shape={_DOT[node.kind]}{colour}{width}];")
    for edge in graph.edges:
        style = ", style=dashed, constraint=false" if edge.is_back else ""
        lines.append(f"    {edge.source} -> {edge.target} [label={_quoted(edge.label)}{style}];")
    return "\n".join([*lines, "}", ""])


def _mermaid_text(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
