"""
Balance: 400 sleeping tests of log-normal durations, longest last, 8 executions; wall time against ``-n 8``.

With the durations of an earlier session, as any but the first has them, and without.
"""

from __future__ import annotations

import sys
from functools import partial

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
        rows = []
        for known in (True, False):
            pairs = alternate(  # calls each once before, so that there is something to remember
                partial(place.run, suites.supercheck(EXECUTIONS, remembers=known), folder, expect=suites.passed(tests)),
                partial(place.run, suites.xdist(EXECUTIONS), folder, expect=suites.passed(tests)),
                scale.pairs(9),
            )
            name = f"balance, {tests} sleeping tests (bound {seconds(bound_s)}), durations {'' if known else 'un'}known"
            ratios = [(ours.wall_s, peer.wall_s) for ours, peer in pairs]
            rows.append(ratio_row(f"{name}: wall / -n {EXECUTIONS}", TARGET, ratios))
    return rows


if __name__ == "__main__":
    sys.exit(alone(measure))
