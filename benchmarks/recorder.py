"""Recording: from the end of a run of 10,000 tests until its page can be seen, and what that costs in memory."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks import pool
from benchmarks.table import Row, Scale, alone, value_row
from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.model import RunId, RunRequest
from pytest_supercheck.redis_gateway import connect_redis

TARGET_S: Final = 3.0
TARGET_MB: Final = 300.0

#: Records in a process of its own, whose memory is nobody else's.
_RECORD: Final = "from benchmarks.recorder import record; record()"


def measure(scale: Scale) -> list[Row]:
    """Measure both, on SQLite and a directory."""
    tests = scale.pick(10_000, 500)
    took, memory = zip(*(_once(tests, number) for number in range(scale.pairs(5))), strict=True)
    return [
        value_row(f"recording {tests:,} tests, SQLite and a directory", TARGET_S, took, "s"),
        value_row(f"recording {tests:,} tests: memory", TARGET_MB, memory, "MB"),
    ]


def _once(tests: int, number: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="scbench") as directory, pool.server() as url:
        _finish(Dispatcher(connect_redis(url)), f"run-{number}", tests)
        environ = {**os.environ, "SUPERCHECK_REDIS_URL": url, "SUPERCHECK_DATA": directory}
        root = Path(__file__).parent.parent
        done = subprocess.run(
            [sys.executable, "-c", _RECORD], cwd=root, env=environ, check=True, capture_output=True, text=True
        )
        took_s, memory_mb = json.loads(done.stdout)
        return took_s, memory_mb


def record() -> None:
    """Record the only run that has ended, and print the seconds and MB that it took."""
    from supercheck_server.app import Parts
    from supercheck_server.history import RunFilter
    from supercheck_server.settings import Settings

    parts = Parts(Settings.from_env())
    started = time.perf_counter()
    if not parts.recorder.record_next():
        raise SystemExit("there was nothing to record")
    [row] = parts.history.runs(RunFilter())
    parts.history.results(row.no)
    took_s = time.perf_counter() - started
    print(json.dumps([took_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
    parts.close()


def _finish(dispatcher: Dispatcher, run: str, tests: int) -> None:
    dispatcher.join("worker", host="host", pid=1)
    dispatcher.submit(RunRequest(run_id=RunId(run), project="shop", detached=True))
    dispatcher.offer(RunId(run), [json.dumps(f"tests/test_{at // 50}.py::test_{at}") for at in range(tests)])
    [execution] = dispatcher.pool().executions
    dispatcher.begin(execution.job, worker="worker")
    for seq, start in enumerate(range(0, tests, 500), 1):
        some = range(start, min(tests, start + 500))
        lines = b"".join(f"[{at},1,{1_770_000_000_000_000 + at},1,2,3,4,5,9,99,9]\n".encode() for at in some)
        dispatcher.append(execution.job, lines, seq=seq, done=some)
    dispatcher.leave(execution.job)


if __name__ == "__main__":
    sys.exit(alone(measure))
