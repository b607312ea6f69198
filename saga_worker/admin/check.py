"""`saga-worker check`: the promises, verified on the live database. One line each: figure and verdict.

Takes the statements `sql/check_*.sql`, each of which returns examined, figure, violations and examples, all read as
of one moment; ends with 1 if any promise is broken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from saga_worker.admin.options import json_option, load_settings, run_async

if TYPE_CHECKING:
    from saga_worker.settings import Settings

STATEMENT_SECONDS = 600
CHECK_CONSTRAINTS = 19  # of the tables of this release


@dataclass(frozen=True, slots=True)
class Promise:
    """An invariant, and the statement that finds its violations."""

    id: str
    text: str
    statement: str


@dataclass(frozen=True, slots=True)
class Verdict:
    promise: Promise
    examined: int
    figure: str
    violations: int
    examples: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return self.violations == 0


PROMISES = (
    Promise("I1", "no loss: every message is accounted for", "check_accounting"),
    Promise("I2", "exactly-once effect: no message is applied twice", "check_exactly_once"),
    Promise("I3", "atomic step: every timer was armed by a step", "check_timers_armed"),
    Promise("I4", "nothing invented: every message to send was committed by a step", "check_outbox_journalled"),
    Promise("I6", "serial: the journal of a saga is one chain", "check_journal_chain"),
    Promise("I8", "never silently stuck: every open saga has a reason to move", "check_stuck"),
    Promise("I9", "compensation complete: nothing that was done is left standing", "check_compensated"),
    Promise("CHECK", "the constraints of the tables hold", "check_constraints"),
)


@click.command(epilog="\b\nExample:\n  saga-worker check --json || page the operator")
@json_option
def check(as_json: bool) -> None:
    """Verify the promises on the live database; exit with 1 if one is broken."""
    from saga_worker.admin.output import cell, print_json

    verdicts = run_async(verify(load_settings("database_url")))
    for verdict in verdicts:
        if as_json:
            print_json(document(verdict))
            continue
        word = "ok" if verdict.holds else f"BROKEN ({verdict.violations})"
        click.echo(f"{verdict.promise.id:<5}  {word:<11}  {verdict.promise.text}  [{cell(verdict.figure)}]")
        for example in verdict.examples:
            click.echo(f"       {cell(example)}")
    if not all(verdict.holds for verdict in verdicts):
        raise click.exceptions.Exit(1)


async def verify(settings: Settings) -> list[Verdict]:
    """Every promise, as of one moment."""
    from saga_worker.admin.connect import looking
    from saga_worker.sql import statements

    texts = statements(settings.schema_)
    verdicts = []
    async with looking(settings) as connection:
        # The stages' connections avoid sequential scans; here nearly every statement is one.
        await connection.raw.execute("SET LOCAL enable_seqscan = on")
        for promise in PROMISES:
            arguments = (settings.schema_, CHECK_CONSTRAINTS) if promise.id == "CHECK" else ()
            row = await connection.raw.fetchrow(texts[promise.statement], *arguments, timeout=STATEMENT_SECONDS)
            verdicts.append(_verdict(promise, row))
    return verdicts


def document(verdict: Verdict) -> dict[str, Any]:
    return {
        "id": verdict.promise.id,
        "promise": verdict.promise.text,
        "holds": verdict.holds,
        "examined": verdict.examined,
        "figure": verdict.figure,
        "violations": verdict.violations,
        "examples": list(verdict.examples),
    }


def _verdict(promise: Promise, row: Any) -> Verdict:
    return Verdict(
        promise=promise,
        examined=row["examined"],
        figure=row["figure"],
        violations=row["violations"],
        examples=tuple(row["examples"] or ()),
    )
