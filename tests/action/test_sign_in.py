"""
A workflow's job that signs in at the server with the token that GitHub makes for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from supercheck_server.settings import Settings
from tests.action.conftest import Act
from tests.action.test_workflows import EXAMPLES
from tests.server.conftest import Served, serving
from tests.server.issuer import Issuer, issuing
from tests.server.test_oidc import RULE, configure


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """Who makes the tokens."""
    with issuing() as made:
        yield made


@pytest.fixture
def settings(settings: Settings, issuer: Issuer, unused_port: int, tmp_path: Path) -> Settings:
    """The settings of a server that knows the repository."""
    address = f"http://127.0.0.1:{unused_port}"
    return replace(settings, config=configure(tmp_path / "server.toml", issuer.url, RULE, audience=address))


@pytest.fixture
def served(settings: Settings, unused_port: int) -> Iterator[Served]:
    """The server, at the address for which tokens are made."""
    with serving(settings, port=unused_port) as made:
        yield made


def test_job_needs_no_stored_secret(act: Act, worker: None, served: Served, issuer: Issuer) -> None:
    """Neither to run its tests nor to ask which failures are new; nothing secret is in the log."""
    act.write(test_shop__py="def test_bad():\n    assert 0\n")
    act.environ.update(issuer.runner())
    job = act.run(EXAMPLES / "tests.yml")
    assert job.outputs["state"] == "failed", job.output
    assert "### New failures" in job.summary
    assert {token.project for token in served.parts.access.list()} == {"shop"}
    assert "sct_" not in job.output
