"""Throughput: 5,000 trivial tests in 50 files, 2 executions; wall time and CPU of all processes against ``-n 2``."""

from __future__ import annotations

import sys

from benchmarks import suites
from benchmarks.bench import bench, check_accounting
from benchmarks.table import Row, Scale, alone, alternate, ratio_row, say

WALL_TARGET = 0.60
CPU_TARGET = 0.70


def measure(scale: Scale) -> list[Row]:
    """Measure it."""
    tests, files = scale.pick(5000, 500), scale.pick(50, 5)
    with bench() as place:
        accounted = check_accounting(place)
        folder = place.folder("suite")
        suites.write_trivial(folder, tests, files)
        pairs = alternate(
            lambda: place.run(suites.supercheck(2), folder, expect=suites.passed(tests)),
            lambda: place.run(suites.xdist(2), folder, expect=suites.passed(tests)),
            scale.pairs(5),
        )
    name = f"throughput, {tests:,} tests"
    rows = [ratio_row(f"{name}: wall / -n 2", WALL_TARGET, [(ours.wall_s, peer.wall_s) for ours, peer in pairs])]
    if accounted:
        rows.append(ratio_row(f"{name}: CPU / -n 2", CPU_TARGET, [(ours.cpu_s, peer.cpu_s) for ours, peer in pairs]))
    else:
        say("  the CPU of all processes can be measured on Linux only")
    return rows


if __name__ == "__main__":
    sys.exit(alone(measure))
