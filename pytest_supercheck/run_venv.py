"""
A run's own virtual environment: a few small files, made without any tool, over what its host shares between runs.

Programs, and what the project's installation in development consists of, are copies; everything else is read where it
is built.  Knows paths, not how anything gets there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_supercheck.errors import Fatal

#: What an empty environment of uv has, which runs have of their own, or need not.
OF_VENV: Final = re.compile(r"_virtualenv\.(py|pth)|__pycache__|activate.*|deactivate.*|.*\.bat|python.*")

#: What an environment has besides is linked into each run's, but for this.
_NOT_LINKED: Final = frozenset({"bin", "lib", "lib64", "pyvenv.cfg", "CACHEDIR.TAG", "supercheck"})

#: Bytes beyond which a program is linked and not copied.
_COPY_BYTES: Final = 100_000

#: Read first of all such files.
_PATHS: Final = "0-supercheck.pth"


@dataclass(frozen=True, slots=True, kw_only=True)
class Python:
    """An interpreter that environments are made with."""

    #: The program, not that of a virtual environment.
    path: Path
    #: Three numbers with dots between.
    version: str


def site_packages(environment: Path) -> Path:
    """
    Where a virtual environment has its modules.

    Raises:
        Fatal: It has several such places, or none: a build has changed it.
    """
    found = list(environment.glob("lib/python*/site-packages"))
    if len(found) != 1:
        raise Fatal(f"the environment that was built has {len(found)} places for modules")
    return found[0]


def make_venv(place: Path, python: Python, shared: Path, first: Iterable[Path]) -> None:
    """
    Make a virtual environment without pip.

    Args:
        place: Where; nothing is there.
        python: Its interpreter.
        shared: The environment whose modules and programs it has; with what their own ``.pth`` files say.
        first: Directories of modules that go before those.
    """
    minor = ".".join(python.version.split(".")[:2])
    site, programs = place / "lib" / f"python{minor}" / "site-packages", place / "bin"
    site.mkdir(parents=True)
    programs.mkdir()
    (programs / "python").symlink_to(python.path)
    for name in ("python3", f"python{minor}"):
        (programs / name).symlink_to("python")
    lines = [f"home = {python.path.parent}", "include-system-site-packages = false", f"version_info = {python.version}"]
    (place / "pyvenv.cfg").write_text("\n".join([*lines, ""]), "utf-8")
    lines = [*map(str, first), f"import site; site.addsitedir({str(site_packages(shared))!r})"]
    (site / _PATHS).write_text("\n".join([*lines, ""]), "utf-8")
    _copy_programs(shared / "bin", programs)
    for entry in shared.iterdir():
        if entry.name not in _NOT_LINKED and not entry.name.startswith("."):
            (place / entry.name).symlink_to(entry)


def _copy_programs(source: Path, target: Path) -> None:
    """Scripts start the interpreter that is beside them."""
    for entry in source.iterdir():
        path = target / entry.name
        if OF_VENV.fullmatch(entry.name) or os.path.lexists(path):
            continue
        if entry.is_symlink() or entry.stat().st_size > _COPY_BYTES:
            path.symlink_to(entry)
        else:
            shutil.copyfile(entry, path)
            path.chmod(0o755)
