"""Definitions and sagas as pictures: golden texts, and SVG that is well-formed and shows every step.

features: 156; L29
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, Final

import pytest

from saga_worker.admin.drawing import svg
from saga_worker.admin.graph import Kind, Seen, dot, graph_of, mermaid
from saga_worker.loading import load
from saga_worker.saga.definition import Saga
from saga_worker.testing.saga_test import SagaTest
from tests.saga.scripted import Begun, DoA, DoC, Yes, forked

ROOT: Final = Path(__file__).parents[2]
GOLDEN: Final = Path(__file__).parent / "golden"
STORIES: Final = ("checkout", "model_deployment", "subscription_renewal")


def story(name: str) -> Saga[Any]:
    found = load(ROOT / "definitions" / f"{name}.py").latest(name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", STORIES)
@pytest.mark.parametrize(("render", "ending"), [(mermaid, "mmd"), (dot, "dot")], ids=["mermaid", "dot"])
def test_a_definition_is_drawn_as_its_golden_file(name: str, render: Any, ending: str) -> None:
    """Written anew by: python -m tests.stages.test_graph"""
    assert render(graph_of(story(name))) == (GOLDEN / f"{name}.{ending}").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", STORIES)
def test_the_svg_is_well_formed_and_shows_every_step_without_overlap(name: str) -> None:
    saga = story(name)
    document = ElementTree.fromstring(svg(graph_of(saga)))

    titles = {title.text or "" for title in document.iter("{http://www.w3.org/2000/svg}title")}
    assert all(any(step in title for title in titles) for step in saga.steps)
    boxes = [
        tuple(float(box.get(side) or 0) for side in ("x", "y", "width", "height"))
        for box in document.iter("{http://www.w3.org/2000/svg}rect")
        if box.get("rx")
    ]
    for place, (x, y, width, height) in enumerate(boxes):
        for left, top, wide, high in boxes[place + 1 :]:
            assert x + width <= left or left + wide <= x or y + height <= top or top + high <= y


def test_every_edge_joins_two_nodes_and_the_end_is_reached() -> None:
    graph = graph_of(forked(looped=True, marked=True))
    names = {node.id for node in graph.nodes}
    (end,) = [node.id for node in graph.nodes if node.kind is Kind.END]

    assert {edge.source for edge in graph.edges} | {edge.target for edge in graph.edges} == names
    assert [edge.label for edge in graph.edges if edge.is_back] == ["again, at most 3 rounds"]
    assert any(edge.target == end for edge in graph.edges)


def test_a_saga_is_drawn_with_what_has_become_of_its_steps() -> None:
    test = SagaTest(forked(join="any")).given(Begun()).reply(Yes(), to=DoC).expect(DoA).expect(DoC)
    assert test.one.instance is not None
    graph = graph_of(test.saga, test.one.instance.progress)

    seen = {node.label.partition(" ")[0]: node.seen for node in graph.nodes}
    assert (seen["c"], seen["a"], seen["p"], seen["b"]) == (Seen.DONE, Seen.UNKNOWN, Seen.OPEN, None)
    assert "fill:#cdeac0" in mermaid(graph) and 'fillcolor="#cdeac0"' in dot(graph) and "#cdeac0" in svg(graph)


def test_what_authors_write_cannot_break_a_picture() -> None:
    saga = forked()
    wait = saga.wait('a "quoted" <b>&\\', timeout=None)
    assert wait.id in saga.steps
    graph = graph_of(saga)
    graph.nodes[0] = graph.nodes[0].__class__("n0", Kind.WAIT, wait.id)

    ElementTree.fromstring(svg(graph))
    assert '"a \\"quoted\\" <b>&\\\\"' in dot(graph)
    assert "a &quot;quoted&quot; &lt;b&gt;&amp;\\" in mermaid(graph)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for each in STORIES:
        drawn = graph_of(story(each))
        (GOLDEN / f"{each}.mmd").write_text(mermaid(drawn), encoding="utf-8")
        (GOLDEN / f"{each}.dot").write_text(dot(drawn), encoding="utf-8")
