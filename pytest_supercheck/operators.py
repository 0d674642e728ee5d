"""
What whoever runs a pool or keeps its records configures: the only reader of the operators' environment variables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pytest_supercheck.model import is_label

#: The default time limit of an execution on a pool, in ms.
EXECUTION_TIMEOUT_MS: Final = 900_000

#: AWS's own variables that open a store in S3, or lead to what does.
AWS_CREDENTIALS: Final = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    }
)


class BadVariable(ValueError):
    """An environment variable has a value that it cannot have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """The settings of one `supercheck worker`."""

    #: The pool's Redis; None when not given. May hold a password: not in the repr.
    url: str | None = field(repr=False)
    #: Password of the pool, where the URL has none.
    token: str | None = field(repr=False)
    #: Slots of the pool; None leaves what is set.
    running_capacity: int | None
    #: Runs that may wait; None leaves what is set.
    queued_capacity: int | None
    #: Worker processes on this host.
    workers: int
    #: Seconds that a run may take that has no limit of its own; 0 for any.
    execution_timeout_s: float
    #: What the workers of this host have that not all have.
    labels: tuple[str, ...]

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> PoolSettings:
        """
        Read the environment.

        Raises:
            BadVariable: A value is malformed; the message names the variable, the value and what it should be.
        """
        environ = os.environ if environ is None else environ
        labels = tuple(label.strip() for label in environ.get("SUPERCHECK_LABELS", "").split(",") if label.strip())
        if bad := [label for label in labels if not is_label(label)]:
            raise BadVariable(f"SUPERCHECK_LABELS: {bad[0]!r} is not 1 to 100 letters, digits or any of ._-:")
        timeout_ms = _number(environ, "SUPERCHECK_TEST_EXECUTION_TIMEOUT_MS", 0)
        return cls(
            url=environ.get("SUPERCHECK_REDIS_URL") or environ.get("SUPERCHECK_URL") or None,
            token=environ.get("SUPERCHECK_TOKEN") or None,
            running_capacity=_number(environ, "SUPERCHECK_RUNNING_CAPACITY", 1),
            queued_capacity=_number(environ, "SUPERCHECK_QUEUED_CAPACITY", 0),
            workers=_number(environ, "SUPERCHECK_MAX_CONCURRENT_TESTS", 1) or os.cpu_count() or 1,
            execution_timeout_s=(EXECUTION_TIMEOUT_MS if timeout_ms is None else timeout_ms) / 1000,
            labels=labels,
        )


#: Ways to isolate runs, as `--isolate` has them.
ISOLATIONS: Final = ("none", "user", "bwrap", "auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationSettings:
    """How the workers of one host shut runs in."""

    #: One of `ISOLATIONS`.
    wanted: str
    #: Whether tests reach the network of the host, where they would have one of their own.
    network: bool
    #: The first and the last user id for runs.
    uids: tuple[int, int]
    #: Directories that tests may read besides.
    readable: tuple[str, ...]
    #: Processes and threads of a run.
    processes: int
    #: MB of memory of its own that a process may have; 0 for any.
    memory_mb: int
    #: MB of a file.
    file_mb: int
    #: MB in /tmp, and in /dev/shm, where they are a run's own.
    tmp_mb: int

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, *, default: str = "none") -> IsolationSettings:
        """
        Read the environment.

        Args:
            default: What is wanted where nothing is said.

        Raises:
            BadVariable: A value is malformed; the message names the variable, the value and what it should be.
        """
        environ = os.environ if environ is None else environ
        wanted = environ.get("SUPERCHECK_ISOLATE", "").strip() or default
        if wanted not in ISOLATIONS:
            raise BadVariable(f"SUPERCHECK_ISOLATE={wanted!r}: it must be one of {', '.join(ISOLATIONS)}")
        uids = environ.get("SUPERCHECK_ISOLATE_UIDS", "").strip() or "61000-61063"
        found = re.fullmatch(r"([0-9]{4,9})-([0-9]{4,9})", uids)
        if found is None or not 1000 <= int(found[1]) <= int(found[2]) - 2 < int(found[1]) + 9_998:
            raise BadVariable(f"SUPERCHECK_ISOLATE_UIDS={uids!r}: it must be FIRST-LAST, from 1000 up, 3 to 10,000 ids")
        readable = [path for path in environ.get("SUPERCHECK_ISOLATE_READABLE", "").split(":") if path]
        if bad := [path for path in readable if not os.path.isabs(path)]:
            raise BadVariable(f"SUPERCHECK_ISOLATE_READABLE: {bad[0]!r} is not an absolute path")
        return cls(
            wanted=wanted,
            network=bool(_number(environ, "SUPERCHECK_ISOLATE_NETWORK", 0)),
            uids=(int(found[1]), int(found[2])),
            readable=tuple(map(os.path.normpath, readable)),
            processes=_number(environ, "SUPERCHECK_ISOLATE_PROCESSES", 1) or 4096,
            memory_mb=_number(environ, "SUPERCHECK_ISOLATE_MEMORY_MB", 0) or 0,
            file_mb=_number(environ, "SUPERCHECK_ISOLATE_FILE_MB", 1) or 10_000,
            tmp_mb=_number(environ, "SUPERCHECK_ISOLATE_TMP_MB", 1) or 4_000,
        )

    @property
    def limits(self) -> dict[str, int]:
        """Limits of a process, by their names in prlimit(1)."""
        memory = {"data": self.memory_mb << 20} if self.memory_mb else {}
        return {"core": 0, "nproc": self.processes, "fsize": self.file_mb << 20, **memory}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """Where records and reports are kept."""

    #: The store's address, as `stores.open_store` wants it; None when not given.
    url: str | None
    #: The address of the S3 server; None for AWS.
    s3_endpoint: str | None

    @property
    def credentials(self) -> frozenset[str]:
        """The environment variables that open the store: none for a directory."""
        return AWS_CREDENTIALS if (self.url or "").startswith("s3://") else frozenset()

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> StoreSettings:
        """Read the environment."""
        environ = os.environ if environ is None else environ
        return cls(
            url=environ.get("SUPERCHECK_STORE") or None, s3_endpoint=environ.get("SUPERCHECK_S3_ENDPOINT") or None
        )


def _number(environ: Mapping[str, str], name: str, least: int) -> int | None:
    """A variable's value; None where it is not set."""
    text = environ.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise BadVariable(f"{name}={text!r}: it must be a whole number from {least} up")
    return int(text)
