"""
Who is told what: the sections `[notify.NAME]` of the configuration file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator, model_validator

from pytest_supercheck.jobs import On
from pytest_supercheck.operators import BadVariable
from supercheck_server.messages import Wording
from supercheck_server.notifier import Notifier
from supercheck_server.rows import RunRow
from supercheck_server.section import Section

#: What names a target.
TargetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]


class NotifySection(Section):
    """A target as the file has it."""

    #: apprise's address of it, or the environment variable that has the address.
    url: SecretStr | None = None
    url_variable: str | None = None
    #: When it is told; never of itself, only what alerts and jobs name it for.
    on: tuple[On, ...] = ()
    #: Patterns; None for all.
    projects: tuple[str, ...] | None = None
    branches: tuple[str, ...] | None = None
    triggers: tuple[str, ...] | None = None
    #: Jinja templates of plain text; None for the usual ones.
    title: str | None = None
    body: str | None = None

    @field_validator("on", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _makes_sense(self) -> NotifySection:
        if (self.url is None) == (self.url_variable is None):
            raise ValueError("it needs either url or url-variable")
        Wording(self.title, self.body)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A target as the server uses it."""

    #: Its name.
    name: str
    #: Its address, which holds secrets: not in the repr.
    url: str = field(repr=False)
    #: What the file says of it.
    section: NotifySection
    #: How runs are told there.
    wording: Wording

    def hears_of(self, run: RunRow) -> bool:
        """Whether it is to be told of a run at all, whoever wants that."""
        chosen = (
            (self.section.projects, run.project),
            (self.section.branches, run.branch),
            (self.section.triggers, run.trigger),
        )
        return all(patterns is None or _matches(value, patterns) for patterns, value in chosen)


def read_targets(
    sections: Mapping[str, NotifySection], notifier: Notifier, environ: Mapping[str, str]
) -> dict[str, Target]:
    """
    The targets by name.

    Raises:
        BadVariable: An address is missing, or none; the message has nothing of it.
    """
    found = {}
    for name, section in sections.items():
        if section.url_variable is None:
            url, place = section.url.get_secret_value() if section.url else "", "url"
        else:
            url, place = environ.get(section.url_variable, "").strip(), f"url-variable: {section.url_variable}"
        if not url:
            raise BadVariable(f"SUPERCHECK_CONFIG: notify.{name}.{place}: it is not set")
        if not notifier.knows(url):
            raise BadVariable(f"SUPERCHECK_CONFIG: notify.{name}.{place}: neither apprise nor a plugin knows it")
        found[name] = Target(name=name, url=url, section=section, wording=Wording(section.title, section.body))
    return found


def _matches(value: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns)
