"""
Who started a run, on what occasion and from which sources.

Asked once per session, by its connector, beside collection: reads git's own files and the variables of GitHub Actions,
starts no process, and never fails.  What it finds travels in the run's spec, in the plain form of `record.Origin`.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

#: A password in an address.
_PASSWORD: Final = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]*@")

#: Git's addresses without a scheme, ``git@host:path``, and those with one that a browser does not know.
_SSH: Final = re.compile(r"(?:(?:ssh|git)://)?(?:[^@/\s]+@)?([^:/\s]+)(?::\d+/|[:/])(.+)")


def find_origin(spec: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """
    The origin of a run that starts here and now.

    Args:
        spec: What its session says: ``rootdir``, ``args``, ``pytest`` and ``plugins``.
        environ: The session's environment.

    Returns:
        What `plain.revive` makes an `Origin` of.
    """
    system = os.uname()
    return {
        "user": _user(),
        "host": socket.gethostname(),
        "argv": mask(["pytest", *spec["args"]]),
        "rootdir": spec["rootdir"],
        "python": ".".join(map(str, sys.version_info[:3])),
        "pytest": spec["pytest"],
        "platform": f"{system.sysname} {system.release} {system.machine}",
        "plugins": spec["plugins"],
        **_git(Path(spec["rootdir"])),
        **_ci(environ),
    }


def mask(argv: Sequence[str]) -> list[str]:
    """A command line without the passwords of the addresses in it."""
    return [_PASSWORD.sub(r"\1:***@", argument) for argument in argv]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # nobody has given this number a name
        return ""


# -- GitHub Actions


def _ci(environ: Mapping[str, str]) -> dict[str, Any]:
    """Source: "Variables" in the documentation of GitHub Actions."""
    if environ.get("GITHUB_ACTIONS") != "true":
        return {"trigger": "ci"} if environ.get("CI", "false").lower() not in ("", "0", "false") else {}
    repository = f"{environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{environ.get('GITHUB_REPOSITORY', '')}"
    job = f"{repository}/actions/runs/{environ.get('GITHUB_RUN_ID', '')}"
    found: dict[str, Any] = {
        "user": environ.get("GITHUB_ACTOR", ""),
        "trigger": environ.get("GITHUB_EVENT_NAME", "ci"),
        "repository": repository,
        "branch": environ.get("GITHUB_HEAD_REF") or environ.get("GITHUB_REF_NAME", ""),
        "commit": environ.get("GITHUB_SHA", ""),
        "url": f"{job}/attempts/{environ.get('GITHUB_RUN_ATTEMPT', '1')}",
    }
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        pull_request = json.loads(Path(environ["GITHUB_EVENT_PATH"]).read_bytes())["pull_request"]
        # What GITHUB_SHA names is the merge that GitHub tries, which is nobody's commit.
        found |= {"pull_request": int(pull_request["number"]), "commit": str(pull_request["head"]["sha"])}
    return found


# -- git, as in gitrepository-layout(5)


def _git(directory: Path) -> dict[str, str]:
    for place in (directory, *directory.parents):
        with contextlib.suppress(OSError, ValueError):
            if (git := _git_directory(place / ".git")) is not None:
                return _checkout(git)
    return {}


def _git_directory(path: Path) -> Path | None:
    """The directory that a checkout's ``.git`` is or names; None when it has none."""
    if path.is_dir():
        return path
    if not path.is_file():
        return None
    return path.parent / path.read_text("utf-8").removeprefix("gitdir:").strip()


def _checkout(git: Path) -> dict[str, str]:
    head = (git / "HEAD").read_text("utf-8").strip()
    shared = git / (git / "commondir").read_text("utf-8").strip() if (git / "commondir").is_file() else git
    name = head.removeprefix("ref: ")
    found = {"repository": _remote(shared / "config")}
    if name == head:
        return {**found, "commit": head}
    return {**found, "branch": name.removeprefix("refs/heads/"), "commit": _commit(git, shared, name)}


def _commit(git: Path, shared: Path, name: str) -> str:
    """The commit that a reference leads to; empty before the first one."""
    for place in (git / name, shared / name):
        if place.is_file():
            return place.read_text("utf-8").strip()
    packed = shared / "packed-refs"
    lines = packed.read_text("utf-8").splitlines() if packed.is_file() else []
    return next((line.partition(" ")[0] for line in lines if line.endswith(f" {name}")), "")


def _remote(config: Path) -> str:
    """The address of ``origin`` as a browser would open it, without credentials; empty without one."""
    text = config.read_text("utf-8") if config.is_file() else ""
    section = re.search(r'^\[remote "origin"\]\s*$((?:\n(?!\[).*)*)', text, re.MULTILINE)
    url = re.search(r"^\s*url\s*=\s*(\S+)\s*$", section[1], re.MULTILINE) if section else None
    if url is None or url[1].startswith(("/", ".", "file:")):
        return ""
    address = url[1].removesuffix(".git")
    if address.startswith(("http://", "https://")):
        return re.sub(r"(?<=://)[^/@]*@", "", address)
    return _SSH.sub(r"https://\1/\2", address)
