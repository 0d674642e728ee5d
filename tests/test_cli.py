"""
The commands that look at a pool and steer it, over a real server.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import redis
from click.testing import CliRunner, Result

from pytest_supercheck import cli
from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.model import Offer, RunId, RunRequest
from tests.conftest import Valkey

#: `supercheck queue` with its arguments.
Queue = Callable[..., Result]


@pytest.fixture
def queue(valkey_server: Valkey) -> Queue:
    """The command, of the session's server."""
    return lambda *args: CliRunner().invoke(cli.main, ["queue", "--url", valkey_server.url, *args])


@pytest.fixture
def pool(dispatcher: Dispatcher) -> Dispatcher:
    """One worker, one run that has it, one that waits."""
    dispatcher.join("w-1", host="h", pid=1)
    for run in ("r1", "r2"):
        dispatcher.submit(RunRequest(run_id=RunId(run), project="shop", want=2))
        dispatcher.offer(RunId(run), Offer(names=['"a.py::a"', '"a.py::b"', '"a.py::c"']))
    return dispatcher


def test_queue_shows_who_runs_and_who_waits(queue: Queue, pool: Dispatcher) -> None:
    """The figures, then a line for each run."""
    figures, first, second = queue().output.splitlines()
    assert figures == "running 1 of 5, queued 0 of 50, workers 1 (0 idle)"
    assert first.startswith("  r1  running   normal  shop: 1 of 2 executions, 0 of 3 tests, for ")
    assert second.startswith("  r2  waiting   normal  shop: position 1, submitted ")


def test_queue_as_json_has_what_the_reference_says(queue: Queue, pool: Dispatcher) -> None:
    """For programs."""
    told = json.loads(queue("--json").output)
    rows = told.pop("runs")
    figures = {"running": 1, "running_capacity": 5, "queued": 0, "queued_capacity": 50}
    assert told == {**figures, "waiting": 1, "workers": 1, "idle": 0, "paused": False, "project": None}
    first, second = (
        {name: value for name, value in row.items() if not name.endswith("_ms") and name != "eta_s"} for row in rows
    )
    same = {"project": "shop", "priority": "normal", "want": 2, "done": 0, "total": 3, "waits_for": ""}
    assert first == {"run": "r1", "state": "running", "held": 1, "position": 0, **same}
    assert second == {"run": "r2", "state": "waiting", "held": 0, "position": 1, **same}


def test_pool_is_paused_and_resumed(queue: Queue, pool: Dispatcher) -> None:
    """The figures say so."""
    assert queue("pause").output.endswith(", PAUSED\n")
    assert pool.queue().figures.paused
    assert "PAUSED" not in queue("resume").output
    assert not pool.queue().figures.paused


def test_limits_are_shown_and_set(queue: Queue, pool: Dispatcher) -> None:
    """What is not given stays."""
    assert queue("limits").output.startswith("running 1 of 5, queued 0 of 50")
    assert queue("limits", "--running", "7").output.startswith("running 1 of 7, queued 0 of 50")
    assert queue("limits", "--queued", "0").output.startswith("running 1 of 7, queued 0 of 0")
    assert queue("limits", "--running", "-1").exit_code == 2


def test_a_run_is_ranked_and_cancelled(queue: Queue, pool: Dispatcher) -> None:
    """One that waits has another place, or is over at once; one that runs finishes its tests."""
    pool.submit(RunRequest(run_id=RunId("r3"), project="shop"))
    assert queue("priority", "r3", "high").output == "r3: waiting, position 1\n"
    assert queue("cancel", "r2").output == "r2: ended\n"
    assert queue("cancel", "r1", "--now").output.startswith("r1: ")
    assert pool.look(RunId("r2")).message == "cancelled with 'supercheck queue cancel'"


@pytest.mark.parametrize("command", [("cancel",), ("cancel", "--now"), ("priority",), ("retry",)])
def test_unknown_run_is_told(queue: Queue, pool: Dispatcher, command: tuple[str, ...]) -> None:
    """With what to do about it."""
    told = queue(*command, "nobody", *(["high"] if command == ("priority",) else []))
    assert told.exit_code == 2
    assert "nobody" in told.output


@pytest.mark.parametrize("command", ["queue", "worker"])
def test_a_server_is_not_the_pool(command: str) -> None:
    """Who has its address finds there what they look for."""
    told = CliRunner().invoke(cli.main, [command, "--url", "https://tests.example.org"])
    assert told.exit_code == 2
    assert "https://tests.example.org is a server, and this needs the pool's Redis itself" in " ".join(
        told.output.split()
    )


def test_runs_that_have_ended_are_forgotten(queue: Queue, pool: Dispatcher, valkey: redis.Redis) -> None:
    """Those that nobody has recorded when that is said."""
    pool.cancel(RunId("r2"), outcome="cancelled", how="leave")
    valkey.zadd("sc:ended", {"r2": 1})  # it was long ago
    kept, others = queue("clear").output.splitlines()
    assert kept == "0 runs forgotten"
    assert others == "1 run that no server has recorded yet: --unrecorded forgets them, too"
    assert queue("clear", "--unrecorded").output == "1 run forgotten\n"
    assert pool.look(RunId("r2")).state == "gone"
    assert pool.look(RunId("r1")).state == "running"
