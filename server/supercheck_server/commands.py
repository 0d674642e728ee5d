"""
The server's commands of `supercheck`; the command line finds them by their entry points.

Imports nothing heavy, so that `supercheck --help` works without the extra.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from pytest_supercheck.errors import SupercheckError
from pytest_supercheck.masking import masked
from pytest_supercheck.operators import IsolationSettings
from pytest_supercheck.options import isolate_options, reports_errors, url_option

if TYPE_CHECKING:
    from supercheck_server.access import Access, Scope
    from supercheck_server.settings import Settings

#: What the extra brings and nothing else does.
_NEEDED: Final = ("fastapi", "uvicorn", "jinja2", "sqlalchemy", "alembic", "prometheus_client", "httpx", "jwt")


class ExtraMissing(SupercheckError):
    """The server needs more packages. Install them with: pip install 'pytest-supercheck[server]'"""

    exit_code = 69


def _need_extra() -> None:
    for name in _NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as exc:
            raise ExtraMissing from exc


def _settings(url: str | None) -> Settings:
    from supercheck_server.settings import Settings

    settings = Settings.from_env()
    return replace(settings, redis_url=url) if url else settings


@click.command()
@url_option
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 for any that is free.")
@reports_errors
def server(url: str | None, host: str, port: int) -> None:
    """Serve the live queue, the history and the HTTP API."""
    _need_extra()
    from supercheck_server.serve import serve

    sys.exit(serve(_settings(url), host=host, port=port))


@click.group()
def token() -> None:
    """
    Make, list and revoke the tokens that let people and programs in.

    Of the server whose history it is: give them its $SUPERCHECK_DATABASE_URL or $SUPERCHECK_DATA.
    """


@token.command()
@click.argument("name")
@click.option("--project", metavar="NAME", help="It is good for this project only. Default: all.")
@click.option(
    "--scope",
    type=click.Choice(["read", "submit", "admin"]),
    help="To see; also to submit, stop and retry runs; everything. Default: submit with --project, else admin.",
)
@click.option(
    "--days", type=click.IntRange(1, 36500), metavar="N", help="It lapses after so many days. Default: never."
)
@reports_errors
def create(name: str, project: str | None, scope: Scope | None, days: int | None) -> None:
    """Make a token and print it; it is shown this once."""
    if project is not None and not 1 <= len(project) <= 200:
        # An empty one, as of a variable that is not set, would be all of them.
        raise click.UsageError("--project: a project's name has 1 to 200 characters")
    with _access() as access:
        _, secret = access.create(name, project=project or "", scope=scope, days=days)
    click.echo(secret)
    click.echo(f"supercheck: it opens servers whose history is {masked(_settings(None).database_url)}", err=True)


@token.command("list")
@reports_errors
def list_tokens() -> None:
    """List the tokens, without their secrets."""
    with _access() as access:
        for one in access.list():
            state = "revoked" if one.revoked_ms else f"lapses {_day(one.expires_ms)}" if one.expires_ms else "valid"
            good_for = f"{one.scope:<6}  {one.project or '(all projects)'}"
            click.echo(f"{one.id}  {_day(one.created_ms)}  {state:<18}  {good_for}  {one.name}")


@token.command()
@click.argument("token_id", metavar="ID")
@reports_errors
def revoke(token_id: str) -> None:
    """Let nobody in with a token any more; ID is as `supercheck token list` shows it."""
    with _access() as access:
        if not access.revoke(token_id):
            raise click.UsageError(f"there is no token {token_id!r}: 'supercheck token list' lists them")
    click.echo(f"{token_id}: revoked")


@click.group()
def history() -> None:
    """
    Look after the history.

    It is in $SUPERCHECK_DATABASE_URL or $SUPERCHECK_DATA, and made of what is in $SUPERCHECK_STORE: give the server's.
    """


@history.command()
@reports_errors
def rebuild() -> None:
    """Bring into the database every run, token and bundle of the store that it does not know."""
    _need_extra()
    from supercheck_server.rebuild import rebuild as rebuild_history

    settings = _settings(None)
    done = rebuild_history(settings)
    click.echo(f"{done.written} runs written, {done.known} were known, {done.unreadable} cannot be read")
    if done.tokens:
        click.echo(f"{done.tokens} tokens written")
    if done.bundles:
        click.echo(f"{done.bundles} bundles of projects' files found")
    sys.exit(1 if done.unreadable else 0)


@click.group()
def notify() -> None:
    """Look after the messages that the server sends."""


@notify.command("test")
@click.argument("name")
@reports_errors
def try_target(name: str) -> None:
    """Send a sample to the target NAME of the configuration file."""
    _need_extra()
    from supercheck_server.preview import send_sample

    send_sample(_settings(None), name)
    click.echo(f"{name}: sent")


@notify.command()
@click.argument("name")
@click.argument("run")
@reports_errors
def preview(name: str, run: str) -> None:
    """Show what the target NAME is told of a run, without sending it."""
    _need_extra()
    from supercheck_server.preview import preview as preview_message

    message = preview_message(_settings(None), name, run)
    click.echo(f"{message.title}\n\n{message.body}")


@contextmanager
def _access() -> Iterator[Access]:
    _need_extra()
    from supercheck_server.access import Access
    from supercheck_server.database import Database

    database = Database(_settings(None).database_url)
    try:
        database.migrate()
        yield Access(database)
    finally:
        database.close()


def _day(ms: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(ms / 1000))


@click.command()
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 for any that is free.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".supercheck"),
    show_default=True,
    help="Directory of the history and the records.",
)
@click.option("-c", "--concurrency", type=click.IntRange(1), metavar="N", help="Executions at a time.")
@isolate_options
@reports_errors
def up(host: str, port: int, data: Path, concurrency: int | None, isolate: str | None, isolate_network: bool) -> None:
    """Run a whole pool on this machine: Valkey, the server and workers. Ctrl-C stops all of it."""
    _need_extra()
    from supercheck_server.configuration import read_configuration
    from supercheck_server.up import up as run_all

    private = read_configuration(_settings(None).config).variables
    wanted = isolate or IsolationSettings.from_env(default="auto").wanted
    walls = ["--isolate", wanted, *(["--isolate-network"] if isolate_network else [])]
    run_all(data=data.absolute(), host=host, port=port, workers=concurrency, isolate=walls, private=private)
