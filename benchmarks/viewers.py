"""
Live pages: from a change in the pool to each of 500 viewers of the queue, and of a run while it runs.

The changes come at random moments, so that the server's own rhythm shows in the delays.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from bisect import bisect_left
from typing import Final

from benchmarks import audience, pool, web
from benchmarks.bench import BenchError, bench
from benchmarks.table import Row, Scale, alone, spread
from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.model import JobId, Offer, RunId, RunRequest
from pytest_supercheck.redis_gateway import connect_redis

TARGET_MS: Final = 500.0

#: Tests of the run; it does not end while it is watched.
TESTS: Final = 10_000
#: Other runs, which wait.
WAITING: Final = 20
#: Seconds between two changes, at least and at most.
PAUSES_S: Final = (0.05, 0.5)
#: Seconds for all viewers to be there, and for the last of them to see the last change.
PATIENCE_S: Final = 60.0


def measure(scale: Scale) -> list[Row]:
    """Measure both pages, one after the other."""
    viewers, changes = scale.pick(500, 20), scale.pairs(80, 5)
    pages = {"the queue": "/queue/live", "a run": "/runs/run/live"}
    return [_row(f"{viewers} viewers of {name}", path, viewers, changes) for name, path in pages.items()]


def _row(figure: str, path: str, viewers: int, changes: int) -> Row:
    with bench() as place, pool.server() as url:
        dispatcher = Dispatcher(connect_redis(url))
        job = _fill(dispatcher)
        with web.served(place, url, data=place.folder("data")) as server:
            command = [sys.executable, audience.__file__, server.address, path, *map(str, (viewers, TESTS, changes))]
            watching = place.start(command, place.directory)
            watching.wait_for("watching", PATIENCE_S)
            started, before_s = time.monotonic(), server.cpu_s
            changed = _run(dispatcher, job, changes)
            share = (server.cpu_s - before_s) / (time.monotonic() - started)
            seen: list[list[tuple[int, float]]] = json.loads(watching.finish(PATIENCE_S).output.split("\n")[1])
    if len(seen) != viewers:
        raise BenchError(f"{len(seen)} of {viewers} viewers have seen the changes")
    delays_ms = [1000 * delay_s for sights in seen for delay_s in _delays_s(changed, sights)]
    return Row(
        figure=f"{figure}: from a change to each of them, p95",
        target=TARGET_MS,
        value=statistics.quantiles(delays_ms, n=20)[18],
        unit="ms",
        ours=f"server: {share:.0%} of a CPU",
        spread=spread(delays_ms),
    )


def _fill(dispatcher: Dispatcher) -> JobId:
    """A run that runs, and others that wait; returns the run's execution."""
    dispatcher.join("worker", host="host", pid=1)
    for run in ("run", *(f"waits-{number}" for number in range(WAITING))):
        dispatcher.submit(RunRequest(run_id=RunId(run), project="shop", detached=True))
        dispatcher.offer(RunId(run), Offer(names=[json.dumps(f"tests/test_a.py::test_{at}") for at in range(TESTS)]))
    [execution] = dispatcher.pool().executions
    dispatcher.begin(execution.job, worker="worker")
    dispatcher.next(execution.job, fresh=True)
    return execution.job


def _run(dispatcher: Dispatcher, job: JobId, changes: int) -> list[float]:
    """Let the run go on, a test at a time; returns when each was done."""
    chance, changed = random.Random(1), []
    for at in range(changes):
        time.sleep(chance.uniform(*PAUSES_S))
        dispatcher.beat(["worker"], jobs=[job])
        line = f"[{at},1,{1_770_000_000_000_000 + at},1,2,3,4,5,9,99,9]\n".encode()
        changed.append(time.monotonic())
        dispatcher.append(job, line, seq=at + 1, done=[at])
    return changed


def _delays_s(changed: list[float], sights: list[tuple[int, float]]) -> list[float]:
    """For each change the seconds until one viewer had a picture with it, or with a later one."""
    numbers = [number for number, _ in sights]
    return [sights[bisect_left(numbers, done)][1] - at for done, at in enumerate(changed, 1)]


if __name__ == "__main__":
    sys.exit(alone(measure))
