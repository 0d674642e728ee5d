"""
Which variables go along with a shipped run, and what test processes see besides.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_supercheck.variables import LIMIT_BYTES, SECRETS, of_tests, pick

ENVIRON = {
    "HOME": "/home/ada",
    "SHOP_URL": "https://shop",
    "SHOP_TOKEN": "t",
    "SHOP_DB": "postgresql://ada:sesame@db/shop",
    "SHOP_KEY": "-----",
    "SHOP_KEYBOARD": "de",
    "SHOP_PEM": "-----BEGIN PRIVATE KEY-----",
    "SHOP_AUTHOR": "ada",
    "SHOP_MONKEY": "1",
    "SUPERCHECK_URL": "redis://x",
    "SUPERCHECK_WAIT": "5",
    "AWS_SECRET_ACCESS_KEY": "s",
    "CI": "true",
}


def test_nothing_goes_along_by_itself() -> None:
    """Not even what everybody has."""
    assert pick((), ENVIRON).passed == {}


def test_patterns_pass_what_does_not_look_like_a_secret() -> None:
    """What does stays, and is named."""
    picked = pick(["SHOP_*", "C?"], ENVIRON)
    assert sorted(picked.passed) == ["CI", "SHOP_AUTHOR", "SHOP_KEYBOARD", "SHOP_MONKEY", "SHOP_URL"]
    assert picked.left == ("SHOP_DB", "SHOP_KEY", "SHOP_PEM", "SHOP_TOKEN")
    assert "SHOP_DB, SHOP_KEY, SHOP_PEM, SHOP_TOKEN" in picked.words
    assert "sesame" not in picked.words


def test_names_pass_exactly_what_they_say() -> None:
    """Whoever names a secret means it; case counts."""
    assert pick(["SHOP_TOKEN", "ci"], ENVIRON).passed == {"SHOP_TOKEN": "t"}
    assert pick(["SUPERCHECK_WAIT"], ENVIRON).passed == {"SUPERCHECK_WAIT": "5"}


def test_what_opens_the_service_never_goes_along() -> None:
    """Also by name."""
    picked = pick([*SECRETS, "*"], {**ENVIRON, **dict.fromkeys(SECRETS, "x")})
    assert not SECRETS & picked.passed.keys()
    assert set(picked.left) >= SECRETS


def test_too_much_is_refused() -> None:
    """With the name of the longest."""
    with pytest.raises(ValueError, match="LONG is the longest"):
        pick(["*"], {"LONG": "x" * LIMIT_BYTES, "SHORT": "y"})


def test_tests_see_a_small_base_and_what_was_passed(tmp_path: Path) -> None:
    """Their own home and place for temporary files, the environment's programs first, and nothing of the service."""
    worker = {"PATH": "/usr/bin", "LANG": "de_DE.UTF-8", "TZ": "UTC", "AWS_SECRET_ACCESS_KEY": "s", "USER": "svc"}
    passed = {"CI": "1", "PATH": "/evil", "HOME": "/evil", "SUPERCHECK_TOKEN": "x", "BAD": 5, "A=B": "1", "N": "a\0b"}
    environ = of_tests(tmp_path, tmp_path / "venv" / "bin", passed, worker)
    assert environ == {
        "LANG": "de_DE.UTF-8",
        "TZ": "UTC",
        "CI": "1",
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "PATH": f"{tmp_path}/venv/bin:/usr/bin",
        "VIRTUAL_ENV": f"{tmp_path}/venv",
    }
    assert (tmp_path / "home").is_dir()
    assert (tmp_path / "tmp").stat().st_mode & 0o777 == 0o700


def test_the_workers_own_environment_has_its_programs(tmp_path: Path) -> None:
    """Also where the worker has no PATH; it can be asked for again."""
    of_tests(tmp_path, None, {}, {})
    environ = of_tests(tmp_path, None, {}, {})
    assert environ["PATH"] == "/usr/local/bin:/usr/bin:/bin"
    assert "VIRTUAL_ENV" not in environ
