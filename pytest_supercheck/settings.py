"""
What the user asked for: the only reader of options, ini keys and environment variables.

Knows names and their meaning; neither Redis nor processes.  Imported lazily, once `--supercheck` is known to be on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

import pytest

from pytest_supercheck.addresses import HTTP_SCHEMES, REDIS_SCHEMES, is_server
from pytest_supercheck.model import PRIORITIES, Priority, is_group_name, is_label
from pytest_supercheck.wish import KIND, KINDS, PYTHON

Start = Literal["auto", "fork", "spawn"]
Group = Literal["none", "file", "class", "module"]
Artifacts = Literal["failed", "all", "none"]
Collect = Literal["local", "remote"]
Source = Literal["place", "ship"]
STARTS: Final[tuple[Start, ...]] = ("auto", "fork", "spawn")
GROUPS: Final[tuple[Group, ...]] = ("none", "file", "class", "module")
ARTIFACTS: Final[tuple[Artifacts, ...]] = ("failed", "all", "none")
COLLECTS: Final[tuple[Collect, ...]] = ("local", "remote")
SOURCES: Final = ("auto", "place", "ship")

_Choice = TypeVar("_Choice", bound=str)

#: Bytes in a unit of sizes.
SIZES: Final = {"": 1, "k": 1000, "m": 1_000_000, "g": 1_000_000_000}

#: What xdist's ``--dist`` asks for.
XDIST_GROUPS: Final[dict[str, Group]] = {"loadfile": "file", "loadscope": "class"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One session's settings."""

    #: The pool's address; None for the embedded stack. May hold a password: not in the repr.
    url: str | None = field(repr=False)
    #: Password of the pool, from SUPERCHECK_TOKEN.
    token: str | None = field(repr=False)
    #: Most executions at a time; None for what CPUs or capacity allow, 0 to run everything in the session itself.
    executions: int | None
    #: ``high``, ``normal`` or ``low``.
    priority: Priority
    #: Seconds to wait for admission.
    wait_s: float
    #: Time limit of the run in seconds; 0 and None for the pool's, which an embedded stack has not.
    timeout_s: float | None
    #: The project whose limits count; None for the root directory's name.
    project: str | None
    #: How test processes come to be.
    start: Start
    #: Which tests stay together on one execution, besides those with a mark.
    group: Group
    #: Whether the project is shipped to the workers, or is in its place there.
    source: Source
    #: Where the tests are collected.
    collect: Collect
    #: Whether the run goes on without the session.
    detach: bool
    #: How many runs are kept in the root directory; 0 records none.
    record: int
    #: Labels that workers must have, in alphabetical order.
    labels: tuple[str, ...]
    #: The concurrency group that the run is in, empty for none; the most of its runs at a time, at least 1; and whether
    #: this one stops the oldest where there are more.
    concurrency: str
    concurrency_limit: int
    cancel_in_progress: bool
    #: Of which tests the files are kept that they leave behind.
    artifacts: Artifacts
    #: Patterns of such files, relative to the root directory.
    artifact: tuple[str, ...]
    #: Of shipped runs: where their environment comes from, and which Python is asked for; empty for the project's.
    env: str
    python: str
    #: From which files it is made, and with which extras and groups of the project; empty for convention.
    env_sources: tuple[str, ...]
    env_extras: tuple[str, ...]
    env_groups: tuple[str, ...]
    #: Whether a run ends when its environment differs from the session's.
    strict_env: bool
    #: Patterns of this environment's variables that go along.
    pass_env: tuple[str, ...]
    #: Patterns of files to ship although git ignores them or they look like secrets, and of files not to ship.
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    #: How long the files of a project that is shipped may be, together, in bytes.
    bundle_limit: int
    #: Whether executions came from xdist's ``-n``.
    from_xdist: bool

    @classmethod
    def from_pytest(cls, config: pytest.Config, environ: Mapping[str, str] | None = None) -> Settings:
        """
        Read the options of a session whose command line has been parsed, at least in part.

        Raises:
            pytest.UsageError: A value is not of the form that the option's help describes.
        """
        read = _Reader(config, os.environ if environ is None else environ)
        executions, from_xdist = read.executions()
        url = read.text("url")
        if url is not None and not url.startswith((*REDIS_SCHEMES, *HTTP_SCHEMES)):
            known = ", ".join((*REDIS_SCHEMES, *HTTP_SCHEMES))
            raise pytest.UsageError(f"--supercheck-url: {url.split('@')[-1]!r} is none of {known}")
        detach = read.flag("detach")
        if detach and url is None:
            raise pytest.UsageError(
                "--supercheck-detach: an embedded stack ends with its session. Give --supercheck-url."
            )
        return cls(
            url=url,
            token=read.environ.get("SUPERCHECK_TOKEN") or None,
            executions=executions,
            priority=read.choice("priority", PRIORITIES, "normal"),
            wait_s=read.seconds("wait") or 0.0,
            timeout_s=read.seconds("timeout"),
            project=read.text("project"),
            start=read.choice("start", STARTS, "auto"),
            group=read.choice("group", GROUPS, read.xdist_group()),
            source=read.source(url),
            collect=read.choice("collect", COLLECTS, "local"),
            detach=detach,
            record=read.count("record", 20),
            labels=read.labels(),
            concurrency=read.concurrency(),
            concurrency_limit=read.count("concurrency_limit", 1, least=1),
            cancel_in_progress=read.flag("cancel_in_progress"),
            artifacts=read.choice("artifacts", ARTIFACTS, "failed"),
            artifact=read.lines("artifact"),
            env=read.kind(),
            python=read.python(),
            env_sources=read.lines("env_sources"),
            env_extras=read.names("env_extras"),
            env_groups=read.names("env_groups"),
            strict_env=read.flag("strict_env"),
            pass_env=read.names("pass_env"),
            include=read.lines("include"),
            exclude=read.lines("exclude"),
            bundle_limit=read.size("bundle_limit", 1_000_000_000),
            from_xdist=from_xdist,
        )


class _Reader:
    """Command line before environment before ini file."""

    def __init__(self, config: pytest.Config, environ: Mapping[str, str]) -> None:
        self._config = config
        # Before conftests are loaded `config.option` is not filled yet.
        self._options: Any = getattr(config, "known_args_namespace", None) or config.option
        self.environ = environ

    def text(self, name: str) -> str | None:
        key = f"supercheck_{name}"
        return getattr(self._options, key, None) or self.environ.get(key.upper()) or self._config.getini(key) or None

    def lines(self, name: str) -> tuple[str, ...]:
        """What may be given several times: as several options, or as lines of the variable or the ini key."""
        key = f"supercheck_{name}"
        given = getattr(self._options, key, None) or self.environ.get(key.upper(), "").splitlines()
        found = (text.strip() for text in given or self._config.getini(key))
        return tuple(text for text in found if text)

    def names(self, name: str) -> tuple[str, ...]:
        """As `lines`, with several on a line, too, and spaces or commas between."""
        return tuple(name for line in self.lines(name) for name in line.replace(",", " ").split())

    def flag(self, name: str) -> bool:
        """What is on or off."""
        key = f"supercheck_{name}"
        if getattr(self._options, key, False):
            return True
        said = self.environ.get(key.upper())
        if said:
            if said.lower() not in ("0", "1", "false", "true", "no", "yes"):
                raise pytest.UsageError(f"{key.upper()}: {said!r} is none of 1, true, yes, 0, false, no")
            return said.lower() in ("1", "true", "yes")
        return bool(self._config.getini(key))

    def source(self, url: str | None) -> Source:
        """A server's workers may be anywhere; a pool's users and workers see the same files."""
        value = self.choice("source", SOURCES, "auto")
        far = is_server(url)
        if value == "ship" and not far:
            raise pytest.UsageError("--supercheck-source=ship: files are shipped to a server; give its http(s):// URL")
        return "ship" if value == "ship" or (value == "auto" and far) else "place"

    def kind(self) -> str:
        wanted = self.text("env") or "uv"
        if not KIND.fullmatch(wanted):
            known = ", ".join(KINDS)
            raise pytest.UsageError(
                f"--supercheck-env: {wanted!r} is no kind of environment: {known}, or what a worker's plugin makes"
            )
        return wanted

    def python(self) -> str:
        wanted = self.text("python") or ""
        if wanted and not PYTHON.fullmatch(wanted):
            raise pytest.UsageError(f"--supercheck-python: {wanted!r} is no version, such as 3.12 or >=3.11")
        return wanted

    def choice(self, name: str, choices: tuple[_Choice, ...], default: _Choice) -> _Choice:
        value = self.text(name) or default
        for choice in choices:
            if choice == value:
                return choice
        raise pytest.UsageError(f"--supercheck-{name}: {value!r} is none of {', '.join(choices)}")

    def seconds(self, name: str) -> float | None:
        value = self.text(name)
        if value is None:
            return None
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < float("inf"):
            raise pytest.UsageError(f"--supercheck-{name}: {value!r} is not a number of seconds from 0 up")
        return seconds

    def xdist_group(self) -> Group:
        """The grouping that belongs to xdist's `--dist`."""
        return XDIST_GROUPS.get(getattr(self._options, "dist", ""), "none")

    def count(self, name: str, default: int, *, least: int = 0) -> int:
        value = self.text(name)
        if value is None:
            return default
        if not (value.isascii() and value.isdigit()) or int(value) < least:
            option = name.replace("_", "-")
            raise pytest.UsageError(f"--supercheck-{option}: {value!r} is not a number from {least} up")
        return int(value)

    def size(self, name: str, default: int) -> int:
        value = self.text(name)
        if value is None:
            return default
        found = re.fullmatch(r"(\d{1,15})\s*(|k|m|g)b?", value.strip(), re.IGNORECASE | re.ASCII)
        if found is None:
            option = name.replace("_", "-")
            raise pytest.UsageError(f"--supercheck-{option}: {value!r} is not a size such as 500MB or 2GB")
        return int(found[1]) * SIZES[found[2].lower()]

    def labels(self) -> tuple[str, ...]:
        """Options that are given several times; elsewhere with commas between."""
        given = self.text("label") or ()
        texts = given.split(",") if isinstance(given, str) else given
        labels = {label.strip() for text in texts for label in text.split(",")} - {""}
        if bad := [label for label in labels if not is_label(label)]:
            raise pytest.UsageError(f"--supercheck-label: {bad[0]!r} is not 1 to 100 letters, digits or any of ._-:")
        return tuple(sorted(labels))

    def concurrency(self) -> str:
        name = self.text("concurrency") or ""
        if name and not is_group_name(name):
            raise pytest.UsageError(
                f"--supercheck-concurrency: {name!r} is not 1 to 200 letters, digits or any of ._-:/"
            )
        return name

    def executions(self) -> tuple[int | None, bool]:
        """The number asked for (None: auto), and whether it was xdist's `-n` that asked."""
        xdist = getattr(self._options, "numprocesses", None)
        if xdist is not None and not getattr(self._options, "supercheck_executions", None):
            return (xdist, True) if isinstance(xdist, int) else (None, True)
        value = self.text("executions")
        if value is None or value == "auto":
            return None, False
        if not (value.isascii() and value.isdigit()) or int(value) < 1:
            raise pytest.UsageError(f"--supercheck-executions: {value!r} is neither a number from 1 up nor 'auto'")
        return int(value), False
