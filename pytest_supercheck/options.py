"""
What commands of `supercheck` have in common: options, and errors that become exit codes.

Beneath the modules of commands, here and on the server's side; knows none of them.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from pytest_supercheck.addresses import is_server
from pytest_supercheck.errors import SupercheckError
from pytest_supercheck.masking import masked
from pytest_supercheck.model import is_label
from pytest_supercheck.operators import ISOLATIONS, BadVariable, PoolSettings
from pytest_supercheck.record import RecordError

_F = TypeVar("_F", bound=Callable[..., Any])

_DEFAULT_URL: Final = "Default: $SUPERCHECK_REDIS_URL, then $SUPERCHECK_URL."


def url_option(command: _F, *, what: str = "The pool's Redis: redis://, rediss:// or unix://.") -> _F:
    """Add --url to a command."""
    return click.option("--url", metavar="URL", help=f"{what} {_DEFAULT_URL}", callback=_out_of_sight)(command)


def _out_of_sight(_context: click.Context, _option: click.Parameter, url: str | None) -> str | None:
    """
    Start anew without an address that may hold a password: everybody on this machine can read command lines.

    Nobody else can read the environment, where the address is then.
    """
    words = sys.orig_argv
    places = [place for place, word in enumerate(words) if url and word in (url, f"--url={url}")]
    if url and places and ("@" in url or "password=" in url):
        first, last = places[-1] - (words[places[-1]] == url), places[-1]
        os.environ["SUPERCHECK_REDIS_URL"] = url
        os.execv(sys.executable, [*words[:first], *words[last + 1 :]])
    return url


def check_labels(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Callback of an option that takes labels."""
    if bad := [label for label in given if not is_label(label)]:
        raise click.BadParameter(f"{bad[0]!r} is not 1 to 100 letters, digits or any of ._-:")
    return given


def isolate_options(command: _F) -> _F:
    """Add what says how workers shut runs in."""
    how = click.option(
        "--isolate",
        type=click.Choice(ISOLATIONS),
        help="What tests are shut in by; auto takes the strongest that works here. Default: $SUPERCHECK_ISOLATE.",
    )
    network = click.option(
        "--isolate-network",
        is_flag=True,
        help="With bwrap: tests reach the network. Default: $SUPERCHECK_ISOLATE_NETWORK.",
    )
    return how(network(command))


def reports_errors(command: _F) -> _F:
    """Errors of ours end the command with their message and their exit code."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except BadVariable as exc:
            raise click.UsageError(str(exc)) from exc
        except (SupercheckError, RecordError) as exc:
            click.echo(f"supercheck: {exc}", err=True)
            sys.exit(getattr(exc, "exit_code", SupercheckError.exit_code))

    return wrapped  # type: ignore[return-value]


def pool_settings(url: str | None) -> tuple[PoolSettings, str]:
    """
    The settings of the environment, and the pool's address.

    Args:
        url: What the command was given; wins over the environment.

    Raises:
        click.UsageError: There is none, or it is that of a server.
    """
    settings = PoolSettings.from_env()
    address = url or settings.url
    if address is None:
        raise click.UsageError("no pool given: use --url redis://HOST:6379/0, or set SUPERCHECK_REDIS_URL")
    if is_server(address):
        raise click.UsageError(
            f"{masked(address)} is a server, and this needs the pool's Redis itself: redis://, rediss:// or unix://. "
            "The server's pages show its queue."
        )
    return settings, address
