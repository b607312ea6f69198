"""The tables of docs/performance.md and docs/scale.md, as markdown, from what the benchmarks printed.

    ./dev bench all --pairs 5 --json > results.jsonl
    ./dev bench report results.jsonl
    ./dev bench report results.jsonl --into docs/performance.md --into docs/scale.md

Takes the lines of one or more runs (of a benchmark that occurs twice, the last counts); invents nothing: a benchmark
that is not in there has no table. `--into` replaces what stands between `<!-- measured: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness.verdicts import TARGETS

Document = dict[str, Any]
CPU = ("worker", "postgresql", "rabbitmq", "harness")
_PLACE = re.compile(r"(<!-- measured: (\w+) -->\n).*?(\n<!-- end -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="the output of benchmarks, run with --json")
    parser.add_argument("--into", action="append", default=[], type=Path, metavar="PAGE", help="write the tables there")
    given = parser.parse_args()
    lines = [json.loads(line) for path in given.results for line in path.read_text().splitlines() if line.strip()]
    found = {line["benchmark"]: line for line in lines if "benchmark" in line}
    if not found:
        sys.exit("There is no result in there; run a benchmark with --json and give its output.")
    made = sections(found)
    for page in given.into:
        page.write_text(filled(page.read_text(), made))
    if not given.into:
        print("\n\n".join(f"## {name}\n\n{text}" for name, text in made.items()))


def filled(page: str, made: dict[str, str]) -> str:
    """The page with every table that there is a result for; the other places stay as they are."""
    return _PLACE.sub(lambda place: place[1] + made[place[2]] + place[3] if place[2] in made else place[0], page)


def sections(found: dict[str, Document]) -> dict[str, str]:
    """Tables by name, in the order of the page."""
    makers = {
        "pipeline": pipeline, "latency": latency, "scale": scale, "growth": growth, "activities": activities,
        "compensation": compensation, "against_handwritten": against_handwritten, "real_log": real_log,
    }  # fmt: skip
    made = {"machine": machine(next(iter(found.values()))["machine"]), "targets": targets(found)}
    made |= {name: make(found[name]) for name, make in makers.items() if name in found and "skipped" not in found[name]}
    if "pipeline" in found and "growth" in found:
        made["million"] = million(found["pipeline"], found["growth"])
    return made


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
    head = (
        "",
        "clients or processes",
        "events/s",
        "PostgreSQL CPU µs per event",
        "WAL bytes per event",
        "syncs per 1,000 events",
    )
    own = (
        "**saga_worker**", document["processes"]["best"], *_medians(product, "events_per_second"),
        _cpu(product)["postgresql"], *_medians(product, "wal_bytes_per_event", "wal_syncs_per_1000_events"),
    )  # fmt: skip
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
    names = {count: _processes(count) for count in document["pairs"][0]}
    return _contenders(
        [{shown: each[count] for count, shown in names.items()} for each in document["pairs"]], tuple(names.values())
    )


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


def activities(document: Document) -> str:
    product = [pair["product"] for pair in document["pairs"]]
    head = ("processes", "sagas/s", "events/s of unbatched pgbench", "inputs/s", "commits per 1,000 inputs")
    row = (document["processes"], document["sagas_per_second"], document["unbatched"],
           *_medians(product, "events_per_second", "commits_per_1000_events"))  # fmt: skip
    return table(head, [row]) + "\n\n" + cpu_table({"activities": product})


def compensation(document: Document) -> str:
    return _contenders(document["pairs"], ("completed", "compensated"))


def against_handwritten(document: Document) -> str:
    names = {name: f"{name}, {_processes(count)}" for name, count in document["processes"].items()}
    return _contenders(
        [{shown: pair[name] for name, shown in names.items()} for pair in document["pairs"]], tuple(names.values())
    )


def real_log(document: Document) -> str:
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in document["outcomes"].items())
    ratio = document.get("against")
    text = f"{document['events']:,} events; {outcomes}; {document['workers']} worker processes."
    if ratio:
        text += f" Now ÷ {ratio['commit']}: {ratio['value']} (target {ratio['target']}, {ratio['verdict']})."
    return text + "\n\n" + _contenders(document["rounds"], tuple(document["rounds"][0]))


def _contenders(pairs: list[Document], names: Sequence[str]) -> str:
    runs = {name: [pair[name] for pair in pairs] for name in names}
    counted = ("events_per_second", "commits_per_1000_events", "wal_bytes_per_event")
    rows = [(name, *_medians(documents, *counted)) for name, documents in runs.items()]
    head = ("", "events/s", "commits per 1,000 events", "WAL bytes per event")
    return table(head, rows) + "\n\n" + cpu_table(runs)


def _processes(count: int | str) -> str:
    return f"{count} process" if int(count) == 1 else f"{count} processes"


def million(pipeline: Document, growth: Document) -> str:
    """Sagas of four events, with what each resource costs them."""
    product = [pair["product"] for pair in pipeline["pairs"]]
    cpu = _cpu(product)
    ours = [cpu[name] for name in ("worker", "postgresql", "rabbitmq")]
    wal, syncs = _medians(product, "wal_bytes_per_event", "wal_syncs_per_1000_events")
    sizes = growth["history"]["bytes_per_saga"]
    return table(
        ("figure", "value"),
        [
            ("CPU µs per event: worker, PostgreSQL, RabbitMQ", ", ".join(f"{each:.0f}" for each in ours)),
            ("WAL bytes per event", wal),
            ("WAL syncs per 1,000 events", syncs),
            (f"bytes per finished saga: {', '.join(sizes)}, with indexes",
             ", ".join(f"{size:,}" for size in sizes.values())),
            ("core-seconds per million sagas of 4 events", 4 * sum(ours)),
            ("WAL gigabytes per million sagas", 4 * wal / 1000),
            ("disk gigabytes per million sagas, while retention keeps them", sum(sizes.values()) / 1000),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
