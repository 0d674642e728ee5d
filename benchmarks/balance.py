"""Balance: 400 sleeping tests of log-normal durations, longest last, 8 executions; wall time against ``-n 8``."""

from __future__ import annotations

import sys

from benchmarks import suites
from benchmarks.bench import bench
from benchmarks.table import Row, Scale, alone, alternate, ratio_row, say, seconds

TARGET = 0.65
EXECUTIONS = 8

#: Of the durations: the mean in seconds, and the standard deviation of their logarithm.
MEAN_S = 0.05
SIGMA = 1.5


def measure(scale: Scale) -> list[Row]:
    """Measure it."""
    tests = scale.pick(400, 80)
    durations_s = suites.skewed(tests, MEAN_S, SIGMA)
    bound_s = max(sum(durations_s) / EXECUTIONS, durations_s[-1])
    say(f"  sum {seconds(sum(durations_s))}, longest {seconds(durations_s[-1])}")
    with bench() as place:
        folder = place.folder("suite")
        suites.write_sleeping(folder, durations_s, 20)
        pairs = alternate(
            lambda: place.run(suites.supercheck(EXECUTIONS), folder, expect=suites.passed(tests)),
            lambda: place.run(suites.xdist(EXECUTIONS), folder, expect=suites.passed(tests)),
            scale.pairs(9),
        )
    name = f"balance, {tests} sleeping tests (bound {seconds(bound_s)}): wall / -n {EXECUTIONS}"
    return [ratio_row(name, TARGET, [(ours.wall_s, peer.wall_s) for ours, peer in pairs])]


if __name__ == "__main__":
    sys.exit(alone(measure))
