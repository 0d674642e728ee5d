"""
The API keeps what `/openapi.json` promises, whatever is sent.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.server.conftest import Pool, Served

#: Answers that do not end cannot be checked as a whole.
ENDLESS = "/api/v1/queue/events"
#: Where programs get what opens the others.
OPEN = "/api/v1/tokens/exchange"


@pytest.fixture
def document(served: Served, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> schemathesis.BaseSchema:
    """The server's description of itself, on a pool with a run; streams of sessions end soon, and can be checked."""
    monkeypatch.setattr("supercheck_server.door.STREAM_S", 0.3)
    monkeypatch.setattr("supercheck_server.door.READ_S", 0.1)
    monkeypatch.setattr("supercheck_server.door.SIGN_S", 0.1)
    pool.submit("r1", nodeids=["a.py::a"], project="shop")
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json").exclude(path=ENDLESS)


@pytest.mark.slow
def test_api_is_as_it_is_described(document: schemathesis.BaseSchema) -> None:
    """No server error, no undocumented answer."""
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    operations = [found.ok() for found in document.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) > 10
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def keeps_its_promises(case: schemathesis.Case[Any]) -> None:
            case.call_and_validate(checks=checks)

        keeps_its_promises()


def test_every_route_is_described_in_words(served: Served) -> None:
    """With a summary and the answers that can come."""
    document = httpx.get(f"{served.url}/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation.get("summary"), (method, path)
            if path.startswith("/api/"):
                needed = {"401", "403", "429", "503", *(["404"] if "{run_id}" in path else [])}
                assert needed <= operation["responses"].keys(), (method, path)
                assert bool(operation["security"]) == (path != OPEN), (method, path)
