"""
What uv has fetched on a worker: kept within bounds, now and then, and never what is in use.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pytest_supercheck import fetched
from pytest_supercheck.build_cache import BuildCache
from pytest_supercheck.fetched import LOOK_S, note_use, tidy, tidy_apart
from pytest_supercheck.uv_program import Uv


@pytest.fixture
def uv(tmp_path: Path) -> Uv:
    """A real uv, with a package in its cache."""
    (tmp_path / "own" / "uv" / "wheels-v6").mkdir(parents=True)
    (tmp_path / "own" / "uv" / "wheels-v6" / "package").write_bytes(b"x" * 1000)
    return Uv(tmp_path, tmp_path / "own", os.environ, lambda: None)


def nothing(_text: str, _detail: bool) -> None:
    """Nobody has to be told."""


def age(path: Path, seconds: float) -> None:
    """Let a path have been written so long ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_cache_that_is_too_large_begins_anew(uv: Uv, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at once a day, and told of."""
    package = uv.own / "uv" / "wheels-v6" / "package"
    tidy(uv, nothing)
    assert package.exists(), "it is small"
    monkeypatch.setattr(fetched, "CACHE_BYTES", 999)
    tidy(uv, nothing)
    assert package.exists(), "somebody has looked today"
    age(uv.own / "uv.looked", LOOK_S + 1)
    told: list[str] = []
    tidy(uv, lambda text, _detail: told.append(text))
    assert not package.exists()
    assert "is removed" in told[0]


def test_projects_together_stay_within_a_length(uv: Uv, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at once a day: what the one that was used longest ago has goes, as a whole."""
    apart = BuildCache(uv.cache / "apart", kept=5, pulse=lambda: None)

    def build(place: Path, _lock: int) -> None:
        (place / "uv").write_bytes(b"x" * (1 << 20))

    for number, key in enumerate("abc"):
        held = apart.obtain(key, build, lambda: None)
        os.utime(held.path, (number, number))
        held.close()
    tidy_apart(apart, uv.cache)
    monkeypatch.setattr(fetched, "APART_BYTES", 5 << 19)
    tidy_apart(apart, uv.cache)
    names = {entry.name for entry in (uv.cache / "apart").iterdir() if entry.is_dir()}
    assert names == {"a", "b", "c"}, "somebody has looked today"
    age(uv.cache / "apart.looked", LOOK_S + 1)
    tidy_apart(apart, uv.cache)
    assert {entry.name for entry in (uv.cache / "apart").iterdir() if entry.is_dir()} == {"b", "c"}


def test_pythons_used_last_are_kept(uv: Uv, monkeypatch: pytest.MonkeyPatch) -> None:
    """And all that were used within a day; links to what is gone go, too, and nothing that uv is at work on."""
    monkeypatch.setattr(fetched, "KEPT_PYTHONS", 1)
    for name in ("3.10.1", "3.11.1", "3.12.1", ".temp"):
        (uv.pythons / name / "bin").mkdir(parents=True)
        age(uv.pythons / name, LOOK_S + 100)
    (uv.pythons / "3.10").symlink_to("3.10.1")
    (uv.pythons / "3.11").symlink_to("3.11.1")
    age(uv.pythons / "3.12.1", LOOK_S + 50)
    note_use(uv.pythons / "3.11.1" / "bin" / "python", uv.pythons)
    note_use(Path("/usr/bin/python3"), uv.pythons)
    tidy(uv, nothing)
    assert sorted(entry.name for entry in uv.pythons.iterdir()) == [".temp", "3.11", "3.11.1"]


def test_pythons_are_left_alone_while_there_are_few(uv: Uv) -> None:
    """However old."""
    (uv.pythons / "3.10.1").mkdir(parents=True)
    age(uv.pythons / "3.10.1", 100 * LOOK_S)
    tidy(uv, nothing)
    assert (uv.pythons / "3.10.1").exists()
