"""
A pool whose worker shuts runs in: a Valkey with a password, a worker with secrets, and sessions that are let in.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import redis

import pytest_supercheck
from tests.conftest import server_program, start_valkey, stop_valkey

from .conftest import GUARD_S, wait_for

#: Set where a machine must be able to try everything: then a test that cannot be tried fails.
REQUIRED: Final = os.environ.get("ISOLATION_TESTS") == "required"

#: What nobody must see; the last part is long, so that the hostile project can look for its shape without having it.
SECRET: Final = "walls-secret-" + os.urandom(16).hex()

#: Whom a worker is that is not root.
SOMEBODY: Final = 60999

#: Numbers of the system calls keyctl and add_key; 0 where they are not known.
KEYCTL: Final = {"x86_64": (250, 248), "aarch64": (219, 217)}.get(platform.machine(), (0, 0))

HOSTILE: Final = Path(__file__).parent / "hostile.py"


@dataclass
class Place:
    """A pool with one worker."""

    #: ``none``, ``user`` or ``bwrap``, or ``bwrap, not root``.
    name: str
    #: Open to everybody.
    directory: Path
    #: The worker.
    worker: subprocess.Popen[str]
    #: What it prints.
    log: Path
    #: Where the pool is, with its password.
    url: str
    #: What was started.
    sessions: list[subprocess.Popen[str]] = field(default_factory=list)

    def project(self, source: str, **files: str) -> Path:
        """A directory with one test file; others may enter it, and whoever the worker is has it."""
        root = Path(tempfile.mkdtemp(prefix="project-", dir=self.directory))
        root.chmod(0o755)
        for name, text in {"pytest.ini": "[pytest]\n", "test_it.py": source, **files}.items():
            (root / name.replace("__", ".")).write_text(text)
        if self.name.endswith("not root"):
            for path in (root, *root.iterdir()):
                os.chown(path, SOMEBODY, SOMEBODY)
        return root

    def start(self, root: Path, *args: str) -> subprocess.Popen[str]:
        """A session on this pool, with its address in the environment."""
        command = [sys.executable, "-m", "pytest", "--supercheck", "-p", "supercheck", "-p", "no:cacheprovider", *args]
        environ = {**os.environ, "SUPERCHECK_URL": self.url, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        session = subprocess.Popen(command, cwd=root, env=environ, text=True, **streams)
        self.sessions.append(session)
        return session

    def run(self, root: Path, *args: str) -> tuple[int, str]:
        """A session to its end: exit code and output."""
        session = self.start(root, *args)
        output, _ = session.communicate(timeout=GUARD_S)
        return session.returncode, output

    def found(self, root: Path, *args: str) -> dict[str, Any]:
        """What the tests of a project have recorded as properties, each a JSON text."""
        junit = self.directory / f"{root.name}.xml"
        code, output = self.run(root, f"--junitxml={junit}", *args)
        assert code == 0, output + self.log.read_text()
        rows = ET.parse(junit).iter("property")
        return {row.get("name", ""): json.loads(row.get("value", "")) for row in rows}


@contextmanager
def place(name: str) -> Iterator[Place]:
    """A pool whose worker has an isolation, or what cannot be tried here is told."""
    isolation, _, whom = name.partition(", ")
    root = whom != "not root"
    directory = Path(tempfile.mkdtemp(prefix="scw", dir="/tmp"))
    directory.chmod(0o755)
    home = directory / "valkey"
    home.mkdir(0o700)
    server = start_valkey(server_program(), home / "s")
    cache = directory / "cache"
    (cache / "worker").mkdir(parents=True)
    (cache / "worker" / "secret").write_text(SECRET)
    data = directory / "data"
    (data / "store").mkdir(parents=True)
    (data / "history").write_text(SECRET)
    for private in (cache, data):
        private.chmod(0o700)
    with redis.Redis(unix_socket_path=str(home / "s")) as client:
        client.config_set("requirepass", SECRET)
    if not root:
        for path in (home, home / "s", *cache.rglob("*"), cache, *data.rglob("*"), data):
            os.chown(path, SOMEBODY, SOMEBODY)
    log = directory / "worker.log"
    url = f"unix://:{SECRET}@{home}/s"
    environ = os.environ | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "SUPERCHECK_CACHE": str(cache),
        "SUPERCHECK_DATA": str(data),
        "SUPERCHECK_STORE": str(data / "store"),
        "SUPERCHECK_S3_ENDPOINT": f"http://{SECRET}",
    }
    if not root:
        environ |= {"HOME": str(directory / "nobody"), "TMPDIR": "/tmp"}
    command = [sys.executable, "-m", "pytest_supercheck.cli", "worker", "--url", url, "-c", "2", "--isolate", isolation]
    with log.open("w") as out, (data / "history").open() as inherited:
        process = subprocess.Popen(
            [*entered(not root), *command],
            env=environ,
            stdout=out,
            stderr=out,
            text=True,
            pass_fds=[inherited.fileno()],
            preexec_fn=have_a_key,  # noqa: PLW1509 - this process has no threads
        )
    made = Place(name, directory, process, log, url)
    try:
        wait_for(lambda: "at a time on" in log.read_text() or process.poll() is not None, "the worker serves")
        if process.poll() is not None:
            cannot_be_tried(name, log.read_text())
        yield made
    finally:
        for started in made.sessions:
            if started.poll() is None:
                started.kill()
            started.wait()
            if started.stdout:
                started.stdout.close()
        process.send_signal(signal.SIGTERM)
        process.wait(GUARD_S)
        stop_valkey(server)
        shutil.rmtree(directory)


def have_a_key() -> None:
    """A session keyring, with a secret in it, as whoever starts a worker may have one."""
    libc = ctypes.CDLL(None)
    keyctl, add_key = KEYCTL
    if keyctl:
        libc.syscall(keyctl, 1, None)
        libc.syscall(add_key, b"user", b"walls", SECRET.encode(), len(SECRET), -3)


def cannot_be_tried(name: str, why: str) -> None:
    """Say so, where everybody sees it."""
    text = f"isolation {name!r} CANNOT BE TRIED on this machine: {why.strip()}"
    if REQUIRED:
        pytest.fail(text)
    pytest.skip(text)


def entered(somebody: bool) -> list[str]:
    """
    A command prefix: see this Python and package though they are in a closed directory, such as root's home.

    In a file system space of its own something open is put in the closed directory's place, with what is needed of it.
    """
    if os.geteuid() != 0:
        return []
    base = Path(os.path.realpath(sys.executable)).parent.parent
    needed = {base, Path(sys.prefix), Path(pytest_supercheck.__file__).parent.parent}
    closed: dict[Path, list[Path]] = {}
    for path in needed:
        if bars := [above for above in reversed(path.parents) if not above.stat().st_mode & 0o001]:
            closed.setdefault(bars[0], []).append(path)
    steps = ["set -e", "mount --make-rprivate /"]
    for number, (shut, paths) in enumerate(closed.items()):
        aside = f"/mnt/supercheck-walls-{number}"
        steps += [f"mkdir -p {aside}", f"mount --rbind {shlex.quote(str(shut))} {aside}"]
        steps.append(f"mount -t tmpfs -o mode=755 none {shlex.quote(str(shut))}")
        for path in paths:
            inner = shlex.quote(str(path))
            steps += [f"mkdir -p {inner}", f"mount --rbind {aside}/{shlex.quote(str(path.relative_to(shut)))} {inner}"]
        steps.append(f"umount -l {aside}")
    be = f"setpriv --reuid={SOMEBODY} --regid={SOMEBODY} --clear-groups --inh-caps=-all" if somebody else ""
    steps.append(f'exec {be} "$@"')
    return ["unshare", "--mount", "sh", "-c", "\n".join(steps), "sh"]


def service(place: Place) -> Sequence[int]:
    """The worker and what of its children is the service's: they run no tests."""
    import psutil

    worker = psutil.Process(place.worker.pid)
    family = [worker, *worker.children(recursive=True)]
    return [one.pid for one in family if "pytest_supercheck.cli" in one.cmdline()]
