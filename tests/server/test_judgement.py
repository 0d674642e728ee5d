"""
What the history says of tests that fail.
"""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest

from pytest_supercheck.http_gateway import HttpGateway
from pytest_supercheck.model import RunId
from pytest_supercheck.record import RunRecord
from supercheck_server.ledger import Ledger
from tests.server.conftest import Served, make_record

#: With what the pages of a workflow run's attempts begin.
ATTEMPTS = "https://github.com/acme/shop/actions/runs/5/attempts/"


def on(record: RunRecord, branch: str, pull_request: int = 0, trigger: str = "push") -> RunRecord:
    """The record of a run on that branch."""
    origin = replace(record.summary.origin, branch=branch, pull_request=pull_request, trigger=trigger)
    return replace(record, summary=replace(record.summary, origin=origin))


def write(served: Served, *records: RunRecord) -> None:
    """Record runs."""
    for record in records:
        assert Ledger(served.parts.database).write(record, f"projects/x/runs/{record.summary.id}/", delivered=True)


def attempt(record: RunRecord, number: int, run: int = 5) -> RunRecord:
    """The record of a run that an attempt of a workflow run has started."""
    origin = replace(record.summary.origin, url=f"{ATTEMPTS.replace('5', str(run))}{number}")
    return replace(record, summary=replace(record.summary, origin=origin))


def ask(served: Served, run: str, branch: str, count: int = 3, *, attempts: str = "") -> dict[str, tuple[str, float]]:
    """Since when tests fail on a branch, and how flaky they are."""
    gateway = HttpGateway(served.url, None)
    nodeids = [f"test_a.py::test_{index}" for index in range(count)]
    told = gateway.judge(RunId(run), nodeids, branch=branch, attempts=attempts)
    gateway.close()
    return {one["nodeid"][-1]: (one["failing_since"], one["flakiness"]) for one in told}


def test_failures_on_the_base_branch_are_known(served: Served) -> None:
    """Since the run with which they began there; other branches, and the run itself, say nothing."""
    write(
        served,
        make_record(1, "PPF"),
        make_record(2, "PFF"),
        on(make_record(3, "FFF"), "feature"),
        make_record(4, "PFS"),
        on(make_record(5, "FFF"), "feature"),
    )
    told = ask(served, "0190-000005", "main")
    assert [told[index][0] for index in "012"] == ["", "0190-000002", "0190-000001"]
    assert [since for since, _ in ask(served, "0190-000005", "elsewhere").values()] == ["", "", ""]


def test_run_says_nothing_of_itself(served: Served) -> None:
    """On the base branch, too: the one before it counts."""
    write(served, make_record(1, "PFP"), make_record(2, "PPP"), make_record(3, "FFF"))
    told = ask(served, "0190-000003", "main")
    assert [since for since, _ in told.values()] == ["", "", ""]
    assert told["1"][1] == 0.0, "a test that was mended once is not flaky for having failed now"


def test_forks_branch_of_the_same_name_is_another(served: Served) -> None:
    """Whoever can open a pull request cannot have failures excused."""
    write(served, make_record(1, "PPP"), on(make_record(2, "FFF"), "main", 7), on(make_record(3, "FFF"), "feature"))
    assert [since for since, _ in ask(served, "0190-000003", "main").values()] == ["", "", ""]


def test_what_somebody_has_broken_at_home_excuses_nothing(served: Served) -> None:
    """It was never on the branch that was checked out."""
    write(served, make_record(1, "PPP"), on(make_record(2, "FFF"), "main", trigger="local"))
    write(served, on(make_record(3, "FFF"), "feature"))
    assert [since for since, _ in ask(served, "0190-000003", "main").values()] == ["", "", ""]


def test_other_attempts_of_a_workflow_run_excuse_nothing(served: Served) -> None:
    """On the base branch itself: what is run once more after it has failed, or beside it, does not fail as before."""
    write(
        served,
        attempt(make_record(1, "PPF"), 1, run=4),
        attempt(make_record(2, "PFF"), 1),
        attempt(make_record(3, "PFF"), 2),
    )
    told = ask(served, "0190-000003", "main", attempts=ATTEMPTS)
    assert [told[index][0] for index in "012"] == ["", "", "0190-000001"]
    told = ask(served, "0190-000003", "main")
    assert [told[index][0] for index in "012"] == ["", "0190-000002", "0190-000001"]


def test_tests_that_change_their_mind_are_flaky(served: Served) -> None:
    """On all branches; what was never seen is not."""
    write(served, *(make_record(number, letters) for number, letters in enumerate(("PPP", "PFP", "PPP", "PFP"), 1)))
    told = ask(served, "0190-000004", "main", count=4)
    assert told["0"] == ("", 0.0)
    assert told["1"] == ("", 1.0)
    assert told["3"] == ("", 0.0)


@pytest.mark.parametrize("body", [{"nodeids": ["x"] * 201}, {"nodeids": ["x"], "branch": 5}, {}])
def test_senseless_questions_are_refused(served: Served, client: httpx.Client, body: object) -> None:
    """And so are those about no run."""
    write(served, make_record(1))
    assert client.post("/api/v1/runs/0190-000001/judge", json=body).status_code == 400
    assert client.post("/api/v1/runs/nobody/judge", json={"nodeids": []}).status_code == 404
    asked = {"nodeids": ["a\0b"], "branch": "\0", "attempts": "\0%"}
    assert client.post("/api/v1/runs/0190-000001/judge", json=asked).status_code == 200
