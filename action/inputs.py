"""
What the workflow asks for: the only reader of the action's inputs.

First in the step.  They come as variables and go on as arguments, so that no shell ever reads them.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Final

COLLECTS: Final = ("remote", "local")
FAIL_ONS: Final = ("any", "new", "never")

#: Inputs that are options of the session.
_OPTIONS: Final = ("executions", "priority", "wait", "artifacts")
_PREFIX: Final = "INPUT_"


class BadInput(ValueError):
    """An input makes no sense; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The inputs of one step."""

    #: The server or pool; empty for the embedded stack.
    url: str
    #: A token for it; empty where the job has none.
    token: str = field(repr=False)
    #: GitHub's own, for the comment; empty where the job has none.
    github_token: str = field(repr=False)
    #: pytest's arguments.
    args: tuple[str, ...]
    #: Options of the session that inputs stand for.
    options: tuple[str, ...]
    #: Whether the tests are collected by the first worker, and nothing of the project is needed here.
    remote: bool
    #: The release to install; empty for the action's own, or what is there already.
    version: str
    #: What tells this comment from others of the pull request; empty for none.
    comment: str
    #: Which failing tests fail the step.
    fail_on: str

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Inputs:
        """
        Take the inputs out of the environment: tests that run here see none of them.

        Raises:
            BadInput: One makes no sense.
        """
        given = {name: environ.pop(name).strip() for name in list(environ) if name.startswith(_PREFIX)}
        read = _Reader({name.removeprefix(_PREFIX).lower(): value for name, value in given.items()})
        url = read("url") or environ.get("SUPERCHECK_URL", "")
        collect = read.choice("collect", COLLECTS)
        return cls(
            url=url,
            token=read("token") or environ.get("SUPERCHECK_TOKEN", ""),
            github_token=read("github_token"),
            args=read.words("args"),
            options=tuple(f"--supercheck-{name}={value}" for name in _OPTIONS if (value := read(name))),
            remote=bool(url) and collect == "remote",
            version=read("version"),
            comment={"false": "", "true": "tests"}.get(read("comment").lower(), read("comment")),
            fail_on=read.choice("fail_on", FAIL_ONS),
        )


class _Reader:
    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given

    def __call__(self, name: str) -> str:
        return self._given.get(name, "")

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """One of several; the first when nothing is given."""
        value = self(name) or choices[0]
        if value not in choices:
            raise BadInput(f"{name.replace('_', '-')}: {value!r} is none of {', '.join(choices)}")
        return value

    def words(self, name: str) -> tuple[str, ...]:
        """Words as in a shell's command, which may have several lines."""
        try:
            return tuple(shlex.split(self(name)))
        except ValueError as exc:
            raise BadInput(f"{name}: {exc}") from exc
