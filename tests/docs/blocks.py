"""The code blocks and links of our pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = tuple(
    sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "deploy").glob("*.md")])
)  # fmt: skip
_BLOCK: Final = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its info string, and its text."""

    page: Path
    info: str
    text: str


def all_blocks(page: Path) -> list[Block]:
    """Every block of the page, in order."""
    return [Block(page, found[1].strip(), found[2]) for found in _BLOCK.finditer(page.read_text(encoding="utf-8"))]


def blocks(page: Path, info: str) -> list[Block]:
    """The blocks of this kind, in order."""
    return [block for block in all_blocks(page) if block.info == info]


def links(page: Path) -> Iterator[str]:
    """Every target of a link outside of code."""
    yield from _LINK.findall(_BLOCK.sub("", page.read_text(encoding="utf-8")))


def words_of_code(page: Path) -> list[str]:
    """What stands in the code of a page: its blocks of shell and its inline code."""
    text = page.read_text(encoding="utf-8")
    shell = [found[2] for found in _BLOCK.finditer(text) if found[1].strip() in ("sh", "")]
    indented = re.findall(r"^    (\S.*)$", _BLOCK.sub("", text), re.MULTILINE)
    inline = re.findall(r"`([^`]+)`", _BLOCK.sub("", text))
    return [*(line for block in shell for line in block.splitlines()), *indented, *inline]
