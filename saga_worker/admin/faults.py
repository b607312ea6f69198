"""`saga-worker faults`: the named points at which a test can kill, raise or sleep; see SAGA_WORKER_FAULT."""

from __future__ import annotations

import click

from saga_worker.admin.options import json_option


@click.command(
    hidden=True, epilog="\b\nExample:\n  SAGA_WORKER_FAULT=$(saga-worker faults | head -1)=kill saga-worker run"
)
@json_option
def faults(as_json: bool) -> None:
    """List the fault points, one per line."""
    from saga_worker.admin.output import print_json
    from saga_worker.faults import POINTS

    for point in POINTS:
        if as_json:
            print_json({"point": point})
        else:
            click.echo(point)
