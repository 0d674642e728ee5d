"""Start on an embedded stack: one test, 2 executions; wall time against ``pytest -n 2``."""

from __future__ import annotations

import sys

from benchmarks import suites
from benchmarks.bench import bench
from benchmarks.table import Row, Scale, alone, alternate, ratio_row

TARGET = 0.80


def measure(scale: Scale) -> list[Row]:
    """Measure it."""
    with bench() as place:
        folder = place.folder("suite")
        suites.write_trivial(folder, 1, 1)
        pairs = alternate(
            lambda: place.run(suites.supercheck(2), folder, expect=suites.passed(1)),
            lambda: place.run(suites.xdist(2), folder, expect=suites.passed(1)),
            scale.pairs(15, 2),
        )
    return [ratio_row("start, embedded: wall / -n 2", TARGET, [(ours.wall_s, peer.wall_s) for ours, peer in pairs])]


if __name__ == "__main__":
    sys.exit(alone(measure))
