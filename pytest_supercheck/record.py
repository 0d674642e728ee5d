"""
The nouns of a finished run: what is kept of it, and how that is written down as `run.json`.

Last step of the flow (events → record).  Pure data and JSON: must not know where it is kept, nor how it is shown.

`run.json` is a `RunRecord` as one JSON object and `summary.json` its `RunSummary` alone, both of version 1.  Their
keys are the fields below; a field that has its default is left out, times are ISO 8601 in UTC.  Readers ignore keys
that they do not know and refuse other versions.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, TypeVar

from pytest_supercheck.plain import plain, revive

VERSION: Final = 1

Outcome = Literal["failed", "error", "passed", "skipped", "xfailed", "xpassed"]

#: How a test can end, in pytest's words and in the order in which people want to know.
OUTCOMES: Final[tuple[Outcome, ...]] = ("failed", "error", "passed", "skipped", "xfailed", "xpassed")

#: Those with which a run has failed.
FAILING: Final = frozenset({"failed", "error"})

#: Characters of one value, and values of a list, in an origin that somebody sends.
ORIGIN_TEXT: Final = 2_000
ORIGIN_LIST: Final = 500

_T = TypeVar("_T")


class RecordError(ValueError):
    """The record cannot be read: it is damaged, or was written by a newer release."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who started a run, on what occasion and from which sources; the connector puts it into the run's spec."""

    #: Who: the account on the machine, on GitHub the actor.
    user: str = ""
    #: The machine of the session that started it.
    host: str = ""
    #: ``local``, ``ci``, of a server's job ``job`` or ``schedule``, or GitHub's event: ``push``, ``pull_request``,
    #: ``schedule``, ``workflow_dispatch``, ...
    trigger: str = "local"
    #: The job that it is a run of; empty for none.
    job: str = ""
    #: The repository's address, without credentials.
    repository: str = ""
    #: The branch; of a pull request its own.
    branch: str = ""
    #: The commit's full hash.
    commit: str = ""
    #: The pull request's number; 0 for none.
    pull_request: int = 0
    #: The page of the CI job that started it.
    url: str = ""
    #: The session's command line, passwords masked.
    argv: tuple[str, ...] = ()
    #: The project's root directory.
    rootdir: str = ""
    #: The session's version of Python.
    python: str = ""
    #: Its version of pytest.
    pytest: str = ""
    #: Its operating system and machine.
    platform: str = ""
    #: Its pytest plugins, as ``name-version``.
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text that can be long."""

    #: What it is, such as ``Captured stdout call``; empty for a traceback.
    title: str = ""
    #: The text, or its beginning and end with a line between that says how much is missing.
    text: str
    #: Where in the run's folder of the store it is as a whole, such as ``texts/12-0.txt``; empty when that is nowhere.
    whole: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One thing that went wrong in a test."""

    #: ``setup``, ``call`` or ``teardown``.
    phase: str
    #: In which attempt, from 1; one before the test's last did not count.
    attempt: int = 1
    #: The subtest, as pytest writes it; empty for the test itself.
    subtest: str = ""
    #: The first line of what pytest says of it, such as ``ValueError: no stock``.
    message: str = ""
    #: The file in which it was raised; empty when it is not known.
    path: str = ""
    #: The line in it, from 1; 0 when it is not known.
    line: int = 0
    #: pytest's traceback, plain.
    trace: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class PostMortem:
    """What is known of the death of a test's process."""

    #: In words.
    words: str
    #: ``lost`` when the whole execution was, or what the keeper said; often empty.
    reason: str = ""
    #: Number of the signal that killed it; None for none.
    signal: int | None = None
    #: Its exit code; None for none.
    exit_code: int | None = None
    #: Whether the kernel killed it for want of memory.
    oom: bool = False
    #: The most memory it had, in KiB; None when not known.
    max_rss_kb: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file that a test left behind."""

    #: Its name as the test knows it.
    name: str
    #: Where in the run's folder of the store it is.
    key: str
    #: How long it is.
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRecord:
    """What became of one test."""

    #: Its place in the run's list of items, from 0; several items may share a nodeid.
    index: int
    #: pytest's.
    nodeid: str
    #: How it ended. A test that failed and whose teardown failed too is ``failed``.
    outcome: Outcome
    #: Seconds in setup, call and teardown, of all attempts.
    phases_s: tuple[float, ...] = ()
    #: Which attempt this is, from 1: it was tried before when its process died or a plugin repeats failing tests.
    attempt: int = 1
    #: Number of the execution that ran it.
    n: int = 0
    #: Where that was.
    host: str = ""
    #: When it started; None when it could not tell.
    started_at: datetime | None = None
    #: Why it was skipped or expected to fail.
    reason: str = ""
    #: What went wrong, in order.
    failures: tuple[Failure, ...] = ()
    #: What it printed and logged, as pytest captured it.
    sections: tuple[Text, ...] = ()
    #: How its process died, if it did.
    crash: PostMortem | None = None
    #: Its user properties, as text.
    properties: tuple[tuple[str, str], ...] = ()
    #: Files that it left behind.
    artifacts: tuple[Artifact, ...] = ()
    #: Those that are not kept, and why, in words.
    not_kept: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float:
        """Seconds that it took."""
        return sum(self.phases_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionRecord:
    """One worker's part in a run."""

    #: Its number; an execution that takes over from a lost one has the same.
    n: int
    #: Its RQ job.
    job: str
    #: Where it ran.
    host: str
    #: When it began.
    started_at: datetime
    #: When it gave its slot back; None when it was lost.
    ended_at: datetime | None = None
    #: Its Python, in full; empty when its test process never came up.
    python: str = ""
    #: Its operating system and machine.
    platform: str = ""
    #: Why it was not forked from a process that had collected; empty when it was.
    spawned: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarningRecord:
    """A warning, once for all tests that it came from."""

    #: Its text.
    text: str
    #: Its class.
    category: str
    #: Where it was raised.
    path: str
    #: The line, from 1.
    line: int
    #: The first tests that it came from.
    nodeids: tuple[str, ...] = ()
    #: How often it came.
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A run in a few lines: a row of every list."""

    #: The version of this form.
    version: int = VERSION
    #: The run's id, which sorts by time.
    id: str
    #: Whose run it is.
    project: str
    #: As its `end` event has it: ``finished``, ``maxfail``, ``cancelled``, ``timeout``, ``lost``, ...
    outcome: str
    #: More words about that, or empty.
    message: str = ""
    #: Who and what started it.
    origin: Origin = field(default_factory=Origin)
    #: When it was submitted.
    submitted_at: datetime
    #: When its first execution began; None when none did.
    started_at: datetime | None = None
    #: When it was over.
    ended_at: datetime
    #: How many tests it was to run.
    total: int
    #: How many tests ended how; each test once, so that they add up to those that ran.
    counts: dict[str, int] = field(default_factory=dict)
    #: How many executions served it.
    executions: int = 0
    #: The package's version that ran it.
    supercheck: str = ""
    #: What had to be left out of the record and why, in words.
    notes: tuple[str, ...] = ()

    @property
    def done(self) -> int:
        """How many tests have a result."""
        return sum(self.counts.values())

    @property
    def verdict(self) -> str:
        """
        What people call it.

        Returns:
            ``passed`` or ``failed`` when it has run as far as it was meant to, else its outcome, such as ``cancelled``.
        """
        if self.outcome == "maxfail":
            return "failed"
        if self.outcome != "finished":
            return self.outcome
        return "failed" if any(self.counts.get(outcome) for outcome in FAILING) else "passed"

    @property
    def duration_s(self) -> float:
        """Seconds from the start of its first execution to its end; 0 when it never started."""
        return (self.ended_at - self.started_at).total_seconds() if self.started_at else 0.0

    @property
    def waited_s(self) -> float:
        """Seconds from its submission to the start of its first execution, or to its end."""
        return ((self.started_at or self.ended_at) - self.submitted_at).total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """All that is kept of a run."""

    #: The run in a few lines.
    summary: RunSummary
    #: Who ran it, in order of their start.
    executions: tuple[ExecutionRecord, ...] = ()
    #: What became of each test that has a result, in the order of the run's items.
    items: tuple[ItemRecord, ...] = ()
    #: The ids of tests without a result, in the same order; the first ones when there are very many.
    not_run: tuple[str, ...] = ()
    #: Warnings of tests, in order of their first coming.
    warnings: tuple[WarningRecord, ...] = ()


def encode(record: RunRecord | RunSummary) -> bytes:
    """`run.json`, or `summary.json`: ASCII, so that lone surrogates and NULs survive."""
    return json.dumps(plain(record), separators=(",", ":")).encode("ascii")


def decode(raw: bytes) -> RunRecord:
    """
    Read `run.json`.

    Raises:
        RecordError: It is damaged, or of a higher version.
    """
    return _decode(RunRecord, raw, lambda value: value["summary"])


def decode_summary(raw: bytes) -> RunSummary:
    """
    Read `summary.json`.

    Raises:
        RecordError: It is damaged, or of a higher version.
    """
    return _decode(RunSummary, raw, lambda value: value)


def read_origin(spec: str) -> Origin:
    """
    The origin in a run's spec, where its connector has put it; an empty one when there is none that can be read.

    Args:
        spec: JSON text from whoever submitted the run.
    """
    try:
        origin = revive(Origin, json.loads(spec)["origin"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Origin()
    values = ((one.name, getattr(origin, one.name)) for one in dataclasses.fields(origin))
    return Origin(**{name: _bounded(value) for name, value in values})


def _bounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(part[:ORIGIN_TEXT] for part in value[:ORIGIN_LIST])
    return value[:ORIGIN_TEXT] if isinstance(value, str) else value


def _decode(kind: type[_T], raw: bytes, versioned: Callable[[Any], Any]) -> _T:
    try:
        value = json.loads(raw)
        version = versioned(value).get("version", VERSION)
        if version != VERSION:
            raise RecordError(
                f"the run was recorded in version {version} of the format and this release reads version {VERSION}: "
                "install a newer pytest-supercheck"
            )
        return revive(kind, value)
    except RecordError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise RecordError(f"the run's record is damaged ({type(exc).__name__}: {exc})") from exc
