"""docs/starting.md: mypy accepts its program. tests/flow/test_starting.py runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.docs.blocks import ROOT, blocks

PAGE: Final = ROOT / "docs" / "starting.md"


def test_mypy_accepts_the_page(tmp_path: Path) -> None:
    """features: 145"""
    (tmp_path / "program.py").write_text("\n\n".join(block.text for block in blocks(PAGE, "python")))
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache"), str(tmp_path / "program.py")]  # fmt: skip  # noqa: E501
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout
