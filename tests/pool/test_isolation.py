"""
Isolation: what tests that look for it find of the service, and that everything else works behind walls as without.

`hostile.py` is what looks; without isolation it finds everything, so it can.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from .conftest import GUARD_S, Pool, command_line, counts, wait_for
from .walls import HOSTILE, KEYCTL, SECRET, Place, place, service

WALLS: Final = ("user", "bwrap", "bwrap, not root")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="isolation is for Linux")


@pytest.fixture(scope="module", params=WALLS)
def walls(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A pool with isolation, for all tests of this file, one after the other."""
    with place(request.param) as made:
        yield made


def look_for_everything(where: Place, *args: str) -> dict[str, Any]:
    """What the hostile project finds."""
    other = where.directory / "other"
    other.mkdir(0o700)
    (other / "secret").write_text(SECRET)
    with socket.create_server(("127.0.0.1", 0)) as server:
        private = [where.directory / name for name in ("cache", "data", "valkey", "other")]
        places = [
            str(Path(__file__).parents[2]),
            "/",
            "/etc",
            "/usr",
            "/tmp",
            "/var/tmp",
            "/dev/shm",
            "/run",
            str(Path(sys.prefix)),
            *map(str, private),
        ]
        known = {
            "walled": where.name != "none",
            "service": service(where),
            "socket": str(where.directory / "valkey" / "s"),
            "port": server.getsockname()[1],
            "keyctl": KEYCTL[0],
            "private": [str(path) for path in private],
            "places": places,
        }
        try:
            return where.found(where.project(HOSTILE.read_text(), known__json=json.dumps(known)), *args)
        finally:
            shutil.rmtree(other)
            for path in places:
                Path(path, "supercheck-hostile").unlink(missing_ok=True)


def test_without_isolation_tests_find_everything() -> None:
    """What is documented of it, and that the tests below could fail."""
    with place("none") as where:
        found = look_for_everything(where)
        assert SECRET in found["environments"]  # of others, too: another suite may be running here
        assert found["memories"] == [SECRET]
        assert found["files"] == [SECRET]
        assert found["descriptors"]
        assert len(found["trees"]) == 4
        assert found["port"]
        assert str(where.directory / "valkey" / "s") in found["unix_sockets"]
        assert set(found["signals"]) == set(service(where))
        assert len(found["traced"]) == 1
        assert found["keys"] == [SECRET] * bool(KEYCTL[0])
        assert not [link for link in found["own_descriptors"] if link.startswith(str(where.directory))]
        assert {"/etc", "/usr", str(where.directory / "cache")} <= set(found["writable"])
        assert not found["own_environment"], "what is withheld is withheld in any case"
        assert not found["command_lines"], "a password has no place there in any case"


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_hostile_tests_find_nothing_of_the_service(walls: Place, start: str) -> None:
    """No secret, no other run's files, nothing that they could write to or send signals to."""
    found = look_for_everything(walls, f"--supercheck-start={start}")
    for what in ("environments", "own_environment", "command_lines", "memories", "descriptors", "files", "trees"):
        assert not found[what], what
    for what in ("signals", "traced", "keys"):
        assert not found[what], what
    sockets = [path for path in found["unix_sockets"] if path.startswith(str(walls.directory))]
    assert not sockets
    assert found["port"] == (walls.name == "user"), "without a network of its own only a password keeps tests away"
    assert set(found["writable"]) <= {"/tmp", "/var/tmp", "/dev/shm"}
    assert not [link for link in found["own_descriptors"] if link.startswith(str(walls.directory))]
    assert any(link.startswith("socket:") for link in found["own_descriptors"])
    status = found["status"]
    assert status["NoNewPrivs"] == ["1"]
    assert {*status["CapEff"], *status["CapPrm"]} == {"0000000000000000"}
    if walls.name != "bwrap, not root":
        assert found["uid"] >= 61001
        assert status["Groups"] == []
        assert status["CapBnd"] == ["0000000000000000"]
    if walls.name != "user":
        assert not any("pytest_supercheck.cli" in line for line in found["processes"])


def test_nothing_of_a_run_stays(walls: Place) -> None:
    """Its processes, also those that have left its group, its home and what it wrote to common places."""
    name = f"supercheck-left-{os.getpid()}"
    source = f"""
        import os, subprocess, sys
        def test_leaves():
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "{name}"], start_new_session=True)
            for place in ("/tmp", "/dev/shm", os.environ["HOME"]):
                os.mkdir(os.path.join(place, "{name}"))
                open(os.path.join(place, "{name}", "file"), "w").close()
    """
    code, output = walls.run(walls.project(textwrap.dedent(source)))
    assert code == 0, output
    wait_for(lambda: not any(name in " ".join(cmdline(one)) for one in psutil.process_iter()), "its process is gone")
    wait_for(lambda: not [*Path("/tmp").glob(name), *Path("/dev/shm").glob(name)], "its files are gone")
    wait_for(lambda: not list(Path("/tmp").glob("supercheck-run-*")) or _held_only_by_spares(walls), "its home is gone")


def _held_only_by_spares(walls: Place) -> bool:
    return walls.name == "user" and len(list(Path("/tmp").glob("supercheck-run-*"))) == 1


def cmdline(process: psutil.Process) -> list[str]:
    """A process's words, none when it has gone."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


ORDINARY = """
import os, socketserver, threading, urllib.request
import pytest

@pytest.fixture
def torn():
    yield
    print("torn down")

@pytest.mark.parametrize("i", range(8))
def test_it(i, tmp_path, torn):
    (tmp_path / "file").write_text(str(i))
    assert i != 5

def test_has_a_home():
    path = os.path.expanduser("~/file")
    open(path, "w").close()

def test_serves_itself():
    from http.server import HTTPServer, SimpleHTTPRequestHandler
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/test_it.py", timeout=20).status == 200

def test_has_a_worker(worker_id, testrun_uid):
    assert os.environ["PYTEST_XDIST_WORKER"] == worker_id
    assert testrun_uid
"""


@pytest.mark.parametrize("start", ["auto", "fork", "spawn"])
def test_ordinary_tests_run_as_without(walls: Place, start: str) -> None:
    """Files, a home, a server of their own, xdist's variables; a failure with its text."""
    options = [f"--supercheck-start={start}", "--supercheck-executions=2"]
    code, output = walls.run(walls.project(ORDINARY), *options)
    assert code == 1, output
    assert counts(output) == {"passed": 10, "failed": 1}
    assert "assert 5 != 5" in output
    assert "torn down" in output


def test_a_worker_can_collect_alone(walls: Place) -> None:
    """Where the session does not."""
    code, output = walls.run(walls.project(ORDINARY), "--supercheck-collect=remote")
    assert code == 1, output
    assert counts(output) == {"passed": 10, "failed": 1}


def test_the_first_failure_ends_a_run(walls: Place) -> None:
    """-x."""
    code, output = walls.run(walls.project("def test_a(): assert 0\n" + "def test_b(): pass\n"), "-x")
    assert code == 1, output
    assert "stopping after 1 failures" in output


ENDINGS = """
import ctypes, os, signal, sys

def test_before(): pass

def test_end():
    sys.stderr.write("last words\\n")
    sys.stderr.flush()
    {end}

def test_after(): pass
"""


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9"),
        ("signal.raise_signal(signal.SIGSEGV)", "killed by signal 11 (SIGSEGV)"),
        ("os._exit(3)", "exited with code 3"),
    ],
    ids=["kill", "segv", "exit"],
)
def test_a_crash_is_told_as_it_was(walls: Place, start: str, end: str, words: str) -> None:
    """The test that dies is tried again and reported, with signal or code and output; the others run."""
    code, output = walls.run(walls.project(ENDINGS.replace("{end}", end)), f"--supercheck-start={start}")
    assert code == 1, output
    assert words in output
    assert "last words" in output or start == "spawn"  # there pytest's capture has them
    assert "MiB of memory at most" in output
    assert counts(output) == {"passed": 2, "failed": 1}


def test_a_collection_that_dies_is_told(walls: Place) -> None:
    """A module that ends the process, there only: 70."""
    source = """
        import os
        if os.environ.get("USER") == "supercheck":
            os._exit(3)
        def test_a(): pass
    """
    code, output = walls.run(walls.project(textwrap.dedent(source)))
    assert code == 70, output
    assert "could not be collected on the worker" in output


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_the_time_limit_kills(walls: Place, start: str) -> None:
    """What hangs is gone, with its children; 124."""
    name = f"supercheck-sleeper-{os.getpid()}-{start}"
    source = f"""
        import subprocess, sys
        def test_quick(): pass
        def test_hang():
            subprocess.run([sys.executable, "-c", "import time; time.sleep(600)", "{name}"])
    """
    code, output = walls.run(
        walls.project(textwrap.dedent(source)), "--supercheck-timeout=3", f"--supercheck-start={start}"
    )
    assert code == 124, output
    wait_for(lambda: not any(name in " ".join(cmdline(one)) for one in psutil.process_iter()), "its process is gone")


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_ctrl_c_reaches_tests(walls: Place, start: str) -> None:
    """They get SIGINT, by whoever is their parent, and tear down."""
    source = """
        import time, pytest
        @pytest.fixture
        def torn():
            yield
            open("out/torn", "w").close()
        def test_quick(): pass
        def test_hang(torn):
            open("out/there", "w").close()
            time.sleep(600)
    """
    root = walls.project(textwrap.dedent(source))
    (root / "out").mkdir()
    (root / "out").chmod(0o777)
    session = walls.start(root, "-q", f"--supercheck-start={start}")
    wait_for(lambda: session.poll() is not None or (root / "out" / "there").exists(), "the test runs")
    session.send_signal(signal.SIGINT)
    output = session.communicate(timeout=GUARD_S)[0]
    assert session.returncode == 2, output
    assert (root / "out" / "torn").exists(), output


def test_a_killed_worker_takes_its_runs_along(tmp_path: Path) -> None:
    """Kill -9 of a worker: what its tests have started is gone, and a later worker sweeps what may be left."""
    name = f"supercheck-orphan-{os.getpid()}"
    source = f"""
        import subprocess, sys
        def test_quick(): pass
        def test_hang():
            subprocess.run([sys.executable, "-c", "import time; time.sleep(600)", "{name}"])
    """
    with place("bwrap") as where:
        session = where.start(where.project(textwrap.dedent(source)))
        wait_for(lambda: any(name in " ".join(cmdline(one)) for one in psutil.process_iter()), "it runs")
        where.worker.kill()
        wait_for(lambda: not any(name in " ".join(cmdline(one)) for one in psutil.process_iter()), "it is gone")
        session.kill()


def test_a_closed_project_is_told(walls: Place) -> None:
    """The tests are somebody else's processes: what they could not read is said before they start."""
    if walls.name.endswith("not root"):
        pytest.skip("there they are not somebody else's")
    root = walls.project("def test_a(): pass\n")
    root.chmod(0o700)
    code, output = walls.run(root)
    assert code == 70, output
    assert "is closed to the user that this run's tests are" in output


def test_a_refused_run_keeps_nothing(tmp_path: Path) -> None:
    """Neither the process that was ready for the next run, nor its user."""
    with place("user") as where:
        root = where.project("def test_a(): pass\n")
        root.chmod(0o700)
        family = psutil.Process(where.worker.pid)

        def spares() -> list[psutil.Process]:
            return [one for one in family.children() if one.uids().real != 0]

        wait_for(spares, "a process is ready for the next run")
        [spare] = spares()
        code, output = where.run(root)
        assert code == 70, output
        wait_for(lambda: not spare.is_running(), "it is gone", 12)
        root.chmod(0o755)
        code, output = where.run(root)
        assert code == 0, output


BROWSER = """
import os, subprocess, threading
from http.server import BaseHTTPRequestHandler, HTTPServer

class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<title>there</title><p id=x></p><script>x.textContent = 6 * 7</script>")

def test_page():
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = ["{program}", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        address = f"http://127.0.0.1:{server.server_port}/"
        done = subprocess.run([*command, address], capture_output=True, text=True, timeout=120)
        server.shutdown()
    assert ">42</p>" in done.stdout, done.stderr
"""


def test_chromium_runs_inside(walls: Place) -> None:
    """It has processes, shared memory and a home to itself."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium on this machine")
    code, output = walls.run(walls.project(BROWSER.replace("{program}", program)))
    assert code == 0, output


def test_one_that_does_not_work_here_is_told(pool: Pool, tmp_path: Path) -> None:
    """Before anything is served: what is missing and what to do."""
    command = [sys.executable, "-m", "pytest_supercheck.cli", "worker", "--url", pool.url, "--isolate=bwrap"]
    without = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(command, env=without, capture_output=True, text=True, timeout=60)
    assert done.returncode == 69
    assert "is not installed: apt-get install" in done.stderr
    assert "Ctrl-C" not in done.stdout


def test_auto_takes_the_strongest_that_works_and_says_why_no_stronger_one(pool: Pool, tmp_path: Path) -> None:
    """Without their programs, none."""
    worker = pool.worker(1, SUPERCHECK_ISOLATE="auto", PATH=str(tmp_path))
    assert "isolation none (not bwrap: " in worker.log.read_text()
    # Where there is not even a program that removes directories, nobody outlives a worker that is killed.
    known = worker.rq_workers()
    assert known
    worker.process.kill()
    wait_for(lambda: not any(command_line(pid) for pid in known), "they are gone")


def test_a_runner_that_sends_nonsense_ends_itself_only(pool: Pool) -> None:
    """What user code writes to its host is not believed, and costs no other run anything."""
    pool.worker(2)
    source = """
        import os, socket
        def nonsense(fd):
            try:
                os.write(fd, b'[{"ready": 1}]\\n{"forked": 1}\\nnonsense\\n')
            except OSError:
                pass
        if os.environ.get("PYTEST_XDIST_WORKER"):
            for fd in range(3, 5):
                nonsense(fd)
        def test_a(): pass
    """
    session = pool.pytest(pool.suite("nonsense", source), "-q")
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 70, output
    session = pool.pytest(pool.suite("fine", "def test_a(): pass"), "-q")
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 0, output
