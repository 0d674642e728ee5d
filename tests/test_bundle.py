"""
Bundles: which files go along, what a manifest says, and how pieces are packed. Real git, real files.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_supercheck import bundle, digests, packs
from pytest_supercheck.bundle import (
    PIECE_BYTES,
    VERSION,
    Entry,
    Manifest,
    case_clashes,
    decode,
    decode_wish,
    leads_outside,
)
from pytest_supercheck.descent import Descent
from pytest_supercheck.errors import SourceTrouble
from pytest_supercheck.gathering import Gathered, Gathering

GB = 1_000_000_000


def sha(content: bytes) -> str:
    """Of a piece."""
    return hashlib.sha256(content).hexdigest()


def entry(path: str, content: bytes = b"x", kind: bundle.Kind = "file") -> Entry:
    """A file of one piece."""
    return Entry(path, kind, len(content), sha(content) if content else "")


def link(path: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(path, "link", 0, target)


@dataclass
class Project:
    """A project on disk."""

    #: Its directory.
    path: Path

    def write(self, name: str, content: str | bytes = "x") -> Path:
        """Make a file."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def git(self, *words: str, at: str = ".") -> None:
        """Call git there."""
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "protocol.file.allow=always"]
        subprocess.run(["git", *who, *words], cwd=self.path / at, check=True, capture_output=True, timeout=60)

    def gather(self, *, at: str = ".", include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> Gathered:
        """Its files."""
        memory = self.path / at / ".supercheck" / "sources" / "digests.json"
        memory.parent.mkdir(parents=True, exist_ok=True)
        rootdir = Path(os.path.normpath(self.path / at))
        return Gathering(rootdir, include, exclude, GB).gather(memory)

    def names(self, **how: Any) -> list[str]:
        """The paths of its files."""
        return [entry.path for entry in self.gather(**how).manifest.entries]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty directory."""
    path = tmp_path / "project"
    path.mkdir()
    return Project(path)


@pytest.fixture
def repository(project: Project) -> Project:
    """An empty working tree of git."""
    project.git("init", "-q")
    return project


# -- which files


def test_git_says_what_goes_along(repository: Project) -> None:
    """What it tracks and what it does not ignore; nothing that is deleted, ignored, git's own or ours."""
    for name in ("tracked.py", "deleted.py", "sub/tracked.py", "forced.log"):
        repository.write(name)
    repository.write(".gitignore", "*.log\n/build/\n")
    repository.git("add", "-f", ".")
    for name in ("new.py", "sub/new.py", "x.log", "build/x.py", "sub/__pycache__/a.pyc", ".supercheck/store/x"):
        repository.write(name)
    (repository.path / "deleted.py").unlink()
    assert repository.names() == [".gitignore", "forced.log", "new.py", "sub/new.py", "sub/tracked.py", "tracked.py"]


def test_the_whole_working_tree_goes_along(repository: Project) -> None:
    """Also when pytest's root directory is only a part of it."""
    repository.write("shared/lib.py")
    repository.write("service/test_it.py")
    gathered = repository.gather(at="service")
    assert gathered.root == str(repository.path)
    assert [one.path for one in gathered.manifest.entries] == ["service/test_it.py", "shared/lib.py"]


def test_a_project_that_git_ignores_is_its_own(repository: Project) -> None:
    """As one that is unpacked below a working tree."""
    repository.write(".gitignore", "build/\n")
    repository.write("build/project/test_it.py")
    gathered = repository.gather(at="build/project")
    assert gathered.root == str(repository.path / "build/project")
    assert [one.path for one in gathered.manifest.entries] == ["test_it.py"]


def test_submodules_go_along(repository: Project, tmp_path: Path) -> None:
    """With what is new in them and what they ignore; so does a repository of its own. One not there is left out."""
    inner = Project(tmp_path / "inner")
    inner.path.mkdir()
    inner.git("init", "-q")
    inner.write("lib.py")
    inner.write(".gitignore", "*.log\n")
    inner.git("add", ".")
    inner.git("commit", "-qm", "x")
    for name in ("sub", "absent"):
        repository.git("submodule", "add", "-q", str(inner.path), name)
    repository.git("commit", "-qm", "x")
    repository.git("submodule", "deinit", "-f", "-q", "absent")
    repository.write("sub/new.py")
    repository.write("sub/x.log")
    nested = Project(repository.path / "nested")
    nested.path.mkdir()
    nested.git("init", "-q")
    nested.write("own.py")
    assert repository.names() == [".gitmodules", "nested/own.py", "sub/.gitignore", "sub/lib.py", "sub/new.py"]


def test_worktrees_shallow_and_sparse_clones(repository: Project, tmp_path: Path) -> None:
    """What is on disk counts, not what the commit has."""
    repository.write("a/one.py")
    repository.write("b/two.py")
    repository.git("add", ".")
    repository.git("commit", "-qm", "x")
    repository.git("worktree", "add", "-q", "--detach", str(tmp_path / "other"))
    assert Project(tmp_path / "other").names() == ["a/one.py", "b/two.py"]
    shallow = Project(tmp_path / "shallow")
    repository.git("clone", "-q", "--depth=1", f"file://{repository.path}", str(shallow.path))
    assert shallow.names() == ["a/one.py", "b/two.py"]
    shallow.git("sparse-checkout", "set", "--cone", "a")
    assert shallow.names() == ["a/one.py"]


def test_hooks_of_git_do_not_lead_elsewhere(repository: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their variables are for the repository that they are of."""
    repository.write("a.py")
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nonexistent")
    assert repository.names() == ["a.py"]


def test_damaged_repository_is_said_in_words(project: Project) -> None:
    """In git's own."""
    project.write(".git", "gitdir: /nonexistent\n")
    with pytest.raises(SourceTrouble, match=r"git cannot list the files of .*: fatal: not a git repository"):
        project.gather()


def test_without_git_ignore_files_count(project: Project) -> None:
    """Nested ones too, the inner ones first; environments and what Python compiles never go along."""
    project.write(".gitignore", "*.log\n/data/\n!keep.log\n")
    project.write("sub/.gitignore", "!*.log\n/only_here.py\n")
    taken = ["a.py", "keep.log", "sub/a.py", "sub/x.log", "sub/data/x", "sub/sub/only_here.py"]
    left = ["x.log", "data/x", "sub/only_here.py", "__pycache__/a.pyc", "venv/pyvenv.cfg", "venv/lib/a.py"]
    for name in [*taken, *left]:
        project.write(name)
    assert project.names() == sorted([".gitignore", "sub/.gitignore", *taken])


def test_lines_of_an_ignore_file_that_cannot_be_read_are_passed_over(project: Project) -> None:
    """As git does."""
    project.write(".gitignore", "!\n*.log\n")
    project.write("a.log")
    project.write("a.py")
    assert project.names() == [".gitignore", "a.py"]


@pytest.mark.parametrize("tracked", [True, False])
def test_secrets_stay_and_are_named(project: Project, tracked: bool) -> None:
    """By name or content; also those that git tracks. Examples go along."""
    secrets = [
        *(".env", ".env.local", "keys/id_rsa", "a.key", ".netrc", ".pypirc", "credentials.json", ".aws/config"),
        *("keys/server.pem", "a.p12"),
    ]
    for name in (*secrets, ".env.example", "keys/public.pem", "id_rsa.pub"):
        project.write(name)
    project.write("keys/server.pem", "-----BEGIN RSA PRIVATE KEY-----\n")
    if tracked:
        project.git("init", "-q")
        project.git("add", ".")
    gathered = project.gather()
    assert [one.path for one in gathered.manifest.entries] == [".env.example", "id_rsa.pub", "keys/public.pem"]
    assert gathered.left == tuple((name, "looks like a secret") for name in sorted(secrets))
    assert ".env" in project.names(include=("/.env",))
    assert "keys/server.pem" in project.names(include=("*.pem",))


def test_patterns_add_and_remove(repository: Project) -> None:
    """What is included goes along although git ignores it; what is excluded does not, and is not named."""
    repository.write(".gitignore", "build/\n*.bin\n")
    for name in ("a.py", "build/gen/a.py", "build/gen/b.c", "sub/x.bin", "docs/a.md", ".env", "build/.git/config"):
        repository.write(name)
    gathered = repository.gather(include=("/build/gen/*.py", "*.bin"), exclude=("docs/", ".env"))
    assert [one.path for one in gathered.manifest.entries] == [".gitignore", "a.py", "build/gen/a.py", "sub/x.bin"]
    assert gathered.left == ()
    assert "build/.git/config" not in repository.names(include=("*",))


def test_pattern_that_cannot_be_read_is_said(project: Project) -> None:
    """With the option that has it."""
    with pytest.raises(SourceTrouble, match="supercheck_exclude has a pattern that cannot be read"):
        project.gather(exclude=("!",))


def test_kinds_of_files(project: Project) -> None:
    """Programs, links and empty files are what they are; what is no file is named."""
    project.write("program", "#!/bin/sh\n").chmod(0o755)
    project.write("empty", b"")
    project.write("sub/a.py")
    for name, target in {
        "sub/up": "../program", "dangling": "nowhere", "folder": "sub", "outward": "../x", "absolute": "/etc/passwd",
        "roundabout": "sub/../../x", "loop": "loop", "behind": "folder/../../x",
    }.items():  # fmt: skip
        (project.path / name).symlink_to(target)
    os.mkfifo(project.path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(project.path / "socket"))
        gathered = project.gather()
    found = {
        one.path: (one.kind, one.content if one.kind == "link" else one.size_bytes) for one in gathered.manifest.entries
    }
    assert found == {
        "program": ("program", 10),
        "empty": ("file", 0),
        "sub/a.py": ("file", 1),
        "sub/up": ("link", "../program"),
        "dangling": ("link", "nowhere"),
        "folder": ("link", "sub"),
    }
    outward = ("absolute", "behind", "loop", "outward", "roundabout")
    assert dict(gathered.left) == {
        **dict.fromkeys(outward, "is a link that leads out of the project"),
        **dict.fromkeys(("pipe", "socket"), "is a pipe, a socket or a device"),
    }


def test_what_git_knows_behind_a_link_stays(repository: Project) -> None:
    """A directory that has become a link: its files are those of another one."""
    repository.write("a/one.py")
    repository.write("b/one.py")
    repository.git("add", ".")
    (repository.path / "a/one.py").unlink()
    (repository.path / "a").rmdir()
    (repository.path / "a").symlink_to("b")
    assert repository.names() == ["a", "b/one.py"]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory beside the project, with what is nobody's business."""
    path = tmp_path / "outside"
    (path / "deep").mkdir(parents=True)
    for name in ("server.toml", "deep/id.txt", "deep/.gitignore"):
        (path / name).write_text("a token\n")
    return path


@pytest.mark.parametrize("in_git", [True, False])
@pytest.mark.parametrize(
    ("include", "exclude"),
    [
        (("{link}/*",), ("{link}", "!{link}/*")),
        (("{link}/deep/*",), ("{link}", "!{link}/deep/*")),
        (("sub/{link}/*",), ("sub/{link}", "!sub/{link}/*")),
        (("sub/{link}/deep/*",), ("sub", "!sub/{link}/deep/*")),
        (("within/{link}/*",), ("within", "{link}", "!within/{link}/*")),
    ],
)
@pytest.mark.parametrize("link", [".env", "plain"])
def test_no_pattern_leads_behind_a_link(
    project: Project, outside: Path, in_git: bool, include: tuple[str, ...], exclude: tuple[str, ...], link: str
) -> None:
    """Whoever wrote a project could read any file of the machine otherwise, also one that drops the link itself."""
    project.write("test_it.py")
    project.write("sub/a.py")
    (project.path / link).symlink_to(outside)
    (project.path / "sub" / link).symlink_to("../../outside")
    (project.path / "within").symlink_to("sub")
    if in_git:
        project.git("init", "-q")
        project.git("add", "-f", ".")
    names = project.names(
        include=tuple(one.format(link=link) for one in include), exclude=tuple(one.format(link=link) for one in exclude)
    )
    assert set(names) <= {"test_it.py", "sub/a.py", "within"}
    assert "test_it.py" in names


@pytest.mark.parametrize("pattern", [".env/*", "/.env/server.toml", ".env/deep/**"])
def test_a_link_that_stays_as_a_secret_leads_nowhere(repository: Project, outside: Path, pattern: str) -> None:
    """It is not among the links that go along, so nothing else knows of it."""
    repository.write("test_it.py")
    (repository.path / ".env").symlink_to(outside)
    repository.git("add", ".")
    gathered = repository.gather(include=(pattern,))
    assert [one.path for one in gathered.manifest.entries] == ["test_it.py"]
    assert dict(gathered.left) == {".env": "looks like a secret"}


def test_links_within_the_project_stay_links(repository: Project) -> None:
    """What a pattern finds behind one is there by its own name."""
    repository.write("sub/a.py")
    (repository.path / "folder").symlink_to("sub")
    assert repository.names(include=("folder/*", "folder/a.py")) == ["folder", "sub/a.py"]


def test_working_tree_behind_a_link_is_not_asked(repository: Project, outside: Path) -> None:
    """One that was a submodule's: git tells its files there, too."""
    inner = Project(outside)
    inner.git("init", "-q")
    inner.git("add", ".")
    inner.git("commit", "-qm", "x")
    repository.write("test_it.py")
    repository.git("submodule", "add", "-q", str(outside), "modules/sub")
    shutil.rmtree(repository.path / "modules")
    (outside.parent / "elsewhere").mkdir()
    outside.rename(outside.parent / "elsewhere" / "sub")
    (repository.path / "modules").symlink_to(outside.parent / "elsewhere")
    assert repository.names(exclude=("modules", "!modules/sub/**")) == [".gitmodules", "test_it.py"]


@pytest.mark.parametrize("place", ["sub", "sub/deep"])
def test_directory_that_becomes_a_link_meanwhile(
    repository: Project, outside: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """After it was looked at, before it is read: nothing of what it leads to is taken."""
    repository.write("sub/deep/id.txt", "x")
    repository.write("test_it.py")
    original = Gathering._look

    def exchange(gathering: Gathering, descent: Descent, names: set[str]) -> Any:
        found = original(gathering, descent, names)
        (repository.path / place).rename(repository.path.parent / "moved")
        (repository.path / place).symlink_to(outside if place == "sub" else outside / "deep")
        descent.look("test_it.py")
        return found

    monkeypatch.setattr(Gathering, "_look", exchange)
    gathered = repository.gather()
    assert [one.path for one in gathered.manifest.entries] == ["test_it.py"]
    assert dict(gathered.left)["sub/deep/id.txt"].startswith("cannot be read")


def test_directory_that_is_open_stays_the_one_it_was(project: Project, outside: Path) -> None:
    """Steps are taken from what was reached, whatever has come in its place; nothing leads up."""
    project.write("sub/deep/id.txt", "ours")
    with closing(Descent(str(project.path))) as descent:
        assert descent.names("sub") == [("deep", True)]
        (project.path / "sub").rename(project.path / "moved")
        (project.path / "sub").symlink_to(outside)
        fd = descent.open("sub/deep/id.txt")
        assert os.read(fd, 100) == b"ours"
        os.close(fd)
        assert not descent.is_directory("sub")
        for path in ("sub/deep/id.txt", "../outside/server.toml", "moved/../../outside/server.toml"):
            with pytest.raises(NotADirectoryError):
                descent.open(path)
        assert not descent.is_directory("sub/deep")


def test_descent_closes_what_it_opens(project: Project) -> None:
    """However it ends, and after every error."""
    project.write("a/b/c.txt")
    (project.path / "link").symlink_to("a")
    before = len(os.listdir("/proc/self/fd"))
    with closing(Descent(str(project.path))) as descent:
        for path in ("a/b/c.txt", "link/b/c.txt", "a/missing/c.txt", "a/b", "a/b/c.txt/d", "a/b/missing"):
            with suppress(OSError):
                os.close(descent.open(path))
            assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert len(os.listdir("/proc/self/fd")) == before


def test_any_name_goes_along(project: Project) -> None:
    """Bytes that are no UTF-8, newlines, quotes; names that differ by case only are named."""
    names = [b"\xff\xfe", "é".encode(), b"new\nline", b'"quoted" \\ name', b"a.py", b"A.py"]
    for name in names:
        Path(os.fsdecode(os.fsencode(project.path) + b"/" + name)).write_bytes(b"x")
    for in_git in (False, True):
        if in_git:
            project.git("init", "-q")
        gathered = project.gather()
        assert sorted(os.fsencode(one.path) for one in gathered.manifest.entries) == sorted(names)
        assert gathered.clashes == ("A.py", "a.py")
        assert decode(gathered.manifest.encode()).entries == gathered.manifest.entries


def test_too_large_a_project_says_where_it_is_large(project: Project) -> None:
    """The largest directories, what to do, and at once: nothing is read."""
    for name in ("data/big/a", "data/big/b", "small/c"):
        with project.write(name).open("wb") as file:
            file.truncate(1_100_000_000 if "big" in name else 10)
    with pytest.raises(SourceTrouble, match=r"2,200 MB in 3 files.* data/big \(2,200 MB\), small .*bundle_limit"):
        project.gather()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_cannot_be_read_is_named(project: Project) -> None:
    """And the rest goes along."""
    project.write("closed").chmod(0)
    project.write("open")
    gathered = project.gather()
    assert [one.path for one in gathered.manifest.entries] == ["open"]
    assert gathered.left == (("closed", "cannot be read: Permission denied"),)


# -- digests


def aged(file: Path) -> Path:
    """A file that was written a while ago."""
    time.sleep(max(0.0, file.stat().st_ctime + 1.1 - time.time()))
    return file


def test_unchanged_files_are_not_read_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless they were written within the last second; one that has changed is read."""
    read: list[str] = []
    original = Descent.open

    def spy(descent: Descent, path: str) -> int:
        read.append(path)
        return original(descent, path)

    monkeypatch.setattr(Descent, "open", spy)
    aged(project.write("old"))
    project.write("new")
    first = project.gather().manifest.id
    assert read in (["old", "new"], ["new", "old"])
    read.clear()
    assert project.gather().manifest.id == first
    assert read == ["new"]
    before = (project.path / "old").stat()
    project.write("old", "y")
    os.utime(project.path / "old", ns=(before.st_atime_ns, before.st_mtime_ns))  # as a careless tool does
    read.clear()
    assert project.gather().manifest.id != first
    assert "old" in read


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"version": 1, "root": "ROOT", "files": {"a": 1, "b": []}}'])
def test_damaged_memory_is_forgotten(project: Project, damage: str) -> None:
    """It only spares work."""
    aged(project.write("a"))
    first = project.gather().manifest.id
    memory = project.path / ".supercheck/sources/digests.json"
    assert memory.exists()
    memory.write_text(damage.replace("ROOT", str(project.path)))
    assert project.gather().manifest.id == first


def test_file_that_changes_while_it_is_read_is_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it was read again; one that comes to rest goes along as it is then."""
    writes = {"restless": 100, "settling": 1}
    original = digests.pieces

    def while_writing(fd: int, size_bytes: int) -> Iterator[bytes]:
        yield from original(fd, size_bytes)
        name = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
        if writes[name] > 0:
            writes[name] -= 1
            with (project.path / name).open("ab") as file:
                file.write(b"more")

    monkeypatch.setattr(digests, "pieces", while_writing)
    project.write("restless")
    project.write("settling")
    gathered = project.gather()
    assert gathered.left == (("restless", "changes while it is read"),)
    assert gathered.manifest.entries == (entry("settling", b"xmore"),)


def test_long_files_have_several_pieces(project: Project) -> None:
    """So that what was cut goes on, and a change in one place costs one piece."""
    content = random.Random(1).randbytes(PIECE_BYTES) * 2 + b"end"
    project.write("long", content)
    [one] = project.gather().manifest.entries
    assert one.size_bytes == len(content)
    assert list(one.sized) == [
        (sha(content[:PIECE_BYTES]), PIECE_BYTES), (sha(content[:PIECE_BYTES]), PIECE_BYTES), (sha(b"end"), 3)
    ]  # fmt: skip


# -- manifests


def test_manifest_is_canonical() -> None:
    """One bundle, one id, whoever made the list; the form is public."""
    made = Manifest([entry("b"), link("a", "b"), entry("c", b"", "program")])
    assert made.id == Manifest(reversed(made.entries)).id == sha(made.encode())
    assert json.loads(made.encode()) == {
        "version": 1,
        "entries": [["a", "link", 0, "b"], ["b", "file", 1, sha(b"x")], ["c", "program", 0, ""]],
    }


def test_difference_leads_to_the_same_manifest() -> None:
    """And is short."""
    before = Manifest([entry(f"file-{number}", b"%d" % number) for number in range(5000)] + [entry("gone")])
    after = Manifest([*before.entries[:-2], entry("file-7", b"another", "program"), entry("new")])
    after = Manifest({one.path: one for one in after.entries}.values())
    wish = zlib.compress(after.since(before))
    assert len(wish) < 1000
    told = decode_wish(wish)
    assert isinstance(told, bundle.Difference)
    assert told.base == before.id
    assert told.apply(before).id == after.id


HASH = sha(b"x")


@pytest.mark.parametrize(
    "entries",
    [
        [["../a", "file", 1, HASH]],
        [["/a", "file", 1, HASH]],
        [["a/../../b", "file", 1, HASH]],
        [["a//b", "file", 1, HASH]],
        [["", "file", 1, HASH]],
        [["a/", "file", 1, HASH]],
        [["a\0", "file", 1, HASH]],
        [["\ud800", "file", 1, HASH]],
        [["\udcc3\udca9", "file", 1, HASH]],
        [[".git/config", "file", 1, HASH]],
        [["a/.GIT/hooks/x", "file", 1, HASH]],
        [["x" * 256, "file", 1, HASH]],
        [["a/" * 64 + "a", "file", 1, HASH]],
        [["a", "device", 1, HASH]],
        [["a", "file", -1, ""]],
        [["a", "file", True, HASH]],
        [["a", "file", 0, HASH]],
        [["a", "file", PIECE_BYTES + 1, HASH]],
        [["a", "file", 1, HASH.upper()]],
        [["a", "file", 1]],
        [["a", "link", 0, ""]],
        [["a", "link", 0, "/etc"]],
        [["a", "link", 0, "../b"]],
        [["a", "link", 0, "b\0"]],
        [["a", "link", 0, "a"]],
        [["s/l", "link", 0, "../d"], ["d", "link", 0, "e/f"], ["x", "link", 0, "s/l/../../../y"]],
        [["a", "file", 1, HASH], ["a", "file", 1, HASH]],
        [["a", "file", 1, HASH], ["a/b", "file", 1, HASH]],
        [["a", "link", 0, "b"], ["a/b", "file", 1, HASH]],
        [["a", "file", 10_000_000_001, HASH * 2385]],
        "entries",
        None,
    ],
)
def test_what_cannot_be_is_refused(entries: object) -> None:
    """Whatever leads elsewhere, is there twice, or says of itself what is not so."""
    with pytest.raises(SourceTrouble):
        decode(json.dumps({"version": 1, "entries": entries}).encode())


@pytest.mark.parametrize("encoded", [b"", b"[]", b"{}", b'{"version":2,"entries":[]}', b"[" * 100_000])
def test_what_is_no_manifest_is_refused(encoded: bytes) -> None:
    """In words."""
    with pytest.raises(SourceTrouble):
        decode(encoded)


@pytest.mark.parametrize(
    "row",
    [
        {"base": "x", "changed": [], "removed": []},
        {"base": HASH, "changed": [["../a", "file", 1, HASH]], "removed": []},
        {"base": HASH, "changed": [], "removed": "a"},
        {"base": HASH, "changed": [], "removed": [1]},
    ],
)
def test_difference_that_cannot_be_is_refused(row: dict[str, object]) -> None:
    """As a manifest."""
    with pytest.raises(SourceTrouble):
        decode_wish(zlib.compress(json.dumps({"version": 1, **row}).encode()))


def test_bomb_is_not_unpacked() -> None:
    """No more than a manifest may have."""
    with pytest.raises(SourceTrouble, match="longer than it may be"):
        decode_wish(zlib.compress(b" " * (bundle.MANIFEST_BYTES + 1)))


def test_numbers_have_bounds() -> None:
    """Of entries, links, and directories."""
    for rows in (
        [[f"f{number}", "file", 0, ""] for number in range(bundle.ENTRIES + 1)],
        [[f"l{number}", "link", 0, "x"] for number in range(bundle.LINKS + 1)],
        [["/".join([f"d{number}", *"abc", "f"]), "file", 0, ""] for number in range(bundle.DIRECTORIES // 4 + 1)],
    ):
        with pytest.raises(SourceTrouble, match="at most"):
            decode(json.dumps({"version": 1, "entries": rows}).encode())


@settings(deadline=None, database=None)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c/d", "c/e", "f"]),
        st.lists(st.sampled_from(["..", ".", "a", "b", "c", "d", "e", "f"]), min_size=1, max_size=6).map("/".join),
        max_size=4,
    )
)
def test_links_lead_where_the_kernel_says(links: dict[str, str]) -> None:
    """Whatever links there are: the same answer as that of the file system."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        root = Path(os.path.realpath(place), "root")
        (root / "c").mkdir(parents=True)
        for path, target in links.items():
            (root / path).symlink_to(target)
        for path in links:
            try:
                real = os.path.realpath(root / path, strict=False)
                loops = os.path.islink(real)
            except OSError:
                continue
            outside = os.path.commonpath([real, root]) != str(root)
            if outside or loops:
                assert leads_outside(path, links)


def test_case_clashes() -> None:
    """Of files and of directories."""
    assert case_clashes(["a/x", "A/y", "b", "c/Z", "c/z"]) == ["A", "a", "c/Z", "c/z"]
    assert case_clashes(["a/x", "a/y", "b"]) == []


# -- packs


def test_pack_brings_what_it_says() -> None:
    """Compressed where that is shorter; each piece by itself."""
    contents = [b"text " * 1000, random.Random(1).randbytes(1000), b"x"]
    pack = packs.encode((sha(content), content) for content in contents)
    found = packs.check(pack)
    assert [place.size for place in found] == [5000, 1000, 1]
    assert found[0].stored < 200
    assert found[1].stored == 1000
    for place, content in zip(found, contents, strict=True):
        assert packs.unpack(pack[place.offset : place.offset + place.stored], place.piece, place.size) == content


def forged(index: object, body: bytes) -> bytes:
    """A pack with any index."""
    head = zlib.compress(json.dumps(index).encode())
    return b"SCP1" + struct.pack(">I", len(head)) + head + body


def _bomb() -> bytes:
    body = zlib.compress(b"\0" * (PIECE_BYTES * 16))
    return forged([[sha(b"\0" * PIECE_BYTES), len(body), PIECE_BYTES]], body)


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"",
        lambda: b"SCP1\0\0\0\1",
        lambda: b"SCP2" + packs.encode([(HASH, b"x")])[4:],
        lambda: packs.encode([(HASH, b"y")]),
        lambda: packs.encode([(HASH, b"x")])[:-1],
        lambda: packs.encode([(HASH, b"x")]) + b"x",
        lambda: forged([], b""),
        lambda: forged([[HASH, 1, 1]] * 5000, b"x" * 5000),
        lambda: forged([[HASH, 0, 0]], b""),
        lambda: forged([[HASH, 2, 1]], b"xx"),
        lambda: forged([["../x", 1, 1]], b"x"),
        lambda: forged([[HASH, 1, PIECE_BYTES + 1]], b"x"),
        lambda: forged([[sha(str(n).encode()), 1, PIECE_BYTES] for n in range(3)], b"xxx"),
        lambda: forged({"a": 1}, b""),
        lambda: b"SCP1\xff\xff\xff\xff" + b"x" * 100,
        lambda: b"SCP1" + struct.pack(">I", 1100) + zlib.compress(b"[" * (1 << 21))[:1100],
        _bomb,
    ],
)
def test_forged_packs_are_refused(make: Callable[[], bytes]) -> None:
    """A wrong hash, a bomb, more than there may be, what is not whole."""
    with pytest.raises(SourceTrouble):
        packs.check(make())


def test_writers_of_one_memory_do_not_disturb_each_other(tmp_path: Path) -> None:
    """It is whole at any time."""
    file = tmp_path / "x"
    threads = [threading.Thread(target=digests.write_whole, args=(file, b"%d" % n * 100_000)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(file.read_bytes())) == 1
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("values", [b"[]", b"{}"])
def test_wish_of_more_values_than_any_bundle_has_is_not_taken_apart(values: bytes) -> None:
    """Some kB of compressed nothing would take hundreds of MB."""
    wish = b'{"version": %d, "entries": [%b]}' % (VERSION, b",".join([values] * 900_000))
    tracemalloc.start()
    try:
        with pytest.raises(SourceTrouble, match="100,000 files at most"):
            decode_wish(zlib.compress(wish))
        assert tracemalloc.get_traced_memory()[1] < 4 * len(wish)
    finally:
        tracemalloc.stop()
