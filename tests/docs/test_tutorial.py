"""docs/tutorial.md does what it says, from the first line to the last: its files, its commands, what they print."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from saga_worker.testing.namespaces import Namespace
from tests.docs.blocks import ROOT, all_blocks
from tests.docs.shell import Eventually, Shell
from tests.flow.processes import Processes

PAGE: Final = ROOT / "docs" / "tutorial.md"
BLOCKS: Final = all_blocks(PAGE)
IN_PLACE_OF_LAST: Final = ", in place of the last line"


def write(folder: Path, info: str, text: str) -> None:
    """Put a listing where the page says: a file of its own, or what stands in place of a file's last line."""
    name = info.removeprefix("python ")
    path = folder / name.removesuffix(IN_PLACE_OF_LAST)
    if name.endswith(IN_PLACE_OF_LAST):
        lines = path.read_text().splitlines(keepends=True)
        assert f"`{lines[-1].strip()}`" in PAGE.read_text(), "the page names the line"
        text = "".join(lines[:-1]) + text
    path.write_text(text)


@pytest.fixture
def school(tmp_path: Path) -> Path:
    """The reader's folder with all listings, as they are at the end."""
    (tmp_path / "definitions").mkdir()
    for block in BLOCKS:
        if block.info.startswith("python "):
            write(tmp_path, block.info, block.text)
    return tmp_path


def test_the_folder_is_made_as_it_is_printed(tmp_path: Path) -> None:
    script = next(block.text for block in BLOCKS if block.info == "sh").replace("pip install", ": pip install")
    checkout = tmp_path / "checkout"
    (checkout / ".venv").mkdir(parents=True)
    (checkout / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    script = f"set -e\n{script}\npwd\nls\ncommand -v saga-worker"
    done = subprocess.run(["sh", "-c", script], cwd=checkout, capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout.split()[:2] == [str(tmp_path / "school"), "definitions"], done.stderr


def test_the_participant_has_about_twenty_lines() -> None:
    (text,) = [block.text for block in BLOCKS if block.info == "python participant.py"]

    assert len([line for line in text.splitlines() if line.strip()]) <= 22


@pytest.mark.slow
def test_mypy_and_pyright_accept_what_the_reader_has_at_the_end(school: Path) -> None:
    (school / "participant.py").unlink()  # pika has no types
    mypy = (
        "mypy",
        "--strict",
        "--explicit-package-bases",
        "--config-file=",
        f"--cache-dir={ROOT}/.mypy_cache/tutorial",
    )
    done = subprocess.run([sys.executable, "-m", *mypy, "."], cwd=school, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout

    (school / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    pyright = (sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable)
    done = subprocess.run(pyright, cwd=school, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["generalDiagnostics"] == []


@pytest.fixture
def shell(
    empty_database_url: str, amqp_url: str, namespace: Namespace, tmp_path: Path, eventually: Eventually
) -> Iterator[Shell]:
    namespace.queue("town")
    servers = {"DATABASE_URL": empty_database_url, "AMQP_URL": amqp_url, "NAMESPACE": str(namespace)}
    with Processes(servers, tmp_path) as processes:
        shell = Shell(processes, eventually)
        yield shell
        shell.end_others()


@pytest.mark.slow
async def test_the_page_is_true_from_the_first_line_to_the_last(shell: Shell) -> None:
    """features: 9, 43, 54, 64, L17, L28, L29"""
    (shell.folder / "definitions").mkdir()
    folder, *rest = [block for block in BLOCKS if block.info]
    assert "mkdir" in folder.text

    for block, following in zip(rest, [*rest[1:], None], strict=True):
        if block.info.startswith("python "):
            write(shell.folder, block.info, block.text)
        elif block.info == "sh":
            shown = following.text.splitlines() if following is not None and following.info == "text" else []
            await read_all(shell, block.text.splitlines(), shown)
        else:
            assert block.info == "text"

    assert shell.variables == {"SAGA_WORKER_DATABASE_URL", "SAGA_WORKER_AMQP_URL"}
    said = shell.end_others()
    assert re.findall(r"^(\w+) .*'b-2'", said, re.MULTILINE) == ["hold_seat", "pay_fee", "free_seat"]
    assert "BROKEN" not in await shell.read("saga-worker check")


async def read_all(shell: Shell, lines: list[str], shown: list[str]) -> None:
    """The lines of a block. What the page shows below them was printed by the last."""
    for line in lines[:-1]:
        await shell.read(line)
    await shell.read(lines[-1], shown)
