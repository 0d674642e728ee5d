"""
Fingerprints of both sides of a shipped run: what is found, and which differences are told.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_supercheck import fingerprint
from pytest_supercheck.fingerprint import differences, normalised, take


def make(python: str = "3.12.1", own: tuple[str, ...] = (), **distributions: str) -> dict[str, Any]:
    """A fingerprint."""
    names = {name.replace("_", "-"): version for name, version in distributions.items()}
    return {
        "python": python,
        "implementation": "CPython",
        "platform": "Linux x86_64",
        "distributions": names,
        "own": list(own),
    }


def test_this_process() -> None:
    """Names of folders say what importlib.metadata reads, for all that has been installed."""
    found = take()
    assert found["python"] == platform.python_version()
    assert found["platform"] == f"{platform.system()} {platform.machine()}"
    wanted = {normalised(about.name): about.version for about in importlib.metadata.distributions()}
    del wanted["pytest-supercheck"]  # installed in development, so perhaps found twice
    del found["distributions"]["pytest-supercheck"]
    assert found["distributions"] == wanted


def test_what_is_there_for_our_sake() -> None:
    """All that this package needs with its extras, and what that needs without any."""
    own = take()["own"]
    assert {"redis", "rq", "click"} <= set(own)
    assert "starlette" in own  # by way of fastapi
    assert not {"hypothesis", "mypy"} & set(own)


def test_any_interpreter_runs_it_as_a_script(tmp_path: Path) -> None:
    """Without anything installed: it looks where it is told."""
    for name in ("Foo_Bar-1.2.dist-info", "old-2.0-py3.11.egg-info", "linked.egg-info", "foo.bar-9.dist-info", "a.py"):
        (tmp_path / name).mkdir()
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "old-3.0.dist-info").mkdir()
    command = [sys.executable, "-I", "-S", fingerprint.__file__, str(tmp_path), str(tmp_path / "later")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)["distributions"]
    assert found.pop("foo-bar") in ("1.2", "9")
    assert found == {"old": "2.0"}


def test_equal_sides_have_no_differences() -> None:
    """Nothing is told then."""
    assert differences(make(attrs="1"), make(attrs="1")) == ""


def test_the_most_telling_comes_first() -> None:
    """Python, then pytest, its plugins, the rest, and what one side alone has."""
    ours = make(attrs="23.1", pytest="8.1", pytest_cov="4", zope="1", left_over="1")
    theirs = make("3.11.7", attrs="24.1", pytest="8.2", pytest_cov="5", zope="1", extra="2", pytest_new="3")
    assert differences(ours, theirs) == (
        "Python 3.12.1 here, 3.11.7 there; pytest 8.1 here, 8.2 there; pytest-cov 4 here, 5 there; "
        "attrs 23.1 here, 24.1 there; only here: left-over; only there: pytest-new, extra"
    )


def test_implementation_and_platform_are_told() -> None:
    """They decide which wheels there are."""
    theirs = {**make(), "implementation": "PyPy", "platform": "Darwin arm64"}
    assert differences(make(), theirs) == "CPython here, PyPy there; Linux x86_64 here, Darwin arm64 there"


@pytest.mark.parametrize("name", ["pip", "uv", "setuptools", "wheel", "pytest-supercheck", "my-shop"])
def test_tools_and_the_project_itself_are_not_told(name: str) -> None:
    """Neither another version nor that one side lacks them; names are compared in one form."""
    one, other, none = ({**make(), "distributions": d} for d in ({name: "1"}, {name: "2"}, {}))
    assert differences(one, other, "My.Shop") == ""
    assert differences(one, none, "My.Shop") == differences(none, one, "My.Shop") == ""


def test_what_is_there_for_our_sake_may_be_missing_but_not_differ() -> None:
    """A project that needs click, too, has its version on both sides."""
    ours = make(own=("click", "redis"), click="8.1", redis="5")
    assert differences(ours, make(click="8.2")) == "click 8.1 here, 8.2 there"
    assert differences(make(), ours) == ""


def test_many_differences_fit_on_one_line() -> None:
    """What does not is counted."""
    ours = {**make(), "distributions": {f"package-{n:03}": "1" for n in range(500)}}
    theirs = {**make(), "distributions": {f"package-{n:03}": "2" for n in range(400)}}
    line = differences(ours, theirs)
    assert line.startswith("package-000 1 here, 2 there; package-001")
    assert "392 more in other versions" in line
    assert "only here: package-400" in line
    assert "and 92 more" in line
    ours["distributions"] = {"x" * 90 + str(n): "1" for n in range(20)}
    assert len(differences(ours, theirs)) <= fingerprint.LINE_LIMIT
    assert "\n" not in differences(ours, theirs)


@pytest.mark.parametrize(
    "other", [{}, {"distributions": []}, {"distributions": {"a\nb": {}}, "own": 5, "python": None}]
)
def test_a_strangers_fingerprint_breaks_nothing(other: dict[str, Any]) -> None:
    """It came from the other side of the network; it stays one line."""
    assert "\n" not in differences(make(attrs="1"), other)
    assert differences(other, make(attrs="1"))
