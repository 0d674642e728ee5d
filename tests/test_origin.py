"""
Who started a run, and from which sources: compared with git itself.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pytest_supercheck.origin import find_origin, mask
from pytest_supercheck.plain import revive
from pytest_supercheck.record import Origin


def find(rootdir: Path, **environ: str) -> Origin:
    """The origin of a session in that directory."""
    spec: dict[str, Any] = {
        "rootdir": str(rootdir),
        "args": ["-x", "--supercheck-url", "redis://ada:hidden@host/0"],
        "pytest": "9.2.0",
        "plugins": ["xdist-3.8.0"],
    }
    return revive(Origin, find_origin(json.loads(json.dumps(spec)), environ))


def git(directory: Path, *args: str) -> str:
    """What git says."""
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, "-c", "init.defaultBranch=main", *args]
    return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one commit on the branch main."""
    directory = tmp_path / "checkout"
    directory.mkdir()
    git(directory, "init")
    git(directory, "commit", "--allow-empty", "-m", "first")
    return directory


def test_a_session_on_a_machine(tmp_path: Path) -> None:
    """Without git and without CI; the password of the pool is not told."""
    origin = find(tmp_path)
    assert (origin.trigger, origin.branch, origin.commit, origin.repository) == ("local", "", "", "")
    assert origin.argv == ("pytest", "-x", "--supercheck-url", "redis://ada:***@host/0")
    assert (origin.rootdir, origin.pytest, origin.plugins) == (str(tmp_path), "9.2.0", ("xdist-3.8.0",))
    assert origin.host
    assert origin.python.startswith("3.")


def test_a_branch(checkout: Path) -> None:
    """Also from a directory below; its name may have slashes."""
    git(checkout, "checkout", "-b", "feature/cart")
    (checkout / "tests").mkdir()
    origin = find(checkout / "tests")
    assert (origin.branch, origin.commit) == ("feature/cart", git(checkout, "rev-parse", "HEAD"))


def test_packed_references(checkout: Path) -> None:
    """As after `git gc`."""
    git(checkout, "pack-refs", "--all")
    assert find(checkout).commit == git(checkout, "rev-parse", "HEAD")


def test_a_commit_without_a_branch(checkout: Path) -> None:
    """As CI checks out."""
    git(checkout, "checkout", "--detach")
    origin = find(checkout)
    assert (origin.branch, origin.commit) == ("", git(checkout, "rev-parse", "HEAD"))


def test_a_worktree(checkout: Path, tmp_path: Path) -> None:
    """Its references and its remote are the checkout's."""
    git(checkout, "remote", "add", "origin", "https://example.com/shop.git")
    git(checkout, "worktree", "add", "-b", "other", str(tmp_path / "other"))
    origin = find(tmp_path / "other")
    assert (origin.branch, origin.commit) == ("other", git(checkout, "rev-parse", "HEAD"))
    assert origin.repository == "https://example.com/shop"


def test_a_checkout_without_a_commit(tmp_path: Path) -> None:
    """There is a branch, and nothing on it."""
    git(tmp_path, "init")
    origin = find(tmp_path)
    assert (origin.branch, origin.commit) == ("main", "")


@pytest.mark.parametrize(
    ("url", "repository"),
    [
        ("https://github.com/acme/shop.git", "https://github.com/acme/shop"),
        ("https://ada:hidden@github.com/acme/shop", "https://github.com/acme/shop"),
        ("git@github.com:acme/shop.git", "https://github.com/acme/shop"),
        ("ssh://git@example.com:2222/acme/shop.git", "https://example.com/acme/shop"),
        ("/srv/git/shop.git", ""),
        ("../shop", ""),
        ("file:///srv/git/shop.git", ""),
    ],
)
def test_the_repository_is_told_as_a_browser_opens_it(checkout: Path, url: str, repository: str) -> None:
    """Without credentials; one of this machine is none."""
    git(checkout, "remote", "add", "origin", url)
    git(checkout, "remote", "add", "upstream", "https://example.com/other.git")
    assert find(checkout).repository == repository


@pytest.mark.parametrize("damage", ["gitdir: /nowhere", "", "\xff\xfe"])
def test_a_damaged_checkout_is_none(tmp_path: Path, damage: str) -> None:
    """A run needs no git."""
    (tmp_path / ".git").write_text(damage, "utf-16")
    assert find(tmp_path).commit == ""


GITHUB = {
    "CI": "true",
    "GITHUB_ACTIONS": "true",
    "GITHUB_ACTOR": "ada",
    "GITHUB_EVENT_NAME": "push",
    "GITHUB_SERVER_URL": "https://github.example",
    "GITHUB_REPOSITORY": "acme/shop",
    "GITHUB_REF_NAME": "main",
    "GITHUB_SHA": "a" * 40,
    "GITHUB_RUN_ID": "77",
    "GITHUB_RUN_ATTEMPT": "2",
}


def test_a_push_on_github() -> None:
    """Everything from the environment; the checkout's own words give way."""
    origin = find(Path(__file__).parent, **GITHUB)
    assert (origin.user, origin.trigger, origin.branch, origin.commit) == ("ada", "push", "main", "a" * 40)
    assert origin.repository == "https://github.example/acme/shop"
    assert origin.url == "https://github.example/acme/shop/actions/runs/77/attempts/2"
    assert origin.pull_request == 0


def test_a_pull_request_on_github(tmp_path: Path) -> None:
    """Its branch and its own commit, not the merge that GitHub tries."""
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": {"number": 12, "head": {"sha": "b" * 40}}}))
    told = {"GITHUB_EVENT_NAME": "pull_request", "GITHUB_HEAD_REF": "cart", "GITHUB_REF_NAME": "12/merge"}
    origin = find(tmp_path, **{**GITHUB, **told, "GITHUB_EVENT_PATH": str(event)})
    assert (origin.trigger, origin.branch, origin.commit, origin.pull_request) == ("pull_request", "cart", "b" * 40, 12)


@pytest.mark.parametrize("event", ["", "[]", "{}", '{"pull_request": null}', '{"pull_request": {"number": "x"}}'])
def test_odd_events_of_github(tmp_path: Path, event: str) -> None:
    """Are none of a pull request."""
    path = tmp_path / "event.json"
    path.write_text(event)
    assert find(tmp_path, **{**GITHUB, "GITHUB_EVENT_PATH": str(path)}).pull_request == 0


@pytest.mark.parametrize(("ci", "trigger"), [("true", "ci"), ("1", "ci"), ("false", "local"), ("", "local")])
def test_other_services(tmp_path: Path, ci: str, trigger: str) -> None:
    """Set CI, as most do."""
    assert find(tmp_path, CI=ci).trigger == trigger


def test_passwords_are_masked_wherever_they_are() -> None:
    """In any argument; what only looks like one is left alone."""
    argv = ["--url=rediss://:hidden@host", "-k", "a:b@c", "http://ada@host", "x redis://u:hidden@h"]
    assert mask(argv) == ["--url=rediss://:***@host", "-k", "a:b@c", "http://ada@host", "x redis://u:***@h"]
