"""
What the history says of tests that fail: whether they did so before, and whether they can be trusted.

Between the trends and the API. A run's own results are left out, whether they are recorded by now or not; and those
of other attempts, or jobs, of the workflow run that it is of: what they found is not known from before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_supercheck.record import FAILING
from supercheck_server.ledger import key_of, short
from supercheck_server.outcomes import LETTERS, RECENT, flakiness
from supercheck_server.rows import TestResult
from supercheck_server.trends import Trends


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One test's."""

    #: The test.
    nodeid: str
    #: How flaky its last 50 results are, on all branches: 0 to 1.
    flakiness: float
    #: The run with which it began to fail on the branch asked for; empty when it does not fail there.
    failing_since: str


def judge(
    trends: Trends, project: str, nodeids: Sequence[str], *, run: str, branch: str, attempts: str = ""
) -> list[Judgement]:
    """
    Judge tests of a run.

    Args:
        run: The run; it says nothing about itself.
        branch: On which they may have failed before, in runs that are neither of a pull request nor of somebody's own
            machine: a fork's may have its name, and who works on it may have broken something.
        attempts: With what pages of CI jobs begin whose runs do not count there either; empty for none.
    """
    return [_judge(trends, key_of(project, nodeid), nodeid, run, branch, attempts) for nodeid in nodeids]


def _judge(trends: Trends, key: str, nodeid: str, run: str, branch: str, attempts: str) -> Judgement:
    test = trends.test(key)
    if test is None:
        return Judgement(nodeid=nodeid, flakiness=0.0, failing_since="")
    before = [one for one in trends.test_results(test.no) if one.run != run][:RECENT]
    there = trends.test_results(test.no, branch=short(branch), attempts=short(attempts)) if branch else []
    return Judgement(
        nodeid=nodeid,
        flakiness=flakiness("".join(LETTERS[one.outcome] for one in reversed(before))),
        failing_since=_since([one for one in there if one.run != run]),
    )


def _since(newest_first: Sequence[TestResult]) -> str:
    """The first run of the failures at the head of a list."""
    since = ""
    for one in newest_first:
        if one.outcome in FAILING:
            since = one.run
        elif one.outcome != "skipped":
            break
    return since
