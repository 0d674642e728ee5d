"""Runs the shop's tests through pytest --supercheck and says what happened: what `make demo` shows."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest


class Tally:
    """Counts what the session reports."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.first_result_s = 0.0
        self.outcomes: Counter[str] = Counter()
        self.spent_s = {"setup": 0.0, "call": 0.0, "teardown": 0.0}
        self.executions = 0

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self) -> None:
        """Called when an execution is ready to run tests."""
        self.executions += 1

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called for each phase of each test, in the order in which results arrive."""
        self.first_result_s = self.first_result_s or time.monotonic() - self.started
        self.spent_s[report.when] += report.duration
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.outcome] += 1

    def __str__(self) -> str:
        wall_s, tests_s = time.monotonic() - self.started, sum(self.spent_s.values())
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes.most_common())
        phases = ", ".join(f"{phase} {spent_s:.1f} s" for phase, spent_s in self.spent_s.items())
        return (
            f"\n{outcomes or 'no tests'} on {self.executions} executions in {wall_s:.1f} s,"
            f" the first result after {self.first_result_s:.1f} s.\n"
            f"The tests took {tests_s:.1f} s in all ({phases}): {tests_s / wall_s:.1f} at a time."
        )


def main() -> int:
    """Run the demo, without the tests that need a browser; further arguments go to pytest."""
    os.chdir(Path(__file__).parent)
    arguments = ["--supercheck", "-m", "not browser", *sys.argv[1:]]
    print("examples/shop$ pytest", shlex.join(arguments), flush=True)  # noqa: T201
    tally = Tally()
    status = pytest.main(arguments, plugins=[tally])
    print(tally, flush=True)  # noqa: T201
    if tally.outcomes:
        print("Its report: ", end="", flush=True)  # noqa: T201
        subprocess.run([sys.executable, "-m", "pytest_supercheck.cli", "report"], check=False)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
