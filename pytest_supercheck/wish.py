"""
What a session wants of the environment in which its tests run elsewhere.

Travels in the run's spec.  The session makes it from its settings and its own environment; a worker reads it as what it
is, text from a stranger.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pytest_supercheck.errors import Fatal, SupercheckError

#: Our own kinds; plugins of workers may have others.
KINDS: Final = ("inherit", "uv")
KIND: Final = re.compile(r"[a-z][a-z0-9_-]{0,29}")

#: What extras and groups are taken when none are asked for, where they exist.
CONVENTION: Final = ("dev", "test", "tests")

_NAMES: Final = "cpython|pypy|graalpy|pyodide"
_PYTHON_VERSION: Final = r"\d+(?:\.\d+){0,2}(?:(?:a|b|rc)\d+)?"

#: Requests for a Python that a stranger may make: an implementation, a version, bounds of versions. Any other word uv
#: takes for a program, or for a directory that has one, which it runs to see what it is.
PYTHON: Final = re.compile(
    rf"(?:(?:{_NAMES}|python)[@-]?)?{_PYTHON_VERSION}(?:t|\+freethreaded)?|{_NAMES}"
    rf"|(?:[<>=!~]=?=? *{_PYTHON_VERSION}(?:\.\*)? *(?:, *(?=[<>=!~])|$))+"
)

_CLIENT: Final = re.compile(r"\d+\.\d+\.\d+")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]{0,99}")
_FILE: Final = re.compile(r"[^/\0\n-][^\0\n]{0,499}")

#: Names in one list.
_LIST_LIMIT: Final = 50

#: Seconds that git may take to tell a tag.
_GIT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentWish:
    """An environment as a session wants it."""

    #: ``uv`` builds one from the project's own files, ``inherit`` is the worker's, others are made by plugins.
    kind: str
    #: The Python asked for, as uv understands it; empty for what the project says.
    python: str = ""
    #: The session's own Python: three numbers with dots between.
    client_python: str = ""
    #: The files to resolve from, relative to the root directory; empty for convention.
    sources: tuple[str, ...] = ()
    #: Extras and groups of the project; empty for convention.
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    #: The project's name and version as the session has it installed; empty when it does not know.
    project: str = ""
    version: str = ""

    def encode(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def decode(cls, value: object) -> EnvironmentWish:
        """
        Read what came with a run.

        Raises:
            Fatal: It is none, or has words in it that no session sends.
        """
        if not isinstance(value, dict) or not value.get("kind"):
            raise Fatal("the run does not say in which environment its tests are to run")
        return cls(
            kind=_word(value, "kind", KIND),
            python=_word(value, "python", PYTHON),
            client_python=_word(value, "client_python", _CLIENT),
            sources=_words(value, "sources", _FILE),
            extras=_words(value, "extras", _NAME),
            groups=_words(value, "groups", _NAME),
            project=_word(value, "project", _NAME),
            version=_word(value, "version", _VERSION),
        )


def wish_for(
    rootdir: Path,
    *,
    kind: str,
    python: str = "",
    sources: Sequence[str] = (),
    extras: Sequence[str] = (),
    groups: Sequence[str] = (),
) -> EnvironmentWish:
    """
    The wish of this session, with what this process alone knows: its Python, and the version of the project.

    Args:
        rootdir: The session's root directory.
    """
    project = version = ""
    if kind != "inherit":
        from pytest_supercheck.pyproject import read_project  # costs sessions whose tests run here

        with contextlib.suppress(SupercheckError):  # the worker says it better
            found = None if _leads_outside(rootdir) else read_project(rootdir)
            project = found.name if found and _NAME.fullmatch(found.name) else ""
            version = _version(rootdir, project) if found and found.dynamic_version else ""
    return EnvironmentWish(
        kind=kind,
        python=python,
        client_python=".".join(map(str, sys.version_info[:3])),
        sources=tuple(sources),
        extras=tuple(extras),
        groups=tuple(groups),
        project=project,
        version=version,
    )


def _leads_outside(rootdir: Path) -> bool:
    """Whether a file that names the project is a link to elsewhere, as one of a stranger's repository may be."""
    root = rootdir.resolve()
    return not all((rootdir / name).resolve().is_relative_to(root) for name in ("pyproject.toml", "setup.cfg"))


def _version(rootdir: Path, project: str) -> str:
    """The version that is installed here, else the last tag in git's history; empty when there is neither."""
    import importlib.metadata
    import subprocess

    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
        found = importlib.metadata.version(project)
        return found if _VERSION.fullmatch(found or "") else ""
    command = ["git", "describe", "--tags", "--abbrev=0"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(command, cwd=rootdir, capture_output=True, timeout=_GIT_S, check=True, text=True)
        if match := re.search(r"\d[\w.!+-]*$", told.stdout.strip()):
            return match[0][:100]
    return ""


def _word(value: Mapping[str, Any], key: str, form: re.Pattern[str]) -> str:
    word = value.get(key, "")
    if isinstance(word, str) and (not word or form.fullmatch(word)):
        return word
    raise Fatal(f"the run's environment cannot have {key} = {word!r}"[:300])


def _words(value: Mapping[str, Any], key: str, form: re.Pattern[str]) -> tuple[str, ...]:
    words = value.get(key) or []
    if not isinstance(words, (list, tuple)) or len(words) > _LIST_LIMIT:
        raise Fatal(f"the run's environment cannot have so many {key}")
    return tuple(_word({key: word}, key, form) for word in words)
