"""
What options, variables and ini keys of concurrency groups say.
"""

from __future__ import annotations

import pytest

from pytest_supercheck.settings import Settings


def read(pytester: pytest.Pytester, *options: str, ini: str = "", **environ: str) -> tuple[str, int, bool]:
    """The group, its limit, and whether its oldest runs are stopped."""
    pytester.makeini(f"[pytest]\n{ini}")
    settings = Settings.from_pytest(pytester.parseconfig(*options), environ)
    return settings.concurrency, settings.concurrency_limit, settings.cancel_in_progress


def test_group_comes_from_everywhere(pytester: pytest.Pytester) -> None:
    """The command line before the variable before the ini file; without any of them there is none."""
    assert read(pytester) == ("", 1, False)
    ini = "supercheck_concurrency = main\nsupercheck_concurrency_limit = 2\nsupercheck_cancel_in_progress = true"
    assert read(pytester, ini=ini) == ("main", 2, True)
    environ = {"SUPERCHECK_CONCURRENCY": "release/1.0", "SUPERCHECK_CONCURRENCY_LIMIT": "3"}
    assert read(pytester, ini=ini, SUPERCHECK_CANCEL_IN_PROGRESS="no", **environ) == ("release/1.0", 3, False)
    options = ("--supercheck-concurrency=a", "--supercheck-concurrency-limit=4", "--supercheck-cancel-in-progress")
    assert read(pytester, *options, ini=ini, **environ) == ("a", 4, True)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--supercheck-concurrency=a b", "'a b' is not 1 to 200 letters, digits or any of ._-:/"),
        ("--supercheck-concurrency-limit=0", "--supercheck-concurrency-limit: '0' is not a number from 1 up"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(pytester: pytest.Pytester, option: str, words: str) -> None:
    """With the option and what it may be."""
    with pytest.raises(pytest.UsageError) as caught:
        read(pytester, option)
    assert words in str(caught.value)
