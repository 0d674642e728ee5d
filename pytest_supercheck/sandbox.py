"""
The command line of bubblewrap for the processes of one run: what of the file system they see, and where.

Beneath `isolation`.  Directories come from the run's specification, which a client wrote, so that none is believed.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pytest_supercheck.errors import CannotIsolate
from pytest_supercheck.operators import IsolationSettings

#: The system, read-only; other than these nothing of the machine is there.
SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix/store")

#: Of /sys what tells of the hardware: libraries count processors and look for devices there.
HARDWARE: Final = ("/sys/block", "/sys/bus", "/sys/class", "/sys/dev", "/sys/devices", "/sys/fs/cgroup")

#: The directories of a workspace that belong to the tests; its environment, beside them, they only read.
OWN: Final = ("tree", "home", "tmp")

#: What a run has of its own, and what is the kernel's: nothing is mounted there.
_OWN: Final = ("/tmp", "/var/tmp", "/run", "/proc", "/sys", "/dev")

#: Of those what nothing below is shown of: the kernel's, and sockets of whoever runs here.
_CLOSED: Final = ("/run", "/proc", "/sys", "/dev")

#: Links that are followed from a program to where it is installed, at most.
_LINKS: Final = 20


@dataclass(frozen=True)
class Places:
    """The directories of a run on this host."""

    #: The one that was made for it; empty for a run in place.
    workspace: str
    #: What in it belongs to the tests.
    own: tuple[str, ...]
    #: Those of a run in place, which belong to a project: its root directory, and where pytest was started.
    project: tuple[str, ...]
    #: Where Python and its environment are.
    installed: tuple[str, ...]
    #: What it reads besides, and those.
    readable: tuple[str, ...]

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Places:
        """
        Those that a run's specification names.

        Args:
            spec: With ``interpreter`` and ``path``; a run in place with ``rootdir`` and ``cwd``; any other with
                ``workspace``, and perhaps ``readable``, a list, both from whoever made them.
        """
        workspace = str(spec.get("workspace") or "")
        project = () if workspace else tuple(dict.fromkeys(str(spec[key]) for key in ("rootdir", "cwd") if spec[key]))
        installed = tuple(installations(str(spec["interpreter"])))
        named = spec.get("readable") if workspace else spec["path"]
        readable = (os.path.dirname(os.path.abspath(__file__)), *map(str, named or ()))
        own = tuple(path for name in OWN if workspace and os.path.isdir(path := f"{workspace}/{name}"))
        return cls(workspace, own, project, installed, (*installed, *readable))


class Sandbox:
    """
    What all runs on this host have in common.

    Args:
        program: Path of bwrap.
        hidden: Directories of the service.
        settings: The operator's.
    """

    #: Where a run has its home and its temporary files.
    home = "/tmp/home"
    temporary = "/tmp"

    def __init__(self, program: str, hidden: Sequence[str], settings: IsolationSettings) -> None:
        self._program = program
        self._hidden = tuple(os.path.realpath(path) for path in hidden)
        self._network = settings.network
        self._readable = settings.readable
        self._size = str(settings.tmp_mb << 20)
        self._home = os.path.realpath(os.path.expanduser("~"))
        self._packages = os.path.realpath(sys.prefix)

    def prefix(self, places: Places, *, privileged: bool) -> list[str]:
        """
        The words in front of a command.

        Args:
            places: Of the run.
            privileged: Whether root starts it, and the command becomes another user by itself.

        Raises:
            CannotIsolate: The run's own directories are not for tests to see.
        """
        spaces = self._spaces(privileged=privileged, network=self._network, root=privileged)
        return [self._program, *spaces, *self._system(network=self._network), *self._mounts(places),
                *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/", "--")]  # fmt: skip

    def confine(self, program: str, writes: Sequence[Path], reads: Sequence[Path], *, privileged: bool) -> list[str]:
        """
        The words in front of a build: it has the network, the system, and of the machine what it reads and writes.

        Its first process is the first of its space: when that has ended, none is left.

        Args:
            program: What is run; it is shown.
            writes: Directories.
            reads: Directories.
            privileged: Whether root starts it, and the command becomes another user by itself.
        """
        ours = [*installations(sys.executable), os.path.dirname(os.path.abspath(__file__))]
        shown = [*ours, *map(str, reads)]
        shown += [] if any(is_below(program, path) for path in shown) else [program]
        mounts = {path: "--ro-bind" for path in shown if not any(is_below(path, above) for above in SYSTEM)}
        mounts |= dict.fromkeys(self._readable, "--ro-bind-try") | {str(path): "--bind" for path in writes}
        words, made = [], {"/", "/tmp"}
        for path in sorted(mounts, key=lambda path: path.count("/")):
            words += [*_parents(path, made), mounts[path], path, path]
            made.add(path)
        own = ("--setenv", "HOME", self.home, "--setenv", "TMPDIR", self.temporary)
        spaces = self._spaces(privileged=privileged, network=True, root=privileged)
        return [self._program, *spaces, "--as-pid-1", *self._system(network=True), *words,
                *("--remount-ro", "/dev", "--remount-ro", "/", *own, "--")]  # fmt: skip

    def _spaces(self, *, privileged: bool, network: bool, root: bool) -> Iterator[str]:
        yield from ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
        if not network:
            yield "--unshare-net"
        if not root:
            yield "--unshare-user"
        yield from ("--die-with-parent", "--new-session", "--cap-drop", "ALL")
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP") if privileged else ():
            yield from ("--cap-add", capability)

    def _system(self, *, network: bool) -> Iterator[str]:
        for path in SYSTEM:
            if os.path.islink(path):
                yield from ("--symlink", os.readlink(path), path)
            elif os.path.isdir(path):
                yield from ("--ro-bind", path, path)
        for path in HARDWARE:
            yield from ("--ro-bind-try", path, path)
        yield from ("--proc", "/proc", "--dev", "/dev")
        for path in ("/dev/shm", "/tmp"):
            yield from ("--perms", "1777", "--size", self._size, "--tmpfs", path)
        yield from ("--perms", "0755", "--dir", "/var", "--symlink", "../tmp", "/var/tmp")  # caches are below /var, too
        yield from ("--dir", "/run", "--perms", "0777", "--dir", self.home)
        names = os.path.realpath("/etc/resolv.conf")
        if network and os.path.exists(names):
            yield from ("--ro-bind-try", names, names)

    def _mounts(self, places: Places) -> Iterator[str]:
        """From the outside in: what is mounted later covers what was there."""
        shown = dict.fromkeys(SYSTEM, "--ro-bind")
        for path in map(os.path.normpath, places.readable):
            if os.path.exists(path) and self._may_be_read(path, places):
                shown.setdefault(path, "--ro-bind")
        for path in self._readable:
            shown[path] = "--ro-bind-try"
        for path in map(os.path.normpath, places.project):
            if not self._may_be_shown(path) or self._is_personal(path) or self._is_of_our_packages(path):
                raise CannotIsolate(f"tests must not see {path}, which is the run's root directory or where it began")
            shown[path] = "--bind"
        if places.workspace:
            shown |= {places.workspace: "--ro-bind"} | dict.fromkeys(places.own, "--bind")
        mounts: dict[str, tuple[str, ...]] = {}
        for path in shown:
            real = os.path.realpath(path)
            if path not in SYSTEM:
                mounts[path] = (shown[path], real, path)
            for hidden in _below(real, self._hidden):
                cover = os.path.join(path, hidden)
                mounts.setdefault(cover, _cover(cover))
            for ours in _below(real, [self._packages]) if shown[path] == "--bind" else ():
                mounts[os.path.join(path, ours)] = ("--ro-bind", self._packages, os.path.join(path, ours))
        made = {"/", "/tmp"}
        for path in sorted(mounts, key=lambda path: path.count("/")):
            yield from _parents(path, made)
            yield from mounts[path]
            made.add(path)

    def _may_be_read(self, path: str, places: Places) -> bool:
        """Whether a directory, or an archive of modules, is one to show; what the service has made always is."""
        if any(is_below(path, above) for above in SYSTEM):
            return False  # it is there
        if places.workspace:
            return True
        return self._may_be_shown(path) and (not self._is_personal(path) or path in places.installed)

    def _is_personal(self, path: str) -> bool:
        """Whether a path is in a directory of the worker's home that is not for others: keys and settings are there."""
        real = os.path.realpath(path)
        return any(is_below(one, self._home) and os.path.relpath(one, self._home)[0] == "." for one in (path, real))

    def _may_be_shown(self, path: str) -> bool:
        """Whether a path that a client has named is neither the machine's, nor the service's, nor the worker's home."""
        real = os.path.realpath(path)
        if not os.path.isabs(path) or any(is_below(own, real) for own in (*SYSTEM, *_OWN, self._home)):
            return False
        return not any(is_below(real, above) for above in (*_CLOSED, *self._hidden))

    def _is_of_our_packages(self, path: str) -> bool:
        """Whether a path is in the worker's own environment, where nobody else writes; not where it is the system's."""
        return self._packages not in SYSTEM and is_below(os.path.realpath(path), self._packages)


def _below(above: str, paths: Iterable[str]) -> list[str]:
    """Those of the paths that are below another one, from there."""
    return [os.path.relpath(path, above) for path in paths if path != above and is_below(path, above)]


def _parents(path: str, made: set[str]) -> Iterator[str]:
    """Make the directories above a path that are not there by a mount: bubblewrap would make them for its user only."""
    above = os.path.dirname(path)
    if not any(is_below(above, other) for other in made - {"/", "/tmp"} | set(SYSTEM)) and above not in made:
        yield from _parents(above, made)
        yield from ("--perms", "0755", "--dir", above)


def _cover(path: str) -> tuple[str, ...]:
    """Something empty in a path's place."""
    if os.path.isdir(path):
        return ("--perms", "0555", "--size", "4096", "--tmpfs", path)
    return ("--ro-bind", "/dev/null", path) if os.path.exists(path) else ()


def is_below(path: str, above: str) -> bool:
    """Whether a path is another one, or below it."""
    return path == above or path.startswith(above.rstrip("/") + "/")


def installations(interpreter: str) -> Iterator[str]:
    """The directories in which a Python and its environment are installed, link by link."""
    for _ in range(_LINKS if os.access(interpreter, os.X_OK) else 0):
        prefix = os.path.dirname(os.path.dirname(interpreter))
        yield prefix
        for row in _rows(f"{prefix}/pyvenv.cfg"):
            key, _, value = row.partition("=")
            if key.strip() == "home" and os.access(f"{value.strip()}/python3", os.X_OK):
                yield os.path.dirname(value.strip())
                yield os.path.dirname(os.path.realpath(value.strip()))
        if not os.path.islink(interpreter):
            return
        interpreter = os.path.normpath(os.path.join(os.path.dirname(interpreter), os.readlink(interpreter)))


def _rows(path: str) -> list[str]:
    """Of a text file, if it is one: a client has named it, and a pipe would have us wait."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with open(fd, encoding="utf-8", errors="replace") as file:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return file.read(10_000).splitlines()
    return []
