"""
The environment in which a shipped run's tests run: the worker's own, one that `uv` makes of the project's own files, or
what a plugin makes.

Worker side.  What a project depends on is built once on a host and shared; each run gets a small virtual environment of
its own, with the project installed as in development from the run's own tree, so that what tests start sees the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from packaging.version import InvalidVersion, Version

from pytest_supercheck import fingerprint
from pytest_supercheck.assembly import Assembly, read_facts
from pytest_supercheck.build_cache import BuildCache, Held, remove
from pytest_supercheck.errors import Fatal, Infrastructure
from pytest_supercheck.extensions import first
from pytest_supercheck.fetched import note_use, tidy, tidy_apart
from pytest_supercheck.hookspecs import hookimpl
from pytest_supercheck.installation import install_projects
from pytest_supercheck.resolution import Resolution, allows, look, wanted_python
from pytest_supercheck.run_venv import Python, make_venv
from pytest_supercheck.uv_program import Job, Tell, Uv, says_no_room
from pytest_supercheck.wish import EnvironmentWish

if TYPE_CHECKING:
    from pytest_supercheck.isolation import Confine

#: Environments that are kept on a host, and projects built for them, which are small.
KEPT: Final = 20
KEPT_PROJECTS: Final = 200

#: Projects whose own caches are kept, where each has its own.
KEPT_APART: Final = 50

#: The least versions with which those work.
LEAST_PYTHON: Final = (3, 10)
LEAST_PYTEST: Final = "8.0.2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What a run's test processes are started with."""

    #: The interpreter.
    interpreter: Path
    #: Its directory of programs, first in PATH; None for the worker's own environment.
    programs: Path | None
    #: Equal keys mean equal dependencies.
    key: str
    #: What it has: as `fingerprint.take` tells.
    fingerprint: dict[str, Any]
    #: Directories outside of the run's own that its processes read: nothing else needs to be seen by them.
    reads: tuple[Path, ...]
    #: What is shared with other runs.
    held: tuple[Held, ...] = ()

    def compare(self, session: Mapping[str, Any], wish: EnvironmentWish, *, strict: bool) -> str:
        """
        What differs between the session's environment and this one, in a line that the session shows; else nothing.

        Args:
            session: The session's fingerprint.
            wish: What it asked for: its project's own version does not count.
            strict: Whether nothing may differ.

        Raises:
            Fatal: Something differs that may not; with that line.
        """
        line = fingerprint.differences(session, self.fingerprint, wish.project)
        if line and strict:
            raise Fatal(f"the environment differs from the session's, which --supercheck-strict-env forbids: {line}")
        return line and f"the environment differs from this one: {line}"

    def close(self) -> None:
        """Let go of what is shared, once, when no process of the run uses it; so does the end of this process."""
        _close(self.held)


class _Gone(Exception):
    """Nobody has used it for so long that it was removed."""


def _rest() -> None:
    """Nothing has to be done meanwhile."""


@contextlib.contextmanager
def _for_others() -> Iterator[None]:
    """Let others read what is made, whatever the worker was started with: tests are somebody else."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


def _close(held: Iterable[Held]) -> None:
    for one in held:
        one.close()


class Environments:
    """
    The environments of a host.

    Args:
        cache: The worker's directory for what it keeps; shared by all of its processes.
        worker: The worker's environment variables: indexes, proxies, PATH.
        project: Whose environments they are.
        pulse: Called about twice a second while something is awaited; what it raises ends that and is passed on.
        confine: Shuts builds in, which are the code of projects. Then each project has caches of its own, which no
            other one's builds write into; None where projects trust each other, and share.
        kept: How many are kept, from 1.
    """

    def __init__(
        self,
        cache: Path,
        worker: Mapping[str, str],
        *,
        project: str = "",
        pulse: Callable[[], None] = _rest,
        confine: Confine | None = None,
        kept: int = KEPT,
    ) -> None:
        self._cache = cache
        self._worker = worker
        self._pulse = pulse
        self._confine = confine
        self._project = project
        self._kept = kept
        self._apart = BuildCache(cache / "apart", kept=KEPT_APART, pulse=pulse)
        self._runners = BuildCache(cache / "runners", kept=KEPT, pulse=pulse)

    def prepare(self, tree: Path, rootdir: Path, venv: Path, wish: EnvironmentWish, tell: Tell) -> Environment:
        """
        Have a run's environment ready, built if need be.

        Args:
            tree: The run's own copy of what was shipped. Gets what builds write beside the sources.
            rootdir: The session's root directory in it.
            venv: Where the run's virtual environment is to be, or is already: a path that is this run's alone.
            wish: What the session wants.
            tell: Gets what is done, and the log of what is built, line by line.

        Returns:
            The environment, held until `Environment.close`.

        Raises:
            Fatal: There cannot be one; the message says why, and ends with the end of the log.
            BadPlugin: It is not one of ours, and a plugin cannot be loaded.
            Infrastructure: This worker has no room for it.
        """
        try:
            with _for_others() if self._confine else contextlib.nullcontext():
                found: Environment | None = first(
                    "supercheck_build_environment",
                    self,
                    wish=wish,
                    tree=tree,
                    rootdir=rootdir,
                    venv=venv,
                    cache=self._cache,
                    confine=self._confine,
                    pulse=self._pulse,
                    tell=tell,
                )
        except OSError as exc:  # also of several files at once, which has no number
            if not says_no_room(str(exc)):
                raise
            raise Infrastructure(f"There is no room for the environment on the worker's disk ({self._cache}).") from exc
        if found is None:
            raise Fatal(f"this worker has nothing that makes environments of the kind {wish.kind!r}")
        return found

    @hookimpl
    def supercheck_build_environment(
        self, wish: EnvironmentWish, tree: Path, rootdir: Path, venv: Path, tell: Tell
    ) -> Environment | None:
        """Our own: the worker's, or uv's."""
        if wish.kind == "inherit":
            return _inherited()
        return self._built_by_uv(tree, rootdir, venv, wish, tell) if wish.kind == "uv" else None

    def _built_by_uv(self, tree: Path, rootdir: Path, venv: Path, wish: EnvironmentWish, tell: Tell) -> Environment:
        tree = tree.resolve()
        resolution = look(tree, rootdir, wish)

        def waits() -> None:
            tell("waiting for the environment, which another execution builds", False)

        with contextlib.ExitStack() as undo:
            apart = self._hold_apart()
            undo.callback(_close, apart)
            own = apart[0].path if apart else self._cache
            uv = Uv(self._cache, own, self._worker, self._pulse, self._confine)
            tidy(uv, tell)
            if apart:
                tidy_apart(self._apart, self._cache)
            python = self._python(uv, wanted_python(tree, resolution.directory, resolution.project, wish), tell)
            assembly = Assembly(uv, tree, resolution, python, wish, tell)
            built = self._cached(own, "environments", self._kept).obtain(assembly.key, assembly.environment, waits)
            undo.callback(built.close)
            names, found = read_facts(built.path, tree)
            _check(found, resolution)
            runner = self._runners.obtain(assembly.runner_key, assembly.runner, waits)
            undo.callback(runner.close)
            if not venv.exists():
                projects = self._cached(own, "projects", KEPT_PROJECTS)
                self._make_venv(venv, assembly, built.path, runner.path, names, projects)
            undo.pop_all()
        return Environment(
            interpreter=venv / "bin" / "python",
            programs=venv / "bin",
            key=built.path.name,
            fingerprint=found,
            reads=(built.path, runner.path, python.path.parent.parent),
            held=(built, runner, *apart),
        )

    def hold(self, paths: Iterable[Path]) -> tuple[Held, ...] | None:
        """
        Hold what an environment consists of that has been prepared for the same run, without looking at its tree.

        Args:
            paths: Of the environment's `held`.

        Returns:
            None where a part of it is not there any more.
        """

        def is_gone(_place: Path, _lock: int) -> None:
            raise _Gone

        with contextlib.ExitStack() as undo, contextlib.suppress(_Gone):
            held = []
            for path in paths:
                one = BuildCache(path.parent, kept=KEPT_PROJECTS, pulse=self._pulse).obtain(path.name, is_gone, _rest)
                undo.callback(one.close)
                held.append(one)
            undo.pop_all()
            return tuple(held)
        return None

    def _cached(self, own: Path, name: str, kept: int) -> BuildCache:
        return BuildCache(own / name, kept=kept, pulse=self._pulse)

    def _hold_apart(self) -> tuple[Held, ...]:
        """The project's own directory of caches, where it must have one."""
        if self._confine is None:
            return ()
        # Sandboxes show a project its own; nobody else gets there, such as tests with a user alone.
        (self._cache / "apart").mkdir(mode=0o700, parents=True, exist_ok=True)
        key = hashlib.sha256(self._project.encode("utf-8", "surrogatepass")).hexdigest()
        return (self._apart.obtain(key, lambda _place, _lock: None, _rest),)

    def _make_venv(
        self, venv: Path, assembly: Assembly, built: Path, runner: Path, projects: list[str], installed: BuildCache
    ) -> None:
        """A run's own environment, made aside."""
        aside = venv.with_name(f"{venv.name}-{uuid.uuid4().hex[:12]}")
        try:
            make_venv(aside, assembly.python, built, [runner])
            if projects:
                project = installed.obtain(assembly.project_key(projects), assembly.projects(projects), _rest)
                try:
                    install_projects(project.path, assembly.tree, aside)
                finally:
                    project.close()
            with contextlib.suppress(OSError):  # another execution of the run was faster
                aside.rename(venv)
        finally:
            remove(aside)

    def _python(self, uv: Uv, wanted: str, tell: Tell) -> Python:
        """
        The interpreter for a request: this worker's own if it fits, else one that uv finds or fetches.

        Raises:
            Fatal: There is none, or it is too old for test processes.
        """
        own = Python(path=_own_python(), version=platform.python_version())
        python = own if _fits(wanted, own.version) else _found(uv, wanted)
        if python is None:
            tell(f"this worker has no Python {wanted}; uv looks for one to fetch", False)
            try:
                # Without a cache: builds write there, and what comes of this is everybody's.
                job = Job(place=uv.pythons, tell=tell)
                uv.run(["python", "install", wanted], Path("/"), job, {"UV_NO_CACHE": "1"})
            except Fatal as exc:
                raise Fatal(f"Python {wanted} is not on this worker, and cannot be fetched: {exc}") from exc
            python = _found(uv, wanted)
        if python is None:
            raise Fatal(f"Python {wanted} is not on this worker, and uv does not find what it has fetched")
        if Version(python.version).release[:2] < LEAST_PYTHON:
            least = ".".join(map(str, LEAST_PYTHON))
            raise Fatal(f"the project asks for Python {python.version}, and test processes need {least} or newer")
        note_use(python.path, uv.pythons)
        return python


def _inherited() -> Environment:
    return Environment(
        interpreter=Path(sys.executable),
        programs=None,
        key="inherit",
        fingerprint=fingerprint.take(),
        reads=tuple(dict.fromkeys(Path(prefix) for prefix in (sys.prefix, sys.base_prefix))),
    )


def _check(found: Mapping[str, Any], resolution: Resolution) -> None:
    """
    See that test processes can run in an environment.

    Raises:
        Fatal: They cannot.
    """
    version = found["distributions"].get("pytest")
    if version is None:
        raise Fatal(
            f"the environment made from {resolution.title} has no pytest: put it among the dependencies there, or in "
            "an extra or group named dev, test or tests, or name others in supercheck_env_extras, supercheck_env_groups"
        )
    with contextlib.suppress(InvalidVersion):
        if Version(version) < Version(LEAST_PYTEST):
            raise Fatal(f"the environment has pytest {version}, and pytest-supercheck needs {LEAST_PYTEST} or newer")


def _own_python() -> Path:
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def _fits(wanted: str, version: str) -> bool:
    """Whether CPython of that version is what was asked for."""
    if sys.implementation.name != "cpython":
        return False
    if match := re.fullmatch(r"(?:cpython[@-]?|python)?(\d+(?:\.\d+)*)", wanted):
        return f"{version}.".startswith(f"{match[1]}.")
    return not wanted or (wanted[0] in "<>=!~" and allows(wanted, version))


def _found(uv: Uv, wanted: str) -> Python | None:
    """What uv finds on this machine."""
    words = ("--system", "--no-project", "--no-python-downloads", wanted)
    path, version = uv.find_python(*words), uv.find_python(*words, "--show-version")
    match = re.search(r"\d+(\.\d+)+", version)
    return Python(path=Path(path).resolve(), version=match[0]) if path and match else None
