"""
What whoever runs the server configures: the only reader of its environment variables.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pytest_supercheck.errors import SupercheckError
from pytest_supercheck.operators import BadVariable

#: Where everything is kept that has no address of its own.
DATA: Final = ".supercheck"

#: Longer than a run can be run once more.
BUNDLE_DAYS: Final = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one server."""

    #: The pool's Redis; None when not given. May hold a password: not in the repr.
    redis_url: str | None = field(repr=False)
    #: Password of the pool, where the URL has none.
    redis_password: str | None = field(repr=False)
    #: Directory of what has no address of its own, and of records that wait for the store.
    data: Path
    #: SQLAlchemy's URL of the history. May hold a password: not in the repr.
    database_url: str = field(repr=False)
    #: A directory, or `s3://bucket/prefix`.
    store: str
    #: Address of the S3 server; None for AWS.
    s3_endpoint: str | None
    #: The same server's address for clients; None where they do not reach it.
    s3_public_endpoint: str | None
    #: Days that a run is kept; None for ever.
    retention_days: int | None
    #: Runs that are kept of each project; None for all.
    retention_runs: int | None
    #: Days that a project's files are kept which no session asks for any more.
    bundle_days: int
    #: Whether whoever may submit runs may have them run in place, in directories of the workers that they name.
    in_place: bool = False
    #: The configuration file; None when there is none.
    config: Path | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, *, data: Path | None = None) -> Settings:
        """
        Read the environment.

        Args:
            data: Wins over SUPERCHECK_DATA.

        Raises:
            BadVariable: A value is malformed; the message names the variable and what it should be.
        """
        environ = os.environ if environ is None else environ
        data = (data or Path(environ.get("SUPERCHECK_DATA") or DATA)).absolute()
        return cls(
            redis_url=environ.get("SUPERCHECK_REDIS_URL") or environ.get("SUPERCHECK_URL") or None,
            redis_password=environ.get("SUPERCHECK_TOKEN") or None,
            data=data,
            database_url=_database_url(environ.get("SUPERCHECK_DATABASE_URL", "").strip(), data),
            store=environ.get("SUPERCHECK_STORE") or str(data / "store"),
            s3_endpoint=environ.get("SUPERCHECK_S3_ENDPOINT") or None,
            s3_public_endpoint=environ.get("SUPERCHECK_S3_PUBLIC_ENDPOINT") or None,
            retention_days=_number(environ, "SUPERCHECK_RETENTION_DAYS"),
            retention_runs=_number(environ, "SUPERCHECK_RETENTION_RUNS"),
            bundle_days=_number(environ, "SUPERCHECK_BUNDLE_DAYS") or BUNDLE_DAYS,
            in_place=_yes(environ, "SUPERCHECK_IN_PLACE"),
            config=Path(environ["SUPERCHECK_CONFIG"]).absolute() if environ.get("SUPERCHECK_CONFIG") else None,
        )


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise BadVariable(f"{name}={text!r}: it must be a whole number from 1 up")
    return int(text)


def _yes(environ: Mapping[str, str], name: str) -> bool:
    text = environ.get(name, "").strip()
    if text not in ("", "0", "1"):
        raise BadVariable(f"{name}={text!r}: it must be 0 or 1")
    return text == "1"


def _database_url(given: str, data: Path) -> str:
    if not given:
        return f"sqlite:///{data / 'history.sqlite'}"
    scheme, separator, rest = given.partition("://")
    if not separator or scheme.partition("+")[0] not in ("sqlite", "postgresql", "postgres"):
        # Its value is kept back: it may hold a password.
        raise BadVariable("SUPERCHECK_DATABASE_URL: it must begin with sqlite:/// or postgresql://")
    # The driver that the `server` extra brings, whatever SQLAlchemy would take by itself.
    return f"postgresql+psycopg://{rest}" if scheme in ("postgresql", "postgres") else given


def make_private(data: Path) -> None:
    """
    Make the data directory, and close it to all who are not of its group: tests may run as somebody else.

    Raises:
        SupercheckError: It cannot be made.
    """
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = data.stat()
        if found.st_uid == os.geteuid() and found.st_mode & 0o007:
            data.chmod(stat.S_IMODE(found.st_mode) & ~0o007)
    except OSError as exc:
        raise SupercheckError(f"{data} cannot be made: {exc}") from exc
