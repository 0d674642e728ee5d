"""
What every table of the server's configuration file has in common.

Apart from `configuration`, which knows all tables, so that each can be described beside the code that obeys it.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the file: what is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
