"""
The jobs that the server knows: as they were synced, and what has been changed here since.

Between the database and whoever starts jobs or shows them; when each was started is in `starts`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, delete, or_, select, update

from pytest_supercheck.errors import BadJob, SupercheckError
from pytest_supercheck.jobs import Job, decode_job
from supercheck_server.database import Database
from supercheck_server.tables import jobs

logger = logging.getLogger(__name__)

#: The next moment of a job that has none; NULL is for one of which nobody knows.
NEVER_MS: Final = 2**62


class UnknownJob(SupercheckError):
    """There is no such job."""

    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job as the server has it."""

    #: Its number here.
    no: int
    project: str
    name: str
    #: As it was synced, and as it is in force here.
    defined: Job
    job: Job
    checksum: str
    #: What has been changed here.
    overrides: Mapping[str, Any]
    #: The spec of its runs, as `job_spec` makes it; None when its sources are elsewhere.
    source: Mapping[str, Any] | None
    enabled: bool
    #: When it was last synced, ms since 1970.
    synced_ms: int
    #: Since when its schedule holds, ms since 1970.
    since_ms: int
    #: The next moment that is due, ms since 1970; None for none.
    next_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """What a sync has done."""

    #: Names of jobs, by what became of them.
    added: tuple[str, ...]
    changed: tuple[str, ...]
    same: tuple[str, ...]
    #: Those of the project that were not brought, and whether they have been removed.
    gone: tuple[str, ...]
    pruned: bool
    #: Names of targets that the jobs are to tell, and that the server's configuration does not have.
    unknown_targets: tuple[str, ...] = ()


class Jobs:
    """The jobs of all projects."""

    def __init__(self, database: Database, *, now_ms: Callable[[], int] = lambda: round(time.time() * 1000)) -> None:
        self._database = database
        self._now_ms = now_ms

    def sync(
        self, project: str, brought: Sequence[tuple[Job, Mapping[str, Any] | None]], *, prune: bool = False
    ) -> Synced:
        """
        Take over a project's jobs as they are defined now.

        Whether a job is enabled stays; what was changed here stays while the definition does.

        Args:
            brought: Each with the spec of its runs, as `job_spec` makes it, or None when its sources are elsewhere.
            prune: Remove those of the project's jobs that are not among them, with their starts.
        """
        now_ms = self._now_ms()
        names = {job.name for job, _ in brought}
        told: dict[str, list[str]] = {"added": [], "changed": [], "same": []}
        with self._database.write() as connection:
            known = {
                row.name: row.checksum
                for row in connection.execute(select(jobs.c.name, jobs.c.checksum).where(jobs.c.project == project))
            }
            for job, source in brought:
                values: dict[str, Any] = {
                    "definition": json.dumps(job.encode()),
                    "checksum": job.checksum,
                    "source": json.dumps(source) if source else "",
                    "bundle": str(source["source"]["bundle"]) if source else "",
                    "synced_ms": now_ms,
                }
                what = "added" if job.name not in known else "same" if known[job.name] == job.checksum else "changed"
                told[what].append(job.name)
                fresh = {**values, "overrides": "{}", "since_ms": now_ms, "next_ms": None}
                connection.execute(
                    self._database.insert(jobs).values(project=project, name=job.name, enabled=1, **fresh)
                    .on_conflict_do_update(
                        index_elements=["project", "name"], set_=values if what == "same" else fresh
                    )
                )  # fmt: skip
            gone = sorted(known.keys() - names)
            if prune and gone:
                connection.execute(delete(jobs).where(jobs.c.project == project, jobs.c.name.in_(gone)))
        return Synced(**{name: tuple(one) for name, one in told.items()}, gone=tuple(gone), pruned=prune)

    def known(self, project: str = "") -> list[JobRow]:
        """All jobs, or those of a project, by project and name."""
        query = select(jobs).order_by(jobs.c.project, jobs.c.name)
        with self._database.read() as connection:
            rows = connection.execute(query.where(jobs.c.project == project) if project else query)
            return list(_readable(rows))

    def find(self, name: str, project: str = "") -> list[JobRow]:
        """The jobs of that name: one of a project, or of every project one."""
        query = select(jobs).where(jobs.c.name == name).order_by(jobs.c.project)
        with self._database.read() as connection:
            rows = connection.execute(query.where(jobs.c.project == project) if project else query)
            return [_job_row(row) for row in rows]

    def by_number(self, no: int) -> JobRow | None:
        """One job; None when there is none any more."""
        with self._database.read() as connection:
            row = connection.execute(select(jobs).where(jobs.c.no == no)).first()
        return _job_row(row) if row else None

    def bundles(self) -> set[str]:
        """The bundles that jobs have."""
        with self._database.read() as connection:
            return set(connection.execute(select(jobs.c.bundle).where(jobs.c.bundle != "").distinct()).scalars())

    # -- changes here

    def override(self, no: int, changes: Mapping[str, Any], *, reset: bool = False) -> JobRow:
        """
        Change values of a job until its definition changes.

        Args:
            changes: By keys of `jobs.OVERRIDES`; what is not among them stays as it is, and a value that is the
                definition's own is none that was changed.
            reset: Forget what was changed before.

        Raises:
            UnknownJob: There is no such job any more.
            BadJob: A value makes no sense; nothing was changed.
        """
        with self._database.write() as connection:
            before = locked(connection, no)
            wanted = {**({} if reset else before.overrides), **changes}
            changed = before.defined.changed(wanted)
            overrides = {
                key: value for key, value in wanted.items() if getattr(changed, key) != getattr(before.defined, key)
            }
            values: dict[str, Any] = {"overrides": json.dumps(overrides)}
            if changed.schedule != before.job.schedule:
                values |= {"since_ms": self._now_ms(), "next_ms": None}
            return self._change(connection, no, values)

    def enable(self, no: int, on: bool) -> JobRow:
        """
        Have a job start by itself, or not.

        Raises:
            UnknownJob: There is no such job any more.
        """
        with self._database.write() as connection:
            before = locked(connection, no)
            # What was due while it was off is not made up for.
            values = {"since_ms": self._now_ms(), "next_ms": None} if on and not before.enabled else {}
            return self._change(connection, no, {"enabled": int(on), **values})

    def plan(self, no: int, next_ms: int | None, *, since_ms: int) -> bool:
        """
        Note the next moment that is due.

        Args:
            since_ms: As the job had it when that was found out.

        Returns:
            Whether the schedule still is the same.
        """
        with self._database.write() as connection:
            values = {"next_ms": NEVER_MS if next_ms is None else next_ms}
            found = update(jobs).where(jobs.c.no == no, jobs.c.since_ms == since_ms).values(values)
            return connection.execute(found).rowcount > 0

    def due(self, now_ms: int) -> list[JobRow]:
        """The jobs that are due, or of which nobody knows yet when they are."""
        query = select(jobs).where(jobs.c.enabled == 1, or_(jobs.c.next_ms <= now_ms, jobs.c.next_ms.is_(None)))
        with self._database.read() as connection:
            return list(_readable(connection.execute(query.order_by(jobs.c.next_ms))))

    def _change(self, connection: Connection, no: int, values: Mapping[str, Any]) -> JobRow:
        connection.execute(update(jobs).where(jobs.c.no == no).values(**values))
        return _job_row(connection.execute(select(jobs).where(jobs.c.no == no)).one())


def locked(connection: Connection, no: int) -> JobRow:
    """A job that nobody else changes before the transaction ends; SQLite has one writer anyway."""
    row = connection.execute(select(jobs).where(jobs.c.no == no).with_for_update()).first()
    if row is None:
        raise UnknownJob
    return _job_row(row)


def _readable(rows: Iterable[Any]) -> Iterator[JobRow]:
    """One that makes no sense any more, as for a time zone that this machine does not know, keeps no other away."""
    for row in rows:
        try:
            yield _job_row(row)
        except BadJob as exc:
            logger.warning("job cannot be read", extra={"job": row.name, "project": row.project, "reason": str(exc)})


def _job_row(row: Any) -> JobRow:
    defined = decode_job(row.name, json.loads(row.definition))
    overrides = json.loads(row.overrides)
    return JobRow(
        no=row.no,
        project=row.project,
        name=row.name,
        defined=defined,
        job=defined.changed(overrides),
        checksum=row.checksum,
        overrides=overrides,
        source=json.loads(row.source) if row.source else None,
        enabled=bool(row.enabled),
        synced_ms=row.synced_ms,
        since_ms=row.since_ms,
        next_ms=None if row.next_ms == NEVER_MS else row.next_ms,
    )
