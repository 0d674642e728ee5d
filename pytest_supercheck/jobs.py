"""
Jobs: saved definitions of runs, as a project keeps them in ``supercheck.toml``.

A table that a person has written, or JSON that a client has sent → `Job`, checked.  Knows nothing of files, of when
jobs start and of how runs are made of them.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, get_args

from pytest_supercheck.errors import BadJob
from pytest_supercheck.model import PRIORITIES, Priority, is_group_name, is_label
from pytest_supercheck.wish import KIND, PYTHON

#: What a job can have another value of on a server until its definition changes.
OVERRIDES: Final = ("schedule", "executions", "priority", "timeout", "retries")

#: When somebody is told of a run; what says most comes first.
On = Literal["first-failure", "recovery", "failure", "always"]
REASONS: Final[tuple[On, ...]] = get_args(On)

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
#: A branch, a tag or a commit: nothing that git could take for an option, a range or a mapping.
_REF: Final = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/+@-]{0,199}")
_URL: Final = re.compile(r"(https|ssh|file)://[^\s\0]{1,1000}")
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9-]{1,100}/[A-Za-z0-9._-]{1,100}")

#: What JSON may have in a text, and neither a database nor an answer.
_NO_TEXT: Final = re.compile("[\0\ud800-\udfff]")

#: Path of keys and places that leads to a value.
Where = tuple[str | int, ...]


class BadDefinition(ValueError):
    """A value is not what it has to be: why, and the keys that lead to it from where it was read."""

    def __init__(self, words: str, *where: str | int) -> None:
        super().__init__(words)
        self.words = words
        self.where: Where = where

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.where))}: {self.words}" if self.where else self.words


@dataclass(frozen=True, slots=True, kw_only=True)
class Git:
    """Sources that are in a repository."""

    #: ``https://``, ``ssh://`` or ``file://``.
    git: str
    #: The branch, tag or commit.
    ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """Who is told of a job's runs."""

    #: The name that the server's configuration has for them.
    to: str
    on: On = "failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """A workflow of GitHub that is started in place of a run."""

    #: ``OWNER/NAME``.
    repository: str
    #: Its file's name, or its number.
    workflow: str
    #: The branch or tag.
    ref: str = "main"
    #: What the workflow asks for.
    inputs: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A saved definition of a run."""

    #: Names it within its project.
    name: str
    #: Whose it is; empty for that of the directory that it is defined in.
    project: str = ""
    #: Where its sources are; None for the directory that it is defined in.
    source: Git | None = None
    #: pytest's command line.
    args: tuple[str, ...] = ()
    #: Most executions at a time; None for the pool's capacity.
    executions: int | None = None
    #: Labels that workers must have.
    labels: tuple[str, ...] = ()
    #: Rank among the runs that wait; None for `normal`, but `low` where its schedule starts it: people go first.
    priority: Priority | None = None
    #: Time limit of a run in seconds; 0 for the pool's.
    timeout: int = 0
    #: How often a run is started once more when machinery failed, not tests.
    retries: int = 0
    #: The group of which so many runs go on at a time; empty for none.
    group: str = ""
    group_limit: int = 1
    #: Whether a new run of the group cancels the older ones.
    cancel_in_progress: bool = False
    #: When it starts by itself: a string of cron, or a table as `parse_schedule` takes it; None for never.
    schedule: str | dict[str, Any] | None = None
    #: Who is told of its runs.
    notify: tuple[Subscription, ...] = ()
    #: Where the environment of its tests comes from, and with which Python; empty for the project's.
    env: str = "uv"
    python: str = ""
    #: The workflow that is started in place of a run; None for a run.
    dispatch: Dispatch | None = None

    def encode(self) -> dict[str, Any]:
        """As a file has it, without what is as if it was not given."""
        found: dict[str, Any] = {}
        for field in type(self).__dataclass_fields__.values():
            value = getattr(self, field.name)
            if field.name != "name" and value != field.default:
                found[field.name.replace("_", "-")] = _encoded(value)
        return found

    @property
    def checksum(self) -> str:
        """The same for definitions that mean the same."""
        return hashlib.sha256(json.dumps(self.encode(), sort_keys=True).encode()).hexdigest()

    def changed(self, overrides: Mapping[str, Any]) -> Job:
        """
        The job with other values.

        Args:
            overrides: By keys of `OVERRIDES`; None takes a value away.

        Raises:
            BadJob: One of them makes no sense.
        """
        if odd := [key for key in overrides if key not in OVERRIDES]:
            raise BadJob(f"{odd[0]} cannot be changed here, but {', '.join(OVERRIDES)}")
        merged = {**self.encode(), **overrides}
        return decode_job(self.name, {key: value for key, value in merged.items() if value is not None})


def decode_job(name: str, table: object) -> Job:
    """
    Read a job as JSON has it.

    Raises:
        BadJob: It makes no sense.
    """
    try:
        return check_job(name, table)
    except BadDefinition as exc:
        raise BadJob(f"job {name}: {exc}"[:1000].encode("utf-8", "replace").decode()) from exc


def check_job(name: str, table: object) -> Job:
    """
    Read a job as TOML has it.

    Raises:
        BadDefinition: It makes no sense; where it leads to begins within its table.
    """
    if not _NAME.fullmatch(name):
        raise BadDefinition("a job's name has 1 to 100 letters, digits and ._- of ASCII, the first no sign")
    job = Job(name=name, **_table(table, _KEYS))
    if job.dispatch is not None and (odd := sorted(job.encode().keys() - {"project", "schedule", "dispatch"})):
        raise BadDefinition(f"a job that dispatches a workflow has no {odd[0]}, as a run has", "dispatch")
    if not job.group and (job.group_limit > 1 or job.cancel_in_progress):
        raise BadDefinition("group is missing: of which runs is the limit?")
    if odd := [arg for arg in job.args if arg.startswith("--supercheck")]:
        raise BadDefinition(
            f"{odd[0]}: a job has keys for this, and reads the rest from the project's ini file", "args"
        )
    return job


def _table(value: object, keys: Mapping[str, Callable[[Any], Any]], needed: Sequence[str] = ()) -> dict[str, Any]:
    """A table's values by the names that Python has for its keys."""
    if not isinstance(value, dict):
        raise BadDefinition("it must be a table")
    found: dict[str, Any] = {}
    for key, one in value.items():
        if key not in keys:
            raise BadDefinition(unknown(key, keys), key)
        try:
            found[key.replace("-", "_")] = keys[key](one)
        except BadDefinition as exc:
            raise BadDefinition(exc.words, key, *exc.where) from exc
    if missing := [key for key in needed if key not in value]:
        raise BadDefinition(f"{missing[0]} is missing")
    return found


def unknown(key: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """What is said of a key that there is not."""
    close = difflib.get_close_matches(key, known, 1)
    return f"there is no such key; {f'is it {close[0]}?' if close else 'there are ' + ', '.join(known)}"


def _text(limit: int, form: re.Pattern[str] | None = None, words: str = "") -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or not 1 <= len(value) <= limit or _NO_TEXT.search(value):
            raise BadDefinition(f"it must be text of 1 to {limit} characters")
        if form is not None and not form.fullmatch(value):
            raise BadDefinition(f"{value!r} is no {words}")
        return value

    return read


def _choice(choices: Sequence[str]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in choices:
            raise BadDefinition(f"it must be one of {', '.join(choices)}")
        return str(value)

    return read


def _number(least: int, most: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise BadDefinition(f"it must be a whole number from {least} to {most}")
        return value

    return read


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadDefinition("it must be true or false")
    return value


def _list(limit: int, one: Callable[[Any], Any], what: str) -> Callable[[Any], tuple[Any, ...]]:
    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)) or len(value) > limit:
            raise BadDefinition(f"it must be a list of at most {limit} {what}")
        found = []
        for place, element in enumerate(value):
            try:
                found.append(one(element))
            except BadDefinition as exc:
                raise BadDefinition(exc.words, place, *exc.where) from exc
        return tuple(found)

    return read


def _label(value: Any) -> str:
    if not isinstance(value, str) or not is_label(value):
        raise BadDefinition(f"{value!r} is not 1 to 100 letters, digits or any of ._-:")
    return value


def _group(value: Any) -> str:
    if not isinstance(value, str) or not is_group_name(value):
        raise BadDefinition(f"{value!r} is not 1 to 200 letters, digits or any of ._-:/")
    return value


def _git(value: Any) -> Git:
    return Git(**{"ref": "HEAD", **_table(value, _GIT, ("git",))})


def _subscription(value: Any) -> Subscription:
    return Subscription(**_table(value, _SUBSCRIPTION, ("to",)))


def _dispatch(value: Any) -> Dispatch:
    return Dispatch(**{"inputs": {}, **_table(value, _DISPATCH, ("repository", "workflow"))})


def _inputs(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > 25:  # GitHub takes no more
        raise BadDefinition("it must be a table of at most 25 texts")
    _list(25, _text(200), "names")(list(value))
    _table(value, dict.fromkeys(value, _text(10_000)))
    return dict(value)


def _schedule(value: Any) -> str | dict[str, Any]:
    try:
        from pytest_supercheck.schedule import BadSchedule, parse_schedule
    except ImportError as exc:
        raise BadJob(f"Schedules need {exc.name}: pip install 'pytest-supercheck[http]'") from exc
    try:
        parse_schedule(value)
    except BadSchedule as exc:
        raise BadDefinition(str(exc).removeprefix(f"{exc.key}: "), *([exc.key] if exc.key else [])) from exc
    if isinstance(value, str):
        return value
    return {key: one.isoformat() if isinstance(one, datetime) else one for key, one in value.items()}


_GIT: Final[dict[str, Callable[[Any], Any]]] = {
    "git": _text(1000, _URL, "address of https, ssh or file"),
    "ref": _text(200, _REF, "branch, tag or commit"),
}
_SUBSCRIPTION: Final[dict[str, Callable[[Any], Any]]] = {"to": _text(100), "on": _choice(REASONS)}
_DISPATCH: Final[dict[str, Callable[[Any], Any]]] = {
    "repository": _text(201, _REPOSITORY, "OWNER/NAME of GitHub"),
    "workflow": _text(200, re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*"), "name of a workflow's file"),
    "ref": _text(200, _REF, "branch or tag"),
    "inputs": _inputs,
}
_KEYS: Final[dict[str, Callable[[Any], Any]]] = {
    "project": _text(200),
    "source": _git,
    "args": _list(1000, _text(10_000), "texts"),
    "executions": _number(1, 100_000),
    "labels": _list(100, _label, "labels"),
    "priority": _choice(PRIORITIES),
    "timeout": _number(1, 10_000_000),
    "retries": _number(0, 10),
    "group": _group,
    "group-limit": _number(1, 100_000),
    "cancel-in-progress": _flag,
    "schedule": _schedule,
    "notify": _list(20, _subscription, 'tables such as {to = "team", on = "failure"}'),
    "env": _text(30, KIND, "kind of environment"),
    "python": _text(100, PYTHON, "version, such as 3.12 or >=3.11"),
    "dispatch": _dispatch,
}


def _encoded(value: Any) -> Any:
    if isinstance(value, (Git, Subscription, Dispatch)):
        return {name: _encoded(getattr(value, name)) for name in type(value).__dataclass_fields__}
    return [_encoded(one) for one in value] if isinstance(value, tuple) else value
