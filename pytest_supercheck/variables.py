"""
Environment variables of shipped runs: which of the client's go along, and what else test processes see.

Both sides use it: the session picks by the user's patterns, the worker adds a small base of its own.  Nothing else of
either side's environment reaches a test.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_supercheck.errors import Fatal

#: Variables that test processes never see: they would open the service to other people's code.
SECRETS: Final = frozenset(
    {
        "SUPERCHECK_TOKEN",
        "SUPERCHECK_URL",
        "SUPERCHECK_REDIS_URL",
        "SUPERCHECK_DATABASE_URL",
        "SUPERCHECK_S3_ENDPOINT",
        "SUPERCHECK_STORE",
        # With these a job of GitHub Actions gets a token for the server, and for whatever else trusts it.
        "ACTIONS_ID_TOKEN_REQUEST_URL",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    }
)

#: Bytes of all variables that go along.
LIMIT_BYTES: Final = 64 * 1024

#: What is taken from the worker's own environment: how to speak, what time it is, whom to believe.
_KEPT: Final = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")

#: Programs of the system, where the worker's own environment has no PATH.
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"

#: Names whose values are likely to be secrets.
_SECRET_NAME: Final = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|AUTH(?!OR)|COOKIE|SESSION_ID|(?:^|_)(?:PASS|PWD|PAT|DSN)$"
    r"|(?:^|_|API|ACCESS|PRIVATE)KEY(?:$|_)",
    re.IGNORECASE,
)

#: Values that are: an address with a password, a key in text.
_SECRET_VALUE: Final = re.compile(r"://[^/@\s]*:[^/@\s]+@|-----BEGIN [A-Z ]*PRIVATE KEY")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """What goes along with a run."""

    #: Values by name. May hold what the user named exactly, secrets too: never to be shown.
    passed: dict[str, str]
    #: Names that a pattern matches and that stay all the same: they look like secrets, or are supercheck's own.
    left: tuple[str, ...]

    @property
    def words(self) -> str:
        """What is told of those that stay; empty when there are none."""
        if not self.left:
            return ""
        shown = ", ".join(self.left[:8]) + (f" and {len(self.left) - 8} more" if len(self.left) > 8 else "")
        return f"not passed to the tests, for they look like secrets: {shown} (supercheck_pass_env takes exact names)"


def pick(patterns: Sequence[str], environ: Mapping[str, str]) -> Picked:
    """
    Choose the variables that go along.

    What looks like a secret, and all that begins with ``SUPERCHECK_``, goes along only when a pattern is exactly its
    name; what opens the service itself (`SECRETS`) never does.

    Args:
        patterns: Shell patterns, case-sensitive, or names.
        environ: The session's environment.

    Raises:
        ValueError: They are too long; the message says what to do.
    """
    passed: dict[str, str] = {}
    left: list[str] = []
    for name in sorted(environ):
        if name in patterns and name not in SECRETS:
            passed[name] = environ[name]
        elif any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            if _is_secret(name, environ[name]):
                left.append(name)
            else:
                passed[name] = environ[name]
    size = sum(len(os.fsencode(name)) + len(os.fsencode(value)) for name, value in passed.items())
    if size > LIMIT_BYTES:
        longest = max(passed, key=lambda name: len(passed[name]))
        raise ValueError(
            f"what it names has {size:,} bytes, and {LIMIT_BYTES:,} are allowed; {longest} is the longest variable"
        )
    return Picked(passed=passed, left=tuple(left))


def _is_secret(name: str, value: str) -> bool:
    return bool(name.startswith("SUPERCHECK_") or _SECRET_NAME.search(name) or _SECRET_VALUE.search(value))


def _is_variable(name: str, value: object) -> bool:
    """Whether a stranger's variable is one, and none of the service's."""
    if not isinstance(value, str) or not name or name in SECRETS or "=" in name or "\0" in name + value:
        return False
    try:
        os.fsencode(name + value)
    except UnicodeEncodeError:
        return False
    return True


def of_tests(
    workspace: Path, programs: Path | None, passed: Mapping[str, object], worker: Mapping[str, str]
) -> dict[str, str]:
    """
    The whole environment of the test processes of a shipped run, but for xdist's variables.

    Args:
        workspace: A directory of this run alone; its folders ``home`` and ``tmp`` are made.
        programs: The ``bin`` of the run's environment; None for the worker's own interpreter.
        passed: What the spec brought, from `pick`; what is no variable is left out.
        worker: The worker's environment.
    """
    home, temporary = workspace / "home", workspace / "tmp"
    for directory in (home, temporary):
        directory.mkdir(mode=0o700, exist_ok=True)
    path = worker.get("PATH") or _PATH
    base = {"LANG": "C.UTF-8", **{name: worker[name] for name in _KEPT if name in worker}}
    brought = {name: value for name, value in passed.items() if _is_variable(name, value) and isinstance(value, str)}
    if sum(len(os.fsencode(name + value)) for name, value in brought.items()) > LIMIT_BYTES:
        raise Fatal(f"the variables that came with the run have more than {LIMIT_BYTES:,} bytes")
    decided = {"HOME": str(home), "TMPDIR": str(temporary), "PATH": path}
    if programs is not None:
        decided |= {"PATH": f"{programs}{os.pathsep}{path}", "VIRTUAL_ENV": str(programs.parent)}
    return {**base, **brought, **decided}
