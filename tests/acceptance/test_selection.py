"""
Which tests run: everything that selects or orders them does so as in plain pytest.
"""

from __future__ import annotations

import pytest

from tests.acceptance.twins import Twins

SUITE = """
    import pytest

    @pytest.mark.slow
    def test_slow(): pass

    @pytest.mark.parametrize("size", [1, 2, 3])
    def test_sizes(size): assert size != 2

    class TestGroup:
        def test_first(self): pass
        def test_second(self): raise ValueError("second")
"""


@pytest.fixture(autouse=True)
def suite(twins: Twins) -> None:
    """Tests with a mark, parameters and a class; two of them fail."""
    twins.ini("markers = slow: takes long\n")
    twins.files(test_one=SUITE, test_two="def test_other(): pass")


@pytest.mark.parametrize(
    ("args", "count"),
    [
        (("-k", "sizes and not 3"), 2),
        (("-m", "slow"), 1),
        (("-m", "not slow", "-k", "Group"), 2),
        (("--deselect", "test_one.py::TestGroup", "--deselect=test_two.py"), 4),
        (("test_one.py::test_sizes[2]", "test_two.py"), 2),
        (("test_two.py", "test_one.py::TestGroup"), 3),
        (("--ignore=test_one.py",), 1),
    ],
)
def test_selected_tests_run_and_no_others(twins: Twins, args: tuple[str, ...], count: int) -> None:
    """Tests are chosen by the local session; the rest is counted as deselected."""
    counts = twins.same(*args).counts
    assert counts.get("passed", 0) + counts.get("failed", 0) == count


@pytest.mark.parametrize("option", ["--lf", "--ff", "--nf", "--sw", "--sw-skip"])
def test_options_that_remember_the_last_session(twins: Twins, option: str) -> None:
    """What failed is remembered by the local session and chosen or put first in the next one."""
    first, second = twins.same_each(("--sw",) if "sw" in option else (), (option, "-v"))
    assert first.counts["failed"] == (1 if "sw" in option else 2)
    assert second.counts["failed"] == (1 if option == "--sw" else 2)


def test_without_cache(twins: Twins) -> None:
    """`-p no:cacheprovider` leaves no cache behind, on either side."""
    twins.same("-p", "no:cacheprovider")
    assert not (twins.path / ".pytest_cache").exists()


def test_only_the_local_session_writes_the_cache(twins: Twins) -> None:
    """Executions leave the cache alone: it holds what the whole session saw, and only durations besides."""
    glob = "cache/*"  # what pytest's own plugins keep
    plain, other = twins.both(("--cache-show", glob), (), ("--cache-show", glob))
    assert plain[1].code == other[1].code == 1
    assert "test_one.py::test_sizes[2]" in plain[2].output
    assert other[2].lines == plain[2].lines
    everything = sorted(path.name for path in (twins.path / ".pytest_cache" / "v").rglob("*") if path.is_file())
    assert [name for name in everything if name != "durations"] == ["lastfailed", "nodeids"]


@pytest.mark.parametrize("args", ["--collect-only", "--collect-only -q", "--fixtures", "--markers", "--version"])
def test_nothing_is_started_when_nothing_is_to_run(twins: Twins, args: str) -> None:
    """Options that only show something show the same, and need no server."""
    plain = twins.run(*args.split())
    shown = twins.supercheck(*args.split(), SUPERCHECK_VALKEY="/does/not/exist")
    assert (shown.code, shown.lines) == (0, plain.lines)


def test_no_tests(twins: Twins) -> None:
    """A session without tests ends with 5."""
    (twins.path / "empty").mkdir()
    assert twins.same("empty").code == pytest.ExitCode.NO_TESTS_COLLECTED


def test_everything_deselected(twins: Twins) -> None:
    """A session whose tests are all deselected ends with 5."""
    seen = twins.same("-k", "nothing_like_it")
    assert seen.code == pytest.ExitCode.NO_TESTS_COLLECTED
    assert seen.counts == {"deselected": 7}
