"""The README does what it says: its saga is accepted and tested, its commands run in the order in which they stand."""

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
from tests.docs.blocks import ROOT, blocks
from tests.docs.shell import Eventually, Shell
from tests.flow.processes import Processes

README: Final = ROOT / "README.md"
# A release that raises on an order of this customer; the README's own definition is the mended one.
MISTAKE: Final = '    if event.order_id == "4712":\n        raise ValueError("no such customer")\n'


def python_block(word: str) -> str:
    (found,) = [block.text for block in blocks(README, "python") if word in block.text]
    return found


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A project of a user, made of what stands in the README."""
    (tmp_path / "definitions").mkdir()
    (tmp_path / "definitions" / "order.py").write_text(python_block('Saga("order"'))
    (tmp_path / "test_order.py").write_text(python_block("def test_"))
    return tmp_path


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280, check=False)


def test_the_first_saga_has_about_forty_lines() -> None:
    text = python_block('Saga("order"')
    story = text[text.index("order = Saga(") :]

    assert len([line for line in story.splitlines() if line.strip()]) <= 40


@pytest.mark.slow
def test_mypy_accepts_the_first_saga_and_its_test(shop: Path) -> None:
    cache = ROOT / ".mypy_cache" / "readme"
    options = ("--strict", "--explicit-package-bases", "--config-file=", f"--cache-dir={cache}")
    done = run(sys.executable, "-m", "mypy", *options, ".", cwd=shop)

    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.slow
def test_pyright_accepts_the_first_saga_and_its_test(shop: Path) -> None:
    (shop / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    done = run(sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, cwd=shop)

    assert json.loads(done.stdout)["generalDiagnostics"] == []


def test_the_test_of_the_first_saga_passes_and_can_fail(shop: Path) -> None:
    """features: L28"""
    pytest_ = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        "--rootdir",
        str(shop),
    )
    assert run(*pytest_, cwd=shop).returncode == 0

    definition = shop / "definitions" / "order.py"
    definition.write_text(definition.read_text().replace("order.flow(reserve, charge", "order.flow(charge, reserve"))
    assert run(*pytest_, cwd=shop).returncode == 1


def test_a_project_of_ones_own_is_made_as_it_is_printed(tmp_path: Path) -> None:
    (block,) = [block.text for block in blocks(README, "sh") if "mkdir" in block.text]
    checkout = tmp_path / "checkout"
    (checkout / ".venv").mkdir(parents=True)
    (checkout / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    script = f"set -e\n{block}\npwd\nls\ncommand -v saga-worker"
    done = run("sh", "-c", script, cwd=checkout)

    assert done.stdout.split()[:2] == [str(tmp_path / "shop"), "definitions"], done.stderr
    assert done.stdout.split()[2].endswith("/bin/saga-worker")


@pytest.fixture
def shell(
    empty_database_url: str, amqp_url: str, namespace: Namespace, shop: Path, eventually: Eventually
) -> Iterator[Shell]:
    servers = {"DATABASE_URL": empty_database_url, "AMQP_URL": amqp_url, "NAMESPACE": str(namespace)}
    with Processes(servers, shop) as processes:
        yield Shell(processes, eventually, {"MAX_ATTEMPTS": "1"})


@pytest.mark.slow
async def test_publish_run_replay_as_it_is_printed(shell: Shell, shop: Path) -> None:
    definition = shop / "definitions" / "order.py"
    mended = definition.read_text()
    definition.write_text(re.sub(r"(def placed.*\n)", lambda found: found[1] + MISTAKE, mended))
    first, second = (block.text.splitlines() for block in blocks(README, "sh") if "saga-worker" in block.text)

    printed = {line: await shell.read(line) for line in first}
    assert shell.variables == {"SAGA_WORKER_DATABASE_URL", "SAGA_WORKER_AMQP_URL"}
    assert "order 4711" in next(text for line, text in printed.items() if "saga show" in line)

    await shell.read("""saga-worker publish order_placed '{"order_id": "4712", "cents": 1999}'""")
    await shell.read("saga-worker inbox list --state dead --json")
    dead, replay, check = second
    assert "handler_error" in await shell.read(dead)
    definition.write_text(mended)
    await shell.read("saga-worker run")
    assert "1" in await shell.read(replay)
    assert "order 4712 is running at reserve" in await shell.read("saga-worker saga show order/4712")
    assert "BROKEN" not in await shell.read(check)
