"""
All figures, or those that are named, in one table: ``python -m benchmarks [name ...] [--runs N] [--quick]``.

Ends with 1 when a figure misses its target or cannot be measured, with 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import time
from importlib.metadata import version
from typing import Final

from benchmarks.table import Row, Scale, arguments, end_in_order, markdown, say

#: In the order of the table.
FIGURES: Final = (
    "start",
    "start_warm",
    "throughput",
    "door",
    "balance",
    "collection",
    "redis_bytes",
    "recovery",
    "submit",
    "plain",
    "history",
    "recording",
    "recorder",
    "viewers",
    "phone",
    "bundle",
    "environment",
)


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure against peers; prints a table.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"figures: {', '.join(FIGURES)} (default: all)")
    arguments(parser)
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - set(FIGURES)):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(FIGURES)}")
    where = _surroundings()
    say(where)
    rows: list[Row] = []
    failed: list[str] = []
    status = 0
    end_in_order()
    try:
        for name in given.names or FIGURES:
            _measure(name, Scale(runs=given.runs, quick=given.quick), rows, failed)
    except KeyboardInterrupt:
        status = 130
    if rows:
        print(f"{markdown(rows)}\n\n{where}")
    for text in failed:
        print(f"\nFAILED {text}")
    return status or (0 if rows and not failed and all(row.reached for row in rows) else 1)


def _surroundings() -> str:
    """What the figures depend on; whoever else uses the processors makes them worse, and by more for one side."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("pytest", "pytest-xdist", "redis", "rq"))
    load = os.getloadavg()[0]
    return f"Python {platform.python_version()}, {versions}; {os.cpu_count()} CPUs, load {load:.1f} before"


def _measure(name: str, scale: Scale, rows: list[Row], failed: list[str]) -> None:
    """Measure one figure; what goes wrong with one does not end the others."""
    say(f"{name} ...")
    started = time.monotonic()
    try:
        rows += importlib.import_module(f"benchmarks.{name}").measure(scale)
    except Exception as exc:  # noqa: BLE001
        failed.append(f"{name}: {str(exc) or type(exc).__name__}")
        say(f"  failed: {exc}")
    say(f"  {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
