"""
The ``supercheck`` command: its commands are in modules of their own, here and in other parts of the distribution.
"""

from __future__ import annotations

import functools
import sys
from importlib.metadata import entry_points
from typing import Final

import click

from pytest_supercheck import __version__
from pytest_supercheck.errors import Unreachable
from pytest_supercheck.operators import PoolSettings, StoreSettings
from pytest_supercheck.options import check_labels, reports_errors, url_option
from pytest_supercheck.queue_commands import queue
from pytest_supercheck.record_commands import report, runs
from pytest_supercheck.worker_command import worker

#: Group of entry points, each of which is a command.
COMMANDS: Final = "supercheck.commands"


class _Commands(click.Group):
    """Our commands, and those that other parts of the distribution declare by an entry point of `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *entry_points(group=COMMANDS).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        for entry in entry_points(group=COMMANDS, name=cmd_name) if command is None else ():
            command = entry.load()
        return command


@click.group(
    cls=_Commands,
    commands=[worker, runs, report, queue],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="supercheck")
def main() -> None:
    """
    Run pytest suites on a shared pool of workers.

    \b
    supercheck worker --url redis://localhost:6379/0      on each machine of the pool
    pytest --supercheck --supercheck-url redis://...      in a project
    supercheck queue --url redis://localhost:6379/0       who runs, who waits
    supercheck report --open                              what became of the last run
    """


@main.command()
@functools.partial(url_option, what="The pool's Redis, or a server's http(s)://.")
@click.option(
    "--label", "labels", multiple=True, metavar="LABEL", callback=check_labels, help="What runs will ask for."
)
@reports_errors
def doctor(url: str | None, labels: tuple[str, ...]) -> None:
    """
    Look at everything that a run needs, and say what is wrong and what to do.

    The pool or server is that of --url, else $SUPERCHECK_REDIS_URL or $SUPERCHECK_URL; without any, embedded runs are
    looked at. The store is $SUPERCHECK_STORE. Ends with 69 when something is wrong.
    """
    from pytest_supercheck.doctor import examine

    settings = PoolSettings.from_env()
    good = True
    for finding in examine(url or settings.url, settings.token, labels, StoreSettings.from_env()):
        click.echo(f"{'ok   ' if finding.good else 'WRONG'}  {finding.subject:<8}  {finding.words}")
        good = good and finding.good
    if not good:
        sys.exit(Unreachable.exit_code)


if __name__ == "__main__":
    main()
