"""
The Python in which the session runs, with pytest-supercheck in it.

Before the session.  A session whose tests are collected elsewhere has an environment of its own, which nothing of the
project gets into; any other runs where the job has installed the project.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from action.inputs import Inputs

#: Where the action is, which is also the package's source.
ROOT: Final = Path(__file__).resolve().parent.parent

#: What sessions through a server need besides.
_HTTP: Final = ("httpx", "pathspec")


class InstallationError(Exception):
    """pytest-supercheck could not be installed; what was tried has told why."""


def python_for(inputs: Inputs, temporary: Path) -> str:
    """
    Find or make the Python of a session.

    Where the job's own Python has pytest-supercheck and no version is asked for, that is used.

    Raises:
        InstallationError: It cannot be had.
    """
    if not inputs.version and _is_there(http=inputs.url.startswith("http")):
        return sys.executable
    python = sys.executable
    if inputs.remote:
        directory = temporary / "supercheck-environment"
        _run([python, "-m", "venv", "--clear", str(directory)])
        python = str(directory / "bin" / "python")
    extra = "[http]" if inputs.url.startswith("http") else ""
    source = f"pytest-supercheck{extra}=={inputs.version}" if inputs.version else f"{ROOT}{extra}"
    _run([*_installer(python), source])
    return python


def _is_there(*, http: bool) -> bool:
    try:
        importlib.metadata.distribution("pytest-supercheck")
    except importlib.metadata.PackageNotFoundError:
        return False
    return not http or all(importlib.util.find_spec(name) for name in _HTTP)


def _installer(python: str) -> list[str]:
    """Environments that uv has made have no pip."""
    uv = shutil.which("uv")
    if uv and subprocess.run([python, "-c", "import pip"], cwd=ROOT, capture_output=True, check=False).returncode:
        return [uv, "pip", "install", "--quiet", "--python", python]
    return [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def _run(command: list[str]) -> None:
    # Not where the project is: Python takes modules from there, and uv what it says of indexes.
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise InstallationError(f"{' '.join(command)} failed")
