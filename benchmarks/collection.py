"""Collection: modules that take 3 s of CPU to import, 4 executions; CPU of all processes against ``-n 4``."""

from __future__ import annotations

import sys

from benchmarks import suites
from benchmarks.bench import bench, check_accounting
from benchmarks.table import Row, Scale, alone, alternate, ratio_row, say

TARGET = 0.60
EXECUTIONS = 4
FILES = 10


def measure(scale: Scale) -> list[Row]:
    """Measure it."""
    import_s = scale.pick(30, 10) / 10
    with bench() as place:
        if not check_accounting(place):
            say("  the CPU of all processes can be measured on Linux only")
            return []
        folder = place.folder("suite")
        suites.write_slow_import(folder, FILES, import_s / FILES)
        pairs = alternate(
            lambda: place.run(suites.supercheck(EXECUTIONS), folder, expect=suites.passed(FILES)),
            lambda: place.run(suites.xdist(EXECUTIONS), folder, expect=suites.passed(FILES)),
            scale.pairs(5),
            warm=False,  # what is measured is long
        )
    name = f"collection, {import_s:g} s of imports: CPU / -n {EXECUTIONS}"
    return [ratio_row(name, TARGET, [(ours.cpu_s, peer.cpu_s) for ours, peer in pairs])]


if __name__ == "__main__":
    sys.exit(alone(measure))
