"""
What tests on a pool leave behind, and who may not get at what.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from pytest_supercheck import events
from pytest_supercheck.events import Files
from tests import s3

from .conftest import GUARD_S, Pool, counts, wait_for

SUITE = """
    import os

    def write(name):
        with open(name, "w") as file:
            file.write(name)

    def test_passes():
        write("passes.log")
        os.utime("passes.log", (1, 1))  # files are marked with the time of a tick, and the next test begins within it

    def test_fails():
        print("store", os.environ.get("SUPERCHECK_STORE"), "key", os.environ.get("AWS_ACCESS_KEY_ID"))
        write("fails.log")
        assert 0
"""


def run(pool: Pool, source: str, *args: str) -> str:
    """What a session says, of a suite that fails."""
    session = pool.pytest(pool.suite("shop", source), "--supercheck-artifact=*.log", *args)
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 1, output[-3000:]
    return output


def told(pool: Pool) -> list[Files]:
    """What the only run's events say of files; each before the result of its test."""
    [only] = pool.runs()
    found = pool.events(only)
    for place, event in enumerate(found):
        if isinstance(event, Files):
            assert event.index in [getattr(later, "index", -1) for later in found[place + 1 :]]
    return [event for event in found if isinstance(event, Files)]


def folder(pool: Pool, store: Path) -> Path:
    """Where the only run is in a store."""
    [only] = pool.runs()
    return store / "projects" / "shop" / "runs" / only


def test_files_of_failing_tests_come_into_the_workers_store(pool: Pool, tmp_path: Path) -> None:
    """Those of others cost nothing: nothing is told of them."""
    pool.worker(1, SUPERCHECK_STORE=str(tmp_path / "store"))
    output = run(pool, SUITE)
    assert counts(output) == {"passed": 1, "failed": 1}
    [files] = told(pool)
    assert (files.kept, files.left) == ((("fails.log", "artifacts/1/fails.log", 9),), ())
    assert (folder(pool, tmp_path / "store") / "artifacts" / "1" / "fails.log").read_text() == "fails.log"
    [only] = pool.runs()
    [passed] = [event for event in pool.events(only) if isinstance(event, events.Passed)]
    assert passed.index == 0


def test_files_come_into_s3_and_its_credentials_not_to_the_tests(pool: Pool, tmp_path: Path) -> None:
    """Nor does the store's address."""
    with s3.rclone(tmp_path / "s3") as server:
        credentials = {"AWS_ACCESS_KEY_ID": s3.KEY, "AWS_SECRET_ACCESS_KEY": s3.SECRET}
        address = {"SUPERCHECK_STORE": f"s3://{s3.BUCKET}", "SUPERCHECK_S3_ENDPOINT": server.endpoint}
        pool.worker(1, **credentials, **address)
        output = run(pool, SUITE)
    assert "store None key None" in output
    [files] = told(pool)
    assert (len(files.kept), files.left) == (1, ())
    assert (folder(pool, tmp_path / "s3" / s3.BUCKET) / "artifacts" / "1" / "fails.log").read_text() == "fails.log"


def test_without_a_store_files_stay_and_verbose_sessions_say_so(pool: Pool) -> None:
    """Once."""
    pool.worker(1)
    output = run(pool, SUITE, "-v")
    assert counts(output) == {"passed": 1, "failed": 1}
    words = "files that tests left behind stay where they are, fails.log: the worker has no store: SUPERCHECK_STORE"
    assert output.count(words) == 1
    [files] = told(pool)
    assert files.kept == ()


def test_what_is_no_file_is_told(pool: Pool, tmp_path: Path) -> None:
    """Links are not followed; whatever a test has left, the others come."""
    source = """
        import os, pathlib, resource

        def test_leaves():
            pathlib.Path("link.log").symlink_to("../secret")
            pathlib.Path("own.log").write_text("own")
            os.mkfifo("pipe.log")
            assert 0
    """
    (tmp_path / "secret").write_text("sesame")
    pool.worker(1, SUPERCHECK_STORE=str(tmp_path / "store"))
    run(pool, source)
    [files] = told(pool)
    assert [name for name, _, _ in files.kept] == ["own.log"]
    assert dict(files.left) == {"link.log": "it is a symbolic link", "pipe.log": "it is no regular file"}
    stored = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert [path.read_text() for path in stored] == ["own"]


NONSENSE = """
    import socket
    import pytest

    @pytest.fixture
    def connection(pytestconfig):
        return pytestconfig.pluginmanager.getplugin("supercheck-recorder")._connection

    def test_before(): pass

    def test_sends(connection):
        {sends}
        connection.recv(1)  # nothing comes

    def test_after(): pass
"""


@pytest.mark.parametrize(
    "sends",
    [
        """connection.sendall(b'A 1 [".", "/etc/passwd", ""]\\n')""",
        "connection.sendall(b'Q 1\\n')",
        "connection.sendall(b'R\\n')",
        "connection.sendall(b'E []\\n')",
        "[socket.send_fds(connection, [b'x'], [0]) for _ in range(17)]",
        "[connection.sendall(b'x' * (1 << 20)) for _ in range(129)]",
    ],
    ids=["a name for a file", "no such frame", "too short", "no event", "descriptors alone", "without an end"],
)
def test_process_that_sends_nonsense_ends_itself_only(pool: Pool, tmp_path: Path, sends: str) -> None:
    """Its test is tried once more and fails with the reason; nothing is kept, the other tests have run."""
    worker = pool.worker(1, SUPERCHECK_STORE=str(tmp_path / "store"))
    output = run(pool, NONSENSE.replace("{sends}", sends))
    assert counts(output) == {"passed": 2, "failed": 1}
    assert "it was killed because it sent what no test process sends" in output
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert "supervisor failed" not in worker.log.read_text()


def test_a_store_that_does_not_answer_does_not_hold_up_the_end(pool: Pool) -> None:
    """A run whose files are on their way is killed as any other; its result is there."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pool.worker(
            1,
            AWS_ACCESS_KEY_ID=s3.KEY,
            AWS_SECRET_ACCESS_KEY=s3.SECRET,
            SUPERCHECK_STORE="s3://bucket",
            SUPERCHECK_S3_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}",
        )
        session = pool.pytest(pool.suite("shop", SUITE), "--supercheck-artifact=*.log")
        connection, _ = silent.accept()
        with connection:
            [only] = pool.runs()
            pool.command("queue", "--url", pool.url, "cancel", "--now", only)
            output, _ = session.communicate(timeout=30)
    assert session.returncode == 2, output[-3000:]
    wait_for(lambda: json.loads(pool.command("queue", "--url", pool.url, "--json"))["running"] == 0, "its slot is free")
    [files] = told(pool)
    assert files.left == (("fails.log", "there was no time left for it"),)
