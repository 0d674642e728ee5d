"""
Fixtures of the acceptance tests.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_supercheck.valkey import cache_dir, find_server
from tests.acceptance.twins import Twins

#: Variables that a test session must not inherit from the one it is started by begin so; but these are for it too.
_FOREIGN = ("PYTEST_", "SUPERCHECK_")
_OURS = ("PYTEST_DEBUG_TEMPROOT", "SUPERCHECK_CACHE", "SUPERCHECK_VALKEY")


@pytest.fixture(scope="session")
def server_cache() -> Path:
    """Where the embedded server is kept: fetched once, before each test gets a home directory of its own."""
    find_server()
    return cache_dir()


@pytest.fixture
def twins(
    server_cache: Path,
    pytester: pytest.Pytester,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Twins:
    """An empty suite in a directory of its own, out of reach of the pool and the options that this session may have."""
    for name in os.environ:
        if name.startswith(_FOREIGN) and name not in _OURS:
            monkeypatch.delenv(name)
    monkeypatch.setenv("SUPERCHECK_CACHE", str(server_cache))
    return Twins(pytester, tmp_path_factory.mktemp("twins"))
