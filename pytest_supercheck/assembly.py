"""
How an environment is built from what a shipped tree says, where it is not there yet.

Everything happens in a directory that is nobody else's so far, with a copy of the tree, which builds may write into,
and in a process of its own, shut in with all that it starts: the worker makes the copy, and looks at what is there when
all of them have ended.  Knows uv and the layout of what is built; not where that is kept.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pytest_supercheck import __version__, fingerprint
from pytest_supercheck.boot import boot
from pytest_supercheck.build_cache import remove
from pytest_supercheck.errors import Fatal, SupercheckError
from pytest_supercheck.installation import (
    ORIGIN,
    PARTS,
    build_projects,
    copy_tree,
    read_text,
    untouched,
    version_variables,
)
from pytest_supercheck.pyproject import FILES, read_toml
from pytest_supercheck.requirements import inside, local_place
from pytest_supercheck.resolution import Resolution, look, of_build
from pytest_supercheck.run_venv import Python, site_packages
from pytest_supercheck.uv_program import Job, Tell, Uv, says_no_room
from pytest_supercheck.wish import EnvironmentWish

#: The layout of what is built; another number builds everything anew.
LAYOUT: Final = 2

#: What is not the environment's, in the directory that is built: the copy of the tree, for a while; what is asked for,
#: what is said of it in the end, and why it failed.
OURS: Final = "supercheck"
_TREE: Final = "tree"
_ASKED: Final = "asked.json"
_FACTS: Final = f"{OURS}/facts.json"
_FAILED: Final = f"{OURS}/failed.txt"

#: The exit status of a build that says so there.
_HAS_FAILED: Final = 70

#: Arguments of an interpreter that loads nothing but its own library: what is installed may be anybody's code.
_ALONE: Final = ("-I", "-S")

#: This package's modules that test processes need, which come from the worker whatever the project depends on.
RUNNER_MODULES: Final = (
    *("__init__", "plugin", "runner", "execution", "recorder", "leftovers", "keeper", "events", "xdist_fixtures"),
    *("listing", "groups", "durations", "warden"),
)


class Assembly:
    """
    How one run's environment is built.

    Args:
        uv: Does it.
        tree: The run's own tree, which is only read.
        resolution: What `resolution.look` found in it.
        python: The interpreter.
        wish: What the session wants.
        tell: Gets the log, line by line.
    """

    def __init__(
        self, uv: Uv, tree: Path, resolution: Resolution, python: Python, wish: EnvironmentWish, tell: Tell
    ) -> None:
        self._uv = uv
        self.tree = tree
        self._resolution = resolution
        self.python = python
        self._wish = wish
        self._tell = tell
        self._base = (LAYOUT, uv.version, python.version, python.path, platform.system(), platform.machine())

    # -- keys: equal ones mean equal contents

    @property
    def key(self) -> str:
        """Of what the project depends on."""
        resolution = self._resolution
        chosen = (resolution.title, resolution.extras, resolution.groups, resolution.exact)
        files = ((str(path.relative_to(self.tree)), path.read_bytes()) for path in resolution.files)
        return _digest((*self._base, *chosen), files)

    def project_key(self, names: list[str]) -> str:
        """Of the installation of some of the tree's projects."""
        contents = ((f"{name}/{what}", text) for name in names for what, text in of_build(self.tree / name))
        return _digest((*self._base, self._wish.version, *names), contents)

    @property
    def runner_key(self) -> str:
        """Of this package's own modules."""
        source = Path(__file__).parent
        contents = ((module, (source / f"{module}.py").read_bytes()) for module in RUNNER_MODULES)
        return _digest((LAYOUT, __version__, self.python.version, self.python.path), contents)

    # -- builds: each fills an empty directory, and what it starts holds its lock, too

    def environment(self, place: Path, lock: int) -> None:
        """What the project depends on, a virtual environment, with what `read_facts` reads."""
        self._tell(f"building an environment from {self._resolution.title}, Python {self.python.version}", False)
        self._build(place, lock, [])
        for path in (place / "bin", site_packages(place)):
            untouched(path, place)
        read_facts(place, self.tree)

    def projects(self, names: list[str]) -> Callable[[Path, int], None]:
        """The installation of some of the tree's projects."""

        def build(place: Path, lock: int) -> None:
            self._tell(f"installing {', '.join(names)} as in development", False)
            self._build(place, lock, names)
            for name in (*PARTS, ORIGIN):
                untouched(place / name, place)

        return build

    def _build(self, place: Path, lock: int, names: list[str]) -> None:
        """
        Let `main` do it.

        Raises:
            Fatal: It failed.
            OSError: The disk is full.
        """
        ours = place / OURS
        ours.mkdir()
        copy_tree(self.tree, ours / _TREE)
        asked = {
            "cache": str(self._uv.cache),
            "own": str(self._uv.own),
            "uv": self._uv.program,
            "python": [str(self.python.path), self.python.version],
            "rootdir": str(self._resolution.rootdir.relative_to(self.tree)),
            "wish": self._wish.encode(),
            "names": names,
        }
        (ours / _ASKED).write_text(json.dumps(asked), "utf-8")
        command = [sys.executable, *boot(__name__), str(place)]
        found = {"PYTHONPATH": str(Path(__file__).parent.parent)}
        status, tail = self._uv.watch(command, Path("/"), Job(place=place, lock=lock, tell=self._tell), found)
        if status:
            said = read_text(place / _FAILED, place) if status == _HAS_FAILED else ""
            text = said or f"the build ended with {status}\n{tail}"
            if says_no_room(text):
                raise OSError(errno.ENOSPC, text[-1000:])
            raise Fatal(text)

    def runner(self, place: Path, _lock: int) -> None:
        """This package as test processes need it, with an entry point for its plugin."""
        package, source = place / "pytest_supercheck", Path(__file__).parent
        package.mkdir()
        for module in RUNNER_MODULES:
            shutil.copyfile(source / f"{module}.py", package / f"{module}.py")
        about = place / f"pytest_supercheck-{__version__}.dist-info"
        about.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: pytest-supercheck\nVersion: {__version__}\n"
        (about / "METADATA").write_text(metadata, "utf-8")
        (about / "entry_points.txt").write_text("[pytest11]\nsupercheck = pytest_supercheck.plugin\n", "utf-8")
        _ask(self._uv.confined([str(self.python.path), *_ALONE, "-m", "compileall", "-q", str(place)], [place]))
        _make_read_only(place)


def read_facts(place: Path, tree: Path) -> tuple[list[str], dict[str, Any]]:
    """
    What a build says of the environment that it has left: its project's word, and no more.

    Returns:
        The directories of the tree that are to be installed into each run's, and the fingerprint.

    Raises:
        Fatal: It is not what builds say.
    """
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        facts = json.loads(read_text(place / _FACTS, place))
        names, found = [str(name) for name in facts["projects"]], dict(facts["fingerprint"])
        if all(isinstance(version, str) for version in found["distributions"].values()):
            for name in names:
                inside(tree / name, tree)
            return names, found
    raise Fatal("the environment cannot be built: a build has changed what is said of it")


def main(_fd: int) -> int:
    """Be a build, for `Assembly`: in the place that the last argument names, and alone with what it starts."""
    place = Path(sys.argv[-1])
    asked = json.loads((place / OURS / _ASKED).read_text("utf-8"))
    try:
        job = Job(place=place, tell=_say)
        uv = Uv(Path(asked["cache"]), Path(asked["own"]), os.environ, lambda: None, program=asked["uv"])
        python = Python(path=Path(asked["python"][0]), version=asked["python"][1])
        wish, copy = EnvironmentWish.decode(asked["wish"]), place / OURS / _TREE
        if asked["names"]:
            build_projects(uv, job, copy, asked["names"], python, wish.version)
        else:
            _assemble(uv, job, look(copy, copy / asked["rootdir"], wish), copy, python, wish.version)
    except (SupercheckError, OSError) as exc:
        (place / _FAILED).write_text(str(exc), "utf-8", "replace")
        return _HAS_FAILED
    remove(copy)
    _make_read_only(place)
    return 0


def _say(line: str, _detail: bool) -> None:
    """Tell a line, through the worker that has started this build."""
    os.write(1, f"{line}\n".encode("utf-8", "replace"))


def _assemble(uv: Uv, job: Job, resolution: Resolution, copy: Path, python: Python, version: str) -> None:
    """Build an environment; `resolution` is of the copy."""
    venv = ["venv", "--quiet", "--relocatable", "--no-project", "--allow-existing", "--python"]
    uv.run([*venv, str(python.path), str(job.place)], copy, job)
    step = _Step(uv, job, resolution, copy)
    if resolution.kind == "lock":
        projects = _from_lock(step)
    elif resolution.kind == "pylock":
        projects = _from_pylock(step)
    else:
        projects = _from_requirements(step, version)
    told = _ask([str(python.path), *_ALONE, fingerprint.__file__, str(site_packages(job.place))])
    facts = {"projects": projects, "fingerprint": json.loads(told)}
    (job.place / _FACTS).write_text(json.dumps(facts), "utf-8")


@dataclass(frozen=True, slots=True)
class _Step:
    """One build of an environment under way."""

    uv: Uv
    job: Job
    resolution: Resolution
    #: The copy of the tree.
    copy: Path

    @property
    def at(self) -> Path:
        return self.resolution.directory

    @property
    def python(self) -> list[str]:
        return ["--python", str(self.job.place / "bin" / "python")]

    @property
    def chosen(self) -> list[str]:
        extras = [word for name in self.resolution.extras for word in ("--extra", name)]
        return extras + [word for name in self.resolution.groups for word in ("--group", name)]

    def run(self, words: list[str], more: Mapping[str, str] | None = None) -> None:
        self.uv.run(words, self.at, self.job, more)

    def install(self, words: list[str]) -> None:
        self.run(["pip", "install", "--compile-bytecode", *self.python, *words])

    def local(self, line: str, at: Path) -> str | None:
        """The directory of the tree that a requirement line names, relative to it; None when it names none."""
        place = local_place(line, at)
        if place is None or not inside(place, self.copy).is_dir():
            return None
        return str(inside(place, self.copy).relative_to(self.copy.resolve()))


def _from_lock(step: _Step) -> list[str]:
    """From uv.lock, as uv itself would; of the tree's own projects it names those that belong to it."""
    out = step.job.place / OURS / "exported.txt"
    quiet = ["--quiet", "--no-hashes", "--no-header", "--no-annotate", "--output-file", str(out)]
    chosen = [*step.chosen, *(["--no-default-groups"] if step.resolution.exact else [])]
    step.run(["export", "--frozen", *quiet, *step.python, *chosen])
    sync = ["sync", "--frozen", "--no-install-local", "--no-install-package", "pytest-supercheck", "--compile-bytecode"]
    step.run([*sync, *step.python, *chosen], {"UV_PROJECT_ENVIRONMENT": str(step.job.place)})
    lines = out.read_text("utf-8").splitlines()
    beside = step.resolution.sources[0].parent  # a workspace's paths are its own, not its members'
    places = [place for line in lines if (place := local_place(line, beside))]
    if archives := [str(place) for place in places if not inside(place, step.copy).is_dir()]:
        step.install(["--no-deps", *archives])
    return _without_repeats(step.local(line, beside) for line in lines)


def _from_pylock(step: _Step) -> list[str]:
    """From a pylock.toml, without the directories in it: those are installed for each run."""
    lock = step.resolution.sources[0]
    head, *blocks = re.split(r"(?m)^(?=\[\[packages\]\]\s*$)", lock.read_text("utf-8"))
    kept, found = [head], [_own(step)]
    for block in blocks:
        lock.write_text(block, "utf-8")
        package = read_toml(lock)["packages"][0]
        if "directory" in package:
            found.append(step.local(f"-e ./{package['directory'].get('path', '.')}", step.at))
        elif package.get("name") != "pytest-supercheck":
            kept.append(block)
    lock.write_text("".join(kept), "utf-8")
    step.install(["--preview-features", "pylock", "--requirements", lock.name, *step.chosen])
    return _without_repeats(found)


def _from_requirements(step: _Step, version: str) -> list[str]:
    """
    From requirement files and the project's own dependencies: first resolve, then install what that is.

    What the tree's own projects depend on is resolved with them, but they themselves are installed for each run.
    """
    resolution, project = step.resolution, step.resolution.project
    texts = [os.path.relpath(path, resolution.directory) for path in resolution.sources if path.name not in FILES]
    of_project = [project.source] if project and project.source in {path.name for path in resolution.sources} else []
    extras = [word for name in resolution.extras if of_project for word in ("--extra", name)]
    groups = [word for name in resolution.groups for word in ("--group", name)]
    out = step.job.place / OURS / "resolved.txt"
    quiet = ["--quiet", "--no-header", "--no-annotate", "--no-emit-package", "pytest-supercheck"]
    more = version_variables(version) if project and project.dynamic_version else {}
    command = ["pip", "compile", *quiet, "--output-file", str(out), *step.python]
    step.run([*command, *texts, *of_project, *extras, *groups], more)
    lines = out.read_text("utf-8").splitlines()
    found = {line: step.local(line, step.at) for line in lines}
    kept = [line for line in lines if found[line] is None]
    out.write_text("\n".join([*resolution.options, *kept, ""]), "utf-8")
    # Requirement files bring the hashes that they have, too; those that name directories cannot have any.
    asked = [] if resolution.has_local else texts
    step.install([word for name in (str(out), *asked) for word in ("--requirements", name)])
    return _without_repeats([_own(step), *found.values()])


def _own(step: _Step) -> str | None:
    """The directory of the project itself, if it has something to install."""
    project = step.resolution.project
    return str(step.at.relative_to(step.copy.resolve())) if project and project.installable else None


def _without_repeats(found: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(name for name in found if name is not None))


def _ask(command: list[str]) -> str:
    """What an interpreter prints."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={},
            cwd="/",
            timeout=120,
            check=True,
            text=True,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        said = str(getattr(exc, "stderr", "") or "")[-1000:]
        raise Fatal(f"the interpreter cannot be used: {exc}\n{said}") from exc
    return done.stdout


def _digest(words: Iterable[object], contents: Iterable[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256(repr([str(word) for word in words]).encode())
    for name, content in contents:
        digest.update(repr((name, len(content))).encode())
        digest.update(content)
    return digest.hexdigest()


def _make_read_only(place: Path) -> None:
    """Nothing in it is to be changed any more, by accident; the place itself will get another name."""
    for folder, folders, files in os.walk(place):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) & ~0o222)
