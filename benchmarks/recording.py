"""
Recording: 5,000 trivial tests on an embedded stack with and without it; and the report of a run of 10,000 tests: the
time from record to page, the page's size and the memory of the process that renders it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from benchmarks import suites
from benchmarks.bench import Bench, bench
from benchmarks.table import Row, Scale, alone, alternate, ratio_row, value_row

SESSION_TARGET = 1.03
RENDER_TARGET_S = 2.0
SIZE_TARGET_MB = 3.0
MEMORY_TARGET_MB = 300.0

_RENDER: Final = """
import json, resource, sys, time
from dataclasses import replace
from pytest_supercheck.archive import Archive
from pytest_supercheck.record import Failure, Text
from pytest_supercheck.stores import open_store
archive = Archive(open_store(sys.argv[1]))
started = time.perf_counter()
record = archive.load(archive.find())
trace = Text(text=("    def test_it(cart):\\n>       assert cart.total() == 12\\nE       assert 11 == 12\\n" * 10))
failure = Failure(phase="call", message="assert 11 == 12", trace=trace)
items = tuple(
    replace(item, outcome="failed", failures=(failure,)) if item.index % 100 == 0 else item for item in record.items
)
from pytest_supercheck.report import render_run
page = render_run(replace(record, items=items))
took_s = time.perf_counter() - started
memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
print("took", json.dumps([took_s, len(page) / 1e6, memory_mb]))
"""


def measure(scale: Scale) -> list[Row]:
    """Measure both."""
    tests, listed = scale.pick(5000, 500), scale.pick(10_000, 500)
    with bench() as place:
        folder = place.folder("suite")
        suites.write_trivial(folder, tests, 50)
        command = suites.supercheck(2)
        pairs = alternate(
            lambda: place.run(command, folder, expect=suites.passed(tests)).wall_s,
            lambda: place.run([*command, "--supercheck-record=0"], folder, expect=suites.passed(tests)).wall_s,
            scale.pairs(11),
        )
        pages = _pages(place, listed, scale.pairs(5))
    took_s, size_mb, memory_mb = zip(*pages, strict=True)
    name = f"report of {listed:,} tests, 1 in 100 failed"
    return [
        ratio_row(f"recording, {tests:,} tests: wall of the session with / without", SESSION_TARGET, pairs),
        value_row(f"{name}: from record to page", RENDER_TARGET_S, took_s, "s"),
        value_row(f"{name}: size", SIZE_TARGET_MB, size_mb, "MB"),
        value_row(f"{name}: memory", MEMORY_TARGET_MB, memory_mb, "MB"),
    ]


def _pages(place: Bench, tests: int, times: int) -> list[tuple[float, float, float]]:
    """Seconds, megabytes of the page and of the process, of a recorded run's report."""
    folder = place.folder("listed")
    suites.write_trivial(folder, tests, 100)
    place.run(suites.supercheck(2), folder, expect=suites.passed(tests))
    command = [sys.executable, "-c", _RENDER, str(Path(folder, ".supercheck", "store"))]
    said = [place.run(command, folder, expect="took").output for _ in range(times)]
    return [tuple(json.loads(output.partition("took ")[2])) for output in said]


if __name__ == "__main__":
    sys.exit(alone(measure))
