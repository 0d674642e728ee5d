"""
What a directory says of the Python project in it: ``pyproject.toml``, and in older projects ``setup.cfg``.

Read by both sides of a shipped run; runs nothing, and believes nothing but the form of what it reads.
"""

from __future__ import annotations

import configparser
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pytest_supercheck.errors import Fatal

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Bytes of one such file.
LIMIT_BYTES: Final = 2_000_000

#: The files that describe a project and its build.
FILES: Final = ("pyproject.toml", "setup.py", "setup.cfg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project as its directory describes it."""

    #: Its name; empty where only code knows it.
    name: str
    #: Names of its optional dependencies, and of its dependency groups.
    extras: tuple[str, ...]
    groups: tuple[str, ...]
    #: The Pythons that it works with, a version specifier; empty for any.
    requires_python: str
    #: The file that has its dependencies; empty where there are none, only settings of tools.
    source: str
    #: Whether it has something to install; one without a build system is only a place for tests and tools.
    installable: bool
    #: Whether its version comes from elsewhere.
    dynamic_version: bool
    #: Patterns of the directories that share its ``uv.lock``.
    members: tuple[str, ...]
    #: Files that its build may read requirements from.
    named: tuple[str, ...]


def read_toml(path: Path) -> dict[str, Any]:
    """
    Read a TOML file.

    Raises:
        Fatal: It cannot be read.
    """
    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise Fatal(f"{path.name} is larger than {LIMIT_BYTES // 1_000_000} MB")
        table: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise Fatal(f"{path.name} cannot be read: {exc}"[:500]) from exc
    return table


def read_project(directory: Path) -> Project | None:
    """
    Read what a directory says of its project; None when it says nothing.

    Raises:
        Fatal: A file cannot be read.
    """
    table = read_toml(directory / "pyproject.toml") if (directory / "pyproject.toml").is_file() else {}
    has_setup = (directory / "setup.py").is_file()
    if not table and not has_setup and not (directory / "setup.cfg").is_file():
        return None
    project, old = _table(table, "project"), _setup_cfg(directory / "setup.cfg")
    return Project(
        name=str(project.get("name") or old["name"]),
        extras=tuple(_table(project, "optional-dependencies")) or old["extras"],
        groups=tuple(_table(table, "dependency-groups")),
        requires_python=str(project.get("requires-python") or old["requires_python"]),
        source=_source(table, has_setup=has_setup, old_name=old["name"]),
        installable=bool(_table(table, "build-system")) or has_setup or bool(old["name"]),
        dynamic_version="version" not in project,
        members=tuple(_strings(_table(table, "tool", "uv", "workspace").get("members"))),
        named=tuple(text for text in _strings(table) if text.endswith((".txt", ".in"))),
    )


def _source(table: dict[str, Any], *, has_setup: bool, old_name: str) -> str:
    if _table(table, "project"):
        return "pyproject.toml"
    if has_setup or old_name:
        return "setup.py" if has_setup else "setup.cfg"
    return "pyproject.toml" if _table(table, "build-system") else ""


def _table(table: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        value = table.get(name)
        table = value if isinstance(value, dict) else {}
    return table


def _strings(value: object) -> Iterator[str]:
    """Every string below a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _setup_cfg(path: Path) -> dict[str, Any]:
    """Name, extras and Pythons of setuptools' older way to declare them."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        if path.is_file() and path.stat().st_size <= LIMIT_BYTES:
            parser.read_string(path.read_text("utf-8"))
    except (OSError, ValueError, configparser.Error) as exc:
        raise Fatal(f"setup.cfg cannot be read: {exc}"[:500]) from exc
    extras = parser["options.extras_require"] if parser.has_section("options.extras_require") else {}
    return {
        "name": parser.get("metadata", "name", fallback=""),
        "extras": tuple(extras),
        "requires_python": parser.get("options", "python_requires", fallback=""),
    }
