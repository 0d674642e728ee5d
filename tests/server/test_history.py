"""
Records to rows and questions to them, on SQLite and PostgreSQL.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from pytest_supercheck.record import Artifact, Failure, Origin, RunRecord, Text
from supercheck_server import charts
from supercheck_server.database import Database
from supercheck_server.history import LOAD_MINUTES, History, RunFilter
from supercheck_server.ledger import Ledger, key_of
from supercheck_server.rows import Load
from supercheck_server.tables import metadata, results, runs
from tests.server.conftest import NOON, Books, make_item, make_record


def test_run_is_written_as_it_was(books: Books) -> None:
    """Counts, origin, times, results, failures and executions."""
    books.write(make_record(1, "PPFS"))
    run = books.run(1)
    assert (run.project, run.verdict, run.outcome, run.total) == ("shop", "failed", "finished", 4)
    assert (run.passed, run.failed, run.skipped, run.done, run.bad) == (2, 1, 1, 4, 1)
    assert (run.user, run.trigger, run.branch) == ("ada", "push", "main")
    assert run.duration_s == 4
    assert [row.outcome for row in books.history.results(run.no)] == ["passed", "passed", "failed", "skipped"]
    [failure] = books.history.failures(run.no)
    assert (failure.nodeid, failure.phase) == ("test_a.py::test_2", "call")
    assert (failure.message, failure.cause) == ("ValueError: no stock for 2", "ValueError: no stock for …")
    assert [execution.host for execution in books.history.executions(run.no)] == ["h"]


def test_writing_a_run_again_changes_nothing(books: Books) -> None:
    """A recorder that was killed before it could say so begins anew."""
    record = make_record(1)
    books.write(record)
    counts = {table.name: books.count(table) for table in metadata.sorted_tables}
    assert not books.ledger.write(record, "projects/x/runs/other/", delivered=False)
    assert {table.name: books.count(table) for table in metadata.sorted_tables} == counts
    assert books.run(1).folder == "projects/x/runs/0190-000001/"
    [row] = books.trends.slow(limit=1)
    assert len(row.recent) == 1


def test_recorders_that_write_one_run_together_write_it_once(books: Books) -> None:
    """And different runs of the same tests without waiting for each other for ever."""
    written: list[bool] = []

    def write(record: RunRecord) -> None:
        written.append(books.ledger.write(record, "f/", delivered=True))

    records = [
        make_record(1, "PF" * 50),
        make_record(1, "PF" * 50),
        make_record(2, "FP" * 50),
        make_record(3, "PP" * 50),
    ]
    threads = [threading.Thread(target=write, args=[record]) for record in records]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(written) == [False, True, True, True]
    assert books.count(results) == 300
    assert all(len(row.recent) == 3 for row in books.trends.slow(limit=200))


def test_list_goes_on_after_the_last_row(books: Books) -> None:
    """Every run once, the last submitted first, also when two were submitted at the same time."""
    books.write(*(make_record(number, "P", submitted_at=NOON) for number in range(1, 6)))
    seen: list[str] = []
    after = ""
    while rows := books.history.runs(RunFilter(), after=after, limit=2):
        seen += [row.id for row in rows]
        after = rows[-1].key
    assert seen == [f"0190-{number:06}" for number in (5, 4, 3, 2, 1)]


@pytest.mark.parametrize("after", ["nonsense", "1-2-3", "9" * 50 + "-1", "-", "é-1"])
def test_malformed_key_begins_at_the_front(books: Books, after: str) -> None:
    """What a client sends is no reason to fail."""
    books.write(make_record(1))
    books.history.runs(RunFilter(), after=after)
    books.trends.flaky(after=after)


def test_filters_and_search_find_what_is_meant(books: Books) -> None:
    """Each by itself."""
    books.write(
        make_record(1, "P", project="shop"),
        make_record(2, "F", project="bank", origin=Origin(branch="fix/100%_x", trigger="schedule", user="bob")),
        make_record(3, "P", project="shop", outcome="lost", message="the pool has gone"),
    )

    def found(**wanted: Any) -> list[str]:
        return [row.id[-1] for row in books.history.runs(RunFilter(**wanted))]

    assert found(project="bank") == ["2"]
    assert found(verdict="lost") == ["3"]
    assert found(verdict="failed") == ["2"]
    assert found(branch="main") == ["3", "1"]
    assert found(trigger="schedule") == ["2"]
    at = [round(make_record(number).summary.submitted_at.timestamp() * 1000) for number in (1, 2, 3)]
    assert found(since_ms=at[1]) == ["3", "2"]
    assert found(until_ms=at[1]) == ["1"]
    assert found(search="0190-000001") == ["1"]
    assert found(search="100%") == ["2"]
    assert found(search="1%x") == []
    assert found(search="HAS GONE") == ["3"]
    assert found(search="BOB") == ["2"]
    assert books.history.choices("project") == ["bank", "shop"]
    assert books.history.choices("verdict") == ["failed", "lost", "passed"]


def test_comparison_names_new_fixed_and_still_failing(books: Books) -> None:
    """Beside the run before of the same branch and project, and no fork's, that ran to its end."""
    books.write(
        make_record(1, "PFFF"),
        make_record(2, "FFFF", project="other"),
        make_record(3, "P", outcome="cancelled"),
        make_record(0, "F", origin=Origin(branch="main", pull_request=7), submitted_at=NOON + timedelta(minutes=3)),
        make_record(4, "FFPS"),
    )
    before = books.history.previous(books.run(4))
    assert before is not None
    assert before.id == "0190-000001"
    comparison = books.history.compare(books.run(4), before)
    names = {
        kind: [nodeid.removeprefix("test_a.py::") for _, nodeid in getattr(comparison, kind)]
        for kind in ("new", "fixed", "still")
    }
    # The fourth was skipped: nobody knows whether it is mended.
    assert names == {"new": ["test_0"], "fixed": ["test_2"], "still": ["test_1"]}
    assert books.history.previous(books.run(1)) is None


def test_attempts_of_a_workflows_run_know_each_other(books: Books) -> None:
    """Those of one project, also where several jobs of the workflow have a run each."""

    def job(attempt: object, run: int = 77, host: str = "github.com") -> Origin:
        return Origin(url=f"https://{host}/acme/shop/actions/runs/{run}/attempts/{attempt}")

    books.write(
        make_record(1, "F", origin=job(1)),
        make_record(2, "P", origin=job(1)),
        make_record(3, "F", origin=job(2)),
        make_record(4, "P", origin=job(10)),
        make_record(5, "P", origin=job(3), project="bank"),
        make_record(6, "P", origin=job(3, run=7)),
        make_record(7, "P", origin=job(3, host="git.acme.example")),
        make_record(8, "P", origin=job(1, run=78)),
        make_record(9, "P", origin=job("3%")),
        make_record(10, "P", origin=Origin(url="https://ci.example.org/attempts/2")),
    )
    attempts = books.history.attempts(books.run(3))
    assert attempts is not None
    assert (attempts.number, attempts.last) == (2, 10)
    assert {number: [row.id[-1] for row in rows] for number, rows in attempts.others} == {1: ["1", "2"], 10: ["4"]}
    alone = books.history.attempts(books.run(6))
    assert alone is not None  # the ones before it have left no runs
    assert (alone.number, alone.last, alone.others) == (3, 3, ())
    assert [books.history.attempts(books.run(number)) for number in (8, 9, 10)] == [None, None, None]


def test_forgotten_run_leaves_nothing_but_its_tests(books: Books) -> None:
    """The others stay."""
    books.write(make_record(1), make_record(2))
    books.ledger.forget("0190-000001")
    assert books.history.run("0190-000001") is None
    assert books.count(runs) == 1
    assert books.count(results) == 3
    assert len(books.history.failures(books.run(2).no)) == 1


def with_files(number: int, *names: str) -> RunRecord:
    """A run whose second test has left these files behind."""
    record = make_record(number, "PF")
    files = tuple(Artifact(name=name, key=f"artifacts/1/{name}", size_bytes=5) for name in names)
    return replace(record, items=(record.items[0], replace(record.items[1], artifacts=files)))


def test_files_are_found_from_their_run_and_their_test(books: Books) -> None:
    """In their order; of each as many as a page names."""
    books.write(with_files(1, "trace.zip", "a.png"), make_record(2, "PF"), with_files(3, *map(str, range(30))))
    first, _, last = (books.run(number) for number in (1, 2, 3))
    found = books.history.run_files(first.no, [0, 1, 1])
    assert {position: [file.name for file in files] for position, files in found.items()} == {1: ["trace.zip", "a.png"]}
    assert found[1][0].key == "artifacts/1/trace.zip"
    assert books.history.run_files(first.no, []) == {}
    test = books.trends.test(key_of("shop", "test_a.py::test_1"))
    assert test is not None
    of_test = books.trends.test_files(test.no)
    assert {run: len(files) for run, files in of_test.items()} == {first.id: 2, last.id: 20}
    books.ledger.forget(first.id)
    assert books.history.run_files(first.no, [1]) == {}


def test_hostile_texts_are_stored(books: Books) -> None:
    """NULs, lone surrogates, a megabyte, many tests with one id."""
    nasty = "a\0b\ud800<script>" + "x" * 1_000_000
    trouble = Failure(phase="call\0", message=nasty, trace=Text(text=nasty))
    items = (
        make_item(0, "failed", nodeid=nasty, failures=(trouble,)),
        make_item(1, nodeid=nasty),
        make_item(2, "failed", nodeid="", failures=()),
        make_item(3, phases_s=(1e300, float(1 << 60))),
    )
    origin = Origin(user=nasty, branch=nasty, commit=nasty, pull_request=1 << 80)
    record = make_record(1, "P", project=nasty, message=nasty, origin=origin, total=4)
    books.write(replace(record, items=items))
    run = books.run(1)
    assert run.pull_request == 0
    assert [row.outcome for row in books.history.results(run.no)] == ["failed", "passed", "failed", "passed"]
    [first, second] = books.history.failures(run.no)
    assert "\0" not in first.message
    assert second.message == "failed without a word"


def test_pages_are_answered_from_indexes(books: Books) -> None:
    """The database says how it would go about it: no table is read as a whole, and nothing is sorted."""
    books.write(*(make_record(number, "PF") for number in range(1, 4)))
    said: list[str] = []
    sqlite = books.database.kind == "sqlite"
    with books.database.read() as connection:
        if not sqlite:  # it would read tables as small as these as a whole, and sort them, rightly
            for way in ("seqscan", "bitmapscan", "sort", "incremental_sort"):
                connection.execute(text(f"SET LOCAL enable_{way} = off"))
        statements = [
            "SELECT * FROM runs ORDER BY submitted_ms DESC, no DESC LIMIT 50",
            "SELECT * FROM runs WHERE project='x' ORDER BY submitted_ms DESC, no DESC LIMIT 50",
            "SELECT * FROM runs WHERE branch='x' AND (submitted_ms, no) < (5, 5) ORDER BY submitted_ms DESC, no DESC",
            "SELECT count(*) FROM runs WHERE delivered=0 AND verdict != 'live'",
            "SELECT * FROM runs WHERE project='x' AND url IN ('a', 'b', 'c')",
            "SELECT * FROM results WHERE test_no=1 ORDER BY run_no DESC LIMIT 200",
            "SELECT * FROM results WHERE run_no=1 AND position > 5 ORDER BY position LIMIT 50",
            "SELECT * FROM tests WHERE flakiness > 0 ORDER BY flakiness DESC, no DESC LIMIT 50",
            "SELECT * FROM tests WHERE project='x' AND mean_us > 0 ORDER BY mean_us DESC, no DESC LIMIT 50",
        ]
        for statement in statements:
            rows = connection.execute(text(f"EXPLAIN {'QUERY PLAN ' if sqlite else ''}{statement}")).all()
            said += [f"{statement}: {row[3 if sqlite else 0]}" for row in rows]
    plans = [line.partition(": ")[2] for line in said]
    if sqlite:
        assert not [plan for plan in plans if ("SCAN" in plan and "USING" not in plan) or "TEMP B-TREE" in plan]
    else:
        assert not [plan for plan in plans if "Seq Scan" in plan or "Sort" in plan]


def test_load_of_the_last_two_days(database: Database) -> None:
    """A minute is noted once, whoever notes it; what is older is forgotten."""
    ledger, history = Ledger(database), History(database)
    ledger.note_load(Load(minute=1000, running=1, queued=0, wait_s=0))
    ledger.note_load(Load(minute=1001, running=5, queued=3, wait_s=40))
    ledger.note_load(Load(minute=1001, running=4, queued=9, wait_s=50))
    assert [(load.minute, load.queued) for load in history.loads(0)] == [(1000, 0), (1001, 3)]
    assert [load.minute for load in history.loads(1001)] == [1001]
    ledger.note_load(Load(minute=1001 + LOAD_MINUTES, running=0, queued=0, wait_s=0))
    assert [load.minute for load in history.loads(0)] == [1001, 1001 + LOAD_MINUTES]


def test_chart_of_the_load() -> None:
    """The highest of every ten minutes, in its place."""
    now = 100_000
    middle = now - LOAD_MINUTES // 2
    seen = [(now - LOAD_MINUTES, 9, 0, 0), (middle + 1, 2, 4, 30), (middle + 2, 4, 1, 60), (now, 0, 0, 0)]
    loads = [Load(minute=minute, running=running, queued=queued, wait_s=s) for minute, running, queued, s in seen]
    chart = charts.load(loads, now)
    assert chart is not None
    assert (chart.most, chart.most_wait_s) == (4, 60)
    assert chart.running == chart.queued == (charts.Bar(x=300, height=100),)
    assert charts.load([], now) is None
    assert charts.load(loads, now + 2 * LOAD_MINUTES) is None


def test_strip_has_a_path_for_each_letter() -> None:
    """Every run is a bar, in its place."""
    assert charts.strip_paths("PFP") == [("P", "M0 0h5v16h-5zM12 0h5v16h-5z"), ("F", "M6 0h5v16h-5z")]
    assert charts.strip_paths("") == []
