"""
The settings of an ini file, read without pytest.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_supercheck.errors import BadJob
from pytest_supercheck.ini import read_settings

LINES = "supercheck_group = file\nsupercheck_exclude =\n    *.log\n    data/\nsupercheck_project = bank\n"
TOML = "supercheck_group = 'file'\nsupercheck_exclude = ['*.log', 'data/']\nsupercheck_project = 'bank'\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pytest.ini", f"[pytest]\n{LINES}"),
        (".pytest.ini", f"[pytest]\n{LINES}"),
        ("tox.ini", f"[tox]\n[pytest]\n{LINES}"),
        ("setup.cfg", f"[tool:pytest]\n{LINES}"),
        ("pyproject.toml", f"[tool.pytest.ini_options]\n{TOML}"),
        ("pyproject.toml", f"[tool.pytest]\n{TOML}"),
        ("pytest.toml", f"[pytest]\n{TOML}"),
    ],
)
def test_each_kind_of_file_is_read(tmp_path: Path, name: str, text: str) -> None:
    """As pytest finds it for a root directory."""
    (tmp_path / name).write_text(text)
    found = read_settings(tmp_path)
    assert (found.group, found.exclude, found.project) == ("file", ("*.log", "data/"), "bank")


def test_the_first_file_counts(tmp_path: Path) -> None:
    """Also when it says nothing; files without the section are passed over."""
    (tmp_path / "setup.cfg").write_text(f"[tool:pytest]\n{LINES}")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert read_settings(tmp_path).group == "file"
    (tmp_path / "pytest.ini").touch()
    assert read_settings(tmp_path).group == "none"


def test_what_is_of_sessions_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do this process's variables."""
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts = -p evil\nsupercheck_url = redis://x\nsupercheck_detach = true\nsupercheck_pass_env = *\n"
    )
    monkeypatch.setenv("SUPERCHECK_GROUP", "class")
    found = read_settings(tmp_path)
    assert (found.url, found.detach, found.pass_env, found.group) == (None, False, (), "none")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[pytest]\nsupercheck_group = all\n", "the settings of .*: --supercheck-group: 'all' is none of"),
        ("[pytest]\n  x\n", "the settings of .*: .*pytest.ini:2"),
    ],
)
def test_what_makes_no_sense_is_told(tmp_path: Path, text: str, words: str) -> None:
    """In the words that a session has for it."""
    (tmp_path / "pytest.ini").write_text(text)
    with pytest.raises(BadJob, match=words):
        read_settings(tmp_path)
