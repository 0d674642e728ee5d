"""
Projects of a shipped tree, installed as in development: built once, and put into each run's environment.

A build says where its project is, in paths and in code.  It is done in a copy of the tree at a path found nowhere else,
which is replaced by that of the run's own tree, so a run costs a few small files and no build.  Knows uv; not where
environments come from.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pytest_supercheck.build_cache import remove
from pytest_supercheck.errors import Fatal
from pytest_supercheck.requirements import inside
from pytest_supercheck.run_venv import OF_VENV, Python, site_packages
from pytest_supercheck.uv_program import Job, Uv

#: What builds write beside the sources and nobody needs there.
_WASTE: Final = re.compile(r"(^|/)([^/]+\.egg-info|build|__pycache__|\.venv|\.pytest_cache)(/|$)")

#: What an installation consists of: modules, programs, and what builds have written beside the sources. And a file that
#: tells where that was.
PARTS: Final = ("site", "bin", "made")
ORIGIN: Final = "from.txt"

#: Bytes of a text that a build has left, at most.
_TEXT_BYTES: Final = 10_000_000

#: Paths that can be written into any file as they are.
_PLAIN: Final = re.compile(r"[\w./+,:=@%~ -]+")

#: The version of a project that asks git when nobody knows a better one: as setuptools-scm's own without any tag.
UNKNOWN_VERSION: Final = "0.1.dev0"

#: Variables that tell a project's version to builds which would ask git: setuptools-scm and hatch-vcs, PDM, pbr.
_VERSIONS: Final = ("SETUPTOOLS_SCM_PRETEND_VERSION", "PDM_BUILD_SCM_VERSION", "PBR_VERSION")


def version_variables(version: str) -> dict[str, str]:
    """What builds are told of the version of a project whose history was not shipped; nothing without one."""
    return dict.fromkeys(_VERSIONS, version) if version else {}


def copy_tree(tree: Path, to: Path) -> None:
    """Copy a tree for a build, which may write into it; links stay links, and what is no file is left out."""

    def special(folder: str, names: list[str]) -> list[str]:
        kinds = ((name, stat.S_IFMT(os.lstat(os.path.join(folder, name)).st_mode)) for name in names)
        return [name for name, kind in kinds if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)]

    shutil.copytree(tree, to, symlinks=True, ignore=special)
    for folder, _, files in os.walk(to):
        for path in (folder, *(os.path.join(folder, file) for file in files)):
            if not os.path.islink(path):
                os.chmod(path, os.stat(path).st_mode | stat.S_IWUSR)


def untouched(path: Path, place: Path) -> Path:
    """
    A path in a place where a build has been at work, of which no process is left.

    Raises:
        Fatal: It has put a link there: who follows it is not as confined as the build was.
    """
    if path.resolve() != place.resolve() / path.relative_to(place):
        raise Fatal(f"a build has put a link in the place of {path.relative_to(place)}")
    return path


def read_text(path: Path, place: Path) -> str:
    """
    A file in such a place; empty if there is none.

    Raises:
        Fatal: As `untouched`.
    """
    if not untouched(path, place).is_file() or path.stat().st_size > _TEXT_BYTES:
        return ""
    return path.read_text("utf-8", "replace")


def build_projects(uv: Uv, job: Job, copy: Path, projects: Sequence[str], python: Python, version: str) -> None:
    """
    Install projects as in development, in a form that `install_projects` reads.

    Args:
        job: In its place that will be.
        copy: A copy of the tree in which the projects are, at a path found nowhere else.
        projects: Directories relative to it.
        python: The interpreter of the environment that they belong to.
        version: What builds are told that would ask git; empty when nobody knows.

    Raises:
        Fatal: A build failed; with the end of its log.
    """
    scratch = copy.with_name("scratch")
    before = set(_files(copy))
    venv = ["venv", "--quiet", "--relocatable", "--no-project", "--python", str(python.path), str(scratch)]
    uv.run(venv, copy, job)
    editable = [word for project in projects for word in ("--editable", str(copy / project))]
    install = ["pip", "install", "--no-deps", "--python", str(scratch / "bin" / "python"), *editable]
    uv.run(install, copy, job, version_variables(version or UNKNOWN_VERSION))
    for part in PARTS:
        (job.place / part).mkdir()
    for name in list(_files(copy)):
        if name not in before and not _WASTE.search(name):
            _move(copy / name, job.place / "made" / name)
    for part, source in (("site", site_packages(scratch)), ("bin", scratch / "bin")):
        for entry in list(source.iterdir()):
            if not OF_VENV.fullmatch(entry.name):
                entry.rename(job.place / part / entry.name)
    (job.place / ORIGIN).write_text(str(copy), "utf-8")
    remove(scratch)


def install_projects(built: Path, tree: Path, venv: Path) -> None:
    """
    Put what `build_projects` made into a run's environment, for the run's own tree.

    Args:
        built: Where it is.
        tree: The run's tree, into which goes what builds write beside the sources and is not there.
        venv: The run's environment.

    Raises:
        Fatal: The tree's path cannot be written into code, or a file would be written outside of it.
    """
    if not _PLAIN.fullmatch(str(tree)):
        raise Fatal(f"no project can be installed in {str(tree)!r}: a name there has unusual signs")
    old, new = read_text(built / ORIGIN, built).encode(), str(tree).encode()
    if not old.startswith(str(built).encode()):
        raise Fatal("a build has changed what is said of it")
    for part, target in zip(PARTS, (site_packages(venv), venv / "bin", tree), strict=True):
        for name in _files(untouched(built / part, built)):
            path = target / name
            inside(path.parent, target)  # a tree has links of its own
            with contextlib.suppress(FileExistsError):
                path.parent.mkdir(parents=True, exist_ok=True)
                content = (built / part / name).read_bytes()
                with path.open("xb") as file:
                    file.write(content if b"\0" in content else content.replace(old, new))
                path.chmod(0o755 if os.access(built / part / name, os.X_OK) else 0o644)


def _files(directory: Path) -> Iterator[str]:
    """The regular files below a directory, by their path in it."""
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield os.path.relpath(path, directory)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
