"""
Which files a test process names.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_supercheck import leftovers
from pytest_supercheck.leftovers import Leftovers


def item(output_path: object = None, cached: object = None) -> Any:
    """A test that has, or had, the fixture of pytest-playwright."""
    definitions = {"output_path": SimpleNamespace(cached_result=cached)}
    funcargs = {} if output_path is None else {"output_path": output_path}
    return SimpleNamespace(funcargs=funcargs, _request=SimpleNamespace(_fixture_defs=definitions))


def named(root: Path, *globs: str, of: str = "failed", failed: bool = True, test: Any = None) -> list[tuple[str, str]]:
    """What is named of a test that writes `new.log` and touches nothing else."""
    found = Leftovers(str(root), {"of": of, "globs": list(globs)})
    found.begin(test or item())
    (root / "new.log").write_text("x")
    found.look(failed=failed)
    found.look(failed=False)
    return found.named()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root directory with a file from before."""
    (tmp_path / "old.log").touch()
    os.utime(tmp_path / "old.log", (1_700_000_000, 1_700_000_000))
    return tmp_path


@pytest.fixture
def output(root: Path) -> Path:
    """What pytest-playwright has put somewhere."""
    made = root / "test-results" / "test-it"
    (made / "deep").mkdir(parents=True)
    for name in ("trace.zip", "deep/b.png", "deep/a.png"):
        (made / name).touch()
    return made


@pytest.mark.parametrize(
    ("of", "failed", "count"),
    [("failed", True, 1), ("failed", False, 0), ("all", False, 1), ("all", True, 1), ("none", True, 0)],
)
def test_of_which_tests_files_are_named(root: Path, of: str, failed: bool, count: int) -> None:
    """A test that has one failing report has failed, whatever else it reports."""
    assert len(named(root, "*.log", of=of, failed=failed)) == count


def test_patterns_find_what_was_written_since(root: Path) -> None:
    """Relative to the root directory; no directories, and each file once."""
    (root / "sub").mkdir()
    (root / "sub" / "x.log").touch()
    os.symlink("nowhere", root / "link.log")
    for written in ("sub/x.log", "link.log"):
        os.utime(root / written, (1 << 32, 1 << 32), follow_symlinks=False)
    found = named(root, "*.log", "**/*.log", "sub*", "*.png")
    assert found == [(str(root), name) for name in ("link.log", "new.log", "sub/x.log")]


def test_playwrights_files_are_named_by_their_place_in_its_directory(root: Path, output: Path) -> None:
    """Before those that a pattern finds, which does not name them again."""
    found = named(root, "**/*.zip", "**/*.log", test=item(str(output)))
    in_it = [(str(output), name) for name in ("trace.zip", "deep/a.png", "deep/b.png")]
    assert found == [*in_it, (str(root), "new.log")]


@pytest.mark.parametrize(
    "test",
    [
        item(output_path=None),
        item(output_path=7),
        item(output_path="/nowhere"),
        SimpleNamespace(),
        SimpleNamespace(funcargs=None, _request=None),
        None,
    ],
)
def test_tests_without_its_fixture_have_no_directory(root: Path, test: Any) -> None:
    """Nor those that are no functions."""
    assert named(root, test=test) == []


def test_directory_of_a_test_whose_set_up_has_failed(root: Path, output: Path) -> None:
    """Its arguments are not complete then."""
    assert len(named(root, test=item(cached=(str(output), 0, None)))) == 3


def test_one_more_than_are_kept_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it can be said that there are more."""
    monkeypatch.setattr(leftovers, "FILES_LIMIT", 2)
    for number in range(5):
        (root / f"{number}.txt").touch()
        os.utime(root / f"{number}.txt", (1 << 32, 1 << 32))
    assert len(named(root, "*.txt")) == 3


def test_each_test_begins_anew(root: Path, output: Path) -> None:
    """Neither the failure nor the directory of the one before counts."""
    found = Leftovers(str(root), {"of": "failed", "globs": []})
    found.begin(item(str(output)))
    found.look(failed=True)
    assert found.named()
    found.begin(item())
    assert not found.named()
    found.look(failed=True)
    assert not found.named()
