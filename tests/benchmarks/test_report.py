"""Tables come from results, and into pages where the pages have a place for them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.harness.servers import REPOSITORY
from benchmarks.report import filled, sections, table

RUN = {
    "events_per_second": 12_000, "cpu_us_per_event": {
        "worker": 40.0, "postgresql": 25.0, "rabbitmq": 35.0, "harness": 5.0, "other": 1.0, "steal": 0.0,
    }, "wal_bytes_per_event": 2000, "wal_syncs_per_1000_events": 9.5, "commits_per_1000_events": 10.0,
    "worker_peak_rss_mb": 70,
}  # fmt: skip
MACHINE = {
    "date": "2026-01-02", "commit": "abc", "cores": 2, "cpu": "a processor", "memory_gb": 8, "kernel": "6",
    "postgresql": "16", "settings": {"fsync": "on"}, "rabbitmq": "4", "python": "3.11", "packages": {"asyncpg": "1"},
}  # fmt: skip
SCALE = {
    "benchmark": "scale", "machine": MACHINE, "pairs": [{"1": RUN, "2": RUN | {"events_per_second": 13_000}}],
    "figures": {"R15": {"value": 1.083, "target": 1.1, "verdict": "fail", "second_best": 1.083, "pairs": [1.083]}},
}  # fmt: skip


def test_numbers_are_readable_and_what_is_missing_is_a_dash() -> None:
    assert table(("a", "b"), [(12_000, 1.23456), (None, 1234.5), ("x", 0.5)]).splitlines() == [
        "| a | b |", "|---|---|", "| 12,000 | 1.23 |", "| – | 1,234 |", "| x | 0.5 |",
    ]  # fmt: skip


def test_only_what_was_measured_has_a_table() -> None:
    made = sections({"scale": SCALE})

    assert list(made) == ["machine", "targets", "scale"]
    assert "| 2 processes | 13,000 | 10 | 2,000 |" in made["scale"]
    assert "| R15 | events/s of two worker processes ÷ one | ≥ 1.1 | 1.08 | 1.08 | 1.083 | fail |" in made["targets"]
    assert (
        "| R1 | events/s ÷ best unbatched pgbench, one commit per event | ≥ 3 (4) | – | – | – | not measured |"
        in (made["targets"])
    )


def test_a_page_keeps_its_words_and_the_places_that_nothing_was_measured_for() -> None:
    page = "before\n<!-- measured: scale -->\nold\nlines\n<!-- end -->\n<!-- measured: growth -->\nold\n<!-- end -->\n"

    once = filled(page, {"scale": "new"})

    assert once == page.replace("old\nlines", "new")
    assert filled(once, {"scale": "new"}) == once


def test_the_command_writes_into_a_page(tmp_path: Path) -> None:
    results, page = tmp_path / "results.jsonl", tmp_path / "page.md"
    results.write_text(json.dumps(SCALE) + "\n" + json.dumps({"R15": {}}) + "\n")
    page.write_text("<!-- measured: machine -->\n-\n<!-- end -->\n")
    command = [sys.executable, "-m", "benchmarks.report", str(results), "--into", str(page)]

    subprocess.run(command, cwd=REPOSITORY, check=True)

    assert "| machine | 2 × a processor, 8 GB, Linux 6 |" in page.read_text()


def test_every_table_of_the_pages_can_be_made() -> None:
    source = (REPOSITORY / "benchmarks" / "report.py").read_text()
    pages = "".join((REPOSITORY / "docs" / name).read_text() for name in ("performance.md", "scale.md"))
    places = [line.split()[2] for line in pages.splitlines() if line.startswith("<!-- measured: ")]

    assert len(places) == 11
    assert [place for place in places if f'"{place}"' not in source] == []
