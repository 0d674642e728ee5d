"""
What a server's configuration file says that is too much for variables.

A TOML file, named by SUPERCHECK_CONFIG. Each section is described by a model beside the code that obeys it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pytest_supercheck.errors import Fatal
from pytest_supercheck.operators import BadVariable
from pytest_supercheck.pyproject import read_toml


class Section(BaseModel):
    """A table of the file: what is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Configuration(Section):
    """The whole file; every section may be missing."""


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
