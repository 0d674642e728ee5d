"""
What a server's configuration file says that is too much for variables.

A TOML file, named by SUPERCHECK_CONFIG. Each section is described by a model beside the code that obeys it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from pytest_supercheck.errors import Fatal
from pytest_supercheck.operators import BadVariable
from pytest_supercheck.pyproject import read_toml
from supercheck_server.alerts import AlertsSection
from supercheck_server.github import GithubSection
from supercheck_server.oidc import OidcSection
from supercheck_server.repositories import JobsSection
from supercheck_server.section import Section
from supercheck_server.targets import NotifySection, TargetName


class Configuration(Section):
    """The whole file; every section may be missing."""

    #: Whose job tokens are taken.
    oidc: dict[str, OidcSection] = Field(default_factory=dict)
    #: What the server may do for jobs.
    jobs: JobsSection = JobsSection()
    #: The workflows that jobs may start.
    github: GithubSection = GithubSection()
    #: The server's address as its users have it, for links to it: `https://tests.example.org`; empty for no links.
    public_url: Annotated[str, Field(pattern=r"^(https?://[^\s@]*[^\s@/])?$")] = ""
    #: Who is told what, by name.
    notify: dict[TargetName, NotifySection] = Field(default_factory=dict)
    #: What operators are told.
    alerts: AlertsSection = AlertsSection()

    @property
    def variables(self) -> frozenset[str]:
        """Environment variables that hold what is the server's alone: workers, whose tests could read it, need none."""
        addresses = {section.url_variable for section in self.notify.values() if section.url_variable}
        return frozenset({self.github.token_variable, *addresses})

    @field_validator("oidc")
    @classmethod
    def _check_issuers(cls, sections: dict[str, OidcSection]) -> dict[str, OidcSection]:
        if len({section.issuer for section in sections.values()}) < len(sections):
            raise ValueError("each issuer has one section, with all its rules")
        return sections

    @model_validator(mode="after")
    def _alerts_go_somewhere(self) -> Configuration:
        if unknown := [name for name in self.alerts.to if name not in self.notify]:
            raise ValueError(f"alerts.to names {unknown[0]!r}, and there is no [notify.{unknown[0]}]")
        return self


def read_configuration(path: Path | None) -> Configuration:
    """
    Read the file.

    Args:
        path: None for a server without one.

    Raises:
        BadVariable: It cannot be read, or something in it makes no sense; the message says where, and no value, which
            may be a password.
    """
    if path is None:
        return Configuration()
    try:
        return Configuration.model_validate(read_toml(path))
    except Fatal as exc:
        raise BadVariable(f"SUPERCHECK_CONFIG: {exc}") from exc
    except ValidationError as exc:
        wrong = "; ".join(f"{_place(error['loc'])}: {error['msg']}" for error in exc.errors()[:5])
        raise BadVariable(f"SUPERCHECK_CONFIG: {path}: {wrong}") from exc


def _place(location: tuple[Any, ...]) -> str:
    return ".".join(map(str, location)) or "the file"
