"""
Tracebacks as text, compared with what pytest itself writes.
"""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from _pytest._io import TerminalWriter

from pytest_supercheck.longrepr import longrepr_text

SUITE = """
    import unittest
    import pytest

    def helper(value, other="x"):
        local = [value]
        raise ValueError(f"no stock of {local}\\nnot even there")

    def test_deep():
        helper(1)

    def test_assert():
        numbers = list(range(50))
        assert numbers == numbers[:-1] + [99]

    def test_chain():
        try:
            {}["key"]
        except KeyError as exc:
            raise RuntimeError("no such key") from exc

    def test_context():
        try:
            helper(2)
        except ValueError:
            raise RuntimeError

    def test_group():
        try:
            raise OSError("inner")
        except OSError as exc:
            try:
                raise LookupError("middle") from exc
            except LookupError:
                raise TypeError("outer")

    def test_no_trace():
        pytest.fail("said and done\\ntwice", pytrace=False)

    def test_skip():
        pytest.skip("not here")

    @pytest.fixture
    def broken():
        raise OSError(2, "no such thing")

    def test_setup(broken):
        pass

    def test_recursion():
        def again(depth):
            return again(depth + 1)
        again(0)

    @pytest.mark.xfail(strict=True, reason="known")
    def test_xpass():
        pass

    class Test(unittest.TestCase):
        def test_unit(self):
            self.assertEqual([1, 2], [1, 3])
"""


@pytest.mark.parametrize("style", ["auto", "long", "short", "line", "native"])
@pytest.mark.parametrize("more", [[], ["--showlocals"]])
def test_text_is_what_pytest_writes(pytester: pytest.Pytester, style: str, more: list[str]) -> None:
    """For every style; blank lines around it and the lengths of rulers aside."""
    pytester.makepyfile(SUITE)
    ran = pytester.inline_run(f"--tb={style}", *more, "-p", "no:cacheprovider")
    reports = ran.getreports("pytest_runtest_logreport")
    told = 0
    for report in reports:
        assert isinstance(report, pytest.TestReport)
        if not report.longrepr or report.skipped:
            continue
        told += 1
        serial = json.loads(json.dumps(report._to_json()))
        assert _bare(longrepr_text(serial["longrepr"])) == _bare(_written(report.longrepr)), report.nodeid
    assert told == 10


def _written(longrepr: Any) -> str:
    if isinstance(longrepr, str):
        return longrepr
    file = StringIO()
    writer = TerminalWriter(file)
    writer.fullwidth = 80
    longrepr.toterminal(writer)
    return file.getvalue()


def _bare(text: str) -> list[str]:
    return [line.rstrip().rstrip("_ ") for line in text.strip("\n").splitlines()]


def test_reasons_of_skips() -> None:
    """They are the last of three."""
    assert longrepr_text(("a.py", 3, "Skipped: no network")) == "Skipped: no network"
    assert longrepr_text(None) == ""


@pytest.mark.parametrize("odd", [{}, {"chain": [1]}, {"reprtraceback": {}}])
def test_other_forms_raise(odd: object) -> None:
    """What reads them leaves the event out."""
    with pytest.raises((KeyError, TypeError)):
        longrepr_text(odd)
