"""
The HTTP API, health and metrics, over real HTTP.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from typing import Any

import httpx
import pytest
import redis

from pytest_supercheck.model import RunId
from supercheck_server.settings import Settings
from supercheck_server.view import HIDDEN, QueueView
from tests.server.conftest import GUARD_S, Pool, Served, serving, wait_for


def test_queue_has_the_figures_runs_and_executions(client: httpx.Client, pool: Pool) -> None:
    """As `supercheck queue --json`, and who runs what."""
    pool.submit("r1", nodeids=["a.py::a", "a.py::b"], project="shop")
    pool.dispatcher.next(pool.job("r1"), fresh=True)
    pool.submit("r2", project="bank", priority="high")
    queue = client.get("/api/v1/queue").json()
    assert (queue["running"], queue["running_capacity"], queue["queued"], queue["queued_capacity"]) == (1, 5, 0, 50)
    assert [(run["run"], run["state"], run["position"]) for run in queue["runs"]] == [
        ("r1", "running", 0),
        ("r2", "waiting", 1),
    ]
    [execution] = queue["executions"]
    assert (execution["host"], execution["nodeid"]) == ("h", "a.py::a")
    assert [worker["worker"] for worker in client.get("/api/v1/workers").json()["workers"]] == ["w-1"]


def test_pause_resume_and_limits_go_through_the_dispatcher(client: httpx.Client, pool: Pool) -> None:
    """The same figures for clients in the network."""
    assert client.post("/api/v1/queue/pause").json()["paused"]
    assert pool.dispatcher.queue().figures.paused
    assert not client.post("/api/v1/queue/resume").json()["paused"]
    assert client.post("/api/v1/queue/limits", json={"running": 2, "queued": 3}).json()["running_capacity"] == 2
    client.post("/api/v1/queue/limits", json={"running": 1, "project": "shop"})
    assert pool.dispatcher.queue().figures.queued_capacity == 3
    figures = pool.dispatcher.limits(project="shop")
    assert figures.project is not None
    assert figures.project.running_capacity == 1


@pytest.mark.parametrize("limits", [{"running": -1}, {"queued": "x"}, {"running": 1 << 70}, {"project": ""}, [], "x"])
def test_senseless_limits_are_refused_in_words(client: httpx.Client, pool: Pool, limits: Any) -> None:
    """400 and which field it was."""
    answer = client.post("/api/v1/queue/limits", json=limits)
    assert answer.status_code == 400
    assert "body" in answer.json()["detail"]


def test_run_that_waits_for_its_group_says_so(client: httpx.Client, pool: Pool) -> None:
    """On its page, in the queue and to programs; of another project's run nobody sees for what it waits."""
    for run in ("r1", "r2"):
        pool.submit(run, project="shop", concurrency="release/1.0")
    for page in ("/queue", "/runs/r2"):
        assert "waits for its group <code>release/1.0</code>" in client.get(page).text
    assert client.get("/api/v1/runs/r2").json()["waits_for"] == "release/1.0"
    assert [run["waits_for"] for run in client.get("/api/v1/queue").json()["runs"]] == ["", "release/1.0"]
    hidden = QueueView.look(pool.dispatcher, "bank").queue.runs
    assert [run.waits_for for run in hidden] == ["", HIDDEN]


def test_run_is_told_while_it_lives_and_afterwards(client: httpx.Client, pool: Pool) -> None:
    """State, progress in percent, attempts, times."""
    pool.submit("r1", nodeids=["a", "b", "c", "d"], project="shop")
    job = pool.job("r1")
    pool.dispatcher.next(job, fresh=True)
    pool.dispatcher.append(job, b"[0,1,1772366400000000,1,2,3,4,5,1,2,1]\n", seq=1, done=[0])
    run = client.get("/api/v1/runs/r1").json()
    assert (run["state"], run["done"], run["total"], run["percent"], run["attempts"]) == (
        "running",
        1,
        4,
        25.0,
        ["1-1"],
    )
    cancelled = client.post("/api/v1/runs/r1/cancel").json()
    assert (cancelled["state"], cancelled["outcome"]) == ("stopping", "cancelled")
    assert "local" in cancelled["message"]
    pool.dispatcher.leave(job)
    wait_for(lambda: (client.get("/api/v1/runs/r1").json()["record"] or {}).get("folder"), "the run is recorded")
    pool.client.flushall()
    run = client.get("/api/v1/runs/r1").json()
    assert (run["state"], run["verdict"], run["done"]) == ("ended", "cancelled", 1)
    assert [row["id"] for row in client.get("/api/v1/runs", params={"verdict": "cancelled"}).json()["runs"]] == ["r1"]


def test_priority_changes_the_order(client: httpx.Client, pool: Pool) -> None:
    """Of runs that wait."""
    for run in ("r1", "r2", "r3"):
        pool.submit(run)
    client.post("/api/v1/runs/r3/priority", json={"priority": "high"})
    assert [row.run for row in pool.dispatcher.queue().runs] == ["r1", "r3", "r2"]
    assert client.post("/api/v1/runs/r3/priority", json={"priority": "urgent"}).status_code == 400


@pytest.mark.parametrize("run", ["nobody", "..", "a%2Fb", "a b", "x" * 200, "%00"])
@pytest.mark.parametrize("path", ["", "/cancel", "/retry", "/priority"])
def test_unknown_run_is_404(client: httpx.Client, pool: Pool, run: str, path: str) -> None:
    """Also one that cannot be."""
    address = f"/api/v1/runs/{run}{path}"
    answer = client.post(address, json={"priority": "high"}) if path else client.get(address)
    assert answer.status_code in (404, 405) if run == ".." else answer.status_code == 404


def test_queue_is_told_when_it_changes(client: httpx.Client, pool: Pool) -> None:
    """As server-sent events: at once, and then for every change."""
    seen: list[dict[str, Any]] = []
    with client.stream("GET", "/api/v1/queue/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if not line.startswith("data: "):
                continue
            seen.append(json.loads(line[6:]))
            if len(seen) == 1:
                pool.submit("r1")
            if seen[-1]["runs"]:
                break
    assert [len(queue["runs"]) for queue in seen] == [0, 1]


def test_live_page_of_a_run_that_is_not_there_says_so(client: httpx.Client, pool: Pool) -> None:
    """In words, and without a fault in the server's log: it may have been forgotten while it was watched."""
    with client.stream("GET", "/runs/nobody/live") as answer:
        lines = answer.iter_lines()
        assert [next(lines), next(lines)] == ["event: trouble", "data: There is no such run."]


def test_viewers_whose_token_is_no_more_are_let_go(served: Served, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at once, but soon: all streams end now and then, and who comes back has to be let in."""
    monkeypatch.setattr("supercheck_server.feed.WATCH_S", 0.2)
    monkeypatch.setattr("supercheck_server.feed.PING_S", 0.05)
    token, secret = served.parts.access.create("ada")
    with httpx.Client(base_url=served.url, headers={"Authorization": f"Bearer {secret}"}) as client:
        with client.stream("GET", "/api/v1/queue/events") as answer:
            served.parts.access.revoke(token.id)
            deadline = time.monotonic() + GUARD_S
            for _ in answer.iter_bytes():
                assert time.monotonic() < deadline, "it never ends"
        assert client.get("/api/v1/queue/events").status_code == 401


def test_many_viewers_cost_one_look(served: Served, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody is looked for when nobody watches."""
    calls: list[int] = []
    original = served.parts.dispatcher._call

    def counted(op: str, **args: Any) -> Any:
        if op == "queue" and threading.current_thread().name != "supercheck-recorder":
            calls.append(1)
        return original(op, **args)

    monkeypatch.setattr(served.parts.dispatcher, "_call", counted)
    threads = []
    ready = threading.Barrier(21, timeout=30)

    def watch() -> None:
        with (
            httpx.Client(base_url=served.url, timeout=30) as client,
            client.stream("GET", "/api/v1/queue/events") as answer,
        ):
            lines = answer.iter_lines()
            next(lines)
            ready.wait()
            for line in lines:
                if '"r1"' in line:
                    return

    for _ in range(20):
        threads.append(threading.Thread(target=watch))
        threads[-1].start()
    ready.wait()
    before = len(calls)
    pool.submit("r1")
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert len(calls) - before < 20


def test_readiness_says_which_part_is_missing(settings: Settings, pool: Pool, valkey: redis.Redis) -> None:
    """In words, while liveness goes on."""
    gone = replace(settings, redis_url="unix:///nonexistent/socket", store=str(settings.data / "store"))
    with serving(gone) as served, httpx.Client(base_url=served.url) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        answer = client.get("/readyz")
        assert answer.status_code == 503
        parts = answer.json()["parts"]
        assert "Redis does not answer" in parts["redis"]["words"]
        assert parts["database"]["ready"]
        assert parts["store"]["ready"]
        refused = client.get("/api/v1/queue")
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "5"
        page = client.get("/queue", headers={"Accept": "text/html"})
        assert page.status_code == 503
        assert "Redis does not answer" in page.text
        assert client.get("/", headers={"Accept": "text/html"}).status_code == 200
        assert "supercheck_up 0.0" in client.get("/metrics").text


def test_metrics_count_what_happens(client: httpx.Client, served: Served, pool: Pool) -> None:
    """The pool as it stands, and what was recorded."""
    pool.finish("r1", missing=[0])
    wait_for(lambda: _folder(served, "r1"), "the run is recorded")
    text = client.get("/metrics").text
    for line in (
        "supercheck_up 1.0",
        "supercheck_running_capacity 5.0",
        "supercheck_workers 1.0",
        "supercheck_refused_total 0.0",
        "supercheck_unrecorded_runs 0.0",
        'supercheck_runs_total{outcome="failed"} 1.0',
        "supercheck_failed_tests_total 1.0",
        "supercheck_record_lag_seconds_count 1.0",
    ):
        assert line in text.splitlines()


def _folder(served: Served, run: str) -> str:
    row = served.parts.history.run(run)
    recorded = served.parts.dispatcher.pool().unrecorded == 0
    return row.folder if row and recorded else ""


def test_every_answer_tells_browsers_to_run_nothing_foreign(client: httpx.Client, pool: Pool) -> None:
    """Pages, the API and errors."""
    for path in ("/queue", "/api/v1/queue", "/nowhere", "/healthz"):
        headers = client.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_refusals_are_counted(client: httpx.Client, pool: Pool) -> None:
    """By the pool itself, whoever was refused."""
    from pytest_supercheck.errors import QueueFull
    from pytest_supercheck.model import RunRequest

    pool.dispatcher.limits(running=0, queued=0)
    with pytest.raises(QueueFull):
        pool.dispatcher.submit(RunRequest(run_id=RunId("r1")))
    assert "supercheck_refused_total 1.0" in client.get("/metrics").text


def test_a_run_is_run_once_more(client: httpx.Client, pool: Pool) -> None:
    """All of it, what failed, or one test: 201 and the new run, which nobody has to keep alive."""
    line = json.dumps({"t": "crash", "i": 1, "n": 1, "pm": {"exit_code": 3}}).encode()
    pool.finish("r1", 3, missing=[1], events=[line])
    answer = client.post("/api/v1/runs/r1/retry")
    assert (answer.status_code, answer.json()["total"], answer.json()["project"]) == (201, 3, "shop")
    assert pool.client.zscore("sc:leases", f"c:{answer.json()['run']}") is None
    failed = client.post("/api/v1/runs/r1/retry", json={"failed": True}).json()
    assert pool.dispatcher.nodeids(failed["run"]) == ['"test_a.py::test_1"']
    one = client.post("/api/v1/runs/r1/retry", json={"nodeid": "test_a.py::test_2"}).json()
    assert pool.dispatcher.nodeids(one["run"]) == ['"test_a.py::test_2"']


def test_what_cannot_be_run_once_more_is_told(client: httpx.Client, pool: Pool) -> None:
    """409 in words for what the pool has not or no more, 429 with Retry-After where there is no room."""
    pool.finish("r1")
    none = client.post("/api/v1/runs/r1/retry", json={"nodeid": "test_b.py::test"})
    assert (none.status_code, "nothing to run" in none.json()["detail"]) == (409, True)
    pool.submit("r2")
    early = client.post("/api/v1/runs/r2/retry")
    assert (early.status_code, "has not ended" in early.json()["detail"]) == (409, True)
    pool.dispatcher.limits(running=0, queued=0)
    full = client.post("/api/v1/runs/r1/retry")
    assert full.status_code == 429
    assert int(full.headers["retry-after"]) > 0
    wait_for(lambda: (client.get("/api/v1/runs/r1").json()["record"] or {}).get("folder"), "the run is recorded")
    pool.client.flushall()
    late = client.post("/api/v1/runs/r1/retry")
    assert (late.status_code, "7 days" in late.json()["detail"]) == (409, True)
