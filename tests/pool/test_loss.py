"""
Loss: processes die in every way, and no test is lost, doubled or blamed wrongly.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from rq import Queue
from rq.exceptions import StopRequested
from rq.worker import WorkerStatus

from pytest_supercheck.events import End, Passed
from pytest_supercheck.worker import PoolWorker

from .conftest import GUARD_S, Pool, Worker, children, command_line, counts, wait_for

STEADY = """
    import time, pytest
    @pytest.mark.parametrize("i", range({count}))
    def test_steady(i):
        time.sleep({seconds})
"""

HANG = """
    import time
    def test_a(): pass
    def test_b(): pass
    def test_hang(): time.sleep(600)
"""


def running(pool: Pool, results: int = 2) -> str:
    """Wait until a run has some results; returns its id."""
    wait_for(lambda: pool.runs() and len(results_of(pool, pool.runs()[-1])) >= results, "the run is under way")
    return pool.runs()[-1]


def results_of(pool: Pool, run: str) -> list[Passed]:
    """The results of a run so far."""
    return [event for event in pool.events(run) if isinstance(event, Passed)]


def assert_each_once(pool: Pool, run: str, count: int) -> None:
    """Every test has exactly one result in the stream."""
    assert Counter(event.index for event in results_of(pool, run)) == Counter(range(count))


@pytest.mark.parametrize("victim", ["supervisor", "rq worker", "test process", "runner"])
def test_a_killed_process_costs_no_test(pool: Pool, victim: str) -> None:
    """Kill -9 of any process between the pool and a test: the run goes on and every test is reported once, passed."""
    worker = pool.worker(2)
    session = pool.pytest(pool.suite("steady", STEADY.format(count=20, seconds=0.3)), "-q", "--supercheck-executions=2")
    run = running(pool)
    victims: dict[str, Callable[[], list[int]]] = {
        "supervisor": worker.supervisors,
        "rq worker": worker.rq_workers,
        "test process": worker.test_processes,
        "runner": lambda: [pid for pid in children(worker.process.pid) if b"runner" in command_line(pid)],
    }
    for pid in victims[victim]()[:1]:
        os.kill(pid, signal.SIGKILL)
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 0, output + worker.log.read_text()
    assert counts(output) == {"passed": 20}
    assert_each_once(pool, run, 20)


def test_a_worker_killed_with_all_its_processes_is_taken_over(pool: Pool) -> None:
    """A host that vanishes blames no test: another host goes on once the leases have lapsed."""
    doomed = pool.worker(2)
    session = pool.pytest(pool.suite("steady", STEADY.format(count=16, seconds=0.3)), "-q", "--supercheck-executions=2")
    run = running(pool)
    pool.worker(2)
    for pid in [*doomed.test_processes(), *doomed.supervisors(), *doomed.rq_workers(), doomed.process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 0, output
    assert_each_once(pool, run, 16)


def test_sigterm_finishes_the_current_tests_and_gives_the_rest_back(pool: Pool) -> None:
    """After SIGTERM a worker ends by itself; what it had not begun runs elsewhere, without waiting for leases."""
    first = pool.worker(2)
    session = pool.pytest(pool.suite("steady", STEADY.format(count=16, seconds=0.3)), "-q", "--supercheck-executions=2")
    run = running(pool)
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(GUARD_S) == 0
    assert not any(row.startswith(b"w:") for row in pool.client.zrange("sc:leases", 0, -1))
    second = pool.worker(2)
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 0, output
    assert_each_once(pool, run, 16)
    assert b'"lapsed"' not in b"".join(row[b"e"] for _, row in pool.client.xrange(f"sc:run:{run}:state"))
    second.stop()


def test_a_worker_killed_leaves_nothing_behind(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill -9 of a `supercheck worker` ends its processes and removes its directory."""
    place = tmp_path / "tmp"
    place.mkdir()
    with monkeypatch.context() as context:
        context.setenv("TMPDIR", str(place))
        worker = pool.worker(2)
    pool.pytest(pool.suite("hang", HANG), "-q")
    running(pool)
    wait_for(lambda: bool(worker.test_processes()), "a test runs")
    known = [*worker.rq_workers(), *worker.supervisors(), *worker.test_processes()]
    assert list(place.glob("supercheck-*"))
    worker.process.kill()
    wait_for(lambda: not any(command_line(pid) for pid in known), "its processes are gone")
    wait_for(lambda: not list(place.glob("supercheck-*")), "its directory is gone")


def test_a_worker_killed_leaves_nobody_who_collects(pool: Pool) -> None:
    """A runner that is busy with a project's modules does not listen."""
    worker = pool.worker(1)
    there = pool.directory / "there"
    source = f"""
        import os, time
        if os.environ.get("PYTEST_XDIST_WORKER"):
            open({str(there)!r}, "w").write(str(os.getpid()))
            time.sleep(600)
        def test_a(): pass
    """
    pool.pytest(pool.suite("slow", source), "-q")
    wait_for(lambda: there.exists() and there.read_text(), "it collects")
    worker.process.kill()
    wait_for(lambda: not command_line(int(there.read_text())), "it is gone")


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are looked for in /proc")
def test_half_a_result_is_none(pool: Pool) -> None:
    """A process that dies while it tells one: the test that it told of has not been run."""
    pool.worker(1)
    source = """
        import os, socket
        def test_a():
            for name in os.listdir("/proc/self/fd"):
                if int(name) >= 500 and os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                    os.write(int(name), b'R 1 0 {"t":"result","i":1,')
            os._exit(3)
        def test_b(): pass
        def test_c(): pass
    """
    session = pool.pytest(pool.suite("half", source), "-q")
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 1, output
    assert counts(output) == {"passed": 2, "failed": 1}
    assert "exited with code 3" in output


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are looked for in /proc")
def test_a_process_that_does_not_read_ends_itself_only(pool: Pool) -> None:
    """It asks for tests, with long names; who serves it does not wait for it, and has its slot for others."""
    pool.worker(1)
    source = """
        import pytest
        @pytest.mark.parametrize("x", range(1_500), ids=[f"{i}-" + "x" * 5_000 for i in range(1_500)])
        def test_a(x): pass
    """
    root = pool.suite("deaf", source)
    hook = """
        import os, time
        def pytest_plugin_registered(plugin):
            if type(plugin).__name__ == "Recorder":
                for name in os.listdir("/proc/self/fd"):
                    if int(name) >= 500 and os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                        os.write(int(name), b"N 0\\n")
                time.sleep(600)
    """
    (root / "conftest.py").write_text(textwrap.dedent(hook))
    session = pool.pytest(root, "-q")
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 70, output
    assert "it was killed because it did not read what it was told" in output
    session = pool.pytest(pool.suite("fine", "def test_a(): pass"), "-q")
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 0, output


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are looked for in /proc")
def test_a_process_that_takes_its_page_away_ends_itself_only(pool: Pool) -> None:
    """What it was doing is not known then; who looks there goes on."""
    worker = pool.worker(1)
    source = """
        import os
        from pathlib import Path
        def test_a():
            descriptors = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
            pages = [path for path in descriptors if "supercheck-marks" in os.readlink(path)]
            assert pages
            for path in pages:
                os.ftruncate(int(path.name), 0)
            os._exit(3)
    """
    session = pool.pytest(pool.suite("page", source), "-q", "--supercheck-start=spawn")
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode in (1, 70), output
    assert "exit code 3" in output or "exited with code 3" in output
    assert worker.process.poll() is None


def test_a_worker_leaves_though_its_way_out_was_swallowed(pool: Pool) -> None:
    """As logging swallows it when the signal comes while RQ says that Redis is away."""
    worker = PoolWorker([Queue("none", connection=pool.client)], name="w", connection=pool.client)
    worker.set_state(WorkerStatus.IDLE)
    worker.heartbeat()
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    with contextlib.suppress(StopRequested):
        worker.request_stop(signal.SIGTERM, None)  # type: ignore[no-untyped-call]
    for signum, handler in before.items():
        signal.signal(signum, handler)
    with pytest.raises(StopRequested):
        worker.heartbeat()


def test_a_second_sigterm_stops_at_once(pool: Pool) -> None:
    """The second SIGTERM does not wait for the tests."""
    worker = pool.worker(1)
    pool.pytest(pool.suite("hang", HANG), "-q")
    running(pool)
    tests = worker.test_processes()
    worker.process.send_signal(signal.SIGTERM)
    wait_for(lambda: "once more stops at once" in worker.log.read_text(), "it has heard the first")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(GUARD_S) == 0
    wait_for(lambda: not any(command_line(pid) for pid in tests), "its test processes are gone")


@pytest.mark.parametrize("connector", [False, True])
def test_a_session_killed_on_a_pool_leaves_nothing_running(pool: Pool, connector: bool) -> None:
    """When pytest is killed with -9 its connector ends the run; when that is killed too, its lease lapses."""
    worker = pool.worker(1)
    session = pool.pytest(pool.suite("hang", HANG), "-q")
    run = running(pool)
    tests = worker.test_processes()
    victims = [session.pid, *(children(session.pid) if connector else ())]
    assert len(victims) == 1 + connector
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    wait_for(lambda: any(isinstance(event, End) for event in pool.events(run)), "the run has ended")
    (outcome,) = (event.outcome for event in pool.events(run) if isinstance(event, End))
    assert outcome == ("abandoned" if connector else "cancelled")
    wait_for(lambda: not any(command_line(pid) for pid in tests), "its test processes are gone")
    wait_for(lambda: "running 0 of" in pool.command("queue", "--url", pool.url), "its slot is free")


def test_a_connector_killed_ends_the_session_with_70(pool: Pool) -> None:
    """Trouble in the machinery is told as such; what has been reported stays."""
    pool.worker(1)
    session = pool.pytest(pool.suite("hang", HANG), "-q")
    assert session.stdout is not None
    assert session.stdout.read(2) == ".."
    (connector,) = children(session.pid)
    os.kill(connector, signal.SIGKILL)
    output = session.stdout.read()
    assert session.wait(GUARD_S) == 70, output
    assert "the connection to the pool ended" in output
    assert counts(output) == {"passed": 2}


def test_an_embedded_session_killed_leaves_nothing_running(tmp_path: Path) -> None:
    """Kill -9 of a session without a pool ends its Valkey, workers and tests."""
    (tmp_path / "test_hang.py").write_text("import time\ndef test_hang(): time.sleep(600)\n")
    command = [sys.executable, "-m", "pytest", "-p", "supercheck", "--supercheck", "--supercheck-executions=2"]
    session = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)

    def family(pid: int) -> list[int]:
        return [pid, *(relative for child in children(pid) for relative in family(child))]

    wait_for(lambda: len(family(session.pid)) >= 8, "the stack is up")
    known = family(session.pid)[1:]
    session.kill()
    session.wait()
    wait_for(lambda: not any(command_line(pid) for pid in known), "everything is gone")


@pytest.mark.parametrize(
    ("environ", "options"),
    [({"SUPERCHECK_TEST_EXECUTION_TIMEOUT_MS": "2000"}, []), ({}, ["--supercheck-timeout=2"])],
    ids=["the pool's", "its own"],
)
def test_time_limit_kills_the_run_with_its_children(pool: Pool, environ: dict[str, str], options: list[str]) -> None:
    """Past its limit a run ends with 124; the test that hung and what it started are gone; results are kept."""
    pool.worker(1, **environ)
    mark = "supercheck-test-sleeper"
    hang = f"""
        import subprocess, sys
        def test_quick(): pass
        def test_hang():
            subprocess.run([sys.executable, "-c", "import time; time.sleep(600)", "{mark}"])
    """
    session = pool.pytest(pool.suite("hang", hang), "-q", *options)
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 124, output
    assert "the run's time limit of 2 s is over" in output
    assert counts(output) == {"passed": 1}
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and mark.encode() in command_line(int(pid))]


def test_redis_lost_for_good_ends_the_session_with_70(pool: Pool) -> None:
    """A flushed Redis knows the run no more: the session says so and does not hang."""
    pool.worker(1)
    session = pool.pytest(pool.suite("steady", STEADY.format(count=100, seconds=0.3)), "-q")
    running(pool)
    pool.client.flushall()
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 70, output
    assert "does not know this run" in output
    assert "failed" not in counts(output)


CHAOS = """
    import os, time, pytest
    @pytest.mark.parametrize("i", range(2000))
    def test_chaos(i):
        with open({log!r}, "a") as log:
            log.write(f"{{i}} {{os.getpid()}}\\n")
        time.sleep(0.03)
        if i % 100 == 7:
            pytest.skip("seven")
        assert i % 100 != 13
"""


def test_chaos_reports_every_test_exactly_once(pool: Pool) -> None:
    """Random kill -9 of test processes, supervisors and workers each second: outcomes are plain pytest's."""
    worker = pool.worker(6, SUPERCHECK_RUNNING_CAPACITY="6")
    log = pool.directory / "log"
    root = pool.suite("chaos", CHAOS.format(log=str(log)))
    junit = pool.directory / "junit.xml"
    session = pool.pytest(root, "-q", "--supercheck-executions=6", f"--junitxml={junit}", "--tb=no")
    running(pool)
    killed = kill_at_random(session, worker)
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 1, output[-3000:] + worker.log.read_text()[-3000:]
    outcomes = {}
    for case in ET.parse(junit).iter("testcase"):
        name = case.get("name", "")
        assert name not in outcomes, f"{name} was reported twice"
        outcomes[name] = case[0].tag if len(case) else "passed"
    blamed = killed_twice(log, killed)
    expected = {f"test_chaos[{i}]": outcome(i, blamed) for i in range(2000)}
    assert outcomes == expected
    assert len(killed) >= 3


def outcome(index: int, blamed: set[int]) -> str:
    """What a chaos test reports."""
    if index in blamed or index % 100 == 13:
        return "failure"
    return "skipped" if index % 100 == 7 else "passed"


def kill_at_random(session: subprocess.Popen[str], worker: Worker) -> set[int]:
    """Kill a process each second until the session ends; returns those that ran tests."""
    chance = random.Random(7)
    killed: set[int] = set()
    while session.poll() is None:
        time.sleep(1)
        kind = chance.choice([worker.test_processes, worker.supervisors, worker.rq_workers])
        if victims := kind():
            victim = chance.choice(victims)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            if kind == worker.test_processes:
                killed.add(victim)
    return killed


def killed_twice(log: Path, killed: set[int]) -> set[int]:
    """The tests that ran last in two killed test processes: the dispatcher may rightly give those up."""
    last = {int(pid): int(index) for index, pid in (row.split() for row in log.read_text().splitlines())}
    deaths = Counter(last[pid] for pid in killed if pid in last)
    return {index for index, count in deaths.items() if count > 1}
