"""
Records → rows: what the history knows of a run, written in one transaction, once.

Between the recorder and the database; the only writer of the history's tables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Table, bindparam, delete, exists, insert, select, update

from pytest_supercheck.model import RunDetails
from pytest_supercheck.record import FAILING, ItemRecord, Origin, RunRecord, RunSummary, read_origin
from supercheck_server.causes import cause_of, failure_of
from supercheck_server.database import Database
from supercheck_server.history import LOAD_MINUTES
from supercheck_server.outcomes import add_recent, flakiness, mean_us
from supercheck_server.rows import COUNTS, Load
from supercheck_server.tables import (
    artifacts,
    causes,
    executions,
    failures,
    loads,
    notifications,
    results,
    run_key,
    runs,
    tests,
)

#: Characters of a text that is indexed.
TEXT_LIMIT: Final = 200
#: Values in one `IN (...)`, and rows in one statement.
BATCH: Final = 500


class Ledger:
    """The writer of the history."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note_live(self, seen: Iterable[RunDetails]) -> None:
        """Note runs that live; those that are known stay as they are."""
        rows = [
            {
                "id": run.run,
                "project": short(run.project),
                "verdict": "live",
                "submitted_ms": run.submitted_ms,
                **_origin_values(read_origin(run.spec)),
            }
            for run in seen
        ]
        if rows:
            with self._database.write() as connection:
                self._insert_new(connection, runs, rows, "id")

    def note_load(self, load: Load) -> None:
        """Note how full the pool is in this minute, once, and forget what is older than 48 hours."""
        with self._database.write() as connection:
            connection.execute(delete(loads).where(loads.c.minute < load.minute - LOAD_MINUTES))
            self._insert_new(connection, loads, [asdict(load)], "minute")

    def write(
        self, record: RunRecord, folder: str, *, delivered: bool, also: Callable[[Connection], None] | None = None
    ) -> bool:
        """
        Write what is to be known of a recorded run; harmless to repeat.

        Args:
            folder: Where its record is in the store.
            delivered: False while it is on its way there.
            also: Writes, at the end of the same transaction, what else comes of a run that is new.

        Returns:
            False when all of it was known.
        """
        summary = record.summary
        with self._database.write() as connection:
            live = {
                "id": summary.id,
                "project": short(summary.project),
                "verdict": "live",
                "submitted_ms": _ms(summary.submitted_at),
            }
            self._insert_new(connection, runs, [live], "id")
            # Two recorders of one run meet here: the second finds it written.
            row = connection.execute(
                select(runs.c.no, runs.c.folder).where(runs.c.id == summary.id).with_for_update()
            ).one()
            if row.folder:
                return False
            values = {**_run_values(summary), "folder": folder, "delivered": int(delivered)}
            connection.execute(update(runs).where(runs.c.no == row.no).values(values))
            self._write_executions(connection, row.no, record)
            self._write_items(connection, row.no, summary, record.items)
            self._write_artifacts(connection, row.no, record.items)
            if also is not None:
                also(connection)
        return True

    def mark_delivered(self, run: str) -> None:
        """Note that a run's record has reached the store."""
        with self._database.write() as connection:
            connection.execute(update(runs).where(runs.c.id == run).values(delivered=1))

    def forget(self, run: str) -> None:
        """Remove a run with all that belongs to it; its tests stay, and what their rows say of their last runs."""
        with self._database.write() as connection:
            number = select(runs.c.no).where(runs.c.id == run).scalar_subquery()
            for table in (results, failures, artifacts, executions):
                connection.execute(delete(table).where(table.c.run_no == number))
            connection.execute(delete(notifications).where(notifications.c.about == run_key(run)))
            connection.execute(delete(runs).where(runs.c.id == run))

    def forget_tests(self, before_ms: int) -> int:
        """Remove tests that ran last before some time, and of which no result is left; returns how many there were."""
        idle = select(tests.c.no).where(tests.c.last_ms < before_ms)
        idle = idle.where(~exists().where(results.c.test_no == tests.c.no))
        with self._database.write() as connection:
            numbers = list(connection.execute(idle.order_by(tests.c.no).limit(BATCH)).scalars())
            connection.execute(delete(failures).where(failures.c.test_no.in_(numbers)))
            connection.execute(delete(tests).where(tests.c.no.in_(numbers)))
        return len(numbers)

    def _write_executions(self, connection: Connection, run_no: int, record: RunRecord) -> None:
        rows = {
            execution.job: {
                "run_no": run_no,
                "job": storable(execution.job),
                "n": execution.n,
                "host": storable(execution.host),
                "started_ms": _ms(execution.started_at),
                "ended_ms": _ms(execution.ended_at),
            }
            for execution in record.executions
        }
        if rows:
            connection.execute(insert(executions), list(rows.values()))

    def _write_items(
        self, connection: Connection, run_no: int, summary: RunSummary, items: Sequence[ItemRecord]
    ) -> None:
        known = self._tests(connection, summary.project, items)
        now_ms = _ms(summary.ended_at)
        keys = [key_of(summary.project, item.nodeid) for item in items]
        for item, key in zip(items, keys, strict=True):
            test = known[key]
            test["recent"] = add_recent(test["recent"], item.outcome)
            if item.outcome != "skipped":
                test["mean_us"] = mean_us(test["mean_us"], _us(item))
        if items:
            connection.execute(
                insert(results), [_result(run_no, known[k]["no"], i) for i, k in zip(items, keys, strict=True)]
            )
            self._update_tests(connection, known.values(), now_ms)
        failed = [(item, known[key]["no"]) for item, key in zip(items, keys, strict=True) if item.outcome in FAILING]
        if failed:
            self._write_failures(connection, run_no, summary.project, failed)

    def _write_artifacts(self, connection: Connection, run_no: int, items: Sequence[ItemRecord]) -> None:
        rows = [
            {
                "run_no": run_no,
                "position": item.index,
                "number": number,
                "name": short(artifact.name),
                "key": storable(artifact.key),
                "size_bytes": max(0, min(artifact.size_bytes, 1 << 53)),
            }
            for item in items
            for number, artifact in enumerate(item.artifacts)
        ]
        if rows:
            connection.execute(insert(artifacts), rows)

    def _write_failures(
        self, connection: Connection, run_no: int, project: str, failed: Sequence[tuple[ItemRecord, int]]
    ) -> None:
        titles = {item.index: storable(cause_of(failure_of(item)[1])) for item, _ in failed}
        wanted = {key_of(project, title): title for title in titles.values()}
        rows = [{"key": key, "project": short(project), "title": title} for key, title in sorted(wanted.items())]
        self._insert_new(connection, causes, rows, "key")
        numbers = {row["key"]: row["no"] for row in _by_keys(connection, causes, sorted(wanted))}
        connection.execute(
            insert(failures),
            [
                {
                    "run_no": run_no,
                    "position": item.index,
                    "test_no": test_no,
                    "cause_no": numbers[key_of(project, titles[item.index])],
                    "phase": storable(failure_of(item)[0]),
                    "message": storable(failure_of(item)[1]),
                }
                for item, test_no in failed
            ],
        )

    def _tests(self, connection: Connection, project: str, items: Sequence[ItemRecord]) -> dict[str, dict[str, Any]]:
        """The rows of the items' tests, made where there are none, by key."""
        wanted = {key_of(project, item.nodeid): item.nodeid for item in items}
        known = {row["key"]: row for row in _by_keys(connection, tests, sorted(wanted))}
        # In one order everywhere, so that two recorders do not wait for each other.
        missing = sorted(wanted.keys() - known.keys())
        if missing:
            rows = [{"key": key, "project": short(project), "nodeid": storable(wanted[key])} for key in missing]
            self._insert_new(connection, tests, rows, "key")
            known.update((row["key"], row) for row in _by_keys(connection, tests, missing))
        return known

    def _update_tests(self, connection: Connection, rows: Iterable[dict[str, Any]], now_ms: int) -> None:
        changed = [
            {
                "which": row["no"],
                "new_recent": row["recent"],
                "new_flakiness": flakiness(row["recent"]),
                "new_mean_us": row["mean_us"],
                "new_last_ms": max(row["last_ms"], now_ms),
            }
            for row in sorted(rows, key=lambda row: row["no"])
        ]
        columns = ("recent", "flakiness", "mean_us", "last_ms")
        statement = update(tests).where(tests.c.no == bindparam("which"))
        connection.execute(statement.values({name: bindparam(f"new_{name}") for name in columns}), changed)

    def _insert_new(self, connection: Connection, table: Table, rows: list[dict[str, Any]], key: str) -> None:
        connection.execute(self._database.insert(table).on_conflict_do_nothing(index_elements=[key]), rows)


def key_of(project: str, text: str) -> str:
    """What names a test, or a cause, of a project: short, and the same whoever computes it."""
    return hashlib.sha256(f"{project}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def short(text: str) -> str:
    """A text that an index takes, and everybody who asks for it has to write in the same way."""
    return storable(text[:TEXT_LIMIT])


def storable(text: str) -> str:
    """A text as a database takes it: without NULs and lone surrogates."""
    return text.replace("\0", "\N{SYMBOL FOR NULL}").encode("utf-8", "replace").decode()


def _by_keys(connection: Connection, table: Table, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    for start in range(0, len(keys), BATCH):
        some = keys[start : start + BATCH]
        query = select(table).where(table.c.key.in_(some)).order_by(table.c.no).with_for_update()
        for row in connection.execute(query).mappings():
            yield dict(row)


def _origin_values(origin: Origin) -> dict[str, Any]:
    names = ("trigger", "branch", "commit", "repository", "user", "host", "url")
    return {
        **{name: short(getattr(origin, name)) for name in names},
        "pull_request": origin.pull_request if 0 <= origin.pull_request < 1 << 31 else 0,
    }


def _run_values(summary: RunSummary) -> dict[str, Any]:
    texts = {"outcome": summary.outcome, "verdict": summary.verdict, "message": summary.message[:2000]}
    return {
        **{name: storable(text) for name, text in texts.items()},
        **{column: summary.counts.get(outcome, 0) for outcome, column in COUNTS.items()},
        **_origin_values(summary.origin),
        "total": summary.total,
        "executions": summary.executions,
        "submitted_ms": _ms(summary.submitted_at),
        "started_ms": _ms(summary.started_at),
        "ended_ms": _ms(summary.ended_at),
    }


def _result(run_no: int, test_no: int, item: ItemRecord) -> dict[str, Any]:
    return {
        "run_no": run_no,
        "position": item.index,
        "test_no": test_no,
        "outcome": item.outcome,
        "duration_us": _us(item),
        "n": item.n,
        "attempt": min(item.attempt, 1000),
    }


def _us(item: ItemRecord) -> int:
    return max(0, min(round(item.duration_s * 1e6), 1 << 53))


def _ms(at: datetime | None) -> Any:
    return None if at is None else round(at.timestamp() * 1000)
