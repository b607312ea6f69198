"""The checker as a command: two ledgers and the views in, one line per promise out; exit code 1 if one is broken.

    python tests/faults/checker.py --producer P.jsonl --sink S.jsonl --database-url postgresql://… [--schema NAME]
    python tests/faults/checker.py --producer P.jsonl --sink S.jsonl --dump DIR

`--save DIR` keeps the views that were read, for `--dump`. Hands everything to `saga_worker.testing.checker`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from saga_worker.testing import ledgers
from saga_worker.testing.checker import Report, check

SHOWN = 20  # violations printed per promise; --json prints all


def main(arguments: list[str] | None = None) -> int:
    """0: every promise holds. 1: one is broken, or the run was too small to say."""
    options = _options().parse_args(arguments)
    views = (
        ledgers.read_dump(options.dump)
        if options.dump
        else asyncio.run(ledgers.read_views(options.database_url, schema=options.schema))
    )
    if options.save:
        ledgers.write_dump(views, options.save)
    report = check(
        [line for path in options.producer for line in ledgers.read_producer(path)],
        [line for path in options.sink for line in ledgers.read_sink(path)],
        views,
        minimum_acknowledged=options.minimum_acknowledged,
        minimum_faults=options.minimum_faults,
        faults=options.faults + sum(1 for path in options.fault_ledger for _ in ledgers.read_lines(path)),
        undoable=options.undoable or None,
    )
    print(_as_json(report) if options.json else _as_text(report))
    return 0 if report.holds else 1


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Verify I1, I2, I3, I4, I8 and I9 from ledgers and views.")
    parser.add_argument("--producer", type=Path, action="append", required=True, help="producer ledger (repeatable)")
    parser.add_argument("--sink", type=Path, action="append", required=True, help="sink ledger (repeatable)")
    views = parser.add_mutually_exclusive_group(required=True)
    views.add_argument("--database-url", help="read the views of this database")
    views.add_argument("--dump", type=Path, help="read the views from this directory")
    parser.add_argument("--schema", default="saga_worker")
    parser.add_argument("--save", type=Path, help="write the views into this directory")
    parser.add_argument("--minimum-acknowledged", type=int, default=1)
    parser.add_argument("--minimum-faults", type=int, default=0)
    parser.add_argument("--faults", type=int, default=0, help="faults that were injected")
    parser.add_argument("--fault-ledger", type=Path, action="append", default=[], help="one JSON line per fault")
    parser.add_argument("--undoable", action="append", help="command type that has an undo (repeatable)")
    parser.add_argument("--json", action="store_true")
    return parser


def _as_text(report: Report) -> str:
    lines = []
    for verdict in report.verdicts:
        lines.append(
            f"{verdict.invariant:5}{'holds ' if verdict.holds else 'BROKEN'} {verdict.examined:8}  {verdict.promise}"
        )
        lines += [f"      {violation}" for violation in verdict.violations[:SHOWN]]
        if len(verdict.violations) > SHOWN:
            lines.append(f"      … and {len(verdict.violations) - SHOWN} more")
    figures = f"lost {len(report.lost)}, doubled {len(report.doubled)}, stuck {len(report.stuck)}"
    return "\n".join([*lines, f"{report.acknowledged} events acknowledged, {report.deliveries} deliveries; {figures}"])


def _as_json(report: Report) -> str:
    return json.dumps(
        {
            "holds": report.holds,
            "verdicts": {
                v.invariant: {"holds": v.holds, "examined": v.examined, "violations": v.violations}
                for v in report.verdicts
            },
            "lost": report.lost,
            "doubled": report.doubled,
            "stuck": report.stuck,
            "acknowledged": report.acknowledged,
            "repeated": report.repeated,
            "deliveries": report.deliveries,
            "redelivered": report.redelivered,
        }
    )


if __name__ == "__main__":
    sys.exit(main())
