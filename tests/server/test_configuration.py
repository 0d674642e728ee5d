"""
The server's configuration file.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_supercheck.operators import BadVariable
from supercheck_server.configuration import Configuration, read_configuration


def test_a_server_needs_none() -> None:
    """Every section may be missing, and the file."""
    assert read_configuration(None) == Configuration()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(
            "[oidk.github]\nsecret = 'sesame'\n", "oidk: Extra inputs are not permitted", id="unknown section"
        ),
        pytest.param("[oidc\n", "cannot be read", id="no TOML"),
        pytest.param(None, "cannot be read", id="not there"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    """The message has the place, and no value: it may be a password."""
    path = tmp_path / "server.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadVariable, match=words) as caught:
        read_configuration(path)
    assert "SUPERCHECK_CONFIG" in str(caught.value)
    assert "server.toml" in str(caught.value)
    assert "sesame" not in str(caught.value)
