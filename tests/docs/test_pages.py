"""What our pages say of files, commands, settings and reason codes is true."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest

from saga_worker import __version__
from saga_worker.admin.cli import cli
from saga_worker.admin.reasons import REASONS
from saga_worker.settings import Settings
from tests.docs.blocks import PAGES, ROOT, blocks, links, words_of_code
from tests.docs.reason_codes import reason_codes

OPERATIONS: Final = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
ROLE_OF_A_NAME: Final = re.compile(r"^\| (`[a-z_`, ]+`) \|", re.MULTILINE)
SERVICE: Final = ROOT / "deploy" / "saga-worker@.service"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    broken = [
        target
        for target in links(page)
        if not target.startswith(("https://", "#")) and not (page.parent / target.partition("#")[0]).exists()
    ]

    assert broken == []


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for words in words_of_code(page):
            for line in words.split(" && "):
                if line.strip().startswith("saga-worker "):
                    yield page.name, line.strip()


def test_every_command_on_a_page_exists_with_its_options() -> None:
    found = list(commands())

    assert len(found) > 25
    assert [f"{page}: {line}" for page, line in found if not is_a_command(line)] == []


def is_a_command(line: str) -> bool:
    """Whether the words name a command, and only options that it has."""
    command: click.Command | None = cli
    for word in shlex.split(line.replace("…", ""), comments=True)[1:]:
        if isinstance(command, click.Group) and not word.startswith("-"):
            command = command.get_command(click.Context(command), word.partition("|")[0])
            if command is None:
                return False
        if word.startswith("--") and not any(word in parameter.opts for parameter in _parameters(command)):
            return False
    return True


def _parameters(command: click.Command | None) -> list[click.Parameter]:
    assert command is not None
    return command.get_params(click.Context(command))


def test_every_dev_command_on_a_page_exists() -> None:
    done = subprocess.run([ROOT / "dev", "help"], capture_output=True, text=True, timeout=60, check=True)
    known = set(re.findall(r"^ +(?:usage: )?\./dev (\w+)", f"  {done.stdout}", re.MULTILINE))
    named = {m for page in PAGES for m in re.findall(r"\./dev (\w+)", page.read_text(encoding="utf-8"))}

    assert {"demo", "test"} <= named <= known


def test_every_setting_is_listed_with_its_default() -> None:
    rows = re.findall(r"^\| `(SAGA_WORKER_[A-Z_]+)` \| (.*?) \|", OPERATIONS, re.MULTILINE)
    fields = {f"SAGA_WORKER_{name.rstrip('_').upper()}": field for name, field in Settings.model_fields.items()}

    assert [name for name, _ in rows] == list(fields)
    assert {name: shown.strip("`") for name, shown in rows} == {
        name: _shown(field.default) for name, field in fields.items()
    }


def _shown(default: object) -> str:
    if default is None or default == Settings.model_fields["database_url"].default:
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default)


def codes_of_the_page() -> set[str]:
    """Those of the attention list and of the section on reason codes."""
    listed = OPERATIONS[OPERATIONS.index("## The attention list") : OPERATIONS.index("## Settings")]
    return {code for row in ROLE_OF_A_NAME.findall(listed) for code in re.findall(r"`(\w+)`", row)}


def test_every_reason_code_is_explained() -> None:
    found = reason_codes()

    assert len(found) > 50
    assert {code: files for code, files in found.items() if code not in codes_of_the_page()} == {}


def test_no_reason_code_is_explained_that_nobody_writes() -> None:
    assert codes_of_the_page() - set(reason_codes()) == set()


def test_the_command_line_knows_the_reasons_of_the_page() -> None:
    section = OPERATIONS[OPERATIONS.index("## Reason codes") : OPERATIONS.index("## Settings")]
    codes = {code for row in ROLE_OF_A_NAME.findall(section) for code in re.findall(r"`(\w+)`", row)}

    assert sorted(codes) == list(REASONS)


def test_the_map_names_every_part_of_the_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    parts = {path.name for path in (ROOT / "saga_worker").iterdir() if path.suffix == ".py" or path.is_dir()}

    assert sorted(part for part in parts if not part.startswith("_") and f"`{part}" not in text) == []


def test_json_on_a_page_is_json() -> None:
    import json

    found = [block for page in PAGES for kind in ("json", "json command", "json reply") for block in blocks(page, kind)]

    assert len(found) >= 2
    for block in found:
        json.loads(block.text)


def test_the_changelog_speaks_of_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert headings[0].strip("[]") == __version__


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = SERVICE.read_text(encoding="utf-8")
    assert {"[Unit]", "[Service]", "[Install]"} <= set(text.splitlines())
    assert int(re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[0]) > Settings().grace_seconds
    if shutil.which("systemd-analyze") is None:
        return
    unit = tmp_path / "saga-worker@1.service"
    unit.write_text(text.replace("/opt/saga-worker/venv/bin/saga-worker", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, [line for line in done.stderr.splitlines() if "saga-worker" in line]) == (0, [])


def test_the_image_copies_what_is_there_and_is_not_root() -> None:
    lines = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [
        name for line in lines if line.startswith("COPY ") and "--from" not in line for name in line.split()[1:-1]
    ]

    assert copied and [name for name in copied if not (ROOT / name).exists()] == []
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001:10001"]
