"""
How a session ended, in the form that the rest of the action reads.

Between `session`, whose words these are, and what is told GitHub.  Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Kind = Literal["new", "known", "flaky", ""]

#: States by the session's exit status; any other is an error.
_STATES: Final = {
    0: "passed",
    1: "failed",
    2: "cancelled",
    5: "empty",
    69: "unreachable",
    70: "broken",
    75: "refused",
    124: "timeout",
}
#: With which the tests failed, and nothing else did.
TESTS_FAILED: Final = 1
#: What has an outcome.
_RAN: Final = ("passed", "failed", "skipped")
#: With which a session ends whose run was not begun.
_NEVER_BEGUN: Final = frozenset({69, 75})


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A test that failed."""

    #: The test.
    nodeid: str
    #: What pytest says first, and the end of what it says.
    message: str
    trace: str
    #: Where, relative to the repository; empty and 0 where no line of it had a part.
    file: str
    line: int
    #: The server's word: `known` fails on the base branch already, `flaky` has changed its mind before, `new` neither;
    #: empty when there is none.
    kind: Kind
    #: Since which run it fails there.
    failing_since: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is told of a session."""

    #: Exit status, and what that is called.
    status: int
    state: str
    #: Why it ended, when tests are not the reason.
    why: str
    #: The run, empty when there was none, and its page, empty without a server.
    run: str
    page: str
    #: Tests that were to run, and those that have, by outcome; flaky ones are among the passed.
    total: int
    passed: int
    failed: int
    skipped: int
    flaky: int
    #: Seconds.
    duration_s: float
    #: The first failures.
    failures: tuple[Failure, ...]
    #: The slowest tests with their seconds, the worst first.
    slowest: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Outcome:
        """What a session has told."""
        status, run = told["status"], "" if told["status"] in _NEVER_BEGUN else told["run"]
        counts = {name: told[name] for name in ("total", *_RAN, "flaky", "duration_s")}
        return cls(
            status=status,
            state=_state(status, told),
            why=told["why"],
            run=run,
            page=f"{told['url']}/runs/{run}" if run and told["url"] else "",
            failures=tuple(_failure(one) for one in told["failures"]),
            slowest=tuple((nodeid, seconds) for nodeid, seconds in told["slowest"]),
            **counts,
        )

    @classmethod
    def without_session(cls, status: int, why: str) -> Outcome:
        """There was none, or it has told nothing."""
        told = dict.fromkeys(("total", *_RAN, "uncollected", "flaky"), 0)
        nothing = {"run": "", "url": "", "detached": False, "duration_s": 0.0, "failures": (), "slowest": ()}
        return cls.of({"status": status, "why": why, **told, **nothing})

    def exit_status(self, fail_on: str) -> int:
        """
        With which the step ends.

        Args:
            fail_on: ``any`` for the session's own, ``new`` and ``never`` to forgive tests, and nothing else.
        """
        if self.status != TESTS_FAILED or fail_on == "any":
            return self.status
        # None of them failed where a plugin has failed the session, as for too little coverage.
        are_known = all(one.kind in ("known", "flaky") for one in self.failures)
        forgiven = 0 < self.failed == len(self.failures) and are_known
        return 0 if fail_on == "never" or forgiven else self.status


def _state(status: int, told: Mapping[str, Any]) -> str:
    if status == 0 and told["detached"]:
        return "detached"
    if status == 2 and told["uncollected"] and told["uncollected"] == sum(told[name] for name in _RAN):
        return "failed"  # in collection, after which nothing ran
    return _STATES.get(status, "error")


def _failure(told: Mapping[str, Any]) -> Failure:
    judgement = told["judgement"]
    kind: Kind = ""
    if judgement is not None:
        kind = "known" if judgement["failing_since"] else "flaky" if judgement["flakiness"] else "new"
    own = {name: told[name] for name in ("nodeid", "message", "trace", "file", "line")}
    return Failure(**own, kind=kind, failing_since=judgement["failing_since"] if judgement else "")
