"""
`--supercheck-collect=remote`: the session collects nothing, and shows what it would show if it had.
"""

from __future__ import annotations

import sys

import pytest

from tests.acceptance.twins import Twins, assert_same

#: Where both sessions are told the same; plain pytest collects all the same.
REMOTE = "--supercheck-collect=remote"

SUITE = """
    import unittest, warnings
    import pytest

    warnings.warn("while collecting")

    def test_passes():
        print("some words")

    @pytest.mark.parametrize("n", range(6))
    def test_many(n, request):
        assert n != 3, "three"
        if n == 4:
            pytest.skip("four")
        if n == 5:
            warnings.warn("five")

    @pytest.mark.xfail(reason="known")
    def test_known():
        assert 0

    class TestCase(unittest.TestCase):
        def test_sub(self):
            for n in range(2):
                with self.subTest(n=n):
                    self.assertEqual(n, 0)
    """


def remote(twins: Twins) -> Twins:
    """Let both be told so."""
    twins.options = (*twins.options, REMOTE)
    return twins


@pytest.mark.parametrize(
    "args", [("-v",), ("-rA", "-k", "many or known"), ("-q", "--deselect", "test_a.py::test_passes")]
)
def test_results_are_those_of_plain_pytest(twins: Twins, args: tuple[str, ...]) -> None:
    """What is chosen and what is left out, too."""
    twins.files(test_a=SUITE, test_b="import pytest\npytest.skip('all of it', allow_module_level=True)")
    assert remote(twins).same(*args).counts["failed"]


def test_one_execution(twins: Twins) -> None:
    """One after the other, up to the first failure."""
    twins.executions = 1
    twins.files(test_a=SUITE)
    assert remote(twins).same("-x").counts == {"passed": 4, "failed": 1}


@pytest.mark.parametrize("args", [(), ("--continue-on-collection-errors",)])
def test_collection_errors(twins: Twins, args: tuple[str, ...]) -> None:
    """With their tracebacks, as if the module had been imported here."""
    twins.files(test_a="def test_a(): pass", test_b="import a_module_that_is_not_there", test_c="1 / 0")
    assert remote(twins).same(*args).code == (1 if args else 2)


@pytest.mark.parametrize("args", [(), ("-k", "nothing")])
def test_nothing_to_run(twins: Twins, args: tuple[str, ...]) -> None:
    """Exit code 5, as always."""
    twins.files(**({"test_a": "def test_a(): pass"} if args else {"helper": "x = 1"}))
    assert remote(twins).same(*args).code == 5


def test_groups_are_made_where_tests_are_collected(twins: Twins) -> None:
    """Tests that belong together run in one process, also when others are between them."""
    source = """
        import pytest
        @pytest.mark.xdist_group("{}")
        def test_one(): pass
        def test_other(): pass
        @pytest.mark.xdist_group("{}")
        def test_two(): pass
        """
    twins.files(test_a=source.format("x", "y"), test_b=source.format("y", "x"))
    plain, other = remote(twins).both(("--supercheck-start=spawn",))
    assert_same(plain[0], other[0])
    where = dict(other[0].where)
    assert where["test_a.py::test_one"] == where["test_b.py::test_two"]
    assert where["test_a.py::test_two"] == where["test_b.py::test_one"]


def test_nothing_of_the_project_is_needed_here(twins: Twins) -> None:
    """Neither conftest files, nor plugins, nor what the configuration wants of them."""
    twins.ini("a_plugins_own = 1\nstrict_config = true\n")
    twins.files(
        conftest="""
            import os
            assert "PYTEST_XDIST_WORKER" in os.environ, "this is the local session"
            collect_ignore = ["test_b.py"]
            def pytest_addoption(parser):
                parser.addoption("--colour")
                parser.addini("a_plugins_own", "")
            """,
        test_a="""
            def test_a(request):
                assert request.config.getoption("colour") == request.config.getini("a_plugins_own")
            """,
        test_b="raise SystemError('whoever imports this collects without the conftest')",
    )
    done = remote(twins).supercheck("--strict-config", "--colour=1")
    assert (done.code, done.counts, done.errors.strip()) == (0, {"passed": 1}, "")
    assert "Unknown config option" not in done.output


@pytest.mark.parametrize("option", ["--lf", "--ff", "--nf", "--sw", "--collect-only", "--pdb", "--trace"])
def test_what_needs_local_collection_is_refused(twins: Twins, option: str) -> None:
    """With words that say what to leave out."""
    twins.files(test_a="def test_a(): pass")
    done = remote(twins).supercheck(option)
    assert done.code == 4
    assert f"{option} needs the tests to be collected here" in done.errors


def test_command_line_that_only_workers_understand(twins: Twins) -> None:
    """An option that nobody knows is the workers' to refuse: exit code 70, and what they said."""
    twins.files(test_a="def test_a(): pass")
    done = remote(twins).supercheck("--no-such-option")
    assert done.code == 70
    assert "unrecognized arguments: --no-such-option" in done.output


def test_recorded_runs_have_their_tests(twins: Twins) -> None:
    """An embedded run is recorded, although its session has never known its tests."""
    twins.files(test_a=SUITE)
    remote(twins).supercheck()
    shown = twins.pytester.run(sys.executable, "-m", "pytest_supercheck.cli", "runs", "--json")
    assert '"total":9' in shown.stdout.str()
