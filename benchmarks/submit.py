"""Submit: the time to a refusal, or to a place in the queue, while 1,000 runs wait; in bare Redis round trips."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import redis

from benchmarks import pool
from benchmarks.bench import BenchError
from benchmarks.table import Row, Scale, alone, ratio_row
from pytest_supercheck.errors import QueueFull
from pytest_supercheck.model import JobId, RunId, RunRequest
from pytest_supercheck.redis_gateway import RedisGateway, connect_redis

TARGET = 20.0

#: Slots, all of them held.
RUNNING: Final = 5

#: Bare round trips around each submission.
PINGS: Final = 5


def measure(scale: Scale) -> list[Row]:
    """Measure both answers."""
    waiting, samples = scale.pick(1000, 100), scale.pairs(200, 20)
    with pool.server() as url:
        client = connect_redis(url)
        with RedisGateway(client) as gateway:
            crowd = _Crowd(gateway, waiting)
            refused = _sample(client, crowd, crowd.refused, samples)
            gateway.dispatcher.limits(queued=waiting + 1)
            placed = _sample(client, crowd, crowd.placed, samples)
    return [
        _row(f"submit, {waiting:,} runs waiting: refusal", refused),
        _row(f"submit, {waiting:,} runs waiting: position", placed),
    ]


def _sample(client: redis.Redis, crowd: _Crowd, submit: Callable[[], float], samples: int) -> list[tuple[float, float]]:
    """Submissions, and the bare round trips beside each."""
    found = []
    for sample in range(samples):
        if sample % 10 == 0:
            crowd.hold()
        found.append((submit(), _round_trip(client)))
    return found


def _round_trip(client: redis.Redis) -> float:
    """Seconds that a command takes which does nothing, over the same kind of connection."""
    started = time.perf_counter()
    for _ in range(PINGS):
        client.ping()
    return (time.perf_counter() - started) / PINGS


def _row(figure: str, samples: list[tuple[float, float]]) -> Row:
    return replace(ratio_row(figure, TARGET, samples), unit="round trips")


class _Crowd:
    """A pool whose slots are all held, and in whose queue there is no room."""

    def __init__(self, gateway: RedisGateway, waiting: int) -> None:
        self._dispatcher = dispatcher = gateway.dispatcher
        self._gateway = gateway
        self._waiting = waiting
        self._count = 0
        self._workers = [f"worker-{number}" for number in range(RUNNING)]
        dispatcher.limits(running=RUNNING, queued=waiting)
        for worker in self._workers:
            dispatcher.join(worker, host="host", pid=1)
        self._jobs: list[JobId] = []
        for _ in range(RUNNING):
            request = self._request()
            gateway.submit(request)
            self._begin(JobId(f"{request.run_id}-1-1"))
        for _ in range(waiting):
            gateway.submit(self._request())

    def _begin(self, job: JobId) -> None:
        if not any(self._dispatcher.begin(job, worker=worker) for worker in self._workers):
            raise BenchError(f"{job} has not been promoted")
        self._jobs.append(job)

    def _request(self) -> RunRequest:
        self._count += 1
        # Detached: nobody keeps it alive meanwhile. A spec is about so long.
        return RunRequest(run_id=RunId(f"run-{self._count}"), project="project", detached=True, spec="x" * 2000)

    def hold(self) -> None:
        """Keep the slots."""
        self._dispatcher.beat(self._workers, jobs=self._jobs)

    def refused(self) -> float:
        """Seconds to a refusal."""
        request = self._request()
        started = time.perf_counter()
        try:
            self._gateway.submit(request)
        except QueueFull:
            return time.perf_counter() - started
        raise BenchError("a run was admitted to a full queue")

    def placed(self) -> float:
        """Seconds to a place in the queue; it is left again."""
        request = self._request()
        started = time.perf_counter()
        admission = self._gateway.submit(request)
        took_s = time.perf_counter() - started
        if admission.position != self._waiting + 1:
            raise BenchError(f"position {admission.position} behind {self._waiting} runs")
        self._gateway.cancel(request.run_id, outcome="withdrawn", how="kill")
        return took_s


if __name__ == "__main__":
    sys.exit(alone(measure))
