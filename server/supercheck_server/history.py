"""
Questions about runs, each answered from an index: no page costs more because there are more of them.

Between the database and whoever shows it; `trends` has the questions about tests. Reads only; lists go on from the last
row's key, never from an offset.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, func, literal, or_, select, tuple_

from supercheck_server.database import Database
from supercheck_server.rows import (
    Attempts,
    Comparison,
    ExecutionRow,
    FailureRow,
    FileRow,
    LetterRow,
    Load,
    ResultRow,
    RunRow,
)
from supercheck_server.tables import (
    artifacts,
    causes,
    executions,
    failures,
    jobs,
    loads,
    notifications,
    results,
    run_key,
    runs,
    starts,
    tests,
)

#: Rows of a list.
PAGE_ROWS: Final = 50
#: Files of a test that a page names.
FILES: Final = 20
#: Attempts that GitHub lets a workflow's run have, and runs of them that a page leads to.
ATTEMPTS: Final = 51
ATTEMPT_RUNS: Final = 200
#: What no time and no number reaches, and every database can take.
_KEY_LIMIT: Final = 1 << 62
#: Minutes for which the pool's load is known.
LOAD_MINUTES: Final = 48 * 60
#: Characters of a search that are looked at.
SEARCH_LIMIT: Final = 200
#: Runs of one project that are looked through for what they can be chosen by.
CHOICE_RUNS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs a list has; what is empty does not matter."""

    #: One project.
    project: str = ""
    #: One verdict.
    verdict: str = ""
    #: One branch.
    branch: str = ""
    #: One trigger.
    trigger: str = ""
    #: Submitted at this time or later, ms since 1970.
    since_ms: int | None = None
    #: Submitted before this time, ms since 1970.
    until_ms: int | None = None
    #: The beginning of an id or commit, or a part of branch, user, project or message.
    search: str = ""


class History:
    """The questions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def runs(self, wanted: RunFilter, *, after: str = "", limit: int = PAGE_ROWS) -> list[RunRow]:
        """
        A page of the runs, the last submitted first.

        Args:
            after: `RunRow.key` of the last row of the page before; what is malformed counts as empty.
        """
        query = _runs().where(*_matching(wanted)).order_by(runs.c.submitted_ms.desc(), runs.c.no.desc())
        if (key := parse_key(after)) is not None:
            query = query.where(tuple_(runs.c.submitted_ms, runs.c.no) < tuple_(literal(key[0]), literal(key[1])))
        return [_run(row) for row in self._database.rows(query.limit(limit))]

    def run(self, run: str) -> RunRow | None:
        """The run with that id."""
        rows = self._database.rows(_runs().where(runs.c.id == run))
        return _run(rows[0]) if rows else None

    def live(self) -> list[RunRow]:
        """The runs that were seen alive and have not been recorded, the first submitted first."""
        query = _runs().where(runs.c.verdict == "live").order_by(runs.c.submitted_ms)
        return [_run(row) for row in self._database.rows(query)]

    def oldest(self, *, before_ms: int, limit: int) -> list[RunRow]:
        """The runs that were submitted before a time, ms since 1970, the first submitted first."""
        query = _runs().where(runs.c.submitted_ms < before_ms).order_by(runs.c.submitted_ms, runs.c.no)
        return [_run(row) for row in self._database.rows(query.limit(limit))]

    def nth(self, project: str, number: int) -> RunRow | None:
        """The run of a project with so many submitted after it or at it; None when there are fewer."""
        query = _runs().where(runs.c.project == project).order_by(runs.c.submitted_ms.desc(), runs.c.no.desc())
        rows = self._database.rows(query.offset(number - 1).limit(1))
        return _run(rows[0]) if rows else None

    def job(self, run: str) -> str:
        """The name of the job that a run is of; empty for none."""
        query = select(jobs.c.name).join(starts, starts.c.job_no == jobs.c.no).where(starts.c.run == run)
        return next((str(row["name"]) for row in self._database.rows(query)), "")

    def letters(self, run: str) -> list[LetterRow]:
        """Whom a run is told to, by name."""
        columns = [notifications.c[name] for name in LetterRow.__slots__]
        query = select(*columns).where(notifications.c.about == run_key(run)).order_by(notifications.c.target)
        return [LetterRow(**row) for row in self._database.rows(query)]

    def verdicts(self, since_ms: int) -> dict[str, int]:
        """How many of the runs that were submitted since a time, ms since 1970, ended how."""
        query = select(runs.c.verdict, func.count().label("count")).where(runs.c.submitted_ms >= since_ms)
        return {row["verdict"]: row["count"] for row in self._database.rows(query.group_by(runs.c.verdict))}

    def undelivered(self, project: str = "") -> int:
        """How many recorded runs wait for the store, of one project or of all."""
        query = select(func.count()).select_from(runs).where(runs.c.delivered == 0, runs.c.verdict != "live")
        return self._count(query.where(runs.c.project == project) if project else query)

    def choices(self, column: str, project: str = "") -> list[str]:
        """
        The different values of a column of the runs, by leaps through its index.

        Args:
            column: `project`, `verdict`, `branch` or `trigger`.
            project: Only those of its last 1,000 runs; empty for all of all projects.
        """
        values = runs.c[column]
        if project:
            last = select(values.label("value")).where(runs.c.project == project)
            last = last.order_by(runs.c.submitted_ms.desc(), runs.c.no.desc()).limit(CHOICE_RUNS)
            some = select(last.subquery().c.value).distinct().order_by("value")
            return [row["value"] for row in self._database.rows(some) if row["value"]]
        first = select(func.min(values).label("value"))
        leaps = first.cte("leaps", recursive=True)
        following = select(func.min(values)).where(values > leaps.c.value).scalar_subquery()
        leaps = leaps.union_all(select(following).where(leaps.c.value.is_not(None)))
        query = select(leaps.c.value).where(leaps.c.value.is_not(None)).limit(200)
        return [row["value"] for row in self._database.rows(query) if row["value"]]

    def previous(self, run: RunRow) -> RunRow | None:
        """The run before, of the same project, branch and pull request, that ran as far as it was meant to."""
        query = (
            _runs()
            .where(runs.c.branch == run.branch, runs.c.project == run.project, runs.c.verdict.in_(("passed", "failed")))
            .where(runs.c.pull_request == run.pull_request)
            .where(tuple_(runs.c.submitted_ms, runs.c.no) < tuple_(literal(run.submitted_ms), literal(run.no)))
            .order_by(runs.c.submitted_ms.desc(), runs.c.no.desc())
        )
        rows = self._database.rows(query.limit(1))
        return _run(rows[0]) if rows else None

    def compare(self, run: RunRow, before: RunRow) -> Comparison:
        """Which tests fail anew, no more and still; one that did not run at all is neither new nor fixed."""
        now, then = self._failing(run.no), self._failing(before.no)
        ran = self._ran(run.no, [no for no in then if no not in now])
        return Comparison(
            before=before,
            new=tuple(test for no, test in now.items() if no not in then),
            fixed=tuple(test for no, test in then.items() if no in ran),
            still=tuple(test for no, test in now.items() if no in then),
        )

    def attempts(self, run: RunRow) -> Attempts | None:
        """Which attempt of a workflow's run it is, and the runs of the others; None for the only one."""
        page, own = run.attempt
        if not own:
            return None
        # Each by its whole address: what lies between two texts is another matter in every database.
        pages = [f"{page}{number}" for number in range(1, ATTEMPTS + 1)]
        query = _runs().where(runs.c.project == run.project, runs.c.url.in_(pages)).limit(ATTEMPT_RUNS)
        family: dict[int, list[RunRow]] = {own: []}
        for row in sorted(map(_run, self._database.rows(query)), key=lambda row: row.no):
            family.setdefault(row.attempt[1], []).append(row)
        if max(family) == 1:
            return None
        others = ((number, tuple(rows)) for number, rows in sorted(family.items()) if number != own)
        return Attempts(number=own, last=max(family), others=tuple(others))

    def failures(self, run_no: int, *, after: int = -1, limit: int = PAGE_ROWS) -> list[FailureRow]:
        """A page of a run's failures, in collection order, from the position after `after` on."""
        query = (
            select(
                failures.c.position, tests.c.key, tests.c.nodeid, failures.c.phase, failures.c.message,
                causes.c.key.label("cause_key"), causes.c.title.label("cause"),
            )
            .join(tests, tests.c.no == failures.c.test_no)
            .join(causes, causes.c.no == failures.c.cause_no)
            .where(failures.c.run_no == run_no, failures.c.position > after)
            .order_by(failures.c.position)
        )  # fmt: skip
        return [FailureRow(**row) for row in self._database.rows(query.limit(limit))]

    def results(self, run_no: int, *, after: int = -1, limit: int = PAGE_ROWS) -> list[ResultRow]:
        """A page of a run's results, in collection order, from the position after `after` on."""
        query = (
            select(
                results.c.position, tests.c.key, tests.c.nodeid, results.c.outcome, results.c.duration_us,
                results.c.n, results.c.attempt,
            )
            .join(tests, tests.c.no == results.c.test_no)
            .where(results.c.run_no == run_no, results.c.position > after)
            .order_by(results.c.position)
        )  # fmt: skip
        return [
            ResultRow(duration_s=row["duration_us"] / 1e6, **{k: row[k] for k in row if k != "duration_us"})
            for row in self._database.rows(query.limit(limit))
        ]

    def run_files(self, run_no: int, positions: Iterable[int]) -> dict[int, list[FileRow]]:
        """The first files of tests of a run, by their positions."""
        mine = (artifacts.c.run_no == run_no, artifacts.c.position.in_(sorted(set(positions))))
        found: dict[int, list[FileRow]] = {}
        for row in self._database.rows(select_files().where(*mine)):
            found.setdefault(row["position"], []).append(FileRow(**row))
        return found

    def executions(self, run_no: int) -> list[ExecutionRow]:
        """A run's executions, in order of their start; the first 500."""
        columns = [executions.c[name] for name in ExecutionRow.__slots__]
        query = select(*columns).where(executions.c.run_no == run_no)
        return [ExecutionRow(**row) for row in self._database.rows(query.order_by(executions.c.started_ms).limit(500))]

    def loads(self, since_minute: int) -> list[Load]:
        """How full the pool was from some minute on, the oldest first; minutes in which no server ran are missing."""
        query = select(loads).where(loads.c.minute >= since_minute).order_by(loads.c.minute)
        return [Load(**row) for row in self._database.rows(query)]

    def _failing(self, run_no: int) -> dict[int, tuple[str, str]]:
        query = (
            select(failures.c.test_no, tests.c.key, tests.c.nodeid)
            .join(tests, tests.c.no == failures.c.test_no)
            .where(failures.c.run_no == run_no)
            .order_by(failures.c.position)
        )
        return {row["test_no"]: (row["key"], row["nodeid"]) for row in self._database.rows(query)}

    def _ran(self, run_no: int, test_nos: Sequence[int]) -> set[int]:
        found: set[int] = set()
        for start in range(0, len(test_nos), 500):
            some = test_nos[start : start + 500]
            query = select(results.c.test_no).where(results.c.run_no == run_no, results.c.test_no.in_(some))
            found.update(row["test_no"] for row in self._database.rows(query.where(results.c.outcome != "skipped")))
        return found

    def _count(self, query: Select[Any]) -> int:
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())


def select_files() -> Select[Any]:
    """The files of tests, as `FileRow` has them, in order; the first ones of each test."""
    columns = (artifacts.c[name] for name in ("position", "name", "key", "size_bytes"))
    return (
        select(runs.c.id.label("run"), *columns)
        .join(runs, runs.c.no == artifacts.c.run_no)
        .where(artifacts.c.number < FILES)
        .order_by(artifacts.c.run_no, artifacts.c.position, artifacts.c.number)
    )


def _runs() -> Select[Any]:
    return select(*(runs.c[name] for name in RunRow.__slots__))


def _run(row: dict[str, Any]) -> RunRow:
    return RunRow(**{**row, "delivered": bool(row["delivered"])})


def _matching(wanted: RunFilter) -> Iterable[ColumnElement[bool]]:
    for name in ("project", "verdict", "branch", "trigger"):
        if value := getattr(wanted, name):
            yield runs.c[name] == value
    if wanted.since_ms is not None:
        yield runs.c.submitted_ms >= wanted.since_ms
    if wanted.until_ms is not None:
        yield runs.c.submitted_ms < wanted.until_ms
    if text := wanted.search.strip()[:SEARCH_LIMIT]:
        begins = (runs.c[name].startswith(text, autoescape=True) for name in ("id", "commit"))
        contains = (runs.c[name].icontains(text, autoescape=True) for name in ("branch", "user", "project", "message"))
        yield or_(*begins, *contains)


def parse_key(text: str, first: type[int | float] = int) -> tuple[float, int] | None:
    """Where a list goes on, from what an address says; None for what makes no sense."""
    value, _, no = text.rpartition("-")
    try:
        key = first(value), int(no)
    except (ValueError, OverflowError):
        return None
    # Also not of those that are no numbers, which are in no order.
    return key if all(0 <= part < _KEY_LIMIT for part in key) else None
