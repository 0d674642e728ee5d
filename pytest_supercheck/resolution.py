"""
From which files of a shipped tree an environment is made, and what its content depends on.

Chosen by convention or by the session's wish.  Only reads; `environment` lets uv do the rest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion

from pytest_supercheck.errors import Fatal
from pytest_supercheck.pyproject import FILES, Project, read_project, read_toml
from pytest_supercheck.requirements import inside, read_requirements
from pytest_supercheck.wish import CONVENTION, PYTHON, EnvironmentWish

#: Requirement files that are looked for; all that exist are taken together.
REQUIREMENTS: Final = (
    *("requirements.txt", "requirements/base.txt"),
    *(
        pattern.format(word)
        for word in ("test", "tests", "dev")
        for pattern in (
            *("requirements-{}.txt", "requirements_{}.txt", "{}-requirements.txt", "{}_requirements.txt"),
            "requirements/{}.txt",
        )
    ),
)

#: Sources of a build that needs a compiler: their contents are part of what is built.
_NATIVE: Final = frozenset({".c", ".cc", ".cpp", ".cxx", ".h", ".hpp", ".pyx", ".pxd", ".pxi", ".rs", ".f", ".f90"})

#: Directories that hold no sources.
_NO_SOURCES: Final = frozenset({"node_modules", "__pycache__", "build", "dist", "venv"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """What an environment is made from."""

    #: ``lock`` (uv.lock), ``pylock`` or ``requirements``: requirement files, the project's own dependencies, or both.
    kind: Literal["lock", "pylock", "requirements"]
    #: The session's root directory in the tree, and where uv runs.
    rootdir: Path
    directory: Path
    #: What it is given, in words for people relative to the tree.
    sources: tuple[Path, ...]
    title: str
    #: The project in that directory, and those of its extras and groups that are installed.
    project: Project | None
    extras: tuple[str, ...]
    groups: tuple[str, ...]
    #: Whether these are all, and not beside those that the project itself names as its defaults.
    exact: bool
    #: Requirement lines that say where to look.
    options: tuple[str, ...]
    #: Whether requirement files name directories or archives.
    has_local: bool
    #: Every file that decides what is installed.
    files: tuple[Path, ...]


def look(tree: Path, rootdir: Path, wish: EnvironmentWish) -> Resolution:
    """
    Find what an environment is made from.

    Args:
        tree: What was shipped.
        rootdir: The session's root directory in it.
        wish: What the session said.

    Raises:
        Fatal: There is nothing, or it cannot be read.
    """
    tree, rootdir = tree.resolve(), inside(rootdir, tree)
    if wish.sources:
        sources = [inside(rootdir / name, tree) for name in wish.sources]
        if absent := [name for name, path in zip(wish.sources, sources, strict=True) if not path.is_file()]:
            raise Fatal(f"supercheck_env_sources: {absent[0]} was not shipped, or does not exist")
        return _resolution(tree, rootdir, sources[0].parent if len(sources) == 1 else rootdir, sources, wish)
    for directory, sources in _places(tree, rootdir):
        if sources:
            return _resolution(tree, rootdir, directory, sources, wish)
    raise Fatal(
        "there is nothing to make an environment from: no uv.lock, pylock.toml, requirements.txt (or "
        "requirements-dev.txt and its like) and no dependencies in pyproject.toml, in the root directory or above. Add "
        "one, name others in supercheck_env_sources, or use the workers' own environment: supercheck_env = inherit, "
        'or in a job env = "inherit"'
    )


def wanted_python(tree: Path, directory: Path, project: Project | None, wish: EnvironmentWish) -> str:
    """
    Which Python to ask for: the wish's, that of ``.python-version``, or the session's own if the project allows it.

    Raises:
        Fatal: What the project says is no version.
    """
    if wish.python:
        return wish.python
    for place in _upwards(tree.resolve(), directory):
        file = place / ".python-version"
        lines = _stated(file) if file.is_file() else []
        if lines:
            if not PYTHON.fullmatch(lines[0]):
                raise Fatal(f".python-version has {lines[0]!r}, which is no version of Python"[:300])
            return lines[0]
    allowed = project.requires_python if project else ""
    own = ".".join(wish.client_python.split(".")[:2])
    return own if allows(allowed, wish.client_python or "3") and own else allowed


def allows(specifier: str, version: str) -> bool:
    """
    Whether a specifier admits a version; an empty one admits all.

    Raises:
        Fatal: It is none.
    """
    try:
        return SpecifierSet(specifier).contains(version, prereleases=True)
    except (InvalidSpecifier, InvalidVersion) as exc:
        raise Fatal(f"{specifier!r} does not say which Pythons the project works with: {exc}"[:300]) from exc


def of_build(project: Path) -> Iterator[tuple[str, bytes]]:
    """
    What the installation of a project in development depends on, name by name.

    The files that describe it; the names of its packages, which some builds list; and its sources in other languages,
    which builds compile.
    """
    for name in (*FILES, "hatch_build.py", "MANIFEST.in"):
        if (project / name).is_file():
            yield name, (project / name).read_bytes()
    for place in (project, project / "src"):
        names = sorted(entry.name for entry in os.scandir(place) if _is_package(entry)) if place.is_dir() else []
        yield f"packages of {place.name}", "\n".join(names).encode("utf-8", "surrogateescape")
    for folder, folders, files in os.walk(project):
        folders[:] = sorted(name for name in folders if name not in _NO_SOURCES and not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix in _NATIVE and path.is_file() and not path.is_symlink():
                yield str(path.relative_to(project)), path.read_bytes()


def _is_package(entry: os.DirEntry[str]) -> bool:
    if not entry.is_dir(follow_symlinks=False):
        return entry.name.endswith(".py")
    with os.scandir(entry) as inner:
        return any(name.name.endswith(".py") for name in inner)


def _upwards(tree: Path, directory: Path) -> Iterator[Path]:
    for place in (directory, *directory.parents):
        yield place
        if place == tree:
            return


def _stated(file: Path) -> list[str]:
    with file.open(encoding="utf-8", errors="replace") as text:
        lines = [line.strip() for line in text.read(10_000).splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _places(tree: Path, rootdir: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Directories from the root directory up and what they have; the lock of a workspace is its members', too."""
    member: Path | None = None
    for place in _upwards(tree, rootdir):
        lock = place / "uv.lock"
        if member is None:
            yield place, _conventional(place)
            member = place if (place / "pyproject.toml").is_file() and _has_sources(read_project(place)) else None
        elif lock.is_file() and _is_member(member, place):
            yield member, [lock]
    if member is not None:
        project = read_project(member)
        yield member, [member / project.source] if project and project.source else [member / "pyproject.toml"]


def _conventional(place: Path) -> list[Path]:
    for name in ("uv.lock", "pylock.toml"):
        if (place / name).is_file():
            return [place / name]
    found = [place / name for name in REQUIREMENTS if (place / name).is_file()]
    project = read_project(place) if found or not (place / "pyproject.toml").is_file() else None
    return [*found, *([place / project.source] if project and project.source else [])]


def _has_sources(project: Project | None) -> bool:
    return project is not None and bool(project.source or project.groups)


def _is_member(directory: Path, root: Path) -> bool:
    project = read_project(root)
    return project is not None and any(
        directory.relative_to(root).match(pattern.removeprefix("./")) for pattern in project.members
    )


def _resolution(tree: Path, rootdir: Path, directory: Path, sources: list[Path], wish: EnvironmentWish) -> Resolution:
    project = read_project(directory)
    files = [directory / name for name in (*FILES, "uv.toml") if (directory / name).is_file()]
    kind: Literal["lock", "pylock", "requirements"] = "requirements"
    options: tuple[str, ...] = ()
    local: tuple[Path, ...] = ()
    if [path for path in sources if path.name == "uv.lock" or re.fullmatch(r"pylock(\..+)?\.toml", path.name)]:
        if len(sources) > 1:
            raise Fatal("supercheck_env_sources: a lock file stands alone")
        kind = "lock" if sources[0].name == "uv.lock" else "pylock"
        read_toml(sources[0])  # said better here
        files += [sources[0], *_beside(sources[0])]
    else:
        texts = [path for path in sources if path.name not in FILES]
        named = [directory / name for name in project.named] if project else []
        if project and (directory / "setup.py").is_file():
            named += [directory / name for name in REQUIREMENTS]
        read = read_requirements(texts, directory, tree)
        options, local = read.options, read.local
        files += [*read.files, *(path for path in named if path.is_file()), *(path for path in local if path.is_file())]
        for place in local:
            files += [place / name for name in FILES if (place / name).is_file()]
    return Resolution(
        kind=kind,
        rootdir=rootdir,
        directory=directory,
        sources=tuple(sources),
        title=", ".join(str(path.relative_to(tree)) for path in sources),
        project=project,
        extras=wish.extras or tuple(name for name in CONVENTION if project and name in project.extras),
        groups=wish.groups or tuple(name for name in CONVENTION if project and name in project.groups),
        exact=bool(wish.groups),
        options=options,
        has_local=bool(local),
        files=tuple(dict.fromkeys(inside(path, tree) for path in files)),
    )


def _beside(lock: Path) -> list[Path]:
    """The project that a lock belongs to, which is not the one that wants it where they share it."""
    return [path for path in (lock.parent / "pyproject.toml",) if path.is_file()]
