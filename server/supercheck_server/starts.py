"""
The starts of jobs: the moments at which one was started, or was to be, and what became of it.

Between the database and whoever starts jobs or shows them.  A start belongs to whoever inserts its row: two servers
that find the same moment due insert the same row, and one of them fails.  The row has the run's id before anything is
submitted, so that whoever finds it unfinished can finish it, and nothing is started twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from sqlalchemy import Connection, and_, case, delete, func, or_, select, update

from pytest_supercheck.errors import BadJob
from pytest_supercheck.model import RunId, new_run_id
from supercheck_server.database import Database
from supercheck_server.jobs import UnknownJob, locked
from supercheck_server.ledger import storable
from supercheck_server.tables import jobs, runs, starts

#: `claimed`: somebody is about to submit it. `queued`: it waits until the job's run before it has ended. Settled:
#: `started`; `skipped`: it was not to be; `missed`: nobody was there at its time; `refused`:
#: the queue was full; `failed`: it could not be started otherwise.
State = Literal["claimed", "queued", "started", "skipped", "missed", "refused", "failed"]

#: Tells, in a transaction, that a job (`PROJECT/NAME`) was not started when it was due, and why.
Tell = Callable[[Connection, str, int, str], None]

#: Tells, in a transaction, how a run has ended.
Note = Callable[[Connection, str], None]

#: Those that are not settled.
OPEN: Final[tuple[State, ...]] = ("claimed", "queued")

#: Starts of a job that are kept besides those that are not finished, and that one page shows.
KEPT: Final = 1000
SHOWN: Final = 50
DAY_MS: Final = 86_400_000
#: Ms after which a start that is not settled is taken on by whoever finds it: longer than a clone may take.
ABANDONED_MS: Final = 15_000
#: Values in one `IN (...)`.
BATCH: Final = 500

#: How a run ends of which machinery is to blame.
BROKEN: Final = ("lost", "fatal")

MISSED: Final = "no server was there to start it"
UNTRIED: Final = "no server came to it in time"
AGAIN: Final = "its job has been started again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Occasion:
    """Why a job is started."""

    #: As in `Origin.trigger`.
    trigger: str
    #: Who wants it: a token's name; empty for nobody in particular.
    user: str = ""
    #: The run's id; empty for a new one.
    run: str = ""
    #: From 1; more when machinery failed the one before.
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRow:
    """A moment at which a job was started, or was to be."""

    no: int
    job_no: int
    due_ms: int
    run: RunId
    trigger: str
    user: str
    attempt: int
    state: State
    #: Why, in words; empty where nothing is to be said.
    reason: str
    #: When somebody said last that it is at it, and since when it is tried, ms since 1970.
    claimed_ms: int
    since_ms: int
    #: When a workflow of GitHub was first asked for, ms since 1970; None for a run of ours, or before that.
    asked_ms: int | None
    #: The page of what was started that is not a run of ours; else empty.
    url: str
    #: How the run ended, `live` before; empty while it is not known, or not any more.
    verdict: str
    #: How long it took, in seconds; None before its end.
    duration_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is known of a job's recorded runs."""

    runs: int = 0
    #: Those of them that did not pass.
    failures: int = 0
    #: Of those that have ended, in seconds; None without any.
    mean_s: float | None = None
    #: The newest start; None without any.
    last: StartRow | None = None


class Starts:
    """The starts of all jobs."""

    def __init__(
        self,
        database: Database,
        *,
        now_ms: Callable[[], int] = lambda: round(time.time() * 1000),
        tell: Tell = lambda _connection, _job, _due_ms, _reason: None,
        note: Note = lambda _connection, _run: None,
    ) -> None:
        """
        Get ready.

        Args:
            now_ms: The clock, ms since 1970; may jump.
            tell: Told of every start by schedule that was missed or has failed, in the transaction that notes it.
            note: Told likewise of a run that was to be started once more, and is not.
        """
        self._database = database
        self._now_ms = now_ms
        self._tell = tell
        self._note_run = note

    def claim(
        self, job: int, due_ms: int, occasion: Occasion, *, state: State = "claimed", reason: str = ""
    ) -> StartRow | None:
        """
        Have a start.

        Args:
            job: The number of the job.
            due_ms: The moment, ms since 1970.
            state: `claimed` to submit it next; else what there is to tell of it.

        Returns:
            The start; None when somebody else has it.

        Raises:
            UnknownJob: There is no such job any more.
        """
        occasion = replace(occasion, run=occasion.run or new_run_id())
        with self._database.write() as connection:
            row = locked(connection, job)
            if not self._insert(connection, job, due_ms, occasion, state, reason):
                return None
            if state == "missed":
                self._tell(connection, f"{row.project}/{row.name}", due_ms, reason)
            oldest = select(starts.c.due_ms).where(starts.c.job_no == job).order_by(starts.c.due_ms.desc())
            limit = connection.execute(oldest.offset(KEPT).limit(1)).scalar()
            if limit is not None:
                old = _START.where(starts.c.job_no == job, starts.c.due_ms <= limit, ~self._is_unfinished())
                connection.execute(delete(starts).where(starts.c.no.in_(old.with_only_columns(starts.c.no))))
        return self.by_run(occasion.run)

    def again(self, connection: Connection, run: str, verdict: str) -> bool:
        """
        Have a start once more whose run machinery has failed, in the transaction that records that run.

        None where its job does not want that, is off, or, if it was its schedule's, has been started since.

        Returns:
            Whether there is another start: whoever looks after those that nobody has settled makes its run.
        """
        start = connection.execute(select(starts).where(starts.c.run == run, starts.c.state != "skipped")).first()
        if start is None or verdict not in BROKEN:
            return False
        newer = (starts.c.job_no == start.job_no, starts.c.due_ms > start.due_ms)
        is_made = starts.c.state.in_(("started", *OPEN))
        try:
            job = locked(connection, start.job_no)
        except (BadJob, UnknownJob):
            return False
        if not job.enabled or start.attempt > job.job.retries:
            return False
        if start.trigger == "schedule" and connection.execute(select(starts.c.no).where(*newer, is_made)).first():
            return False
        occasion = Occasion(trigger=start.trigger, user=start.user, run=new_run_id(), attempt=start.attempt + 1)
        due_ms, reason = start.due_ms + 1, f"run {run} was {verdict}"
        while not self._insert(connection, start.job_no, due_ms, occasion, "claimed", reason):
            due_ms += 1
        return True

    def abandoned(self) -> list[StartRow]:
        """Starts that somebody took on and has not settled, the oldest first."""
        before_ms = self._now_ms() - ABANDONED_MS
        return self._starts(
            _START.where(starts.c.state == "claimed", starts.c.claimed_ms < before_ms).order_by(starts.c.no)
        )

    def unfinished(self, job: int) -> list[StartRow]:
        """The starts of a job that are not settled, or whose end nobody has noted, the newest first."""
        query = _START.where(starts.c.job_no == job, self._is_unfinished())
        return self._starts(query.order_by(starts.c.due_ms.desc()))

    def waiting(self) -> list[StartRow]:
        """Starts that wait for the end of a run, the oldest first."""
        return self._starts(_START.where(starts.c.state == "queued").order_by(starts.c.due_ms))

    def take(self, start: StartRow) -> StartRow | None:
        """
        Take on a start that is not settled, or say that it is still being submitted.

        Returns:
            The start as it is then; None when it is settled, or somebody else has taken it on.
        """
        # Never the same moment twice: it tells who has it.
        claimed_ms = max(self._now_ms(), start.claimed_ms + 1)
        since_ms = claimed_ms if start.state == "queued" else start.since_ms
        taken = replace(start, state="claimed", claimed_ms=claimed_ms, since_ms=since_ms)
        with self._database.write() as connection:
            values = {"state": taken.state, "claimed_ms": taken.claimed_ms, "since_ms": since_ms}
            is_open = starts.c.state.in_(OPEN)
            statement = update(starts).where(*_same(start), is_open).values(values)
            return taken if connection.execute(statement).rowcount else None

    def settle(self, start: StartRow, state: State, *, reason: str = "") -> bool:
        """Note what became of a start; False when somebody else has taken it on, who does so."""
        words = _words(reason)
        with self._database.write() as connection:
            statement = update(starts).where(*_same(start)).values(state=state, reason=words)
            if not connection.execute(statement).rowcount:
                return False
            if state in ("failed", "refused", "missed") and start.trigger == "schedule":
                row = connection.execute(select(jobs.c.project, jobs.c.name).where(jobs.c.no == start.job_no)).one()
                self._tell(connection, f"{row.project}/{row.name}", start.due_ms, words)
            if state != "started":
                self._note_before(connection, start)
            return True

    def withdraw(self, start: StartRow, reason: str) -> bool:
        """Note that a start is not to be made any more, whoever has it; False when it is settled already."""
        with self._database.write() as connection:
            is_open = (starts.c.no == start.no, starts.c.state.in_(OPEN))
            statement = update(starts).where(*is_open).values(state="skipped", reason=_words(reason))
            if not connection.execute(statement).rowcount:
                return False
            self._note_before(connection, start)
            return True

    # -- what is started elsewhere

    def note_asked(self, start: StartRow) -> bool:
        """Note that it is asked for elsewhere now, where whoever takes it on looks first; False if another asks."""
        known = starts.c.asked_ms
        same = known.is_(None) if start.asked_ms is None else known == start.asked_ms
        asked_ms = self._now_ms() if start.asked_ms is None else start.asked_ms + 1
        with self._database.write() as connection:
            statement = update(starts).where(starts.c.no == start.no, same).values(asked_ms=asked_ms)
            return connection.execute(statement).rowcount > 0

    def note_page(self, no: int, url: str) -> None:
        """Note that it goes on elsewhere, and where; an empty address is looked for."""
        self._note(no, url=url[:2000], verdict="live")

    def note_end(self, no: int, verdict: str, *, reason: str) -> None:
        """Note how it ended elsewhere."""
        self._note(no, verdict=verdict, reason=_words(reason), ended_ms=self._now_ms())

    def followed(self, every_ms: int) -> list[StartRow]:
        """Starts that go on elsewhere, at which nobody has looked for a while: each server gets others."""
        now_ms = self._now_ms()
        live = (starts.c.state.not_in(OPEN), starts.c.verdict == "live", starts.c.claimed_ms <= now_ms - every_ms)
        found = []
        for start in self._starts(_START.where(*live).order_by(starts.c.claimed_ms).limit(SHOWN)):
            with self._database.write() as connection:
                same = (starts.c.no == start.no, starts.c.claimed_ms == start.claimed_ms)
                if connection.execute(update(starts).where(*same).values(claimed_ms=now_ms)).rowcount:
                    found.append(start)
        return found

    def noted(self, urls: Collection[str]) -> set[str]:
        """Those of some pages that starts have."""
        with self._database.read() as connection:
            return set(connection.execute(select(starts.c.url).where(starts.c.url.in_(urls))).scalars())

    # -- lists

    def of(self, job: int, *, before_ms: int | None = None, limit: int = SHOWN) -> list[StartRow]:
        """The starts of a job, the newest first; those before a moment."""
        query = _START.where(starts.c.job_no == job).order_by(starts.c.due_ms.desc()).limit(limit)
        return self._starts(query if before_ms is None else query.where(starts.c.due_ms < before_ms))

    def by_run(self, run: str) -> StartRow | None:
        """The start of which a run has come, or is to."""
        return next(iter(self._starts(_START.where(starts.c.run == run))), None)

    def figures(self, numbers: Collection[int]) -> dict[int, Figures]:
        """What is known of the runs of some jobs, by their numbers."""
        found = {no: Figures() for no in numbers}
        wanted = sorted(found)
        for place in range(0, len(wanted), BATCH):
            some = starts.c.job_no.in_(wanted[place : place + BATCH])
            verdict = _verdict()
            took = case((_began().is_not(None), _ended() - _began()))
            sums = (
                select(
                    starts.c.job_no,
                    func.count(starts.c.no),
                    func.sum(case((verdict == "passed", 0), else_=1)),
                    func.avg(took),
                )
                .outerjoin(runs, runs.c.id == starts.c.run)
                .where(some, verdict.not_in(("live", "")))
                .group_by(starts.c.job_no)
            )
            other = starts.alias()
            newest = select(func.max(other.c.due_ms)).where(other.c.job_no == starts.c.job_no).scalar_subquery()
            last = _START.where(some, starts.c.due_ms == newest)
            with self._database.read() as connection:
                known = {row[0]: row for row in connection.execute(sums)}
            lasts = {start.job_no: start for start in self._starts(last)}
            for no in wanted[place : place + BATCH]:
                _, count, failures, mean_ms = known.get(no, (no, 0, 0, None))
                found[no] = Figures(
                    runs=count,
                    failures=int(failures),
                    mean_s=None if mean_ms is None else float(mean_ms) / 1000,
                    last=lasts.get(no),
                )
        return found

    def _insert(
        self, connection: Connection, job: int, due_ms: int, occasion: Occasion, state: State, reason: str
    ) -> bool:
        """Whether nobody else has the start."""
        now_ms = self._now_ms()
        values = {**asdict(occasion), "job_no": job, "due_ms": due_ms, "state": state, "reason": _words(reason)}
        values |= {"url": "", "verdict": "", "claimed_ms": now_ms, "since_ms": now_ms}
        # PostgreSQL's driver counts no rows of an INSERT that SQLAlchemy has return their numbers.
        insert = self._database.insert(starts).values(**values).on_conflict_do_nothing().returning(starts.c.no)
        return connection.execute(insert).scalar() is not None

    def _note_before(self, connection: Connection, start: StartRow) -> None:
        """Tell of the run before a start that is not made: nobody has been told of that, because of this one."""
        if start.attempt == 1:
            return
        before = (starts.c.job_no == start.job_no, starts.c.due_ms < start.due_ms)
        query = select(starts.c.run).where(*before, starts.c.attempt == start.attempt - 1)
        run = connection.execute(query.order_by(starts.c.due_ms.desc()).limit(1)).scalar()
        if run is not None:
            self._note_run(connection, run)

    def _starts(self, query: Any) -> list[StartRow]:
        with self._database.read() as connection:
            return [_start_row(row) for row in connection.execute(query)]

    def _note(self, no: int, **values: Any) -> None:
        with self._database.write() as connection:
            connection.execute(update(starts).where(starts.c.no == no).values(**values))

    def _is_unfinished(self) -> Any:
        # A run is noted within seconds of its submission: one of which nothing is known any more has been deleted.
        is_new = starts.c.claimed_ms > self._now_ms() - DAY_MS
        is_begun = and_(starts.c.state == "started", _verdict() == "", is_new)
        # One that was withdrawn too late has a run, too.
        return or_(starts.c.state.in_(OPEN), _verdict() == "live", is_begun)


def _same(start: StartRow) -> tuple[Any, ...]:
    """That nobody has changed a start since."""
    return starts.c.no == start.no, starts.c.state == start.state, starts.c.claimed_ms == start.claimed_ms


def _words(reason: str) -> str:
    """As git, GitHub or a stranger's file names may have it, and a database takes it."""
    return storable(reason)[:2000]


def _verdict() -> Any:
    return func.coalesce(runs.c.verdict, starts.c.verdict)


def _began() -> Any:
    return func.coalesce(runs.c.started_ms, starts.c.asked_ms)


def _ended() -> Any:
    return func.coalesce(runs.c.ended_ms, starts.c.ended_ms)


#: Starts with what is known of their runs, here or elsewhere.
_START: Final = select(
    starts, _verdict().label("how"), _began().label("from_ms"), _ended().label("to_ms")
).select_from(starts.outerjoin(runs, runs.c.id == starts.c.run))  # fmt: skip


def _start_row(row: Any) -> StartRow:
    ended = row.to_ms is not None and row.from_ms is not None
    return StartRow(
        no=row.no,
        job_no=row.job_no,
        due_ms=row.due_ms,
        run=RunId(row.run),
        trigger=row.trigger,
        user=row.user,
        attempt=row.attempt,
        state=row.state,
        reason=row.reason,
        claimed_ms=row.claimed_ms,
        since_ms=row.since_ms,
        asked_ms=row.asked_ms,
        url=row.url,
        verdict=row.how,
        duration_s=(row.to_ms - row.from_ms) / 1000 if ended else None,
    )
