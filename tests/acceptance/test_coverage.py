"""
pytest-cov, whose data the executions measure and the session combines.
"""

from __future__ import annotations

import re

import pytest

from tests.acceptance.twins import Session, Twins

PACKAGE = """
    def add(a, b):
        if a > 100:
            return None
        return a + b

    def slow():
        return add(1, 1)

    def unused():
        return 0
    """

TESTS = """
    import pytest, shopper

    @pytest.mark.parametrize("n", range(8))
    def test_add(n):
        assert shopper.add(n, 1) == n + 1

    def test_slow():
        assert shopper.slow() == 2
    """


def totals(session: Session) -> list[str]:
    """The lines of the table of coverage."""
    return re.findall(r"^(?:shopper|TOTAL).*%.*$", session.output, re.MULTILINE)


@pytest.mark.parametrize("start", ["auto", "spawn"])
def test_the_same_lines_are_measured(twins: Twins, start: str) -> None:
    """Whichever execution ran them, and however often one begins when another has ended."""
    twins.options = (*twins.options, "-p", "pytest_cov", f"--supercheck-start={start}")
    twins.files(shopper=PACKAGE, test_a=TESTS)
    plain, other = twins.both(("--cov=shopper", "--cov-report=term-missing"))
    assert totals(plain[0]) == totals(other[0])
    assert len(totals(other[0])) == 2
    assert other[0].code == 0
