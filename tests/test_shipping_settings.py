"""
What options, variables and ini keys of shipping say.
"""

from __future__ import annotations

import pytest

from pytest_supercheck.settings import Settings


@pytest.mark.parametrize(
    ("given", "size_bytes"),
    [("1000", 1000), ("20k", 20_000), ("500MB", 500_000_000), ("2 gb", 2_000_000_000), ("3G", 3_000_000_000)],
)
def test_sizes_have_units(pytester: pytest.Pytester, given: str, size_bytes: int) -> None:
    """Of thousands, whether or not there is a B."""
    config = pytester.parseconfig(f"--supercheck-bundle-limit={given}")
    assert Settings.from_pytest(config, {}).bundle_limit == size_bytes


@pytest.mark.parametrize("given", ["much", "-1", "1.5GB", "10TB", "\u0661", "1" * 16])
def test_what_is_no_size_is_wrong_usage(pytester: pytest.Pytester, given: str) -> None:
    """With the option and an example."""
    config = pytester.parseconfig(f"--supercheck-bundle-limit={given}")
    with pytest.raises(pytest.UsageError, match=r"--supercheck-bundle-limit: .* is not a size such as 500MB or 2GB"):
        Settings.from_pytest(config, {})


def test_patterns_come_from_everywhere(pytester: pytest.Pytester) -> None:
    """The command line before the variable before the ini file; several of each."""
    pytester.makeini(
        "[pytest]\nsupercheck_include =\n  /a/*.py\n  b\nsupercheck_exclude = c\nsupercheck_bundle_limit = 7"
    )
    settings = Settings.from_pytest(pytester.parseconfig(), {})
    assert (settings.include, settings.exclude, settings.bundle_limit) == (("/a/*.py", "b"), ("c",), 7)
    settings = Settings.from_pytest(pytester.parseconfig(), {"SUPERCHECK_INCLUDE": "x\ny\n"})
    assert settings.include == ("x", "y")
    words = ["--supercheck-include=one", "--supercheck-include=two"]
    assert Settings.from_pytest(pytester.parseconfig(*words), {"SUPERCHECK_INCLUDE": "x"}).include == ("one", "two")
    assert Settings.from_pytest(pytester.parseconfig(), {"SUPERCHECK_BUNDLE_LIMIT": "8"}).bundle_limit == 8
