"""
The commands of the server as processes.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.server.conftest import GUARD_S, wait_for

COMMAND = (sys.executable, "-m", "pytest_supercheck.cli")
#: A database that is not there.
NOWHERE = "postgresql://ada:sesame@127.0.0.1:1/x"
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("SUPERCHECK_")} | {
    name: os.environ[name] for name in ("SUPERCHECK_CACHE", "SUPERCHECK_VALKEY") if name in os.environ
}


@contextmanager
def running(*words: str, directory: Path, **environ: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A command that runs, and the file that it writes to."""
    log = directory / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [*COMMAND, *words],
            cwd=directory,
            env={**ENVIRON, **environ},
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        yield process, log
    finally:
        process.kill()
        process.wait(GUARD_S)


def said(log: Path, pattern: str) -> str:
    """What a command says, once it does."""
    wait_for(lambda: re.search(pattern, log.read_text()), f"{pattern} in {log.read_text()[-2000:]}")
    found = re.search(pattern, log.read_text())
    assert found
    return found[1]


@pytest.mark.slow
def test_one_command_is_a_whole_pool(tmp_path: Path) -> None:
    """A run goes through it, is recorded, and Ctrl-C leaves nothing behind but the data."""
    tmp_path.chmod(0o755)  # tests may be somebody else's processes
    (tmp_path / "test_a.py").write_text("def test_a(): pass\ndef test_b(): assert 0\n")
    with running("up", "--port", "0", "-c", "1", "--data", "kept", directory=tmp_path) as (process, log):
        address = said(log, r"supercheck server: (http://\S+);")
        pool = said(log, r"--supercheck-url (\S+)")
        assert said(log, r"supercheck worker: isolation (\w+)")
        wait_for(lambda: httpx.get(f"{address}/api/v1/queue").json()["idle"] == 1, "the worker is there")
        children = psutil.Process(process.pid).children(recursive=True)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--supercheck",
            "--supercheck-url",
            pool,
        ]
        done = subprocess.run(command, cwd=tmp_path, env=ENVIRON, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "1 failed, 1 passed" in done.stdout
        process.send_signal(signal.SIGINT)
        assert process.wait(GUARD_S) == 0, log.read_text()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive
    assert len(list((tmp_path / "kept/store/projects").glob("*/runs/*/summary.json"))) == 1
    assert not Path(pool.removeprefix("unix://")).parent.exists()
    assert (tmp_path / "kept").stat().st_mode & 0o007 == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the parts outlive it")
@pytest.mark.slow
def test_parts_go_with_the_command_that_started_them(tmp_path: Path) -> None:
    """Even if that is killed with -9."""
    with running("up", "--port", "0", "-c", "1", directory=tmp_path) as (process, log):
        said(log, r"(http://\S+);")
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 3
        assert (tmp_path / ".supercheck" / "served").exists(), "sessions would remove runs of its store"
        process.kill()
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive


@pytest.mark.slow
def test_part_that_ends_ends_all(tmp_path: Path) -> None:
    """A port that is taken, for example: the reason is said, and nothing stays."""
    with running("up", "--port", "0", "-c", "1", directory=tmp_path) as (_, log):
        port = said(log, r"http://127.0.0.1:(\d+);")
        done = subprocess.run(
            [*COMMAND, "up", "--port", port, "--data", "other"],
            cwd=tmp_path, env=ENVIRON, capture_output=True, text=True, timeout=GUARD_S,
        )  # fmt: skip
    assert done.returncode == 70
    assert "another program does" in done.stderr
    assert "The server ended by itself" in done.stderr


def test_server_without_its_extra_says_what_to_install(tmp_path: Path) -> None:
    """And the other commands work."""
    without = "import sys; sys.modules['fastapi'] = None; from pytest_supercheck.cli import main; main()"
    command = [sys.executable, "-c", without]
    environ = {**ENVIRON, "SUPERCHECK_REDIS_URL": "unix:///nonexistent"}
    done = subprocess.run([*command, "server"], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 69
    assert "pip install 'pytest-supercheck[server]'" in done.stderr
    helped = subprocess.run([*command, "--help"], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert helped.returncode == 0
    assert "server" in helped.stdout


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "No pool was given"),
        ({"SUPERCHECK_REDIS_URL": "http://x"}, "is not a Redis URL"),
        ({"SUPERCHECK_DATABASE_URL": "mysql://ada:sesame@x"}, "SUPERCHECK_DATABASE_URL"),
        ({"SUPERCHECK_RETENTION_DAYS": "0"}, "a whole number from 1 up"),
        ({"SUPERCHECK_STORE": "ftp://x", "SUPERCHECK_REDIS_URL": "unix:///x"}, "is no store"),
        ({"SUPERCHECK_DATABASE_URL": NOWHERE, "SUPERCHECK_REDIS_URL": "unix:///x"}, "cannot be used"),
    ],
)  # fmt: skip
def test_wrong_settings_are_said_in_words(tmp_path: Path, variables: dict[str, str], words: str) -> None:
    """Before anything is served, without a password and without a traceback."""
    done = subprocess.run(
        [*COMMAND, "server", "--port", "0"],
        cwd=tmp_path, env={**ENVIRON, **variables}, capture_output=True, text=True, timeout=GUARD_S,
    )  # fmt: skip
    assert done.returncode in (2, 69, 70)
    assert words in done.stderr
    assert "sesame" not in done.stderr
    assert "Traceback" not in done.stderr
