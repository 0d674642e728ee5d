"""Memory: bytes that a run leaves in Redis per passing test without output."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from benchmarks import pool, suites
from benchmarks.bench import BenchError, bench
from benchmarks.table import Row, Scale, alone, say, value_row

TARGET = 400.0


def measure(scale: Scale) -> list[Row]:
    """Measure it."""
    tests, files = scale.pick(5000, 500), scale.pick(50, 5)
    values = []
    with bench() as place, pool.server() as url, pool.workers(place, url, 2):
        folder = place.folder("suite")
        suites.write_trivial(folder, tests, files)
        for _ in range(scale.runs or 1):  # it does not vary
            place.run(suites.supercheck(2, url), folder, expect=suites.passed(tests))
            kinds = _bytes_by_kind(url)
            say("  " + ", ".join(f"{kind} {size:,}" for kind, size in kinds.most_common(5)))
            values.append(sum(kinds.values()) / tests)
    return [value_row(f"Redis, per passing test of {tests:,}", TARGET, values, "bytes")]


def _bytes_by_kind(url: str) -> Counter[str]:
    """The memory of all keys that name the only run there is, which are deleted then."""
    import redis

    with redis.Redis.from_url(url, decode_responses=True) as client:
        heads = [key for key in client.scan_iter("sc:run:*", count=1000) if key.count(":") == 2]
        if len(heads) != 1:
            raise BenchError(f"one run was expected in Redis, not {heads}")
        run = heads[0].rpartition(":")[2]
        keys = list(client.scan_iter(f"*{run}*", count=1000))
        found: Counter[str] = Counter()
        for key in keys:
            size: Any = client.memory_usage(key, samples=0)
            found[key.replace(run, "RUN")] += size
        client.delete(*keys)
        return found


if __name__ == "__main__":
    sys.exit(alone(measure))
