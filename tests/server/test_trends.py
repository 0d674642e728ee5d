"""
What many runs say of tests, on SQLite and PostgreSQL.
"""

from __future__ import annotations

from supercheck_server.ledger import key_of
from tests.server.conftest import Books, make_record


def test_test_knows_since_when_it_fails(books: Books) -> None:
    """The first run after its last success."""
    books.write(*(make_record(number, letter) for number, letter in enumerate("FPFFS", 1)))
    row = books.trends.test(key_of("shop", "test_a.py::test_0"))
    assert row is not None
    assert row.recent == "FPFFS"
    assert [one.outcome for one in books.trends.test_results(row.no)] == [
        "skipped",
        "failed",
        "failed",
        "passed",
        "failed",
    ]
    assert books.trends.first_bad_run(row.no) is None
    books.write(make_record(6, "F"))
    assert books.trends.first_bad_run(row.no) == "0190-000006"


def test_flaky_and_slow_lists_rank_and_go_on(books: Books) -> None:
    """A test that broke once and stays broken is not flaky."""
    for number, outcomes in enumerate(["PPP", "FPP", "PPF", "FPF"], 1):
        books.write(make_record(number, outcomes))
    flaky = books.trends.flaky()
    assert [row.nodeid for row in flaky] == ["test_a.py::test_0"]
    assert flaky[0].flakiness == 1
    first = books.trends.slow(limit=2)
    rest = books.trends.slow(after=f"{first[-1].mean_us}-{first[-1].no}")
    assert len({row.no for row in (*first, *rest)}) == 3
    assert books.trends.slow("other") == []


def test_failures_of_one_kind_are_one_cause(books: Books) -> None:
    """Whatever numbers they have in them; of one project."""
    books.write(make_record(1, "FF"), make_record(2, "FP"), make_record(3, "F", project="bank"))
    causes = books.trends.causes(since_ms=0)
    assert [(cause.project, cause.count, cause.tests, cause.runs) for cause in causes] == [
        ("shop", 3, 2, 2),
        ("bank", 1, 1, 1),
    ]
    assert (causes[0].first_run, causes[0].last_run) == ("0190-000001", "0190-000002")
    assert [row.run for row in books.trends.cause_failures(causes[0].key)] == [
        "0190-000002",
        "0190-000001",
        "0190-000001",
    ]
    assert [cause.project for cause in books.trends.causes("bank", since_ms=0)] == ["bank"]
    assert books.trends.causes(since_ms=1 << 50) == []
