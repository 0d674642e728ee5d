"""
A run's own directory on a host: its tree, its environment, its home; for runs whose project is not on this machine.

Beside the supervisor, before the first test process.  Executions of one run on one host share it: the first one makes
it ready, the others wait and find it.  Knows where things are on both sides, and nothing of pytest.

    DIRECTORY/RUN/tree        what was shipped, at the root that it had
    DIRECTORY/RUN/venv        the environment, where it is not the worker's own
    DIRECTORY/RUN/home, tmp   for test processes
    DIRECTORY/RUN/ready.json  what the first execution has found, for all later ones; not for tests
    DIRECTORY/RUN.lock        who makes it ready
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_supercheck import variables
from pytest_supercheck.build_cache import Held
from pytest_supercheck.discard import link_to, lock_of
from pytest_supercheck.environment import Environments
from pytest_supercheck.errors import Fatal, Infrastructure
from pytest_supercheck.operators import StoreSettings
from pytest_supercheck.sources import SourceCache
from pytest_supercheck.stores import open_store
from pytest_supercheck.wish import EnvironmentWish

if TYPE_CHECKING:
    from pytest_supercheck.isolation import Confine

#: What is written last.
READY: Final = "ready.json"

#: Seconds between two looks whether another execution has made it ready.
WAIT_S: Final = 0.1

#: Bytes of runs' sources that are kept.
SOURCES_BYTES: Final = 10_000_000_000

#: Says a line to whoever follows the run; whether only those want to know it who ask for details.
Tell = Callable[[str, bool], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A workspace in which test processes can be started."""

    #: The run's spec, with this host's paths in place of the session's.
    spec: dict[str, Any]
    #: Puts the session's paths in place of this host's, in a line of JSON.
    home: Callable[[bytes], bytes]
    #: What is shared with other runs; close it when no process of the run is left.
    held: tuple[Held, ...]


class Workspaces:
    """
    The workspaces of a host.

    Args:
        directory: Where they are; each goes when its run has no more test processes here.
        cache: Where what runs share is kept.
        links: A directory with a short name, for links to directories of temporary files.
        store: Where sources come from.
        confine: How builds of environments are shut in, which run the code of projects; None where that is trusted.
    """

    def __init__(
        self, directory: Path, cache: Path, links: Path, store: StoreSettings, confine: Confine | None = None
    ) -> None:
        self._directory = directory
        self._links = links
        self._cache = cache
        self._store = store
        self._confine = confine

    def prepare(self, run: str, project: str, spec: dict[str, Any], tell: Tell, pulse: Callable[[], None]) -> Ready:
        """
        Make a run's workspace ready, or find it so.

        Args:
            spec: The run's, with ``source``: ``bundle`` and ``root``, and ``env``.
            tell: Gets what the user is to know.
            pulse: Called now and then; what it raises ends the work.

        Raises:
            SupercheckError: It cannot be made ready; of those, `Fatal` and `SourceTrouble` on no worker.
        """
        if not self._store.url:
            raise Fatal("this worker has no store, from which the project's files come: set SUPERCHECK_STORE")
        place = self._directory / run
        with _locked(place, pulse):
            place.mkdir(mode=0o700, exist_ok=True)
            environments = Environments(self._cache, os.environ, project=project, pulse=pulse, confine=self._confine)
            try:
                told = json.loads((place / READY).read_bytes())
            except FileNotFoundError:
                here, held = self._make(place, project, spec, environments, tell, pulse)
                _write(place / READY, {"spec": here, "held": [str(one.path) for one in held]})
            else:  # by now tests may have put anything into the tree, and nobody looks at it again
                here, paths = told["spec"], [Path(path) for path in told["held"]]
                found = environments.hold(paths)
                if found is None:  # between two executions others have needed the room
                    found = self._hold_again(place, project, spec, environments, tell, pulse, paths)
                held = found
        return Ready(spec=here, home=_home(spec, place / "tree", place / "tmp"), held=held)

    def _make(
        self,
        place: Path,
        project: str,
        spec: dict[str, Any],
        environments: Environments,
        tell: Tell,
        pulse: Callable[[], None],
    ) -> tuple[dict[str, Any], tuple[Held, ...]]:
        """A workspace's contents, of which some are there: the spec for test processes, and what is held for them."""
        tree, wish = place / "tree", EnvironmentWish.decode(spec["env"])
        if not tree.exists():
            self._materialise(project, spec, tree, pulse)
        pulse()
        environment = environments.prepare(tree, _rootdir(spec, tree), place / "venv", wish, tell)
        session, strict = spec.get("fingerprint"), bool(spec.get("strict_env"))
        if session and (line := environment.compare(session, wish, strict=strict)):
            tell(line, False)
        surroundings = variables.of_tests(place, environment.programs, spec.get("environ", {}), os.environ)
        surroundings["TMPDIR"] = str(_linked(place / "tmp", link_to(place, self._links)))
        here = _relocated(spec, tree) | {
            "workspace": str(place),
            "interpreter": str(environment.interpreter),
            "environment": surroundings,
            "readable": [str(path) for path in environment.reads],
            "basetemp": str(place / "tmp"),
        }
        return here, environment.held

    def _hold_again(
        self,
        place: Path,
        project: str,
        spec: dict[str, Any],
        environments: Environments,
        tell: Tell,
        pulse: Callable[[], None],
        paths: list[Path],
    ) -> tuple[Held, ...]:
        """
        Have built what a workspace's environment consists of, where it was, from the sources as they were shipped.

        Raises:
            Infrastructure: It is not the same that is built now.
        """
        with tempfile.TemporaryDirectory(dir=place, prefix="again-") as aside:
            tree, wish = Path(aside, "tree"), EnvironmentWish.decode(spec["env"])
            self._materialise(project, spec, tree, pulse)
            environment = environments.prepare(tree, _rootdir(spec, tree), place / "venv", wish, tell)
        if [held.path for held in environment.held] != paths:
            environment.close()
            raise Infrastructure("the run's environment on the worker was removed, and another one is built now")
        return environment.held

    def _materialise(self, project: str, spec: dict[str, Any], tree: Path, pulse: Callable[[], None]) -> None:
        store = open_store(self._store.url or "", endpoint=self._store.s3_endpoint)
        sources = SourceCache(self._cache / "sources", SOURCES_BYTES, pulse=pulse)
        sources.materialise(store, project, spec["source"]["bundle"], tree)


def _rootdir(spec: dict[str, Any], tree: Path) -> Path:
    return Path(_moved(spec["rootdir"], spec["source"]["root"], tree))


def _write(file: Path, told: object) -> None:
    """Write a file for nobody else that appears whole; it holds the run's variables."""
    beside = file.with_suffix(".new")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as out:
        json.dump(told, out)
    beside.replace(file)


def _linked(directory: Path, link: Path) -> Path:
    """A link to a directory: a browser has sockets among its temporary files, whose whole names may have 107 bytes."""
    with contextlib.suppress(FileExistsError):
        link.symlink_to(directory)
    return link


def _relocated(spec: dict[str, Any], tree: Path) -> dict[str, Any]:
    """The spec with this host's paths; what was outside of the tree is its root here."""
    root = spec["source"]["root"]
    inside = re.compile(rf"(?<![^=:,]){re.escape(root)}(?=/|$)")

    def word(text: str) -> str:
        return inside.sub(lambda _: str(tree), text)

    cwd = _moved(spec["cwd"], root, tree)
    paths = [_moved(path, root, tree) for path in spec["path"] if _is_inside(os.path.normpath(path), root)]
    return {
        **spec,
        "cwd": cwd if os.path.isdir(cwd) else str(tree),
        "rootdir": _moved(spec["rootdir"], root, tree),
        "path": [],
        "before": [path for path in paths if os.path.exists(path)],
        "argv": [word(text) for text in spec["argv"]],
        "args": [word(text) for text in spec["args"]],
    }


def _is_inside(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root.rstrip('/')}/")


def _moved(path: str, root: str, tree: Path) -> str:
    path = os.path.normpath(path)  # nothing leads out of the tree by its name
    return f"{tree}{path[len(root.rstrip('/')) :]}" if _is_inside(path, root) else str(tree)


def _home(spec: dict[str, Any], tree: Path, temporary: Path) -> Callable[[bytes], bytes]:
    there = {str(tree): spec["source"]["root"], str(temporary): spec.get("basetemp", "")}
    pairs = [(_in_json(here), _in_json(path)) for here, path in there.items() if path]

    def home(line: bytes) -> bytes:
        for here, path in pairs:
            if here in line:
                line = line.replace(here, path)
        return line

    return home


def _in_json(path: str) -> bytes:
    return json.dumps(path)[1:-1].encode("ascii")


def _try_lock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _locked(workspace: Path, pulse: Callable[[], None]) -> Iterator[None]:
    """
    Have a workspace alone while it is not ready, and share it until this process ends, so that nobody removes it.

    Raises:
        Infrastructure: Somebody has removed it in between.
    """
    fd = os.open(lock_of(workspace), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    while True:
        if _try_lock(fd, fcntl.LOCK_EX) or (_try_lock(fd, fcntl.LOCK_SH) and (workspace / READY).exists()):
            if os.fstat(fd).st_nlink:
                break
            os.close(fd)  # it was removed with another workspace of this run
            fd = os.open(lock_of(workspace), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        else:
            fcntl.flock(fd, fcntl.LOCK_UN)
            pulse()
            time.sleep(WAIT_S)
    try:
        yield
    except BaseException:
        os.close(fd)
        raise
    fcntl.flock(fd, fcntl.LOCK_SH)
    if not workspace.exists():
        raise Infrastructure("the run's directory on the worker was removed while it was made")
