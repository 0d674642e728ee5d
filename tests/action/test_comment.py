"""
The pull request's comment, at an API that checks what it is asked.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from action.comment import Comment
from action.context import Context
from tests.action.github import TOKEN, GitHub
from tests.action.test_texts import make_failure, make_outcome

OUTCOME = make_outcome(make_failure(kind="new"))


@pytest.fixture
def context(github: GitHub) -> Context:
    """A job of a pull request."""
    plain = Context.read({"GITHUB_REPOSITORY": "acme/shop", "GITHUB_WORKFLOW": "tests", "GITHUB_JOB": "pool"})
    return replace(plain, api_url=github.url, pull_request=7)


def test_comment_is_written_once_and_then_anew(context: Context, github: GitHub) -> None:
    """Also when there are many others, on several pages."""
    for number in range(130):
        github.write(7, f"nice {number}", kind="User")
    assert not Comment(context, TOKEN, "tests").put(OUTCOME)
    assert not Comment(replace(context, attempt=2), TOKEN, "tests").put(make_outcome())
    [text] = github.texts()[130:]
    assert "## Tests: 3 passed" in text
    assert "attempt 2" in text


def test_variants_of_a_matrix_have_their_own(context: Context, github: GitHub) -> None:
    """By the names that the workflow gives them."""
    for name in ("linux", "gpu", "linux"):
        assert not Comment(context, TOKEN, name).put(OUTCOME)
    assert len(github.texts()) == 2


def test_mark_in_somebodys_comment_is_not_ours(context: Context, github: GitHub) -> None:
    """Else a stranger's words would stand there as the job's."""
    Comment(context, TOKEN, "tests").put(OUTCOME)
    github.comments[0]["user"]["type"] = "User"
    Comment(context, TOKEN, "tests").put(OUTCOME)
    assert len(github.texts()) == 2


def test_long_results_fit(context: Context, github: GitHub) -> None:
    """Without tracebacks, and not all of them: the API refuses what is longer."""
    failures = [make_failure(number, message="\N{SNOWMAN}" * 300) for number in range(200)]
    assert not Comment(context, TOKEN, "tests").put(make_outcome(*failures))
    assert "more failures" in github.texts()[0]


def test_fork_is_not_asked_for(context: Context, github: GitHub) -> None:
    """Its token may not write, and the words say so."""
    assert "fork" in Comment(replace(context, from_fork=True), TOKEN, "tests").put(OUTCOME)
    assert not github.asked


def test_trouble_is_told_and_fails_nothing(context: Context, github: GitHub) -> None:
    """A token that may only read, and an API that is not there."""
    github.read_only = True
    assert "403" in Comment(context, TOKEN, "tests").put(OUTCOME)
    away = replace(context, api_url="http://127.0.0.1:1")
    assert "No comment was written" in Comment(away, TOKEN, "tests").put(OUTCOME)
