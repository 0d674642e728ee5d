"""
What the history answers with: rows as pages and programs are shown them.

Nothing of how they are found (`history`), nor of how they are written (`ledger`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from pytest_supercheck.record import Outcome
from supercheck_server.outcomes import FAILING

#: The columns of a run's row that count its tests, by their outcomes in records.
COUNTS: Final[Mapping[Outcome, str]] = {
    "passed": "passed",
    "failed": "failed",
    "error": "errors",
    "skipped": "skipped",
    "xfailed": "xfailed",
    "xpassed": "xpassed",
}

#: Why a message is sent.
Reason = Literal["failure", "first-failure", "recovery", "always", "alert", "resolved", "missed"]

#: An attempt of a workflow's run of GitHub, as `Origin.url` has it: up to its number, and that.
_ATTEMPT: Final = re.compile(r"(.*/actions/runs/[0-9]+/attempts/)([1-9][0-9]{0,2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """A run as lists show it."""

    #: Its number in the history.
    no: int
    #: Its id.
    id: str
    #: Whose it is.
    project: str
    #: `live`, or as `RunSummary.verdict` has it.
    verdict: str
    #: How it ended; empty while it has not.
    outcome: str
    #: More words about that.
    message: str
    #: What started it.
    trigger: str
    #: The branch it ran on.
    branch: str
    #: The commit.
    commit: str
    #: The pull request; 0 for none.
    pull_request: int
    #: The repository's address.
    repository: str
    #: Who started it.
    user: str
    #: The machine of the session that started it.
    host: str
    #: The page of the CI job that started it.
    url: str
    #: Tests that it was to run.
    total: int
    #: Tests that passed, and so on.
    passed: int
    failed: int
    errors: int
    skipped: int
    xfailed: int
    xpassed: int
    #: Executions that served it.
    executions: int
    #: Times, ms since 1970.
    submitted_ms: int
    started_ms: int | None
    ended_ms: int | None
    #: Its folder in the store; empty while it is not recorded.
    folder: str
    #: False while its record waits for the store.
    delivered: bool

    @property
    def done(self) -> int:
        """Tests with a result."""
        return self.passed + self.failed + self.errors + self.skipped + self.xfailed + self.xpassed

    @property
    def bad(self) -> int:
        """Tests that failed."""
        return self.failed + self.errors

    @property
    def pass_rate(self) -> float:
        """Share of the tests with a result that did not fail; 1 when there are none."""
        return 1 - self.bad / self.done if self.done else 1.0

    @property
    def duration_s(self) -> float | None:
        """Seconds from its first execution to its end; None when one of them is missing."""
        return (self.ended_ms - self.started_ms) / 1000 if self.ended_ms and self.started_ms else None

    @property
    def attempt(self) -> tuple[str, int]:
        """The address that attempts of its workflow's run have, up to their numbers, and its own; 0 for none."""
        found = _ATTEMPT.fullmatch(self.url)
        return (found[1], int(found[2])) if found else ("", 0)

    @property
    def key(self) -> str:
        """Where a list goes on after it."""
        return f"{self.submitted_ms}-{self.no}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterRow:
    """Whom a run is told to, and whether that has been done."""

    #: The target's name.
    target: str
    #: Why.
    reason: Reason
    #: `waiting`, `sent` or `failed`.
    state: str
    #: How often it was tried.
    tries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How full the pool was in one minute."""

    #: Minutes since 1970.
    minute: int
    #: Executions that held a slot.
    running: int
    #: Runs in the queue.
    queued: int
    #: Seconds for which the run had waited that had waited longest.
    wait_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """A test's result in a run."""

    #: Place in the run's list of items.
    position: int
    #: The test.
    key: str
    nodeid: str
    #: As pytest says it.
    outcome: str
    #: Seconds in all phases.
    duration_s: float
    #: Number of the execution that ran it.
    n: int
    #: Which attempt it was.
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRow:
    """A test's failure in a run."""

    #: Place in the run's list of items.
    position: int
    #: The test.
    key: str
    nodeid: str
    #: Setup, call or teardown.
    phase: str
    #: The first line of what pytest says.
    message: str
    #: What it failed of: its address, the same in every history.
    cause_key: str
    #: That, without what differs from time to time.
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRow:
    """A file that a test left behind in a run."""

    #: The run.
    run: str
    #: The test's place in the run's list of items.
    position: int
    #: As the test knows it.
    name: str
    #: Where it is in the run's folder.
    key: str
    #: How long it is.
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A run beside the one before it."""

    #: The run before.
    before: RunRow
    #: Failing now and not before; failing before and not now; failing both times. Keys with nodeids.
    new: tuple[tuple[str, str], ...]
    fixed: tuple[tuple[str, str], ...]
    still: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """A run among the attempts of its workflow's run."""

    #: Its own attempt, from 1.
    number: int
    #: The last one that is known.
    last: int
    #: The other ones with their runs, one for each of a workflow's jobs, both in order.
    others: tuple[tuple[int, tuple[RunRow, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TestRow:
    """A test with what its last runs say."""

    __test__ = False

    #: Its number in the history.
    no: int
    #: Names it in addresses.
    key: str
    #: Whose it is.
    project: str
    #: pytest's.
    nodeid: str
    #: A letter per run, the newest last.
    recent: str
    #: Share of the changes between passing and failing that there could be.
    flakiness: float
    #: Microseconds that it takes.
    mean_us: int
    #: When it ran last, ms since 1970.
    last_ms: int

    @property
    def pass_rate(self) -> float:
        """Share of its last runs that did not fail."""
        return 1 - sum(letter in FAILING for letter in self.recent) / len(self.recent) if self.recent else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TestResult:
    """One result of a test's history."""

    __test__ = False

    #: The run.
    run: str
    branch: str
    commit: str
    #: When that was submitted, ms since 1970.
    submitted_ms: int
    #: As pytest says it.
    outcome: str
    #: Seconds in all phases.
    duration_s: float
    #: Place in the run's list of items.
    position: int
    #: Which attempt it was.
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseRow:
    """What tests have failed of."""

    #: Its address, the same in every history.
    key: str
    #: Whose tests.
    project: str
    #: In words.
    title: str
    #: Failures, tests and runs since the time asked for.
    count: int
    tests: int
    runs: int
    #: The first and the last run since then.
    first_run: str
    last_run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseFailure:
    """One failure of a cause."""

    #: The run and when that was submitted, ms since 1970.
    run: str
    submitted_ms: int
    branch: str
    #: The test.
    key: str
    nodeid: str
    #: Setup, call or teardown.
    phase: str
    #: The first line of what pytest says, and the cause.
    message: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionRow:
    """One execution of a run."""

    #: Its number and its job.
    n: int
    job: str
    #: Where it ran.
    host: str
    #: Times, ms since 1970.
    started_ms: int
    ended_ms: int | None
