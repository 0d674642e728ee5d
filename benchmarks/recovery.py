"""
Recovery: seconds from the death of a test process to the next test's start, and from that of a work-horse to the start
of the work that it left.

The times are those that the tests themselves write down.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import pool, suites
from benchmarks.bench import Bench, BenchError, bench
from benchmarks.table import Row, Scale, alone, say, value_row

CHILD_TARGET_S = 1.0
HORSE_TARGET_S = 17.0

#: Each test writes a line when it starts, and one when it is about to die.
_SUITE: Final = """\
import os
import signal
import time
from collections.abc import Callable
from itertools import pairwise

import pytest


def stamp(word):
    fd = os.open({stamps!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, b"%s %d %.6f\\n" % (word, os.getpid(), time.time()))
    os.close(fd)


@pytest.mark.parametrize("number", range({tests}))
def test_it(number):
    stamp(b"start")
    time.sleep({sleep_s})
    if number in {deadly!r}:
        stamp(b"death")
        os.kill(os.getpid(), signal.SIGKILL)
"""


class Stamp(NamedTuple):
    """What a test wrote."""

    #: ``start`` or ``death``.
    word: str
    #: The process that it ran in.
    pid: int
    #: When, in seconds since the epoch.
    at: float


def measure(scale: Scale) -> list[Row]:
    """Measure both."""
    with bench() as place:
        children = _child_dies(place, scale.pick(5, 1))
        with pool.server() as url:
            say("  child measured")
            horses = [_horse_dies(place, url, number) for number in range(scale.pairs(5))]
    return [
        value_row("recovery, test process killed: next test starts", CHILD_TARGET_S, children, "s"),
        value_row("recovery, work-horse killed: its work goes on", HORSE_TARGET_S, horses, "s"),
    ]


def _write(place: Bench, name: str, tests: int, sleep_s: float, deadly: list[int]) -> tuple[Path, Path]:
    """A suite, and the file that its tests write to."""
    folder = place.folder(name)
    stamps = place.directory / f"{name}.stamps"
    (folder / "pytest.ini").write_text("[pytest]\n")
    text = _SUITE.format(stamps=str(stamps), tests=tests, sleep_s=sleep_s, deadly=deadly)
    (folder / "test_recovery.py").write_text(text)
    return folder, stamps


def _read(stamps: Path) -> list[Stamp]:
    if not stamps.exists():
        return []
    rows = (row.split() for row in stamps.read_text().splitlines())
    return [Stamp(word, int(pid), float(at)) for word, pid, at in rows]


def _child_dies(place: Bench, deaths: int) -> list[float]:
    """One execution, so that nobody else takes the next test; each death happens twice, for such a test is repeated."""
    deadly = [3 * number + 1 for number in range(deaths)]
    folder, path = _write(place, "children", 3 * deaths + 2, 0.0, deadly)
    place.run(suites.supercheck(1), folder, expect=f"{deaths} failed, {2 * deaths + 2} passed", status=1)
    stamps = _read(path)
    found = [after.at - stamp.at for stamp, after in pairwise(stamps) if stamp.word == "death"]
    if len(found) < deaths:
        raise BenchError(f"{deaths} deaths were expected, followed by tests: {stamps}")
    return found


def _horse_dies(place: Bench, url: str, number: int) -> float:
    tests = 16
    folder, path = _write(place, f"horse-{number}", tests, 0.2, [])
    with pool.workers(place, url, 1) as workers:
        session = place.start(suites.supercheck(1, url), folder)
        try:
            before = _third_start(path)
            killed_at = time.time()
            os.kill(pool.work_horse(workers), signal.SIGKILL)
            after = _start_elsewhere(path, before.pid)
            cost = session.finish()
            if suites.passed(tests) not in cost.output:
                raise session.failed("lost tests")
        finally:
            session.close()
    say(f"  {after.at - killed_at:.2f} s")
    return after.at - killed_at


def _third_start(path: Path) -> Stamp:
    """By then the execution is well under way."""
    return _wait(path, lambda starts: starts[2:3])


def _start_elsewhere(path: Path, pid: int) -> Stamp:
    """The first in another process."""
    return _wait(path, lambda starts: [stamp for stamp in starts if stamp.pid != pid])


def _wait(path: Path, wanted: Callable[[list[Stamp]], list[Stamp]], limit_s: float = 60.0) -> Stamp:
    """The first of the starts that are wanted, as soon as it is there."""
    give_up_at = time.monotonic() + limit_s
    while time.monotonic() < give_up_at:
        if found := wanted([stamp for stamp in _read(path) if stamp.word == "start"]):
            return found[0]
        time.sleep(0.01)
    raise BenchError(f"no such test has started for {limit_s:g} s")


if __name__ == "__main__":
    sys.exit(alone(measure))
