"""
What `make lint` runs over workflows finds what it should, and workflows name nothing that can change under them.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.action.conftest import ROOT, program

FILES = [
    ROOT / "action.yml",
    *sorted((ROOT / ".github" / "workflows").glob("*.yml")),
    *sorted((ROOT / "examples" / "workflows").glob("*.yml")),
]
WORKFLOWS = [str(path) for path in FILES[1:]]

#: Each of them, without its files.
CHECKS = {
    "actionlint": [program("actionlint"), "-shellcheck=", "-pyflakes="],
    "schema": [program("check-jsonschema"), "--builtin-schema", "vendor.github-workflows"],
    "zizmor": [program("zizmor"), "--offline", "--quiet", "--config", str(ROOT / ".github" / "zizmor.yml")],
}

WRONG = """
on: push
jobs:
  a:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v1
        with: 5
      - run: echo ${{ github.event.head_commit.message }}
"""


@pytest.mark.parametrize("check", CHECKS)
def test_workflows_are_in_order(check: str, tmp_path: Path) -> None:
    """And one that is not would be found."""
    made = subprocess.run([*CHECKS[check], *WORKFLOWS], capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(WRONG)
    assert subprocess.run([*CHECKS[check], str(wrong)], capture_output=True).returncode


def test_action_is_in_order() -> None:
    """Of the form that GitHub describes, and without a way for inputs into a shell."""
    action = str(ROOT / "action.yml")
    described = [program("check-jsonschema"), "--builtin-schema", "vendor.github-actions", action]
    for words in (described, [*CHECKS["zizmor"], action]):
        made = subprocess.run(words, capture_output=True, text=True)
        assert made.returncode == 0, made.stdout + made.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_actions_of_others_are_pinned(path: Path) -> None:
    """By commit, with the release that it is; the same everywhere."""
    for used in re.findall(r"uses: (.+)", path.read_text()):
        assert used == "OWNER/pytest-supercheck@main" or re.fullmatch(
            r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used
        )


def test_every_input_and_output_is_documented() -> None:
    """In the reference."""
    text = (ROOT / "action.yml").read_text()
    inputs, outputs = (re.findall(r"^  ([\w-]+):$", part, re.MULTILINE) for part in text.split("\noutputs:")[:2])
    section = (ROOT / "docs" / "reference.md").read_text().partition("## The GitHub Action")[2].partition("\n## ")[0]
    assert len(inputs) == 13
    named = set(re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE))
    assert named == {*inputs, *outputs} - {"steps", "using"}
