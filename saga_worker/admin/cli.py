"""The command `saga-worker`: arguments in, exit code out (0 done, 1 failed or found something, 2 wrong usage).

Guarantees that `--help` imports no driver and that a failure is one sentence on stderr, without a secret.
Each command lives in a module of its own, imported when it is called; heavy imports stand inside the commands.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

import click

from saga_worker import __version__

READER_GONE = 128 + 13  # as a shell reports the end by SIGPIPE
COMMANDS = {
    "demo": "saga_worker.admin.demo:demo",
    "db": "saga_worker.admin.database:db",
    "run": "saga_worker.admin.run:run",
    "publish": "saga_worker.admin.publish:publish",
    "inbox": "saga_worker.admin.inbox_commands:inbox",
    "saga": "saga_worker.admin.saga_commands:saga",
    "definitions": "saga_worker.admin.definition_commands:definitions",
    "check": "saga_worker.admin.check:check",
    "doctor": "saga_worker.admin.doctor:doctor",
    "faults": "saga_worker.admin.faults:faults",
}


class LazyGroup(click.Group):
    """A group that imports a sub-command when it is asked for."""

    def __init__(self, *, lazy: Mapping[str, str], **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]  # click's own signature is not typed per keyword
        self._lazy = lazy

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `saga-worker inbox list | head`: the reader has seen enough
            _discard_stdout()
            return READER_GONE

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return None
        module, _, name = self._lazy[cmd_name].partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command


EPILOG = """\b
Example:
  saga-worker db upgrade && saga-worker run --definitions ./definitions

\b
Servers are named by SAGA_WORKER_DATABASE_URL and SAGA_WORKER_AMQP_URL.
Exit codes: 0 done, 1 failed or found something, 2 wrong usage or configuration."""


@click.group(cls=LazyGroup, lazy=COMMANDS, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of a failure.")
@click.version_option(__version__, prog_name="saga-worker", message="%(prog)s %(version)s")
def cli(debug: bool) -> None:
    """Sagas over RabbitMQ and PostgreSQL, with a transactional inbox and outbox."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the entry point of the console script, which exits with what is returned."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _silence_logs()
    try:
        returned = cli.main(args=list(arguments), prog_name="saga-worker", standalone_mode=False)
        return returned if isinstance(returned, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        return 1
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Exception as error:  # the boundary: whatever a command did not expect becomes a sentence
        from saga_worker.admin.failure import report

        return report(error, debug="--debug" in arguments)


def _silence_logs() -> None:
    """Where no command sets up logging, Python would print the bare names of our events; commands say sentences."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())


def _discard_stdout() -> None:
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
