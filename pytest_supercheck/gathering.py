"""
Which files of a project go along: what git tracks, and what it neither tracks nor ignores.

A project's directory → its bundle's manifest, on the client.  Outside git, all but what `.gitignore` files exclude.
Reads files, and asks git; sends nothing.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_supercheck.bundle import ENTRIES, Entry, Manifest, case_clashes, leads_outside
from pytest_supercheck.descent import Descent
from pytest_supercheck.digests import Digests
from pytest_supercheck.errors import SourceTrouble
from pytest_supercheck.footprint import DIRECTORY

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

#: Seconds that git may take.
GIT_S: Final = 120.0

#: Why a file stays that looks like one.
SECRET: Final = "looks like a secret"

#: Bytes of a `.gitignore` that are read, and of a file that is looked at for a private key.
_IGNORE_BYTES: Final = 1 << 20
_KEY_BYTES: Final = 1 << 16

#: Directories that are never taken along; the second, and environments, only where git does not track them.
_OURS: Final = frozenset({".git", DIRECTORY})
_MADE: Final = "__pycache__"
_ENVIRONMENT: Final = "pyvenv.cfg"

#: What looks like a secret, by its name or by a directory that it is in.
_SECRET_NAME: Final = re.compile(
    r"\.env|\.env\..*|id_(rsa|dsa|ecdsa|ed25519)|.*\.(key|p12|pfx)|\.netrc|\.pypirc|\.git-credentials|credentials\.json",
    re.IGNORECASE,
)
_NO_SECRET_NAME: Final = re.compile(r"\.env\.(example|sample|template|dist)", re.IGNORECASE)
_SECRET_PLACES: Final = frozenset({".aws", ".ssh", ".gnupg"})

#: Variables that would have git look elsewhere: they are set where a hook of git runs the tests.
_REDIRECTING: Final = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_NAMESPACE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """A project's files."""

    #: The directory that they are in, as the root directory's path has it.
    root: str
    #: What goes along.
    manifest: Manifest
    #: What does not, although it is a file of the project: its path, and why.
    left: tuple[tuple[str, str], ...]
    #: Names that differ by case only.
    clashes: tuple[str, ...]


class Gathering:
    """
    The rule of one project.

    Args:
        rootdir: pytest's root directory.
        include: Patterns, as in a `.gitignore` in the bundle's root, of files that go along although git ignores them
            or they look like secrets.
        exclude: Patterns of files that do not, whatever else is said of them.
        limit_bytes: How long all files may be, together.
    """

    def __init__(self, rootdir: Path, include: Sequence[str], exclude: Sequence[str], limit_bytes: int) -> None:
        self._rootdir = rootdir
        self._include = _patterns("supercheck_include", include)
        self._exclude = _patterns("supercheck_exclude", exclude)
        self._starts = sorted({_start(pattern) for pattern in include})
        self._limit_bytes = limit_bytes
        self._left: dict[str, str] = {}

    def gather(self, file: Path) -> Gathered:
        """
        Look at the project as it is now.

        Args:
            file: Where digests are remembered.

        Raises:
            SourceTrouble: It is too large, git fails, or a pattern cannot be read.
        """
        self._left = {}
        root, names = self._names()
        with closing(Descent(root)) as descent:
            files, links = self._look(descent, self._choose(descent, names))
            self._check_size(root, files)
            entries = [Entry(path, "link", 0, target) for path, target in links.items()]
            entries += self._read(Digests(file, descent), files)
        manifest = Manifest(entries)
        return Gathered(
            root=root,
            manifest=manifest,
            left=tuple(sorted(self._left.items())),
            clashes=tuple(case_clashes([entry.path for entry in entries])),
        )

    def _names(self) -> tuple[str, set[str]]:
        """The bundle's root, and the paths that may go along."""
        root = next(
            (place for place in (self._rootdir, *self._rootdir.parents) if os.path.exists(place / ".git")), None
        )
        if root is not None:
            below = posixpath.relpath(self._rootdir, root)
            with closing(Descent(str(root))) as descent:
                names = set(_tracked(descent))
            # A project in a directory that git ignores is none of that working tree.
            if below == "." or any(name.startswith(f"{below}/") for name in names):
                return str(root), names
        with closing(Descent(str(self._rootdir))) as descent:
            return descent.root, set(_walk(descent))

    def _choose(self, descent: Descent, names: set[str]) -> set[str]:
        chosen = {name for name in names if _OURS.isdisjoint(name.split("/"))}
        for name in [name for name in chosen if _is_secret(descent, name)]:
            if self._include is None or not self._include.match_file(name):
                chosen.discard(name)
                self._left[name] = SECRET
        if self._include is not None:
            for start in self._starts:
                chosen |= {name for name in _everything(descent, start) if self._include.match_file(name)}
        if self._exclude is not None:
            for name in [name for name in {*chosen, *self._left} if self._exclude.match_file(name)]:
                chosen.discard(name)
                self._left.pop(name, None)
        return chosen

    def _look(self, descent: Descent, names: set[str]) -> tuple[dict[str, os.stat_result], dict[str, str]]:
        """What is there of these names: files, and links with their targets; sorted by directory."""
        files: dict[str, os.stat_result] = {}
        links: dict[str, str] = {}
        for name in sorted(names, key=lambda name: name.rpartition("/")):
            try:
                found = descent.look(name)
                if stat.S_ISREG(found.st_mode):
                    files[name] = found
                elif stat.S_ISLNK(found.st_mode):
                    links[name] = descent.target(name)
                elif not stat.S_ISDIR(found.st_mode):
                    self._left[name] = "is a pipe, a socket or a device"
            except (FileNotFoundError, NotADirectoryError):
                continue  # git knows it, and it is deleted; or it is behind a link, and no file of its own
            except OSError as exc:
                self._left[name] = f"cannot be read: {exc.strerror or exc}"
        outward = [path for path in links if leads_outside(path, links)]
        for path in outward:
            self._left[path] = "is a link that leads out of the project"
        return files, {path: target for path, target in links.items() if path not in self._left}

    def _read(self, digests: Digests, files: dict[str, os.stat_result]) -> Iterator[Entry]:
        for path, found in files.items():
            try:
                content = digests.content(path, found)
            except FileNotFoundError:
                continue  # it has just been removed
            except OSError as exc:
                self._left[path] = f"cannot be read: {exc.strerror or exc}"
                continue
            if content is None:
                self._left[path] = "changes while it is read"
            else:
                yield Entry(path, "program" if found.st_mode & stat.S_IXUSR else "file", *content)
        digests.save()

    def _check_size(self, root: str, files: dict[str, os.stat_result]) -> None:
        size_bytes = sum(found.st_size for found in files.values())
        if size_bytes <= self._limit_bytes and len(files) <= ENTRIES:
            return
        sizes: Counter[str] = Counter()
        for name, found in files.items():
            sizes["/".join(name.split("/")[:-1][:2]) or "."] += found.st_size
        largest = ", ".join(f"{name} ({megabytes(size)})" for name, size in sizes.most_common(5))
        raise SourceTrouble(
            f"The files of {root} are too many to ship: {megabytes(size_bytes)} in {len(files):,} files, of "
            f"{megabytes(self._limit_bytes)} in {ENTRIES:,}. The largest directories: {largest}. Have git ignore what "
            "the tests do not need, or name it in supercheck_exclude; supercheck_bundle_limit allows more."
        )


def megabytes(size_bytes: int) -> str:
    """A size in words."""
    return f"{size_bytes / 1e6:,.0f} MB" if size_bytes >= 10_000_000 else f"{size_bytes / 1e6:.1f} MB"


# -- what there is


def _tracked(descent: Descent, prefix: str = "") -> Iterator[str]:
    """What git tracks in a working tree and those in it, and what it neither tracks nor ignores."""
    strange: list[str] = []
    for name, known in _list_files(f"{descent.root}/{prefix}" if prefix else descent.root):
        if name.endswith("/") or (known and descent.is_directory(f"{prefix}{name}")):
            inner = f"{prefix}{name.rstrip('/')}/"
            # A submodule that is there, or a repository of its own; git itself lists both in one with submodules only.
            if os.path.exists(f"{descent.root}/{inner}.git"):
                yield from _tracked(descent, inner)
        elif known:
            yield prefix + name
        else:
            strange.append(name)
    made = {posixpath.dirname(name) for name in strange if posixpath.basename(name) == _ENVIRONMENT}
    for name in strange:
        if _MADE not in name.split("/") and not any(parent in made for parent in _parents(name)):
            yield prefix + name


def _list_files(directory: str) -> Iterator[tuple[str, bool]]:
    """What git says: names, and whether it tracks them."""
    command = ["git", "-C", directory, "ls-files", "-z", "-t", "--cached", "--others", "--exclude-standard"]
    environ = {name: value for name, value in os.environ.items() if name not in _REDIRECTING}
    environ["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        done = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=GIT_S, check=False
        )
    except FileNotFoundError as exc:
        raise SourceTrouble(f"{directory} is a working tree of git, and there is no git to ask: install it.") from exc
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise SourceTrouble(f"git cannot list the files of {directory}: {exc}") from exc
    if done.returncode:
        words = " ".join(os.fsdecode(done.stderr).split())[:500]
        raise SourceTrouble(f"git cannot list the files of {directory}: {words}")
    for row in os.fsdecode(done.stdout).split("\0"):
        if row:
            yield row[2:], row[0] != "?"


def _walk(descent: Descent) -> Iterator[str]:
    """All of a directory but what its `.gitignore` files exclude, environments, and what Python has compiled."""
    todo: list[tuple[str, tuple[tuple[int, GitIgnoreSpec], ...]]] = [("", ())]
    while todo:
        prefix, rules = todo.pop()
        found = _scan(descent, prefix)
        names = {name for name, _ in found}
        if _ENVIRONMENT in names:
            continue
        if ".gitignore" in names and (spec := _ignored(descent, f"{prefix}.gitignore")) is not None:
            rules = ((len(prefix), spec), *rules)
        for name, is_directory in found:
            path = prefix + name
            if is_directory:
                if name != _MADE and name not in _OURS and not _is_ignored(f"{path}/", rules):
                    todo.append((f"{path}/", rules))
            elif not _is_ignored(path, rules):
                yield path


def _everything(descent: Descent, start: str) -> Iterator[str]:
    """All that is at or below a path, whoever ignores it; nothing is below a link."""
    if start and not descent.is_directory(start):
        yield start
        return
    todo = [f"{start}/" if start else ""]
    while todo:
        prefix = todo.pop()
        for name, is_directory in _scan(descent, prefix):
            if not is_directory:
                yield prefix + name
            elif name not in _OURS:
                todo.append(f"{prefix}{name}/")


def _scan(descent: Descent, prefix: str) -> list[tuple[str, bool]]:
    try:
        return descent.names(prefix.rstrip("/"))
    except OSError:
        return []  # what nobody may look into, tests do not either


# -- patterns


def _patterns(option: str, lines: Sequence[str]) -> GitIgnoreSpec | None:
    if not lines:
        return None
    try:
        return _spec(lines)
    except ValueError as exc:
        raise SourceTrouble(f"{option} has a pattern that cannot be read: {exc}") from exc


def _spec(lines: Sequence[str]) -> GitIgnoreSpec:
    try:
        from pathspec import GitIgnoreSpec
    except ImportError as exc:
        raise SourceTrouble("Patterns of files need pathspec: pip install 'pytest-supercheck[http]'") from exc
    return GitIgnoreSpec.from_lines(lines)


def _ignored(descent: Descent, path: str) -> GitIgnoreSpec | None:
    try:
        fd = descent.open(path)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        lines = os.fsdecode(file.read(_IGNORE_BYTES)).splitlines()
    try:
        return _spec(lines)
    except ValueError:  # git passes over lines that it cannot read
        return _spec([line for line in lines if _is_pattern(line)])


def _is_pattern(line: str) -> bool:
    try:
        _spec([line])
    except ValueError:
        return False
    return True


def _is_ignored(path: str, rules: tuple[tuple[int, GitIgnoreSpec], ...]) -> bool:
    """What the innermost file says that says something of the path."""
    for skipped, spec in rules:
        said = spec.check_file(path[skipped:]).include
        if said is not None:
            return said
    return False


def _start(pattern: str) -> str:
    """The directory, or the file, below which a pattern can match; empty for the root."""
    names = pattern.strip().rstrip("/").split("/")
    if len(names) == 1:
        return ""
    plain = []
    for name in names:
        if name == ".." or re.search(r"[*?\[\\]", name):
            break
        plain.append(name)
    return "/".join(plain).strip("/")


def _is_secret(descent: Descent, path: str) -> bool:
    *places, name = path.split("/")
    if not _SECRET_PLACES.isdisjoint(places):
        return True
    if _SECRET_NAME.fullmatch(name) and not _NO_SECRET_NAME.fullmatch(name):
        return True
    if not name.lower().endswith(".pem"):
        return False
    try:
        fd = descent.open(path)
    except OSError:
        return False
    with os.fdopen(fd, "rb") as file:
        return b"PRIVATE KEY" in file.read(_KEY_BYTES)


def _parents(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path
