"""
Concurrency groups, with real sessions: they take turns, or supersede each other.
"""

from __future__ import annotations

import subprocess

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.events import Begin, End

from .conftest import GUARD_S, Pool, counts, wait_for

GATED = """
    import os, time, pytest

    @pytest.fixture
    def environment():
        yield
        open({directory!r} + "/released", "a").close()

    def test_gated(environment):
        while not os.path.exists({directory!r} + "/gate"):
            time.sleep(0.02)
"""


def start(pool: Pool, *args: str) -> subprocess.Popen[str]:
    """Start a session of one test that waits for the gate."""
    root = pool.directory / "gated"
    if not root.exists():
        pool.suite("gated", GATED.format(directory=str(pool.directory)))
    return pool.pytest(root, "--supercheck-executions=1", *args)


def begun(pool: Pool) -> list[str]:
    """The runs of which an execution has begun, oldest first."""
    return [run for run in pool.runs() if any(isinstance(event, Begin) for event in pool.events(run))]


def waiting(pool: Pool) -> int:
    """How many runs wait for their turn."""
    return sum(bool(run.waits_for) for run in Dispatcher(pool.client).queue().runs)


def test_runs_of_a_group_wait_for_each_other(pool: Pool) -> None:
    """One at a time, although there are workers for more; who waits is told why, others are not held up."""
    pool.worker(3)
    first = start(pool, "--supercheck-concurrency=release/1.0")
    wait_for(lambda: len(begun(pool)) == 1, "the first one runs")
    second = start(pool, "--supercheck-concurrency=release/1.0")
    wait_for(lambda: waiting(pool) == 1, "the second one waits")
    assert "gated: waits for its group release/1.0, position 1, submitted" in pool.command("queue", "--url", pool.url)
    other = start(pool)
    wait_for(lambda: len(begun(pool)) == 2, "a run of no group runs beside it")
    (pool.directory / "gate").touch()
    outputs = [session.communicate(timeout=GUARD_S)[0] for session in (first, second, other)]
    assert [counts(output) for output in outputs] == [{"passed": 1}] * 3, outputs
    assert "queued (waits for its group release/1.0, position 1)" in outputs[1]
    events = [(run, event) for run in pool.runs() for event in pool.events(run)]
    begins = {run: event.at_ms for run, event in events if isinstance(event, Begin)}
    ends = {run: event.at_ms for run, event in events if isinstance(event, End)}
    one, two = (next(run for run in begins if run in output) for output in outputs[:2])
    assert begins[two] >= ends[one]


def test_a_new_run_supersedes_those_of_its_group(pool: Pool) -> None:
    """Those that run tear down what they have; all say by whom they were superseded, and end as cancelled ones."""
    pool.worker(2)
    group = "--supercheck-concurrency=main"
    running = start(pool, group)
    wait_for(lambda: len(begun(pool)) == 1, "the first one runs")
    behind = start(pool, group)
    wait_for(lambda: waiting(pool) == 1, "the second one waits")
    newest = start(pool, group, "--supercheck-cancel-in-progress")
    outputs = [session.communicate(timeout=GUARD_S)[0] for session in (running, behind)]
    wait_for(lambda: len(begun(pool)) == 2, "the newest one runs")
    words = f"Interrupted: supercheck: the run was cancelled: superseded by run {begun(pool)[-1]}"
    assert [words in output for output in outputs] == [True, True], outputs
    assert [session.returncode for session in (running, behind)] == [2, 2]
    assert (pool.directory / "released").exists()
    (pool.directory / "gate").touch()
    assert newest.wait(GUARD_S) == 0
