"""
What a session reads of options, variables and ini keys: all of them alike, and those that say which environment its
shipped run has.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from pytest_supercheck.settings import Settings
from pytest_supercheck.variables import pick
from pytest_supercheck.wish import EnvironmentWish, wish_for

INI = """
[pytest]
supercheck_env_sources =
    uv.lock
supercheck_env_extras = one two
    three
supercheck_strict_env = true
supercheck_python = 3.11
supercheck_pass_env =
    SHOP_*
    CI
"""


def read(pytester: pytest.Pytester, *options: str, ini: str = "", **environ: str) -> Settings:
    """The settings of a session with these."""
    pytester.makeini(ini or "[pytest]")
    return Settings.from_pytest(pytester.parseconfig(*options), environ)


#: Of each option a value that is not its default, empty for those that are on or off.
VALUES: Final = {
    "url": "https://h",
    "executions": "3",
    "priority": "low",
    "wait": "5",
    "timeout": "7",
    "project": "shop",
    "label": "gpu",
    "record": "5",
    "concurrency": "main",
    "concurrency_limit": "2",
    "cancel_in_progress": "",
    "start": "spawn",
    "source": "place",
    "collect": "remote",
    "detach": "",
    "group": "file",
    "artifacts": "all",
    "artifact": "*.log",
    "include": "*.key",
    "exclude": "*.mp4",
    "bundle_limit": "2GB",
    "env": "inherit",
    "python": "3.12",
    "env_sources": "uv.lock",
    "env_extras": "a",
    "env_groups": "b",
    "strict_env": "",
    "pass_env": "S_*",
}


def test_every_option_is_among_them() -> None:
    """As the reference has them."""
    reference = (Path(__file__).parent.parent / "docs" / "reference.md").read_text("utf-8")
    options = re.findall(r"^\| `--supercheck-([a-z-]+)", reference, re.MULTILINE)
    assert {option.replace("-", "_") for option in options} == VALUES.keys()


@pytest.mark.parametrize("name", sorted(VALUES))
def test_option_variable_and_ini_key_mean_the_same(pytester: pytest.Pytester, name: str) -> None:
    """Each by itself; with a server's address, without which some make no sense."""
    value, pool = VALUES[name], {"SUPERCHECK_URL": "http://h"} if name != "url" else {}
    option = f"--supercheck-{name.replace('_', '-')}"
    found = [
        read(pytester, f"{option}={value}" if value else option, **pool),
        read(pytester, **pool, **{f"SUPERCHECK_{name.upper()}": value or "1"}),
        read(pytester, ini=f"[pytest]\nsupercheck_{name} = {value or 'true'}", **pool),
    ]
    assert found[0] == found[1] == found[2]
    assert found[0] != read(pytester, **pool)


def test_by_default_convention_says_everything(pytester: pytest.Pytester) -> None:
    """And nothing goes along."""
    settings = read(pytester)
    assert (settings.env, settings.python, settings.strict_env) == ("uv", "", False)
    assert settings.env_sources == settings.env_extras == settings.env_groups == settings.pass_env == ()


def test_the_ini_file_may_say_it(pytester: pytest.Pytester) -> None:
    """With several names on a line, or one a line."""
    settings = read(pytester, ini=INI)
    assert settings.env_sources == ("uv.lock",)
    assert settings.env_extras == ("one", "two", "three")
    assert settings.pass_env == ("SHOP_*", "CI")
    assert (settings.python, settings.strict_env) == ("3.11", True)


def test_variables_go_before_it_and_options_before_both(pytester: pytest.Pytester) -> None:
    """What is off there is off."""
    environ = {"SUPERCHECK_STRICT_ENV": "no", "SUPERCHECK_PYTHON": "3.12", "SUPERCHECK_ENV_EXTRAS": "a, b"}
    settings = read(pytester, ini=INI, **environ)
    assert (settings.strict_env, settings.python, settings.env_extras) == (False, "3.12", ("a", "b"))
    options = ("--supercheck-strict-env", "--supercheck-python=>=3.13", "--supercheck-env-extras=c")
    settings = read(pytester, *options, "--supercheck-env-extras=d", ini=INI, **environ)
    assert (settings.strict_env, settings.python, settings.env_extras) == (True, ">=3.13", ("c", "d"))


@pytest.mark.parametrize(
    ("options", "environ", "words"),
    [
        (["--supercheck-env=/opt/env"], {}, "--supercheck-env: '/opt/env' is no kind of environment: inherit, uv"),
        (["--supercheck-python=/usr/bin/python3"], {}, "is no version, such as 3.12"),
        ([], {"SUPERCHECK_STRICT_ENV": "perhaps"}, "'perhaps' is none of 1, true, yes, 0, false, no"),
    ],
)
def test_bad_values(pytester: pytest.Pytester, options: list[str], environ: dict[str, str], words: str) -> None:
    """Are wrong usage, and shown."""
    with pytest.raises(pytest.UsageError, match=words):
        read(pytester, *options, **environ)


def test_they_make_a_wish_that_a_worker_reads(pytester: pytest.Pytester, tmp_path: Path) -> None:
    """And variables that go along."""
    settings = read(pytester, ini=INI)
    wish = wish_for(
        tmp_path,
        kind=settings.env,
        python=settings.python,
        sources=settings.env_sources,
        extras=settings.env_extras,
        groups=settings.env_groups,
    )
    assert EnvironmentWish.decode(wish.encode()) == wish
    assert wish.extras == ("one", "two", "three")
    assert pick(settings.pass_env, {"CI": "1", "SHOP_A": "2", "X": "3"}).passed == {"CI": "1", "SHOP_A": "2"}
