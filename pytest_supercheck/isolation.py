"""
What keeps the tests of one run away from the service, from other runs and from the rest of the machine.

Between a host and the runners that it starts: a runner's command is put behind another one that shuts it in.  Knows
users, directories and commands; neither pytest nor Redis.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from pytest_supercheck.boot import boot
from pytest_supercheck.errors import CannotIsolate, Fatal
from pytest_supercheck.operators import IsolationSettings
from pytest_supercheck.sandbox import Places, Sandbox
from pytest_supercheck.users import User, Users, give, is_closed_to, own

#: Names, the strongest first.
STRENGTHS: Final = ("bwrap", "user", "none")

#: Seconds that a trial may take.
TRIAL_S: Final = 30.0

#: Variables that lead to somebody's session, keys or files; beside them those that begin with XDG_.
_PERSONAL: Final = frozenset({"SSH_AUTH_SOCK", "SSH_AGENT_PID", "GPG_AGENT_INFO", "DBUS_SESSION_BUS_ADDRESS"})

#: Numbers of Linux's system call keyctl, which the C library does not have, and of its operation that we need.
_KEYCTL: Final = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "ppc64le": 271, "s390x": 280}
_JOIN_SESSION_KEYRING: Final = 1


#: Makes of a build's command, the directories that it writes into and those that it reads besides the command that is
#: run, or raises `Fatal` where that cannot be done. What it writes into becomes whose the build is.
Confine: TypeAlias = "Callable[[list[str], Sequence[Path], Sequence[Path]], list[str]]"


class Cell(Protocol):
    """Where all processes of one run on this host are."""

    #: Whether they have process ids of their own: then the runner needs a parent inside (`warden`).
    walled: bool
    #: Where test processes have their temporary directories; empty for where the run says.
    temporary: str

    def admit(self, places: Places) -> None:
        """
        A run comes in: what is its own is given to it.

        Raises:
            CannotIsolate: It cannot get at its project.
        """

    def command(
        self, argv: Sequence[str], environ: Mapping[str, str], places: Places | None
    ) -> tuple[list[str], dict[str, str]]:
        """
        What to start so that a command runs inside.

        Args:
            argv: A Python, with an absolute path, and its arguments.
            environ: Its environment; of a run that has a workspace some of it came with the run.
            places: What it needs; None while the run is not known.

        Raises:
            CannotIsolate: Not with these places.
        """

    def release(self) -> None:
        """The run has no more processes that we know of: end those that we do not know of, and leave nothing behind."""


class Isolation(Protocol):
    """A way to shut runs in."""

    #: ``none``, ``user`` or ``bwrap``.
    name: str
    #: Whether a runner can be started before its run is known.
    spare: bool

    @property
    def confine(self) -> Confine | None:
        """Shuts a build in, which is the code of a project, too; None where projects trust each other."""

    def cell(self) -> Cell:
        """
        A cell for a run.

        Raises:
            CannotIsolate: There is none at the moment.
        """

    def tidy(self) -> None:
        """Look after cells that have been released."""

    def close(self) -> None:
        """Wait until nothing of them is left."""


class Open:
    """No isolation, and the one cell that everybody shares."""

    name = "none"
    spare = True
    walled = False
    temporary = ""

    confine = None

    def cell(self) -> Cell:
        """The same for all."""
        return self

    def admit(self, places: Places) -> None:
        """Everything is everybody's."""

    def command(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        places: Places | None,  # noqa: ARG002
    ) -> tuple[list[str], dict[str, str]]:
        """As it is."""
        return list(argv), dict(environ)

    def release(self) -> None:
        """Nothing."""

    def tidy(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Walls:
    """
    Cells with walls: a user of their own, or a file system and a process space of their own, or both.

    Args:
        users: Where users come from; None to stay the one that we are.
        sandbox: What makes namespaces; None for those of the machine.
        limits: Of each process, by their names in prlimit(1).
    """

    def __init__(self, users: Users | None, sandbox: Sandbox | None, limits: Mapping[str, int]) -> None:
        self.name = "bwrap" if sandbox else "user"
        self.spare = sandbox is None
        self.users = users
        self.sandbox = sandbox
        self._setpriv = _program("setpriv", "util-linux") if users else ""
        self._limits = [_program("prlimit", "util-linux"), *(_limit(name, most) for name, most in limits.items()), "--"]

    def confine(self, command: list[str], writes: Sequence[Path], reads: Sequence[Path]) -> list[str]:
        """In a sandbox, as a user who is nobody else: caches are shared by runs, so that they are no run's user's."""
        if self.sandbox is None:
            raise Fatal(
                "building an environment runs code of the project, which this worker's isolation 'user' cannot shut in:"
                " install bubblewrap there and use 'bwrap', or use the worker's own environment"
            )
        words = self.sandbox.confine(command[0], writes, reads, privileged=self.users is not None)
        if self.users is None:
            return [*words, *self._limits, *command]
        for place in writes:
            if os.lstat(place).st_uid != self.users.builder:
                own(place, self.users.builder)
        return [*words, *_FIRST, *self._identity(self.users.builder), *self._limits, *command]

    def cell(self) -> Cell:
        """With a user whom nobody else has."""
        user = self.users.take() if self.users else None
        if self.users and user is None:
            raise CannotIsolate("all users of SUPERCHECK_ISOLATE_UIDS are taken by other runs on this host")
        try:
            return _Walled(self, user)
        except BaseException:
            if self.users and user:
                self.users.release(user)
            raise

    def bounds(self, user: User | None) -> list[str]:
        """A command prefix: be that user, never more, and within the limits, before anything of a project is there."""
        return [*(self._identity(user.uid) if user else ()), *self._limits]

    def _identity(self, uid: int) -> list[str]:
        identity = (f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
        return [self._setpriv, *identity, "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]

    def tidy(self) -> None:
        """Users are swept beside us."""
        if self.users:
            self.users.tidy()

    def close(self) -> None:
        """As above."""
        if self.users:
            self.users.close()


class _Walled:
    """A cell of `Walls`."""

    def __init__(self, walls: Walls, user: User | None) -> None:
        self._walls = walls
        self._user = user
        self.walled = walls.sandbox is not None
        self._home = walls.sandbox.home if walls.sandbox else self._make_home()
        self.temporary = walls.sandbox.temporary if walls.sandbox else f"{self._home}/tmp"

    def _make_home(self) -> str:
        assert self._user is not None
        self._user.home = home = tempfile.mkdtemp(prefix="supercheck-run-")
        os.mkdir(f"{home}/tmp", 0o700)
        for path in (f"{home}/tmp", home):
            os.chown(path, self._user.uid, self._user.uid)
        return home

    def admit(self, places: Places) -> None:
        if self._user is None:
            return
        if places.workspace:
            os.chmod(places.workspace, 0o711)
        for path in places.own:
            give(path, self._user)
        for path in places.project:
            if os.path.isdir(path) and is_closed_to(self._user, path, above=not self.walled):
                raise CannotIsolate(
                    f"{path} is closed to the user that this run's tests are here ({self._user.uid}): open it to all"
                )

    def command(
        self, argv: Sequence[str], environ: Mapping[str, str], places: Places | None
    ) -> tuple[list[str], dict[str, str]]:
        _forget_keys()
        if places is not None and places.workspace:  # it has a home there, and nothing of ours in its environment
            # What a browser has there are sockets, too, whose names are short; a workspace's is not.
            command, environ = _disguised(argv, {**environ, "TMPDIR": self.temporary})
        else:
            command, environ = list(argv), self._environ(environ)
        command = [*self._walls.bounds(self._user), *command]
        if self._walls.sandbox:
            assert places is not None
            command = [*self._walls.sandbox.prefix(places, privileged=self._user is not None), *command]
        return command, environ

    def _environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in environ.items() if name not in _PERSONAL and not name.startswith("XDG_")}
        return kept | {"HOME": self._home, "TMPDIR": self.temporary, "USER": "supercheck", "LOGNAME": "supercheck"}

    def release(self) -> None:
        if self._user and self._walls.users:
            self._walls.users.release(self._user)


def choose(settings: IsolationSettings, hidden: Sequence[str], environ: Mapping[str, str]) -> tuple[Isolation, str]:
    """
    Find an isolation that works on this host, by trying it.

    Args:
        settings: What is wanted, and its bounds.
        hidden: Directories of the service, which no run must see.
        environ: The environment of test processes.

    Returns:
        The isolation, and in words what it is and why it is no stronger one.

    Raises:
        CannotIsolate: The one that was asked for does not work here; the message says why and what to do.
    """
    why = {}
    for name in STRENGTHS if settings.wanted == "auto" else (settings.wanted,):
        try:
            found = _make(name, settings, hidden)
            _try(found, environ)
        except CannotIsolate as exc:
            if settings.wanted != "auto":
                raise
            why[name] = str(exc)
            continue
        network = ", no network" if found.name == "bwrap" and not settings.network else ""
        reasons = "; ".join(f"not {stronger}: {reason}" for stronger, reason in why.items())
        return found, f"{name}{network}" + (f" ({reasons})" if reasons else "")
    raise AssertionError("none always works")


def _make(name: str, settings: IsolationSettings, hidden: Sequence[str]) -> Isolation:
    if name == "none":
        return Open()
    if sys.platform != "linux":
        raise CannotIsolate(f"isolation {name!r} is for Linux")
    root = os.geteuid() == 0
    if name == "user" and not root:
        raise CannotIsolate("isolation 'user' needs a worker that runs as root")
    users = Users(*settings.uids) if root else None
    if name == "user":
        return Walls(users, None, settings.limits)
    return Walls(users, Sandbox(_program("bwrap", "bubblewrap"), hidden, settings), settings.limits)


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise CannotIsolate(f"{name} is not installed: apt-get install {package}, or dnf install {package}")
    return os.path.abspath(found)


def _limit(name: str, most: int) -> str:
    """A word for prlimit: no more than what this process may have, which not everybody could raise."""
    hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    return f"--{name}={most}:{most}"


#: What the names of variables begin with that came with a run, on their way.
_DISGUISE: Final = "_SUPERCHECK_"

#: Starts what follows with them, and no others; and the arguments of a Python that heeds no variable itself.
_CODE: Final = f"""
import os, sys
given = {{name[{len(_DISGUISE)}:]: value for name, value in os.environ.items() if name.startswith({_DISGUISE!r})}}
os.execve(sys.argv[1], sys.argv[1:], given)
"""
_UNVEIL: Final = ("-I", "-S", "-c", _CODE)


def _disguised(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """
    A command whose environment nobody heeds on the way to it.

    What puts up the walls is still as mighty as the worker, and its loader does what LD_PRELOAD says, or GCONV_PATH.
    """
    return [argv[0], *_UNVEIL, *argv], {f"{_DISGUISE}{name}": value for name, value in environ.items()}


#: The first process of a build's space. It stays who it is: who becomes another user does not die with its parent.
_FIRST: Final = ("/bin/sh", "-c", '"$@"; exit $?', "sh")


#: What helps where a trial fails.
_ADVICE: Final = {
    "user": (
        "The worker needs the rights to change users (CAP_SETUID, CAP_SETGID, CAP_SETPCAP), and its Python and this "
        "package have to be in directories that everybody may enter, such as /opt, not in root's home."
    ),
    "bwrap": (
        "It needs bubblewrap 0.8 or newer, and unprivileged user namespaces (see "
        "kernel.apparmor_restrict_unprivileged_userns and user.max_user_namespaces) or a worker that runs as root; in "
        "a container also CAP_SYS_ADMIN and a /proc that is not masked."
    ),
}


def _try(isolation: Isolation, environ: Mapping[str, str]) -> None:
    """Start what a runner starts with."""
    if isolation.name == "none":
        return
    cell = None
    try:
        cell = isolation.cell()
        spec = {"interpreter": sys.executable, "path": sys.path, "workspace": "", "rootdir": "", "cwd": ""}
        start = [sys.executable, *boot("pytest_supercheck.isolation")]
        command, surroundings = cell.command(start, environ, Places.of(spec))
        done = subprocess.run(
            command, env=surroundings, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRIAL_S, check=False
        )
        if done.stdout == _where().encode():
            return
        told = done.stderr.decode("utf-8", "replace").strip().splitlines()
        said = told[-1] if done.returncode and told else "it does not find this Python and its packages"
    except (OSError, subprocess.TimeoutExpired) as exc:
        said = str(exc)
    finally:
        if cell:
            cell.release()
        isolation.close()
    raise CannotIsolate(f"isolation {isolation.name!r} does not work here: {said}. {_ADVICE[isolation.name]}")


def main(_fd: int) -> int:
    """Inside of a trial: there is a directory to write to, and it is our Python, with our packages."""
    with tempfile.TemporaryFile():
        sys.stdout.write(_where())
    return 0


def _where() -> str:
    return f"{sys.prefix} {sys.base_prefix} {__file__}"


def _forget_keys() -> None:
    """
    Have a new, empty session keyring, which what is started next inherits: whoever has one may use the keys in it.

    Best effort: the service has no keys there, but who started it may.
    """
    if number := _KEYCTL.get(platform.machine()):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).syscall(number, _JOIN_SESSION_KEYRING, None)
