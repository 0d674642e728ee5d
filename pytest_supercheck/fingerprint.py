"""
What a Python process has to run tests with: its Python, its platform and the distributions installed.

Taken on both sides of a shipped run and compared before its first test.  Stdlib only: the interpreter of an environment
runs this file as a script, with directories to look in, where nothing of this package is installed.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

#: Characters of a line of differences.
LINE_LIMIT: Final = 400

#: Names in one part of such a line; the others are counted.
_NAMES_LIMIT: Final = 8

#: What tests do not notice: tools that build and install, and which one side has only because it builds.
_TOOLS: Final = frozenset({"pip", "setuptools", "wheel", "uv", "distribute", "pkg-resources", "pytest-supercheck"})

#: What tests notice first.
_TELLING: Final = ("pytest", "pluggy")

#: The folder of a distribution's metadata.
_METADATA: Final = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)(?:-py[\d.]+(?:-[^-]+)?)?\.(?:dist|egg)-info")

#: Bytes of a distribution's metadata that are read.
_READ_BYTES: Final = 200_000


def take(path: Sequence[str] | None = None) -> dict[str, Any]:
    """
    The fingerprint of this process.

    Only names of files are read, and the metadata of what this package needs itself: a few milliseconds.

    Args:
        path: Where to look for distributions; by default `sys.path`.

    Returns:
        As JSON has it: ``python`` (three numbers with dots between), ``implementation``, ``platform`` (system and
        machine), ``distributions`` (version by normalised name) and ``own``, the names of those that may be there for
        this package's sake alone.
    """
    folders = _folders(sys.path if path is None else path)
    found = {name: version for name, (version, _) in folders.items()}
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "implementation": platform.python_implementation(),
        "platform": f"{platform.system()} {platform.machine()}",
        "distributions": dict(sorted(found.items())),
        "own": sorted(_own(folders)),
    }


def normalised(name: str) -> str:
    """A distribution's name in the form in which names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], project: str = "") -> str:
    """
    What tests could notice, in one line; empty when there is nothing.

    Not told: tools that install and build, this package and what is there for its sake on one side only, and the
    project's own version, which is the same sources on both sides.

    Args:
        ours: The fingerprint of the side that reads the line, from `take`.
        theirs: The other side's. Either may come from elsewhere: what is malformed is left out.
        project: The project's own name.
    """
    parts = [
        f"{title}{_text(ours, key)} here, {_text(theirs, key)} there"
        for key, title in (("implementation", ""), ("python", "Python "), ("platform", ""))
        if _text(ours, key) != _text(theirs, key)
    ]
    here, there = _distributions(ours), _distributions(theirs)
    unimportant = _TOOLS | {normalised(project)}
    changed = sorted(
        (name for name in (here.keys() & there.keys()) - unimportant if here[name] != there[name]), key=_rank
    )
    parts += [f"{name} {here[name]} here, {there[name]} there" for name in changed[:_NAMES_LIMIT]]
    if len(changed) > _NAMES_LIMIT:
        parts.append(f"{len(changed) - _NAMES_LIMIT} more in other versions")
    unimportant |= _names(ours) | _names(theirs)
    parts += _only("here", here.keys() - there.keys() - unimportant)
    parts += _only("there", there.keys() - here.keys() - unimportant)
    line = "; ".join(parts)
    return line if len(line) <= LINE_LIMIT else f"{line[: LINE_LIMIT - 4]} ..."


def _only(side: str, names: set[str]) -> Iterator[str]:
    if names:
        shown = sorted(names, key=_rank)[:_NAMES_LIMIT]
        more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
        yield f"only {side}: {', '.join(shown)}{more}"


def _rank(name: str) -> tuple[bool, bool, str]:
    """Pytest first, then its plugins."""
    return name not in _TELLING, not name.startswith("pytest-"), name


def _text(fingerprint: Mapping[str, Any], key: str) -> str:
    return _plain(fingerprint.get(key, ""), 60)


def _plain(value: object, limit: int) -> str:
    """A part of a line, whoever it comes from."""
    return re.sub(r"[^ -~]", "?", str(value)[:limit])


def _distributions(fingerprint: Mapping[str, Any]) -> dict[str, str]:
    found = fingerprint.get("distributions")
    if not isinstance(found, dict):
        return {}
    return {normalised(_plain(name, 100)): _plain(version, 60) for name, version in found.items()}


def _names(fingerprint: Mapping[str, Any]) -> set[str]:
    found = fingerprint.get("own")
    return {str(name) for name in found} if isinstance(found, list) else set()


def _folders(path: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Version and folder of each distribution; the first one on the path counts, as for imports."""
    found: dict[str, tuple[str, str]] = {}
    for place in path:
        try:
            names = os.listdir(place or ".")
        except OSError:
            continue  # an archive, or not there
        for name in names:
            if match := _METADATA.fullmatch(name):
                found.setdefault(normalised(match["name"]), (match["version"], os.path.join(place, name)))
    return found


def _own(folders: Mapping[str, tuple[str, str]]) -> set[str]:
    """What is installed that this package needs, with all its extras, and what that needs without any."""
    needed, new = set[str](), {"pytest-supercheck"} & folders.keys()
    while new:
        needed |= new
        new = {other for name in new for other in _requirements(folders, name)} - needed
    return needed


def _requirements(folders: Mapping[str, tuple[str, str]], name: str) -> Iterator[str]:
    for file in ("METADATA", "PKG-INFO"):
        try:
            path = os.path.join(folders[name][1], file)
            with open(path, encoding="utf-8", errors="replace") as metadata:
                head = metadata.read(_READ_BYTES).partition("\n\n")[0]
        except OSError:
            continue
        for required, extra in re.findall(r"^Requires-Dist:\s*([\w.-]+).*?(\bextra\s*==.*)?$", head, re.MULTILINE):
            if normalised(required) in folders and (not extra or name == "pytest-supercheck"):
                yield normalised(required)


if __name__ == "__main__":
    json.dump(take(sys.argv[1:]), sys.stdout)
