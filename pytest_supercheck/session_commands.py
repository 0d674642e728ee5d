"""
The commands of `supercheck` that are pytest sessions which need nothing of a project here.

An edge beside `cli`, which finds them by their entry points.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import click

_URL_HELP: Final = "The pool, as of pytest's --supercheck-url. Default: $SUPERCHECK_URL, then the configuration's."

#: Whatever follows is pytest's, options too.
_PYTEST: Final[dict[str, Any]] = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def start_session(url: str | None, args: tuple[str, ...], *, run: str = "") -> int:
    """
    Be a session that needs nothing of a project.

    Args:
        url: The pool; None for that of the configuration.
        args: pytest's.
        run: The run to follow; empty for a new one.

    Returns:
        pytest's exit code.
    """
    import pytest

    from pytest_supercheck.thin import Thin, command_line

    where = ["--supercheck-url", url] if url else []
    thin = Thin(args=None if run else args, run=run)
    return int(pytest.main(command_line([*where, *args]), plugins=[thin]))


@click.command(context_settings=_PYTEST)
@click.option("--url", metavar="URL", help=_URL_HELP)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def run(url: str | None, args: tuple[str, ...]) -> None:
    """
    Run a project's tests without what they need: workers collect them.

    \b
    supercheck run                              all of them
    supercheck run -- tests/api -k cart -x      what follows is pytest's

    Ends with pytest's exit code. The project's plugins and conftest files are loaded by the workers only.
    """
    sys.exit(start_session(url, args))


@click.command(context_settings=_PYTEST)
@click.option("--url", metavar="URL", help=_URL_HELP)
@click.argument("run_id", metavar="RUN")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def attach(url: str | None, run_id: str, args: tuple[str, ...]) -> None:
    """
    Follow a detached run from its beginning, and end with pytest's exit code.

    \b
    supercheck attach 0198...                   as if it had been started here
    supercheck attach 0198... -- --junitxml=x   what follows is pytest's: how results are shown

    Ctrl-C leaves the run alone. Runs are there for 7 days after their end.
    """
    if args[:1] == ("--",):  # click takes it away in front of all arguments only
        args = args[1:]
    sys.exit(start_session(url, args, run=run_id))
