"""
The test suites that are measured, written into a folder, and the pytest commands that run them.

Knows pytest's command line and ours; not what is measured.
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path
from typing import Final

#: No cache is written: it would differ from one session to the next. Without the plugin of the development environment
#: that takes longest to import.
PYTEST: Final = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:playwright")


def xdist(workers: int) -> list[str]:
    """The peer: pytest-xdist."""
    return [*PYTEST, "-n", str(workers)]


def supercheck(executions: int, url: str = "", *, remembers: bool = False) -> list[str]:
    """Ours: on a pool, or on an embedded stack when there is no address; perhaps with pytest's cache."""
    pool = [f"--supercheck-url={url}"] if url else []
    return [*(PYTEST[:3] if remembers else PYTEST), "--supercheck", f"--supercheck-executions={executions}", *pool]


def write_trivial(folder: Path, tests: int, files: int) -> None:
    """Tests that do nothing, evenly over files."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    for file in range(files):
        count = tests * (file + 1) // files - tests * file // files
        bodies = (f"def test_{number}():\n    assert True\n\n\n" for number in range(count))
        (folder / f"test_file_{file:03}.py").write_text("".join(bodies))


def write_slow_import(folder: Path, files: int, each_s: float) -> None:
    """Modules that use CPU while they are imported, each with one test."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    text = f"""\
import time

until = time.process_time() + {each_s}
while time.process_time() < until:
    pass


def test_it():
    assert True
"""
    for file in range(files):
        (folder / f"test_file_{file:03}.py").write_text(text)


def write_sleeping(folder: Path, durations_s: list[float], files: int) -> None:
    """Tests that sleep, in that order, over files."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    size = math.ceil(len(durations_s) / files)
    for file in range(files):
        part = durations_s[file * size : (file + 1) * size]
        bodies = (f"def test_{number}():\n    time.sleep({value:.4f})\n\n\n" for number, value in enumerate(part))
        (folder / f"test_file_{file:03}.py").write_text("import time\n\n\n" + "".join(bodies))


def skewed(count: int, mean_s: float, sigma: float) -> list[float]:
    """Log-normal durations with a given mean, the same at every call, the longest last."""
    source = random.Random(count)
    drawn = sorted(source.lognormvariate(0, sigma) for _ in range(count))
    factor = mean_s * count / sum(drawn)
    return [value * factor for value in drawn]


def passed(count: int) -> str:
    """What pytest says at the end of a session in which so many tests passed and nothing else happened."""
    return f" {count} passed in "
