"""
What every section of a server's configuration file is.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


def _in_toml(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


class Section(BaseModel):
    """A table of the file: what is not known is refused; `for_a_time` is `for-a-time` there."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, alias_generator=_in_toml)
