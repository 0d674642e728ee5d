"""
Sources of jobs that are in git repositories: fetched as a stranger's, and nothing of them is run.

Between `git` and the starter.  Of a repository one commit is fetched, from where the server's configuration allows;
no hook, filter, submodule, redirect or question for a password, and bounded in time and size.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from pytest_supercheck.build_cache import remove
from pytest_supercheck.bundle import ENTRIES
from pytest_supercheck.errors import SourceTrouble
from pytest_supercheck.footprint import DIRECTORY
from pytest_supercheck.gathering import megabytes
from pytest_supercheck.jobs import Git
from supercheck_server.section import Section

#: Seconds that one repository may take, and between two looks.
FETCH_S: Final = 120.0
LOOK_S: Final = 1.0
#: Seconds after which a directory is nobody's any more: longer than a repository can be on its way.
LEFT_S: Final = 6 * 3600
#: Bytes of its files, together, and of each file that git writes.
LIMIT_BYTES: Final = 1_000_000_000

#: Bytes of the list of its files, and of git's words in a message.
_LIST_BYTES: Final = 64_000_000
_WORDS: Final = 500

#: What git gets of the server's environment: how it finds programs, keys, and the way out.
_PASSED: Final = frozenset(
    {"PATH", "HOME", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR"}
    | {name for way in ("https_proxy", "all_proxy", "no_proxy") for name in (way, way.upper())}
)

_ALWAYS: Final = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.autocrlf=false",
    "fetch.fsckObjects=true",
    "gc.auto=0",
    "http.followRedirects=false",
    "submodule.recurse=false",
)

#: So that no file of git's, its words included, becomes larger than the limit; in units of 512 or 1024 bytes.
_BOUNDED: Final = 'ulimit -f "$0" && exec git "$@"'


class JobsSection(Section):
    """What the server may do for jobs, beside running those that are brought to it."""

    #: What addresses of repositories begin with; none may be fetched from elsewhere.
    git: tuple[Annotated[str, Field(pattern=r"^(https|ssh|file)://[^\s%]+/$")], ...] = ()
    #: A configuration of git's own, for credentials; without it no configuration is read.
    git_config: Path | None = None


class Repositories:
    """
    The repositories that jobs may name.

    Args:
        scratch: Where they are while they are on their way; made when it is needed.
    """

    def __init__(self, section: JobsSection, scratch: Path) -> None:
        self._section = section
        self._scratch = scratch

    @contextmanager
    def room(self) -> Iterator[Path]:
        """An empty directory for one of them, gone at the end; so is what a server that was killed has left."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        for left in self._scratch.iterdir():
            with suppress(FileNotFoundError):  # its owner has just removed it
                if left.stat().st_mtime < time.time() - LEFT_S:
                    remove(left)
        made = Path(tempfile.mkdtemp(dir=self._scratch))
        try:
            yield made
        finally:
            remove(made)  # however deep a stranger has made it

    def check(self, url: str) -> None:
        """
        Require that a repository may be fetched.

        Raises:
            SourceTrouble: It may not.
        """
        plain = re.fullmatch(r"[^%\\?#]+", url) is not None and ".." not in url.split("/")
        if not plain or not any(url.startswith(prefix) for prefix in self._section.git):
            raise SourceTrouble(
                f"This server does not fetch from {url!r}. Its operator allows it with git = [...] in [jobs] of "
                "the configuration file."
            )

    def fetch(self, source: Git, tree: Path, pulse: Callable[[], None]) -> str:
        """
        Make a tree of a repository's files.

        Args:
            tree: An empty directory.
            pulse: Called now and then.

        Returns:
            The commit.

        Raises:
            SourceTrouble: It may not be fetched, or it cannot be, or there is too much of it.
        """
        self.check(source.git)
        git = _Git(tree, source.git.partition(":")[0], self._section.git_config, pulse)
        git.run("init", "--quiet", "--template=")
        git.run("fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--", source.git, source.ref)
        self._check_size(
            git.run("ls-tree", "-r", "-l", "-z", "--full-tree", "FETCH_HEAD", most=_LIST_BYTES), source.git
        )
        git.run("checkout", "--quiet", "--force", "--detach", "FETCH_HEAD")
        _remove(tree / DIRECTORY)  # we write there, and it could be a link to anywhere
        return git.run("rev-parse", "FETCH_HEAD").decode("ascii").strip()

    @staticmethod
    def _check_size(listed: bytes, url: str) -> None:
        sizes = list(_sizes(listed))
        if sum(sizes) > LIMIT_BYTES or len(sizes) > ENTRIES:
            raise SourceTrouble(
                f"{url} is too large: {megabytes(sum(sizes))} in {len(sizes):,} files, of {megabytes(LIMIT_BYTES)} "
                f"in {ENTRIES:,}."
            )


class _Git:
    """The program, in one repository."""

    def __init__(self, tree: Path, protocol: str, config: Path | None, pulse: Callable[[], None]) -> None:
        self._tree = tree
        self._pulse = pulse
        self._give_up_at = time.monotonic() + FETCH_S
        self._environ = {name: value for name, value in os.environ.items() if name in _PASSED}
        self._environ |= {
            "GIT_ALLOW_PROTOCOL": protocol,
            "GIT_ASKPASS": "false",
            "GIT_CONFIG_GLOBAL": str(config or os.devnull),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_SSH_COMMAND": "ssh -oBatchMode=yes -oConnectTimeout=20",
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C",
        }

    def run(self, *words: str, most: int = 100_000) -> bytes:
        """
        What git says.

        Raises:
            SourceTrouble: It failed, or took too long, or said more than that many bytes.
        """
        settings = [word for one in _ALWAYS for word in ("-c", one)]
        command = ["/bin/sh", "-c", _BOUNDED, str(LIMIT_BYTES // 512), *settings, *words]
        said, told = self._tree.with_name("said"), self._tree.with_name("told")
        with said.open("wb") as out, told.open("wb") as err:
            git = subprocess.Popen(
                command, cwd=self._tree, env=self._environ, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True,
            )  # fmt: skip
            try:
                self._wait(git)
            finally:
                _end(git)
        if git.returncode or said.stat().st_size > most:
            words_of_git = " ".join(_head(told, 10 * _WORDS).decode("utf-8", "replace").split())[:_WORDS]
            raise SourceTrouble(f"git {words[0]} failed: {words_of_git or 'there is too much of it'}")
        return _head(said, most)

    def _wait(self, git: subprocess.Popen[bytes]) -> None:
        while True:
            try:
                git.wait(LOOK_S)
            except subprocess.TimeoutExpired:
                self._pulse()
                if time.monotonic() > self._give_up_at:
                    raise SourceTrouble(f"The repository was not there within {FETCH_S:.0f} s.") from None
            else:
                return


def _end(git: subprocess.Popen[bytes]) -> None:
    """Also of those that it has started, as ssh."""
    if git.poll() is None:
        os.killpg(git.pid, signal.SIGKILL)
        git.wait()


def _head(file: Path, count: int) -> bytes:
    with file.open("rb") as stream:
        return stream.read(count)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def _sizes(listed: bytes) -> Iterator[int]:
    """Of the files in a list of ``git ls-tree -l -z``: a submodule has none."""
    for row in listed.split(b"\0"):
        about = row.partition(b"\t")[0].split()
        if len(about) == 4 and about[3].isdigit():
            yield int(about[3])
