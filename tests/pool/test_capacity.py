"""
Capacity: who runs, who waits, who is refused, with real sessions that come at the same time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_supercheck.events import Begin, Left, Passed

from .conftest import GUARD_S, Pool, wait_for

GATED = """
    import os, time
    def test_gated():
        while not os.path.exists({gate!r}):
            time.sleep(0.02)
"""

#: In the middle of a class a test waits until another run waits; in the last class, until that runs.
GROUPS = """
    import os, pathlib, time, pytest

    HERE = pathlib.Path({directory!r})

    def wait_for(name):
        while not (HERE / name).exists():
            time.sleep(0.02)

    class Base:
        @pytest.mark.parametrize("i", range(6))
        def test_step(self, i):
            with open(HERE / "processes", "a") as file:
                file.write(f"{{type(self).__name__}} {{os.getpid()}} {{i}}\\n")
            if i == 2:
                wait_for("small-runs" if isinstance(self, TestD) else "small-waits")

    class TestA(Base): pass
    class TestB(Base): pass
    class TestC(Base): pass
    class TestD(Base): pass
"""


def most_at_once(pool: Pool) -> int:
    """The most executions that ran at one moment, from the record of events."""
    changes: list[tuple[int, int]] = []
    for run in pool.runs():
        marks = [event for event in pool.events(run) if isinstance(event, (Begin, Left))]
        changes += [(mark.at_ms, 1 if isinstance(mark, Begin) else -1) for mark in marks]
    level = most = 0
    for _, change in sorted(changes):  # at the same millisecond an end comes first
        level += change
        most = max(most, level)
    assert level == 0
    return most


def wait_for_refusals(sessions: list[subprocess.Popen[str]], count: int) -> None:
    """Wait until so many sessions have ended, all of them refused: nothing else can end one while the gate is shut."""

    def ended() -> list[subprocess.Popen[str]]:
        return [session for session in sessions if session.poll() is not None]

    wait_for(lambda: len(ended()) >= count, f"{count} refusals", 2 * GUARD_S)
    assert [session.returncode for session in ended()] == [75] * count, [s.communicate()[0] for s in ended()]


def test_sixty_at_once_fill_the_capacity_exactly(pool: Pool) -> None:
    """Of 60 runs 5 run, 50 wait, 5 are refused with 75; all admitted ones finish, never more than 5 at once."""
    pool.worker(5, SUPERCHECK_RUNNING_CAPACITY="5", SUPERCHECK_QUEUED_CAPACITY="50")
    gate = pool.directory / "gate"
    root = pool.suite("gated", GATED.format(gate=str(gate)))
    sessions = [pool.pytest(root, "-q", "--supercheck-executions=1") for _ in range(60)]
    wait_for_refusals(sessions, 5)
    gate.touch()
    outputs = [s.communicate(timeout=2 * GUARD_S)[0] for s in sessions]
    codes = sorted(s.returncode for s in sessions)
    assert codes == [0] * 55 + [75] * 5, outputs
    refused = [output for s, output in zip(sessions, outputs, strict=True) if s.returncode == 75]
    assert all("running 5/5" in output and "queued 50/50" in output for output in refused)
    assert len(pool.runs()) == 55
    assert most_at_once(pool) == 5


def test_who_waits_for_room_is_told_so(pool: Pool) -> None:
    """In a full queue with --supercheck-wait, and in one that is paused."""
    pool.worker(1)
    suite = pool.suite("patient", "def test_it(): pass\n")
    for full, free, words in (
        (["limits", "--running", "0", "--queued", "0"], ["limits", "--running", "1"], "queued 0/0): asking again for "),
        (["pause"], ["resume"], "; the pool is paused"),
    ):
        pool.command("queue", *full, "--url", pool.url)
        session = pool.pytest(suite, f"--supercheck-wait={GUARD_S:.0f}")
        assert session.stdout is not None
        told = next((line for line in session.stdout if words in line), "")
        assert told.startswith("supercheck: "), words
        pool.command("queue", "--url", pool.url, *free)
        output, _ = session.communicate(timeout=GUARD_S)
        assert session.returncode == 0, output


def test_a_projects_own_limits_hold_within_the_pools(pool: Pool) -> None:
    """With 2 running and 4 queued for the project, 6 of 9 runs are admitted, and never more than 2 run at once."""
    pool.worker(4)
    pool.command("queue", "--url", pool.url, "limits", "--project", "small", "--running", "2", "--queued", "4")
    gate = pool.directory / "gate"
    root = pool.suite("gated", GATED.format(gate=str(gate)))
    sessions = [pool.pytest(root, "-q", "--supercheck-executions=1", "--supercheck-project=small") for _ in range(9)]
    wait_for_refusals(sessions, 3)
    other = pool.pytest(root, "-q", "--supercheck-executions=1", "--supercheck-project=other")
    wait_for(lambda: len(pool.runs()) >= 3, "another project starts beside it")
    gate.touch()
    assert other.wait(GUARD_S) == 0
    assert sorted(s.wait(GUARD_S) for s in sessions) == [0] * 6 + [75] * 3
    assert most_at_once(pool) == 3


def test_limits_of_a_project_are_shown_with_its_figures(pool: Pool) -> None:
    """`supercheck queue limits --project` tells what the project holds of what it may, after what the pool does."""

    def shown(*args: str) -> str:
        pools, *own = pool.command("queue", "--url", pool.url, "limits", *args).splitlines()
        assert pools == "running 0 of 5, queued 0 of 50, workers 0 (0 idle)"
        return "\n".join(own)

    assert shown() == ""
    assert shown("--project=small") == "project small: no limits of its own"
    assert shown("--project=small", "--queued=4") == "project small: running 0, queued 0 of 4"
    assert shown("--project=small", "--running=2") == "project small: running 0 of 2, queued 0 of 4"
    assert shown("--project=other") == "project other: no limits of its own"


def test_a_small_run_starts_within_one_test_of_a_large_one(pool: Pool) -> None:
    """A run that holds all slots gives one back at its next test boundary."""
    pool.worker(4, SUPERCHECK_RUNNING_CAPACITY="4")
    large = pool.suite(
        "large",
        """
        import time, pytest
        @pytest.mark.parametrize("i", range(60))
        def test_second(i):
            time.sleep(1)
    """,
    )
    small = pool.suite("small", "def test_small(): pass")
    first = pool.pytest(large, "-q", "--supercheck-executions=8", "--supercheck-project=large")
    wait_for(
        lambda: pool.runs() and len([e for e in pool.events(pool.runs()[0]) if isinstance(e, Passed)]) >= 4, "it runs"
    )
    large_run = pool.runs()[0]
    second = pool.pytest(small, "-q", "--supercheck-executions=1", "--supercheck-project=small")
    assert second.wait(GUARD_S) == 0, second.communicate()[0]
    first.kill()
    (small_run,) = set(pool.runs()) - {large_run}
    submitted_ms = submission_ms(pool, small_run)
    (begin,) = [e for e in pool.events(small_run) if isinstance(e, Begin)]
    finished: dict[int, int] = {}
    for event in pool.events(large_run):
        if isinstance(event, Passed) and submitted_ms < event.spans[-1][1] * 1000 < begin.at_ms:
            finished[event.n] = finished.get(event.n, 0) + 1
    assert max(finished.values(), default=0) < 2, finished


def test_a_slot_is_given_back_at_the_end_of_a_group(pool: Pool) -> None:
    """A small run starts before a large one is over, and no group of the large one is torn apart for it."""
    pool.worker(2, SUPERCHECK_RUNNING_CAPACITY="2")
    large = pool.suite("large", GROUPS.format(directory=str(pool.directory)))
    small = pool.suite("small", f"def test_small(): open({str(pool.directory / 'small-runs')!r}, 'w')")
    noted = pool.directory / "processes"
    sessions = [pool.pytest(large, "-q", "--supercheck-executions=2", "--supercheck-group=class")]
    wait_for(lambda: noted.exists() and noted.read_text().count(" 2\n") == 2, "both executions are within a group")
    sessions.append(pool.pytest(small, "-q"))
    wait_for(lambda: "position 1" in pool.command("queue", "--url", pool.url), "the small run waits")
    (pool.directory / "small-waits").touch()
    assert [s.wait(GUARD_S) for s in sessions] == [0, 0], [s.communicate()[0] for s in sessions]
    steps: dict[str, list[str]] = {}
    processes = set()
    for name, pid, step in map(str.split, noted.read_text().splitlines()):
        steps.setdefault(name, []).append(step)
        processes.add((name, pid))
    assert steps == {f"Test{letter}": list("012345") for letter in "ABCD"}
    assert len(processes) == len(steps)


def submission_ms(pool: Pool, run: str) -> int:
    """When a run was submitted."""
    rows = pool.client.xrange(f"sc:run:{run}:state", count=1)
    return int(json.loads(rows[0][1][b"e"])["at"])


def test_priority_goes_before_age(pool: Pool) -> None:
    """A run of high priority that came later starts before one of normal priority that waits."""
    pool.worker(1)
    gate = pool.directory / "gate"
    gated = pool.suite("gated", GATED.format(gate=str(gate)))
    noted = pool.directory / "order"
    normal = pool.suite("normal", note(noted, "normal"))
    high = pool.suite("high", note(noted, "high"))
    sessions = [pool.pytest(gated, "-q")]
    wait_for(lambda: len(pool.runs()) == 1, "the first runs")
    sessions.append(pool.pytest(normal, "-q"))
    wait_for(lambda: "position 1" in pool.command("queue", "--url", pool.url), "the second waits")
    sessions.append(pool.pytest(high, "-q", "--supercheck-priority=high"))
    wait_for(lambda: "position 2" in pool.command("queue", "--url", pool.url), "the third waits")
    gate.touch()
    assert [s.wait(GUARD_S) for s in sessions] == [0, 0, 0]
    assert noted.read_text().split() == ["high", "normal"]


def note(path: Path, word: str) -> str:
    """A test that notes when it ran."""
    return f"def test_note():\n    with open({str(path)!r}, 'a') as f: f.write('{word} ')\n"


def test_a_run_goes_to_workers_with_its_labels(pool: Pool) -> None:
    """And to no others, however idle they are; a worker with more labels serves it, too."""
    pool.worker(2)
    pool.worker(1, SUPERCHECK_LABELS="linux, gpu")
    session = pool.pytest(pool.suite("gpu", "def test_it(): pass\n"), "-q", "--supercheck-label=gpu")
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 0, output
    told = [json.loads(row[b"e"]) for _, row in pool.client.xrange(f"sc:run:{pool.runs()[-1]}:state")]
    served = {state["worker"] for state in told if state["t"] == "begin"}
    labels = {worker: pool.client.hget(f"sc:worker:{worker}", "labels") for worker in served}
    assert list(labels.values()) == [b"gpu,linux"]


def test_a_label_that_no_worker_has_is_told_at_once(pool: Pool) -> None:
    """69 and the label, with nothing left behind; with --supercheck-wait a worker that comes in time serves it."""
    pool.worker(1)
    suite = pool.suite("gpu", "def test_it(): pass\n")
    session = pool.pytest(suite, "-q", "--supercheck-label=gpu", "--supercheck-label=linux,gpu")
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 69, output
    assert "No live worker has the labels gpu, linux" in output
    assert pool.runs() == []
    session = pool.pytest(suite, "-q", "--supercheck-label=gpu", f"--supercheck-wait={GUARD_S}")
    wait_for(lambda: pool.client.exists("sc:waiting"), "it waits")
    pool.worker(1, SUPERCHECK_LABELS="gpu")
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 0, output


@pytest.mark.parametrize("label", ["a b", "\u00e9", "x" * 101])
def test_senseless_labels_are_usage_errors(pool: Pool, label: str) -> None:
    """Of sessions 4, of workers 2; with what they should be."""
    session = pool.pytest(pool.suite("gpu", "def test_it(): pass\n"), f"--supercheck-label={label}")
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 4
    assert "letters, digits or any of ._-:" in output
    command = [sys.executable, "-m", "pytest_supercheck.cli", "worker", "--url", pool.url, "--label", label]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "letters, digits or any of ._-:" in done.stderr) == (2, True)
