"""Start on a pool whose workers are running: one test, 2 executions; wall time against ``pytest -n 2``."""

from __future__ import annotations

import sys

from benchmarks import pool, suites
from benchmarks.bench import Cost, bench
from benchmarks.table import Row, Scale, alone, alternate, ratio_row

TARGET = 0.60


def measure(scale: Scale) -> list[Row]:
    """Measure it."""
    with bench() as place, pool.server() as url, pool.workers(place, url, 2) as workers:
        folder = place.folder("suite")
        suites.write_trivial(folder, 1, 1)

        def run(command: list[str]) -> Cost:
            pool.settle(workers)  # what the pool does after one run must slow neither side of the next
            return place.run(command, folder, expect=suites.passed(1))

        pairs = alternate(
            lambda: run(suites.supercheck(2, url)),
            lambda: run(suites.xdist(2)),
            scale.pairs(9, 2),
        )
    walls = [(ours.wall_s, peer.wall_s) for ours, peer in pairs]
    return [ratio_row("start, workers running: wall / -n 2", TARGET, walls)]


if __name__ == "__main__":
    sys.exit(alone(measure))
