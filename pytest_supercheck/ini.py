"""
A project's settings where no pytest is started: its ini file alone, of which nothing is imported.

For `Settings`, in place of pytest's configuration; finds the file as pytest does for a root directory.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import iniconfig
import pytest

from pytest_supercheck.errors import BadJob, Fatal
from pytest_supercheck.pyproject import LIMIT_BYTES, read_toml
from pytest_supercheck.settings import Settings

#: The files, in their order, and the section that makes one the ini file; None where it is one without it, too.
_FILES: Final = (
    ("pytest.toml", ("pytest",)),
    (".pytest.toml", ("pytest",)),
    ("pytest.ini", "pytest"),
    (".pytest.ini", "pytest"),
    ("pyproject.toml", ("tool", "pytest")),
    ("tox.ini", "pytest"),
    ("setup.cfg", "tool:pytest"),
)

#: What counts for a run that nobody waits for, by its form; the rest is the job's, or of sessions.
_TEXTS: Final = frozenset({"project", "start", "group", "artifacts", "bundle_limit"})
_LISTS: Final = frozenset({"artifact", "env_sources", "env_extras", "env_groups", "include", "exclude"})


def read_settings(rootdir: Path) -> Settings:
    """
    The settings that a project's ini file has for every run.

    Raises:
        BadJob: It cannot be read, or a value makes no sense.
    """
    try:
        config: Any = _Ini(_section(rootdir))
        return Settings.from_pytest(config, environ={})
    except (Fatal, OSError, ValueError, iniconfig.ParseError, pytest.UsageError) as exc:
        raise BadJob(f"the settings of {rootdir.name}: {exc}"[:500]) from exc


class _Ini:
    """As much of pytest's configuration as `Settings` asks for."""

    def __init__(self, section: dict[str, Any]) -> None:
        self.option = self.known_args_namespace = SimpleNamespace(verbose=0)
        self._section = section

    def getini(self, key: str) -> Any:
        name = key.removeprefix("supercheck_")
        value = self._section.get(key)
        if name in _LISTS:
            return value.splitlines() if isinstance(value, str) else [str(one) for one in value or ()]
        return str(value) if name in _TEXTS and value is not None else ""


def _section(rootdir: Path) -> dict[str, Any]:
    for name, section in _FILES:
        file = rootdir / name
        if not file.is_file() or file.is_symlink():  # of a stranger's repository a link may lead anywhere
            continue
        found = _of_ini(file, section) if isinstance(section, str) else _of_toml(file, section)
        if found is not None:
            return found
    return {}


def _of_ini(file: Path, section: str) -> dict[str, Any] | None:
    if file.stat().st_size > LIMIT_BYTES:
        raise Fatal(f"{file.name} is larger than {LIMIT_BYTES // 1_000_000} MB")
    read = iniconfig.IniConfig(str(file))
    if section in read:
        return dict(read[section].items())
    return {} if file.name.endswith("pytest.ini") else None


def _of_toml(file: Path, section: tuple[str, ...]) -> dict[str, Any] | None:
    table: Any = read_toml(file)
    for name in section:
        table = table.get(name) if isinstance(table, dict) else None
    if not isinstance(table, dict):
        return {} if file.name.endswith("pytest.toml") else None
    old = table.get("ini_options")
    return old if isinstance(old, dict) else table
