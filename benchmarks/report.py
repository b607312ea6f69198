"""The tables of docs/performance.md and docs/scale.md, as markdown, from what the benchmarks printed.

    ./dev bench all --pairs 5 --json > results.jsonl
    ./dev bench report results.jsonl

Takes the lines of one or more runs (of a benchmark that occurs twice, the last counts); invents nothing: a benchmark
that is not in there has no table.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness.verdicts import TARGETS

Document = dict[str, Any]
CPU = ("worker", "postgresql", "rabbitmq", "harness")


def main(paths: Sequence[str]) -> None:
    lines = [json.loads(line) for path in paths for line in Path(path).read_text().splitlines() if line.strip()]
    found = {line["benchmark"]: line for line in lines if "benchmark" in line}
    if not found:
        sys.exit("There is no result in there; run a benchmark with --json and give its output.")
    print("\n\n".join(sections(found)))


def sections(found: dict[str, Document]) -> list[str]:
    """Headings with their tables, in the order of the page."""
    makers = {"pipeline": pipeline, "latency": latency, "scale": scale, "growth": growth}
    parts = [f"## Machine\n\n{machine(next(iter(found.values()))['machine'])}", f"## Targets\n\n{targets(found)}"]
    parts += [f"## {name.capitalize()}\n\n{make(found[name])}" for name, make in makers.items() if name in found]
    if "pipeline" in found and "growth" in found:
        parts.append(f"## What a million sagas cost\n\n{million(found['pipeline'], found['growth'])}")
    return parts


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Numbers get thousands separators; None is a dash."""
    lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def machine(described: Document) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in described["settings"].items())
    packages = ", ".join(f"{name} {value}" for name, value in described["packages"].items())
    hardware = f"{described['cores']} × {described['cpu']}, {described['memory_gb']} GB, Linux {described['kernel']}"
    return table(
        ("what", "which"),
        [
            ("date, commit", f"{described['date']}, {described['commit']}"),
            ("machine", hardware),
            ("PostgreSQL", f"{described['postgresql']}: {settings}"),
            ("RabbitMQ", described["rabbitmq"]),
            ("Python", f"{described['python']}: {packages}"),
        ],
    )


def targets(found: dict[str, Document]) -> str:
    figures = {name: figure for document in found.values() for name, figure in document["figures"].items()}
    rows = []
    for name, target in TARGETS.items():
        figure = figures.get(name, {})
        sign = "≥" if target.at_least else "≤"
        stretch = f" ({target.stretch:g})" if target.stretch is not None else ""
        pairs = ", ".join(f"{value:g}" for value in figure.get("pairs", ()))
        rows.append(
            (name, target.text, f"{sign} {target.bound:g}{stretch}", figure.get("value"), figure.get("second_best"),
             pairs or None, figure.get("verdict", "not measured"))
        )  # fmt: skip
    return table(("", "figure", "target (stretch)", "median", "second best", "pairs", "verdict"), rows)


def pipeline(document: Document) -> str:
    pairs = document["pairs"]
    product = [pair["product"] for pair in pairs]
    limits = [
        (script, document["clients"][script], *(
            median(pair["limits"][script][name] for pair in pairs)
            for name in ("events_per_second", "postgresql_cpu_us_per_event", "wal_bytes_per_event",
                         "wal_syncs_per_1000_events")
        ))
        for script in pairs[0]["limits"]
    ]  # fmt: skip
    head = ("", "clients", "events/s", "PostgreSQL CPU µs per event", "WAL bytes per event", "syncs per 1,000 events")
    own = ("**saga_worker**", None, *_medians(product, "events_per_second"), _cpu(product)["postgresql"],
           *_medians(product, "wal_bytes_per_event", "wal_syncs_per_1000_events"))  # fmt: skip
    statements = document.get("statements", {})
    return "\n\n".join(
        [
            f"Path: {document['path']}. Medians of {len(pairs)} pairs.",
            table(head, [*limits, own]),
            cpu_table({"saga_worker": product}),
            table(
                ("commits per 1,000 events", "statements per batch", "round trips per batch", "worker's peak RSS, MB"),
                [(*_medians(product, "commits_per_1000_events"), statements.get("statements_per_batch"),
                  statements.get("round_trips_per_batch"), *_medians(product, "worker_peak_rss_mb"))],
            ),
        ]
    )  # fmt: skip


def cpu_table(runs: dict[str, list[Document]]) -> str:
    rows = [(name, *_cpu(documents).values()) for name, documents in runs.items()]
    return table(("CPU µs per event", *CPU, "other", "stolen"), rows)


def _cpu(documents: list[Document]) -> dict[str, float]:
    return {name: median(each["cpu_us_per_event"][name] for each in documents) for name in (*CPU, "other", "steal")}


def _medians(documents: list[Document], *names: str) -> tuple[float, ...]:
    return tuple(median(each[name] for each in documents) for name in names)


def latency(document: Document) -> str:
    pairs = document["pairs"]
    idle = [
        (f"idle: {name.replace('_', ' ')}", *(median(pair["idle_ms"][name][percent] for pair in pairs) for percent in
         ("p50", "p99")))
        for name in ("saga", "round_trip", "commit")
    ]  # fmt: skip
    rate = round(median(pair["half_load_sagas_per_second"] for pair in pairs))
    loaded = (f"half load ({rate:,} sagas/s): saga",
              *(median(pair["half_load_ms"][percent] for pair in pairs) for percent in ("p50", "p99")))  # fmt: skip
    return table(("milliseconds", "p50", "p99"), [*idle, loaded])


def scale(document: Document) -> str:
    rounds = document["pairs"]
    runs = {count: [each[count] for each in rounds] for count in rounds[0]}
    rows = [
        (count, *_medians(documents, "events_per_second", "commits_per_1000_events", "wal_bytes_per_event"))
        for count, documents in runs.items()
    ]
    head = ("worker processes", "events/s", "commits per 1,000 events", "WAL bytes per event")
    return table(head, rows) + "\n\n" + cpu_table({f"{count} workers": documents for count, documents in runs.items()})


def growth(document: Document) -> str:
    history, snapshot, memory = (document[name] for name in ("history", "snapshot", "memory"))
    runs = {name: [pair[name] for pair in history["pairs"]] for name in ("empty", "filled")}
    rows = [
        (name, *_medians(documents, "events_per_second", "wal_bytes_per_event"), _cpu(documents)["postgresql"])
        for name, documents in runs.items()
    ]
    head = ("database", "events/s", "WAL bytes per event", "PostgreSQL CPU µs per event")
    under, without = (median(pair[name] for pair in snapshot["pairs"]) for name in ("under", "without"))
    sizes = history["bytes_per_saga"]
    return "\n\n".join(
        [
            table(head, rows),
            table(("events/s under the snapshot", "after it"), [(under, without)]),
            table(("bytes per saga", *sizes), [("with indexes", *sizes.values())]),
            table(("events waiting", "worker's peak RSS, MB"), [(memory["queued"], memory["peak_rss_mb"])]),
        ]
    )


def million(pipeline: Document, growth: Document) -> str:
    """Sagas of four events."""
    product = [pair["product"] for pair in pipeline["pairs"]]
    cpu = _cpu(product)
    ours = sum(cpu[name] for name in ("worker", "postgresql", "rabbitmq"))
    (wal,) = _medians(product, "wal_bytes_per_event")
    disk = sum(growth["history"]["bytes_per_saga"].values())
    return table(
        ("per million sagas of 4 events", "value"),
        [
            ("CPU core-seconds: worker, PostgreSQL, RabbitMQ", 4 * ours),
            ("WAL, GB", 4 * wal / 1000),
            ("disk while retention keeps them, GB", disk / 1000),
        ],
    )


if __name__ == "__main__":
    main(sys.argv[1:])
