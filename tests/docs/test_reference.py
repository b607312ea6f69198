"""docs/reference.md has every public name, as its docstring stands in the code now."""

from __future__ import annotations

import runpy
from typing import Any, Final

import pytest

from tests.docs.blocks import ROOT, all_blocks

SCRIPT: Final[dict[str, Any]] = runpy.run_path(str(ROOT / "docs" / "print_reference.py"))
PAGE: Final = ROOT / "docs" / "reference.md"
ENTRIES: Final = SCRIPT["entries"]()


def test_the_page_is_printed_from_the_docstrings() -> None:
    assert PAGE.read_text(encoding="utf-8") == SCRIPT["page"](), "run: ./dev reference (python docs/print_reference.py)"


@pytest.mark.parametrize("package", SCRIPT["PACKAGES"])
def test_every_public_name_has_its_place(package: str) -> None:
    names = SCRIPT["_names"](package)

    assert names and [name for name in names if f"\n### {name}\n" not in PAGE.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_public_name_has_a_docstring_and_so_has_everything_that_it_offers(entry: Any) -> None:
    missing = [f"{entry.name}.{name}" for name, _, docstring in entry.members() if not docstring]

    assert entry.docstring, f"give {entry.name} in {entry.module} a docstring: what it is, its shapes, units and errors"
    assert missing == []


def test_what_the_page_shows_is_python_with_a_name_in_it() -> None:
    shown = [block.text for block in all_blocks(PAGE) if block.info == "python"]

    assert len(shown) > len(ENTRIES)
    assert [text for text in shown if not text.strip()] == []
