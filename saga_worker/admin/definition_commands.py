"""`saga-worker definitions`: what a worker would load, checked without any server, and drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from saga_worker.admin.options import actor_option, load_settings, run_async, why_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from saga_worker.saga.definition import Saga
    from saga_worker.saga.instance import Progress
    from saga_worker.saga.registry import Registry
    from saga_worker.settings import Settings

FORMATS = ("mermaid", "dot", "svg")
place_option = click.option(
    "--definitions", "place", metavar="PATH", help="A folder, file or module; default: SAGA_WORKER_DEFINITIONS."
)
format_option = click.option(
    "--format", "format_", type=click.Choice(FORMATS), default="mermaid", show_default=True, help="What to print."
)


@click.group(epilog="\b\nExample:\n  saga-worker definitions check --definitions ./definitions")
def definitions() -> None:
    """Check and draw definitions."""


@definitions.command(epilog="\b\nExample, in CI:\n  saga-worker definitions check --definitions ./definitions")
@place_option
@click.option("--strict", is_flag=True, help="Exit with 1 for a hint, too.")
def check(place: str | None, strict: bool) -> None:
    """Load all definitions as a worker would; every fault that shows without running them is a sentence, and exit 1.

    Hints are about what is allowed and may be forgotten; they change the exit code with --strict only. Notes say what
    cannot be known here, such as who takes an event that none of these definitions takes.
    """
    from saga_worker.admin.output import say
    from saga_worker.saga.errors import DefinitionError
    from saga_worker.saga.hints import hints, notes
    from saga_worker.saga.stays import stays
    from saga_worker.saga.structure import fingerprint, structure

    try:
        registry = _registry(place)
    except DefinitionError as error:
        for line in str(error).splitlines():
            say(line)
        raise click.exceptions.Exit(1) from None
    hinted = False
    for saga in registry.sagas():
        steps = f"{len(saga.steps)} step{'s' * (len(saga.steps) != 1)}"
        mark = fingerprint(structure(saga))
        click.echo(f"{saga.name} {saga.version}: {steps}, started by {', '.join(saga.starts)}, fingerprint {mark}")
        for hint in (*hints(saga), *stays(saga)):
            say(f"Hint: {hint}")
            hinted = True
    for note in notes(registry.sagas()):
        say(f"Note: {note}")
    if strict and hinted:
        raise click.exceptions.Exit(1)


@definitions.command(epilog='\b\nExample:\n  saga-worker definitions accept checkout --why "only another name"')
@click.argument("name")
@place_option
@why_option
@actor_option
def accept(name: str, place: str | None, why: str | None, actor: str) -> None:
    """Take a definition as it is now for what its open sagas run by, though it has changed under its version.

    A worker refuses to start with such a change, because sagas may stand where the definition has no place for them.
    """
    settings = load_settings("database_url", definitions=place)
    run_async(_accept(settings, _versions_of(name, place), why, actor))


async def _accept(settings: Settings, sagas: Sequence[Saga[Any]], why: str | None, actor: str) -> None:
    from saga_worker import fingerprints
    from saga_worker.admin.connect import acting
    from saga_worker.saga.structure import structure
    from saga_worker.sql import storable

    async with acting(settings) as database, database.transaction() as connection:
        noted = await fingerprints.accept(connection, [structure(saga) for saga in sagas])
        names = [f"definition/{each.name}/{each.version}" for each in noted]
        before = [f'{{"fingerprint": "{each.was}"}}' if each.was is not None else None for each in noted]
        after = [f'{{"fingerprint": "{each.fingerprint}"}}' for each in noted]
        await connection.execute("insert_audit", actor, "accept", storable(why), names, before, after)
    for each in noted:
        click.echo(f"{each.name} {each.version}: fingerprint {each.fingerprint}, before {each.was or 'not known'}")
    if not noted:
        click.echo(f"{sagas[0].name} is as it was noted; there is nothing to accept.")


def _versions_of(name: str, place: str | None) -> list[Saga[Any]]:
    """All versions of this name; a usage error that lists the others when there is none."""
    newest = find(name, None, place)
    return [saga for saga in _registry(place).sagas() if saga.name == newest.name]


@definitions.command(epilog="\b\nExample:\n  saga-worker definitions graph checkout --format svg > checkout.svg")
@click.argument("name")
@click.option("--version", type=int, help="Default: the newest.")
@format_option
@place_option
def graph(name: str, version: int | None, format_: str, place: str | None) -> None:
    """Draw a definition."""
    click.echo(draw(find(name, version, place), None, format_), nl=False)


def find(name: str, version: int | None, place: str | None) -> Saga[Any]:
    """The definition of this name; a usage error that lists the others when there is none."""
    registry = _registry(place)
    saga = registry.latest(name) if version is None else registry.find(name, version)
    if saga is None:
        known = ", ".join(f"{known} {number}" for known, number in registry.versions())
        wanted = name if version is None else f"{name} {version}"
        raise click.UsageError(f"There is no definition {wanted} here; there are: {known}.")
    return saga


def draw(saga: Saga[Any], progress: Progress | None, format_: str) -> str:
    """The definition, or with `progress` one of its sagas, as text of this format."""
    from saga_worker.admin import drawing
    from saga_worker.admin import graph as graphs

    form = {"mermaid": graphs.mermaid, "dot": graphs.dot, "svg": drawing.svg}[format_]
    return form(graphs.graph_of(saga, progress))


def _registry(place: str | None) -> Registry:
    from saga_worker.admin.options import load_settings
    from saga_worker.loading import load

    return load(load_settings(definitions=place).definitions)
