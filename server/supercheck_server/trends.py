"""
What many runs say of tests: how they end from run to run, how long they take, and what they fail of.

Beside `history`, which has the questions about runs, and answered in the same way.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Select, func, literal, select, tuple_

from pytest_supercheck.record import FAILING
from supercheck_server.database import Database
from supercheck_server.history import PAGE_ROWS, parse_key, select_files
from supercheck_server.rows import CauseFailure, CauseRow, FileRow, TestResult, TestRow
from supercheck_server.tables import artifacts, causes, failures, results, runs, tests

#: Results of a test that its page shows.
TEST_RESULTS: Final = 200


class Trends:
    """The questions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def test(self, key: str, project: str = "") -> TestRow | None:
        """The test with that key, if it is of that project, or of any."""
        query = _tests().where(tests.c.key == key)
        rows = self._database.rows(query.where(tests.c.project == project) if project else query)
        return TestRow(**rows[0]) if rows else None

    def test_results(self, test_no: int, *, branch: str = "", attempts: str = "") -> list[TestResult]:
        """
        A test's last results, the newest first.

        Args:
            branch: Only those of this branch itself, without pull requests and what was changed on somebody's machine;
                empty for all.
            attempts: Without runs of CI jobs whose page begins so; empty for all.
        """
        query = (
            select(
                runs.c.id.label("run"), runs.c.branch, runs.c.commit, runs.c.submitted_ms, results.c.outcome,
                results.c.duration_us, results.c.position, results.c.attempt,
            )
            .join(runs, runs.c.no == results.c.run_no)
            .where(results.c.test_no == test_no)
            .order_by(results.c.run_no.desc())
        )  # fmt: skip
        if branch:
            query = query.where(runs.c.branch == branch, runs.c.pull_request == 0, runs.c.trigger != "local")
        if attempts:
            query = query.where(~runs.c.url.startswith(attempts, autoescape=True))
        return [
            TestResult(duration_s=row["duration_us"] / 1e6, **{k: row[k] for k in row if k != "duration_us"})
            for row in self._database.rows(query.limit(TEST_RESULTS))
        ]

    def first_bad_run(self, test_no: int) -> str | None:
        """The run with which a test that fails now began to fail; None when its last result is no failure."""
        mine = results.c.test_no == test_no
        with self._database.read() as connection:
            newest = select(results.c.outcome).where(mine).order_by(results.c.run_no.desc()).limit(1)
            if connection.execute(newest).scalar() not in FAILING:
                return None
            good = select(results.c.run_no).where(mine, results.c.outcome.not_in(FAILING))
            last_good = connection.execute(good.order_by(results.c.run_no.desc()).limit(1)).scalar() or 0
            first = select(results.c.run_no).where(mine, results.c.run_no > last_good)
            no = connection.execute(first.order_by(results.c.run_no).limit(1)).scalar()
            return connection.execute(select(runs.c.id).where(runs.c.no == no)).scalar()

    def test_files(self, test_no: int) -> dict[str, list[FileRow]]:
        """The first files of a test in each of its last runs, by the run."""
        newest = select(results.c.run_no, results.c.position).where(results.c.test_no == test_no)
        newest = newest.order_by(results.c.run_no.desc()).limit(TEST_RESULTS)
        shown = newest.subquery()
        there = (artifacts.c.run_no == shown.c.run_no) & (artifacts.c.position == shown.c.position)
        found: dict[str, list[FileRow]] = {}
        for row in self._database.rows(select_files().join(shown, there)):
            found.setdefault(row["run"], []).append(FileRow(**row))
        return found

    def flaky(self, project: str = "", *, after: str = "", limit: int = PAGE_ROWS) -> list[TestRow]:
        """A page of the tests that change between passing and failing, the worst first."""
        return self._ranked("flakiness", project, after, limit)

    def slow(self, project: str = "", *, after: str = "", limit: int = PAGE_ROWS) -> list[TestRow]:
        """A page of the tests, the slowest first."""
        return self._ranked("mean_us", project, after, limit)

    def causes(self, project: str = "", *, since_ms: int, limit: int = PAGE_ROWS) -> list[CauseRow]:
        """What tests have failed of since a time, the most frequent first."""
        query = (
            select(
                failures.c.cause_no,
                func.count().label("count"),
                func.count(failures.c.test_no.distinct()).label("tests"),
                func.count(failures.c.run_no.distinct()).label("runs"),
                func.min(failures.c.run_no).label("first_no"),
                func.max(failures.c.run_no).label("last_no"),
            )
            .where(failures.c.run_no >= self._first_no_since(since_ms))
            .group_by(failures.c.cause_no)
        )
        if project:
            query = query.join(causes, causes.c.no == failures.c.cause_no).where(causes.c.project == project)
        found = query.order_by(func.count().desc(), failures.c.cause_no).limit(limit).subquery()
        first, last = runs.alias("first"), runs.alias("last")
        named = (
            select(
                causes.c.key, causes.c.project, causes.c.title, found.c.count, found.c.tests, found.c.runs,
                first.c.id.label("first_run"), last.c.id.label("last_run"),
            )
            .join(causes, causes.c.no == found.c.cause_no)
            .join(first, first.c.no == found.c.first_no)
            .join(last, last.c.no == found.c.last_no)
            .order_by(found.c.count.desc(), found.c.cause_no)
        )  # fmt: skip
        return [CauseRow(**row) for row in self._database.rows(named)]

    def cause_failures(self, key: str, project: str = "", *, limit: int = PAGE_ROWS) -> list[CauseFailure]:
        """The last failures of one cause, the newest first, if it is of that project, or of any."""
        cause = select(causes.c.no).where(causes.c.key == key)
        if project:
            cause = cause.where(causes.c.project == project)
        query = (
            select(
                runs.c.id.label("run"),
                runs.c.submitted_ms,
                runs.c.branch,
                tests.c.key,
                tests.c.nodeid,
                failures.c.phase,
                failures.c.message,
                causes.c.title,
            )
            .join(tests, tests.c.no == failures.c.test_no)
            .join(runs, runs.c.no == failures.c.run_no)
            .join(causes, causes.c.no == failures.c.cause_no)
            .where(failures.c.cause_no == cause.scalar_subquery())
            .order_by(failures.c.run_no.desc(), failures.c.position)
        )
        return [CauseFailure(**row) for row in self._database.rows(query.limit(limit))]

    def _ranked(self, column: str, project: str, after: str, limit: int) -> list[TestRow]:
        rank = tests.c[column]
        query = _tests().where(rank > 0).order_by(rank.desc(), tests.c.no.desc())
        if project:
            query = query.where(tests.c.project == project)
        if (key := parse_key(after, float)) is not None:
            query = query.where(tuple_(rank, tests.c.no) < tuple_(literal(key[0]), literal(key[1])))
        return [TestRow(**row) for row in self._database.rows(query.limit(limit))]

    def _first_no_since(self, since_ms: int) -> int:
        query = select(runs.c.no).where(runs.c.submitted_ms >= since_ms).order_by(runs.c.submitted_ms, runs.c.no)
        rows = self._database.rows(query.limit(1))
        return int(rows[0]["no"]) if rows else 1 << 60


def _tests() -> Select[Any]:
    return select(*(tests.c[name] for name in TestRow.__slots__))
