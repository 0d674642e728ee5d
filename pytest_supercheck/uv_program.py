"""
The program `uv`: where it is, what it gets to know, and how it is run under a watchful eye.

Knows nothing of what is built with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from pytest_supercheck.errors import Fatal

if TYPE_CHECKING:
    from pytest_supercheck.isolation import Confine

#: Seconds that one call may take.
LIMIT_S: Final = 1800.0

#: Seconds between two looks at whether it is still wanted.
PULSE_S: Final = 0.5

#: Lines of a call that are told, characters of each, and lines that a failure shows, with their characters.
LINES_LIMIT: Final = 5_000
LINE_LIMIT: Final = 1_000
TAIL_LINES: Final = 40
TAIL_LIMIT: Final = 6_000

#: What uv gets of the worker's environment: where programs are, which indexes to ask, how to get there.
_KEPT: Final = frozenset(
    {
        *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "XDG_CONFIG_HOME", "NETRC"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "SSL_CLIENT_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("CC", "CXX", "CFLAGS", "LDFLAGS", "CARGO_HOME", "RUSTUP_HOME", "MACOSX_DEPLOYMENT_TARGET"),
    }
)

#: Settings of uv that would send things elsewhere or add to them; the others are the operator's to make.
_REDIRECTING: Final = frozenset(
    {
        *("UV_CACHE_DIR", "UV_PROJECT", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_WORKING_DIR"),
        *("UV_CONSTRAINT", "UV_OVERRIDE", "UV_REQUIREMENT", "UV_FROZEN", "UV_LOCKED", "UV_NO_SYNC", "UV_NO_CACHE"),
        *("UV_PYTHON_INSTALL_DIR", "UV_EXTRA", "UV_GROUP", "UV_NO_DEV", "UV_ENV_FILE", "UV_TARGET", "UV_PREFIX"),
    }
)

#: pip's settings, uv's names for the same, any of which goes first, and what stands between several values there.
_OF_PIP: Final = {
    "PIP_INDEX_URL": (("UV_DEFAULT_INDEX", "UV_INDEX_URL"), " "),
    "PIP_EXTRA_INDEX_URL": (("UV_INDEX", "UV_EXTRA_INDEX_URL"), " "),
    "PIP_FIND_LINKS": (("UV_FIND_LINKS",), ","),
    "PIP_CERT": (("SSL_CERT_FILE",), " "),
}

#: Tells whoever follows the run a line; True for one that only those want who ask for details.
Tell: TypeAlias = "Callable[[str, bool], None]"

#: What builds do to terminals.
_CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_CREDENTIALS: Final = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What uv is run for."""

    #: The directory into which it writes, beside its own.
    place: Path
    #: A descriptor that it holds, too, so that what is locked stays so until it has ended, whatever ends before; or -1.
    lock: int = -1
    #: Gets the log, line by line.
    tell: Tell


class Uv:
    """
    uv on this worker, or where that has shut a build in.

    Args:
        cache: The worker's: where Pythons are.
        own: Where it keeps what it fetches and builds: the worker's, or another that only this project uses.
        worker: The worker's environment.
        pulse: Called at least once in `PULSE_S` while something runs; what it raises ends that.
        confine: Shuts builds in, which run the code of projects; None where that is trusted, or done already.
        program: Where it is, for a build that is watched itself; looked for if empty.

    Raises:
        Fatal: There is none.
    """

    def __init__(
        self,
        cache: Path,
        own: Path,
        worker: Mapping[str, str],
        pulse: Callable[[], None],
        confine: Confine | None = None,
        *,
        program: str = "",
    ) -> None:
        self.program = os.path.realpath(program or find_uv(worker))
        self._watched = bool(program)
        #: Its cache is below, in `uv`.
        self.own = own
        self._pulse = pulse
        self._confine = confine
        self.cache = cache
        #: Where Pythons are that it has fetched. No build writes there.
        self.pythons = cache / "pythons"
        self._environ = uv_environ(worker, cache)
        self.version = self._ask([self.program, "--version"]).partition(" (")[0]

    def find_python(self, *arguments: str) -> str:
        """
        The one line that a search for a Python prints, which runs what it finds; empty when there is none.

        Raises:
            Fatal: It cannot be started.
        """
        return self._ask(self.confined([self.program, "python", "find", *arguments]))

    def confined(self, command: Sequence[str], writes: Sequence[Path] = ()) -> list[str]:
        """A command, shut in as builds are: it sees the system and Pythons, and writes into some directories."""
        for directory in (*writes, self.pythons):
            directory.mkdir(parents=True, exist_ok=True)
        return list(command) if self._confine is None else self._confine(list(command), writes, [self.pythons])

    def _ask(self, command: Sequence[str]) -> str:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={**self._environ, "UV_NO_CACHE": "1"},  # builds write there
                cwd="/",
                timeout=60,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise Fatal(f"uv cannot be used on this worker: {exc}") from exc
        return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else ""

    def run(self, words: Sequence[str], at: Path, job: Job, more: Mapping[str, str] | None = None) -> None:
        """
        Run it, shut in, and tell what it prints, line by line, without credentials.

        Args:
            words: Its command and arguments.
            at: The directory where it runs.
            job: What for.
            more: Variables besides.

        Raises:
            Fatal: It failed; with the last lines.
            OSError: The disk is full.
        """
        shown = self._log(job).shown(" ".join(["uv", *words]))
        job.tell(f"$ {shown}", True)
        status, tail = self.watch([self.program, *words, "--no-progress", "--color=never"], at, job, more)
        if status and says_no_room(tail):
            raise OSError(errno.ENOSPC, f"uv says: {tail[-1000:]}")
        if status:
            raise Fatal(f"the environment cannot be built: uv ended with {status}\n$ {shown}\n{tail}")

    def watch(
        self, command: Sequence[str], at: Path, job: Job, more: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """
        Run what builds, uv or something that runs it, as `run` does.

        Returns:
            Its exit status, and the last lines that it printed.
        """
        cache = self.own / "uv"
        command = self.confined(command, [job.place, cache])
        environ = {**self._environ, "UV_CACHE_DIR": str(cache), **(more or {})}
        log = self._log(job)
        return run_watched(command, at, environ, log, self._pulse, job.lock, apart=not self._watched), log.tail

    def _log(self, job: Job) -> _Log:
        return _Log(job.tell, {str(job.place): "ENV", str(self.own): "CACHE", str(self.pythons): "PYTHONS"})


def says_no_room(text: str) -> bool:
    """Whether it is the words of a system whose disk is full."""
    return any(os.strerror(number) in text for number in (errno.ENOSPC, errno.EDQUOT))


def run_watched(
    command: Sequence[str],
    directory: Path,
    environ: Mapping[str, str],
    log: Callable[[bytes], None],
    pulse: Callable[[], None],
    lock: int = -1,
    *,
    apart: bool = True,
) -> int:
    """
    Run a command, in a process group of its own, of which nothing is left afterwards, or in that of who watches us.

    Returns:
        Its exit status.
    """
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=apart,
        pass_fds=[lock] if lock >= 0 else [],
    )
    assert process.stdout is not None
    give_up_at = time.monotonic() + LIMIT_S
    try:
        while True:
            pulse()
            if time.monotonic() > give_up_at:
                raise Fatal(f"the environment was not built within {LIMIT_S / 60:.0f} minutes")
            if select.select([process.stdout], [], [], PULSE_S)[0]:
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                log(chunk)
                if not chunk:
                    return process.wait(10)
            elif process.poll() is not None:  # what it has left behind holds its output open
                return process.returncode
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()


class _Log:
    """Passes lines on, within bounds, and remembers the last ones."""

    def __init__(self, tell: Tell, places: Mapping[str, str]) -> None:
        self._tell = tell
        self._places = places
        self._rest = b""
        self._count = 0
        self._last: deque[str] = deque(maxlen=TAIL_LINES)

    def __call__(self, chunk: bytes) -> None:
        """Take what has come; nothing means that no more does."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if not chunk or len(self._rest) > 100 * LINE_LIMIT:
            lines, self._rest = [*lines, self._rest], b""
        for raw in lines:
            line = self.shown(raw.decode("utf-8", "replace").rstrip())
            if not line:
                continue
            self._last.append(line)
            self._count += 1
            if self._count <= LINES_LIMIT:
                self._tell(line, True)
            elif self._count == LINES_LIMIT + 1:
                self._tell("[what follows is not told]", True)

    def shown(self, line: str) -> str:
        """A line as everybody may see it: without passwords and the long names of our own directories."""
        line = _CONTROL.sub("", line)
        for place, name in self._places.items():
            line = line.replace(place, name)
        return _CREDENTIALS.sub("***@", line)[:LINE_LIMIT]

    @property
    def tail(self) -> str:
        """The last lines."""
        return "\n".join(self._last)[-TAIL_LIMIT:]


def find_uv(environ: Mapping[str, str]) -> str:
    """
    The program: on PATH, else that of the package `uv`.

    Raises:
        Fatal: There is neither.
    """
    if found := shutil.which("uv", path=environ.get("PATH")):
        return found
    with contextlib.suppress(ImportError, FileNotFoundError):
        from uv import find_uv_bin

        return str(find_uv_bin())
    raise Fatal("this worker has no uv, which makes environments: pip install 'pytest-supercheck[uv]' there")


def uv_environ(worker: Mapping[str, str], cache: Path) -> dict[str, str]:
    """
    The environment of uv, and of the builds that it starts: how to reach the indexes, and nothing of the service.

    Args:
        worker: The worker's environment.
        cache: The worker's, where uv keeps what it fetches.
    """
    environ = {
        name: value
        for name, value in worker.items()
        if name.upper() in _KEPT or (name.startswith("UV_") and not name.startswith("UV_PUBLISH_"))
    }
    for name, (names, between) in _OF_PIP.items():
        if name in worker and not environ.keys() & set(names):
            environ[names[0]] = between.join(worker[name].split())
    environ = {name: value for name, value in environ.items() if name not in _REDIRECTING}
    return {
        **environ,
        "UV_CACHE_DIR": str(cache / "uv"),
        "UV_PYTHON_INSTALL_DIR": str(cache / "pythons"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
