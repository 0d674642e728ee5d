"""
Recording by a server of its own: from the end of a run of 10,000 tests until it is in the history and has its page, and
the most memory that the server has had.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Final

from benchmarks import pool, web
from benchmarks.bench import BenchError, bench
from benchmarks.table import Row, Scale, alone, value_row
from pytest_supercheck import events
from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.model import JobId, Offer, RunId, RunRequest
from pytest_supercheck.redis_gateway import connect_redis

TARGET_S: Final = 3.0
TARGET_MB: Final = 300.0

#: One test in so many fails, with this traceback.
FAILS: Final = 100
TRACE: Final = "    def test_it(cart):\n>       assert cart.total() == 12\nE       assert 11 == 12\n" * 10


def measure(scale: Scale) -> list[Row]:
    """Measure both, on SQLite and a directory."""
    tests = scale.pick(10_000, 500)
    took, memory = zip(*(_once(tests) for _ in range(scale.pairs(5))), strict=True)
    name = f"recording {tests:,} tests, 1 in {FAILS} failed, SQLite and a directory"
    return [
        value_row(f"{name}: from the end of the run to its page", TARGET_S, took, "s"),
        value_row(f"{name}: memory of the server", TARGET_MB, memory, "MB"),
    ]


def _once(tests: int) -> tuple[float, float]:
    run = RunId("run")
    with bench() as place, pool.server() as url:
        server = web.served(place, url, data=place.folder("data"))
        with server as served, web.asking(served) as client:
            dispatcher = Dispatcher(connect_redis(url))
            job = _all_but_the_end(dispatcher, run, tests)
            dispatcher.leave(job)
            ended = time.monotonic()
            web.wait_until(lambda: _is_recorded(client, run), "the run is recorded")
            page = client.get(f"/runs/{run}").decode()
            took_s = time.monotonic() - ended
            if f"{tests // FAILS}</strong> failed" not in page:
                raise BenchError("the run's page is not that of its results")
            return took_s, served.peak_mb


def _is_recorded(client: web.Client, run: RunId) -> bool:
    record = json.loads(client.get(f"/api/v1/runs/{run}"))["record"]
    return record is not None and bool(record["folder"])


def _all_but_the_end(dispatcher: Dispatcher, run: RunId, tests: int) -> JobId:
    """A run whose tests have all been done, and whose only execution has still to leave."""
    dispatcher.join("worker", host="host", pid=1)
    dispatcher.submit(RunRequest(run_id=run, project="shop", detached=True))
    dispatcher.offer(run, Offer(names=[json.dumps(f"tests/test_{at // 50}.py::test_{at}") for at in range(tests)]))
    [execution] = dispatcher.pool().executions
    dispatcher.begin(execution.job, worker="worker")
    for seq, start in enumerate(range(0, tests, 500), 1):
        some = range(start, min(tests, start + 500))
        dispatcher.append(execution.job, b"".join(_line(at) + b"\n" for at in some), seq=seq, done=some)
    return execution.job


def _line(at: int) -> bytes:
    started_s = 1_770_000_000 + at / 1000
    if at % FAILS:
        return events.encode_passed(at, 1, [(started_s, started_s + 0.001, 0.001)] * 3)
    report = {
        "nodeid": f"test_{at}",
        "location": ["test.py", 1, "test"],
        "keywords": {},
        "outcome": "failed",
        "longrepr": TRACE,
        "when": "call",
        "user_properties": [],
        "sections": [["Captured stdout call", "some words\n" * 20]],
        "start": started_s,
        "stop": started_s + 0.001,
        "duration": 0.001,
        "$report_type": "TestReport",
    }
    return events.encode_result(at, 1, [("report", report)])


if __name__ == "__main__":
    sys.exit(alone(measure))
