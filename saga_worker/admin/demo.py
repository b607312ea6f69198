"""`saga-worker demo`: the whole thing on this machine. The work is done by `saga_worker.trial.demo`."""

from __future__ import annotations

import click

from saga_worker.admin.options import json_option


@click.command(epilog="\b\nExample:\n  saga-worker demo --sagas 500")
@click.option("--sagas", type=click.IntRange(1, 100_000), default=200, show_default=True, help="How many to run.")
@click.option("--keep", is_flag=True, help="Leave servers and data in place and say where they are.")
@json_option
def demo(sagas: int, keep: bool, as_json: bool) -> None:
    """Run servers, workers and sagas here, kill a worker, and check what came of it."""
    from saga_worker.trial.demo import main

    code = main(sagas=sagas, json_output=as_json, keep=keep)
    raise click.exceptions.Exit(code)
