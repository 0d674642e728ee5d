"""
What the terminal shows, with every option that changes it.
"""

from __future__ import annotations

import pytest

from tests.acceptance.twins import Twins

SUITE = """
    import logging, sys, warnings
    import pytest

    @pytest.fixture
    def noisy():
        print("set up")
        yield
        print("torn down", file=sys.stderr)

    def helper(value):
        local = [value] * 3
        assert local == [1, 2, 4], "not what was wanted"

    def test_pass(noisy):
        print("in the test")

    def test_fail(noisy):
        print("about to fail")
        logging.getLogger("shop").warning("stock is %d", 0)
        helper(1)

    def test_chained():
        try:
            {}["key"]
        except KeyError as exc:
            raise RuntimeError("no such key") from exc

    def test_skip():
        pytest.skip("not here")

    @pytest.mark.xfail(reason="a known fault")
    def test_xfail():
        assert False

    @pytest.mark.xfail(reason="thought to be a fault")
    def test_xpass():
        pass

    @pytest.mark.xfail(strict=True, reason="strictly a fault")
    def test_strict():
        pass

    @pytest.fixture
    def broken():
        raise OSError("cannot be set up")

    def test_error(broken):
        pass

    @pytest.fixture
    def breaks():
        yield
        raise OSError("cannot be torn down")

    def test_teardown_error(breaks):
        warnings.warn("old", DeprecationWarning)

    @pytest.mark.parametrize("text", ["é", "日本", "a b", "\\x00", "a/b::c"])
    def test_ids(text):
        assert text == "é", text
"""

SINCE_8_3 = pytest.mark.skipif(pytest.version_tuple < (8, 3), reason="this pytest does not know the option")


@pytest.fixture(autouse=True)
def suite(twins: Twins) -> None:
    """Tests with every outcome, output and odd ids."""
    twins.files(test_many=SUITE)


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("-v",),
        ("-vv", "--tb=long"),
        ("-q",),
        ("-qq",),
        ("-rA",),
        ("-rfE", "--tb=short"),
        ("-r", "xXs", "--tb=line"),
        ("--tb=native",),
        ("--tb=no", "--no-summary"),
        ("--showlocals", "--tb=long"),
        ("--show-capture=no",),
        ("--show-capture=stderr", "--disable-warnings"),
        ("--durations=3", "--durations-min=60"),
        ("--color=yes", "--code-highlight=yes"),
        ("--setup-show",),
        ("--setup-only",),
        ("--setup-plan",),
        ("-o", "console_output_style=count"),
        ("-o", "console_output_style=classic"),
        ("-o", "console_output_style=times", "-v"),
        ("--capture=sys",),
        ("-o", "log_cli=true", "--log-cli-level=INFO"),
        ("--log-level=DEBUG", "--log-format=%(message)s", "--log-file=log.txt"),
        ("--no-header", "-rs"),
        pytest.param(("--no-fold-skipped", "-rs"), marks=SINCE_8_3),
        pytest.param(("--xfail-tb", "-rx"), marks=SINCE_8_3),
        ("--runxfail",),
        ("-W", "error"),
        ("-p", "no:logging", "-p", "no:warnings"),
        ("--verbosity=1", "-o", "verbosity_assertions=2"),
    ],
    ids=" ".join,
)
def test_option_shows_the_same(twins: Twins, args: tuple[str, ...]) -> None:
    """Lines, hooks, junit file and exit status are those of plain pytest."""
    seen = twins.same(*args)
    assert len({nodeid for nodeid, _ in seen.where}) == 15


def test_without_a_terminal_reporter(twins: Twins) -> None:
    """`-p no:terminal` runs the tests and says nothing."""
    seen = twins.same("-p", "no:terminal", "-k", "pass")
    assert (seen.code, seen.output.strip()) == (0, "")


def test_workers_that_start_late(twins: Twins) -> None:
    """A session without a pool waits for nobody but its own workers: it speaks of no queue."""
    twins.files(
        late="""
            import time
            from pytest_supercheck.pool import Pool

            start = Pool.start

            def start_late(pool):
                Pool.start = start
                time.sleep(3)
                start(pool)

            Pool.start = start_late
        """
    )
    twins.same("-p", "late", "-k", "pass")
