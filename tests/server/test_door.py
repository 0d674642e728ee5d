"""
Sessions that reach nothing but the server's HTTP: real pytest, a real server, real workers.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from pytest_supercheck import doctor
from pytest_supercheck.errors import Infrastructure, QueueFull, Unreachable
from pytest_supercheck.gateway import Gateway
from pytest_supercheck.http_gateway import HttpGateway
from pytest_supercheck.model import Offer, RunId, RunRequest
from pytest_supercheck.operators import StoreSettings
from supercheck_server.history import RunFilter
from supercheck_server.settings import Settings
from tests.server.conftest import GUARD_S, Place, Pool, Served, ended, serving, wait_for


def test_session_through_the_server(place: Place, served: Served, pool: Pool) -> None:
    """The same as over Redis: outcomes, output, exit code; and it is in the history."""
    place.go()
    session = place.start(served.url, "-v")
    output = ended(session)
    assert session.returncode == 1, output
    assert "7 passed" in output
    assert "1 failed" in output
    assert "output of 5" in output
    wait_for(served.parts.trends.slow, "the run is recorded")
    [row] = served.parts.history.runs(RunFilter())
    assert f"supercheck: run {row.id}, see it at {served.url}/runs/{row.id}" in output


def test_tokens_open_the_door(place: Place, served: Served, pool: Pool) -> None:
    """Without one, or with a wrong one or another project's, 69 and what to do; with the project's as usual."""
    _, secret = served.parts.access.create("ci", project=place.path.name)
    _, others = served.parts.access.create("ci", project="another")
    place.go()
    for token in ("", "sct_wrong", others):
        session = place.start(served.url, token=token)
        output = ended(session)
        assert session.returncode == 69, output
        assert "SUPERCHECK_TOKEN" in output
    session = place.start(served.url, token=secret)
    output = ended(session)
    assert session.returncode == 1, output
    assert secret not in output


def test_runs_in_place_are_for_the_operator_to_allow(place: Place, settings: Settings, pool: Pool) -> None:
    """Who has a token, of whatever scope, may be anywhere; who has none where none is needed is on this machine."""
    place.go()
    with serving(replace(settings, in_place=False)) as served:
        session = place.start(served.url)
        output = ended(session)
        assert session.returncode == 1, output
        _, secret = served.parts.access.create("ada")
        session = place.start(served.url, token=secret)
        output = ended(session)
        assert session.returncode == 69, output
        assert "SUPERCHECK_IN_PLACE=1" in output
        with httpx.Client(base_url=served.url, headers={"Authorization": f"Bearer {secret}"}) as client:
            for spec in ("{}", "[]", "nonsense", '"source"', '["source"]', "[" * 100_000):
                answer = client.post("/api/v1/runs", json={"run_id": "r1", "spec": spec})
                assert answer.status_code == 403, spec
            assert not pool.dispatcher.queue().runs
            answer = client.post("/api/v1/runs", json={"run_id": "r1", "spec": '{"source": {}}'})
            assert answer.status_code == 201


def test_a_full_queue_is_75(place: Place, served: Served, pool: Pool) -> None:
    """With the figures, as over Redis."""
    pool.dispatcher.limits(running=0, queued=0)
    session = place.start(served.url)
    output = ended(session)
    assert session.returncode == 75, output
    assert "running 0/0, queued " in output


def test_nobody_there_is_69(place: Place, unused_port: int) -> None:
    """With the address, and without a traceback."""
    session = place.start(f"http://127.0.0.1:{unused_port}")
    output = ended(session)
    assert session.returncode == 69, output
    assert f"http://127.0.0.1:{unused_port} does not answer" in output
    assert "Traceback" not in output


def test_a_server_that_starts_again_in_the_middle_costs_nothing(
    place: Place, settings: Settings, pool: Pool, unused_port: int
) -> None:
    """The session goes on where it was; every test is reported once."""
    with serving(settings, port=unused_port):
        session = place.start(f"http://127.0.0.1:{unused_port}")
        wait_for(lambda: any(one.nodeid for one in pool.dispatcher.pool().executions), "tests run")
    place.go()
    time.sleep(1)
    with serving(settings, port=unused_port):
        output = ended(session)
    assert session.returncode == 1, output
    assert "1 failed, 7 passed" in output


def test_a_session_killed_ends_its_run(place: Place, served: Served, pool: Pool) -> None:
    """Its connector says so; nothing goes on."""
    session = place.start(served.url)
    wait_for(lambda: any(one.nodeid for one in pool.dispatcher.pool().executions), "tests run")
    session.send_signal(signal.SIGKILL)
    session.wait()
    wait_for(lambda: not pool.dispatcher.queue().runs, "the run has ended")
    assert session.stdout is not None
    session.stdout.close()


def test_interrupt_keeps_what_was_done(place: Place, served: Served, pool: Pool) -> None:
    """Ctrl-C ends as in plain pytest."""
    session = place.start(served.url)
    wait_for(lambda: any(one.nodeid for one in pool.dispatcher.pool().executions), "tests run")
    session.send_signal(signal.SIGINT)
    output = ended(session)
    assert session.returncode == 2, output
    assert "KeyboardInterrupt" in output


@pytest.fixture
def gateway(served: Served) -> Iterator[HttpGateway]:
    """A gateway to a server."""
    made = HttpGateway(served.url, None)
    yield made
    made.close()


def test_gateway_fulfils_the_port(gateway: HttpGateway, pool: Pool) -> None:
    """Every verb, over a real server, with what the dispatcher answers."""
    port: Gateway = gateway
    pool.dispatcher.join("w-1", host="h", pid=1)
    request = RunRequest(run_id=RunId("r1"), project="shop", want=2, spec='{"x": "\u2028\u00e9"}')
    assert port.submit(request).held == 1
    assert port.submit(request).held == 1  # again: the answer was lost
    behind = RunRequest(run_id=RunId("r2"), project="shop", concurrency="release/1.0")
    newest = RunRequest(run_id=RunId("r3"), project="shop", concurrency="release/1.0", cancel_in_progress=True)
    assert [port.submit(one).state for one in (behind, newest)] == ["queued", "queued"]
    assert port.keep(RunId("r2")).message == "superseded by run r3"
    assert port.queue() == pool.dispatcher.queue()
    assert port.offer(RunId("r1"), Offer(names=['"a"', '"b"', '["b", 1]'], single=1, joined=[1]))
    job = pool.job("r1")
    pool.dispatcher.append(job, b'{"t":"text","x":"\\u2028"}\n[1]\n', seq=1, done=[])
    pool.dispatcher.append(job, b"[2]\n", seq=2, done=[])
    found: list[bytes] = []
    after = "0"
    while sum(b"[2]" in batch for batch in found) == 0:
        batches, after = port.events(RunId("r1"), after=after, wait_s=1)
        found += batches
    expected, last = pool.dispatcher.events(RunId("r1"), after="0", wait_s=0)
    assert [batch.rstrip(b"\n") for batch in expected] == found
    assert after == last
    status = port.keep(RunId("r1"))
    assert (status.state, status.total, status.held) == ("running", 3, 1)
    assert pool.client.zscore("sc:leases", "c:r1") > time.time() * 1000 + 50_000
    assert port.cancel(RunId("r1"), outcome="cancelled", how="kill", message="no more").message == "no more"
    assert port.keep(RunId("nobody")).state == "gone"


def test_doctor_looks_through_the_server(served: Served, pool: Pool) -> None:
    """At the same things as over Redis, and at the server's release."""
    pool.dispatcher.join("w-1", host="h", pid=1)
    findings = list(doctor.examine(served.url, None, (), StoreSettings(url=None, s3_endpoint=None)))
    assert [one.subject for one in findings] == ["pool", "release", "clock", "workers", "release"]
    assert all(one.good for one in findings)


def test_doctor_finds_what_a_server_lacks(settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another release, a store that takes nothing, and a pool that is away; in words, through the server."""
    nowhere = StoreSettings(url=None, s3_endpoint=None)

    def found(url: str) -> dict[str, str]:
        return {one.subject: one.words for one in doctor.examine(url, None, (), nowhere) if not one.good}

    monkeypatch.setattr("supercheck_server.middleware.__version__", "9.9.9")
    monkeypatch.setattr("pytest_supercheck.http_gateway.AGAIN_S", (0.01,))
    with serving(settings) as served:
        store = Path(settings.store)
        store.mkdir(parents=True)
        assert "the server's is 9.9.9" in found(served.url)["release"]
        (store / "projects").write_text("in the way")
        pool.finish("r1")
        wait_for(lambda: "server" in found(served.url), "the store takes no record")
        assert str(store) in found(served.url)["server"]
        (store / "projects").unlink()
        wait_for(lambda: "server" not in found(served.url), "the store takes it")
    with serving(replace(settings, redis_url="unix:///nonexistent/socket")) as served:
        findings = found(served.url)
        assert "Redis does not answer" in findings["server"]
        assert "cannot serve just now" in findings["pool"]


def test_events_go_on_after_the_last_one_that_was_read(served: Served, pool: Pool) -> None:
    """Whoever reads: another connection, another server."""
    pool.submit("r1", nodeids=["a", "b"])
    job = pool.job("r1")
    for number in range(1, 6):
        pool.dispatcher.append(job, b"[%d]\n" % number, seq=number, done=[])
    everything, _ = pool.dispatcher.events(RunId("r1"), after="0", wait_s=0)
    first, second = HttpGateway(served.url, None), HttpGateway(served.url, None)
    batches, after = first.events(RunId("r1"), after="0", wait_s=1)
    first.close()
    pool.dispatcher.append(job, b"[6]\n", seq=6, done=[])
    more, _ = second.events(RunId("r1"), after=after, wait_s=1)
    second.close()
    assert [*batches, *more] == [*(batch.rstrip(b"\n") for batch in everything), b"[6]"]


def test_refusal_has_its_figures(gateway: HttpGateway, pool: Pool) -> None:
    """As the dispatcher gives them."""
    pool.dispatcher.limits(running=0, queued=0)
    with pytest.raises(QueueFull) as caught:
        gateway.submit(RunRequest(run_id=RunId("r1")))
    assert caught.value.figures.running_capacity == 0
    assert caught.value.retry_after_s > 0


@pytest.mark.parametrize(
    "body",
    [
        *({"run_id": ".."}, {"run_id": "r", "want": 0}, {"run_id": "r", "labels": ["a,b"]}, {}),
        *({"run_id": "r", "concurrency": "a b"}, {"run_id": "r", "concurrency": "a", "concurrency_limit": 0}),
    ],
)
def test_senseless_submissions_are_refused_in_words(client: httpx.Client, pool: Pool, body: dict[str, object]) -> None:
    """400, or 404 for an id that no run can have; nothing of it is kept."""
    assert client.post("/api/v1/runs", json=body).status_code in (400, 404)
    assert pool.dispatcher.queue().runs == ()


@pytest.mark.parametrize(
    ("replies", "error", "words"),
    [
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"], Unreachable, "not as a pytest-supercheck server does"),
        ([b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}"], Unreachable, "no such address"),
        ([b'HTTP/1.1 500 Oh\r\nContent-Length: 16\r\n\r\n{"detail": "oh"}'], Infrastructure, "answers 500: oh"),
        ([b'HTTP/1.1 429 Oh\r\nContent-Length: 18\r\n\r\n{"detail": "wait"}'], Unreachable, "just now: wait"),
        ([b"HTTP/1.1 503 Oh\r\nContent-Length: 0\r\n\r\n"] * 4, Unreachable, "cannot serve just now: status 503"),
        ([b"garbage\r\n\r\n"] * 4, Unreachable, "does not answer"),
    ],
)
def test_what_is_no_server_is_told(
    monkeypatch: pytest.MonkeyPatch, replies: Sequence[bytes], error: type[Exception], words: str
) -> None:
    """In one sentence; what may pass is asked for again."""
    monkeypatch.setattr("pytest_supercheck.http_gateway.AGAIN_S", (0.01, 0.01, 0.01))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for reply in replies:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(reply)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        gateway = HttpGateway(f"http://127.0.0.1:{listener.getsockname()[1]}", None)
        with pytest.raises(error, match=words):
            gateway.keep(RunId("r1"))
        gateway.close()
        thread.join(GUARD_S)
        assert not thread.is_alive()
