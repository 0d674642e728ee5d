"""
Runs once more, on real workers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.errors import CannotRetry, QueueFull
from pytest_supercheck.events import End, Passed, Result
from pytest_supercheck.model import Offer, RunId, RunRequest
from pytest_supercheck.retry import retry
from pytest_supercheck.transcript import wire_nodeids
from tests.pool.conftest import GUARD_S, Pool, wait_for

SUITE = """
    import pathlib, pytest

    @pytest.mark.parametrize("n", range(6))
    def test_it(n, testrun_uid, tmp_path):
        with pathlib.Path("ran").open("a") as file:
            file.write(f"{testrun_uid} {n}\\n")
        assert n < 4 or not pathlib.Path("broken").exists()

    @pytest.mark.xdist_group("together")
    @pytest.mark.parametrize("n", range(3))
    def test_group(n):
        assert n == 1 or not pathlib.Path("broken").exists()
"""


def first_run(pool: Pool, *args: str, code: int = 1) -> RunId:
    """The id of a run in which four of nine tests failed."""
    folder = pool.suite("again", SUITE)
    (folder / "broken").touch()
    session = pool.pytest(folder, "-q", "--supercheck-executions=2", *args)
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == code, output
    (folder / "broken").unlink()
    return RunId(pool.runs()[-1])


def ended(pool: Pool, run: str) -> Counter[str]:
    """Which tests have a result, and how often, when the run has ended."""
    wait_for(lambda: any(isinstance(event, End) for event in pool.events(run)), "the run ends")
    nodeids = wire_nodeids(Dispatcher(pool.client).nodeids(RunId(run)))
    return Counter(nodeids[event.index] for event in pool.events(run) if isinstance(event, (Passed, Result)))


def test_failed_tests_run_once_more_without_a_session(pool: Pool) -> None:
    """Under an id of its own, those that failed and no others; nobody has to keep it alive."""
    pool.worker(2)
    run = first_run(pool, "--supercheck-concurrency=main", "--supercheck-cancel-in-progress")
    again = pool.command("queue", "--url", pool.url, "retry", run, "--failed").strip()
    assert again > run
    details = Dispatcher(pool.client).details(RunId(again))
    assert details is not None
    assert details.concurrency == "main"
    ran = ended(pool, again)
    assert sorted(ran) == [
        *("test_it.py::test_group[0]", "test_it.py::test_group[2]"),
        *("test_it.py::test_it[4]", "test_it.py::test_it[5]"),
    ]
    assert set(ran.values()) == {1}
    assert all(isinstance(event, Passed) for event in pool.events(again) if isinstance(event, (Passed, Result)))
    lines = (pool.directory / "again" / "ran").read_text().split("\n")
    assert sorted(line for line in lines if line.startswith(again)) == [f"{again} 4", f"{again} 5"]


def test_all_tests_run_once_more(pool: Pool) -> None:
    """Each once."""
    pool.worker(2)
    again = retry(Dispatcher(pool.client), first_run(pool))
    ran = ended(pool, again)
    assert len(ran) == 9
    assert set(ran.values()) == {1}


def test_tests_without_a_result_count_as_failed(pool: Pool) -> None:
    """What -x has kept from running is run, too."""
    pool.worker(1)
    run = first_run(pool, "--maxfail=1")
    reported = {event.index for event in pool.events(run) if isinstance(event, Passed)}
    again = retry(Dispatcher(pool.client), run, failed=True)
    assert len(ended(pool, again)) == 9 - len(reported)


def test_one_test_runs_once_more(pool: Pool) -> None:
    """The one that is named."""
    pool.worker(1)
    again = retry(Dispatcher(pool.client), first_run(pool), nodeid="test_it.py::test_group[2]")
    assert list(ended(pool, again)) == ["test_it.py::test_group[2]"]


def test_what_cannot_be_run_once_more(pool: Pool) -> None:
    """In words, and with nothing left behind."""
    worker = pool.worker(1)
    run = first_run(pool)
    dispatcher = Dispatcher(pool.client)
    with pytest.raises(CannotRetry, match="does not know run nobody"):
        retry(dispatcher, RunId("nobody"))
    with pytest.raises(CannotRetry, match="nothing to run"):
        retry(dispatcher, run, nodeid="test_it.py::test_other")
    worker.stop()
    again = retry(dispatcher, run)
    with pytest.raises(CannotRetry, match="has not ended"):
        retry(dispatcher, again)
    dispatcher.limits(running=0, queued=0)
    with pytest.raises(QueueFull):
        retry(dispatcher, run)
    command = [sys.executable, "-m", "pytest_supercheck.cli", "queue", "--url", pool.url, "retry", "nobody"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "supercheck: The pool does not know run nobody" in done.stderr


@pytest.mark.parametrize("change", [{"nodes": []}, {"args": None, "interpreter": 7}, {"artifacts": {}}])
def test_spec_that_makes_no_sense_costs_nobody_else_anything(pool: Pool, change: dict[str, object]) -> None:
    """It came from a client. Its run ends, in words; the worker goes on with others."""
    pool.worker(1)
    run = first_run(pool)
    dispatcher = Dispatcher(pool.client)
    details = dispatcher.details(run)
    assert details is not None
    spec = {**json.loads(details.spec), **change}
    bad = RunRequest(run_id=RunId("bad"), project="bad", spec=json.dumps(spec), detached=True)
    dispatcher.submit(bad)
    dispatcher.offer(bad.run_id, Offer(names=['"test_it.py::test_it[4]"']))
    wait_for(lambda: (dispatcher.details(bad.run_id) or details).state == "ended", "it ends")
    ended_as = dispatcher.details(bad.run_id)
    assert ended_as is not None
    assert ended_as.outcome in ("fatal", "lost")
    assert len(ended(pool, retry(dispatcher, run))) == 9
