"""
The server's commands of `supercheck`; the command line finds them by their entry points.

Imports nothing heavy, so that `supercheck --help` works without the extra.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click

from pytest_supercheck.cli import reports_errors, url_option
from pytest_supercheck.errors import SupercheckError

if TYPE_CHECKING:
    from supercheck_server.settings import Settings

#: What the extra brings and nothing else does.
_NEEDED: Final = ("fastapi", "uvicorn", "jinja2", "sqlalchemy", "alembic", "prometheus_client")


class ExtraMissing(SupercheckError):
    """The server needs more packages. Install them with: pip install 'pytest-supercheck[server]'"""

    exit_code = 69


def _need_extra() -> None:
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        raise ExtraMissing


def _settings(url: str | None) -> Settings:
    from supercheck_server.settings import Settings

    settings = Settings.from_env()
    return replace(settings, redis_url=url) if url else settings


@click.command()
@url_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 for any that is free.")
@reports_errors
def server(url: str | None, host: str, port: int) -> None:
    """Serve the live queue, the history and the HTTP API."""
    _need_extra()
    from supercheck_server.serve import serve

    sys.exit(serve(_settings(url), host=host, port=port))
