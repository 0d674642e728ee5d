"""
How sessions end before their time, and what happens when collection fails, on either side.
"""

from __future__ import annotations

import pytest

from tests.acceptance.twins import Twins

#: A test in fifty fails, from the second on.
MANY = """
    import pytest

    def test_first(): pass
    def test_fails(): assert 0
    @pytest.mark.parametrize("n", range(200))
    def test_more(n): assert n % 50
"""


@pytest.mark.parametrize("args", [("-x",), ("--exitfirst", "-v"), ("--maxfail=3",), ("--maxfail=100",)], ids=str)
def test_one_execution_stops_where_plain_pytest_does(twins: Twins, args: tuple[str, ...]) -> None:
    """With one execution nothing at all is run after the last failure that is allowed."""
    twins.executions = 1
    twins.files(test_many=MANY)
    seen = twins.same(*args)
    assert seen.counts["failed"] == {"--maxfail=3": 3, "--maxfail=100": 5}.get(args[0], 1)


@pytest.mark.parametrize("failures", [1, 3])
def test_nothing_is_started_after_the_last_allowed_failure(twins: Twins, failures: int) -> None:
    """With several executions what runs beside it is finished and reported, and nothing else is started."""
    twins.files(test_many="import pytest\n@pytest.mark.parametrize('n', range(100))\ndef test_fails(n): assert 0")
    seen = twins.supercheck(f"--maxfail={failures}")
    assert seen.code == pytest.ExitCode.TESTS_FAILED
    assert failures <= seen.counts["failed"] <= failures + 1
    assert len(seen.where) - 1 == seen.counts["failed"]
    assert "stopping after" in seen.output


def test_teardown_failures_count(twins: Twins) -> None:
    """Errors of set-up and teardown count for `--maxfail` as failures do."""
    twins.executions = 1
    twins.files(
        test_errors="""
            import pytest
            @pytest.fixture(autouse=True)
            def breaks(): yield; raise OSError
            @pytest.mark.parametrize("n", range(9))
            def test_both(n): assert n != 0
        """
    )
    assert twins.same("--maxfail=3").counts == {"failed": 1, "passed": 1, "error": 2}


ENDINGS = {
    "exit": "import pytest; pytest.exit('enough', returncode=42)",
    "exit without code": "import pytest; pytest.exit('enough')",
    "shouldstop": "request.session.shouldstop = 'a test said so'",
    "shouldfail": "request.session.shouldfail = 'a test said fail'",
    "interrupt": "raise KeyboardInterrupt",
}


@pytest.mark.parametrize("how", ENDINGS)
@pytest.mark.parametrize("place", ["test", "setup", "teardown"])
def test_a_test_ends_the_session(twins: Twins, how: str, place: str) -> None:
    """A test or fixture that ends the session ends it everywhere, with the same words and exit status."""
    twins.executions = 1
    lines = {"setup": "pass", "test": "pass", "teardown": "pass", place: ENDINGS[how]}
    twins.files(
        test_end=f"""
            import pytest

            @pytest.fixture
            def wraps(request):
                {lines["setup"]}
                yield
                {lines["teardown"]}

            def test_before(): pass
            def test_ends(wraps, request): {lines["test"]}
            @pytest.mark.parametrize("n", range(20))
            def test_after(n): pass
        """
    )
    seen = twins.same()
    assert seen.code == {"exit": 42, "shouldfail": 1}.get(how, 2)
    assert not any("test_after" in nodeid for nodeid, _ in seen.where)


def test_the_end_reaches_other_executions(twins: Twins) -> None:
    """A test that ends the session ends it on executions that have nothing to do with it, too."""
    twins.files(
        test_end="""
            import os, pathlib, time, pytest

            HERE = pathlib.Path(__file__).parent

            def test_exit():
                while not list(HERE.glob("running-*")):
                    time.sleep(0.01)
                pytest.exit("enough")

            @pytest.mark.parametrize("n", range(200))
            def test_slow(n):
                (HERE / f"running-{os.getpid()}").touch()
                time.sleep(0.3)
        """
    )
    seen = twins.supercheck()
    assert seen.code == pytest.ExitCode.INTERRUPTED
    assert "Exit: enough" in seen.output
    assert len(seen.where) < 20


def test_a_plugin_of_the_local_session_ends_it(twins: Twins) -> None:
    """`session.shouldstop` set by a hook of the local session stops the executions."""
    twins.files(
        conftest="""
            class Stopper:
                def __init__(self, session): self.session = session
                def pytest_runtest_logreport(self, report):
                    if report.when == "call":
                        self.session.shouldstop = "seen enough"

            def pytest_sessionstart(session):
                if not hasattr(session.config, "workerinput"):
                    session.config.pluginmanager.register(Stopper(session))
        """,
        test_many="import pytest, time\n@pytest.mark.parametrize('n', range(200))\ndef test_slow(n): time.sleep(0.1)",
    )
    seen = twins.supercheck()
    assert seen.code == pytest.ExitCode.INTERRUPTED
    assert "seen enough" in seen.output
    assert len(seen.where) < 30


BROKEN = {"test_broken": "import surely_not_installed", "test_good": "def test_good(): pass"}


@pytest.mark.parametrize("args", [(), ("--continue-on-collection-errors",), ("-x",), ("--collect-only",)], ids=str)
def test_collection_errors(twins: Twins, args: tuple[str, ...]) -> None:
    """Modules that cannot be imported end the session, or do not, as in plain pytest."""
    twins.files(
        **BROKEN,
        test_syntax="def test(:",
        test_skipped="import pytest; pytest.skip('all', allow_module_level=True)",
    )
    seen = twins.same(*args)
    assert seen.code == (1 if args in (("-x",), ("--continue-on-collection-errors",)) else 2)


@pytest.mark.parametrize(
    ("args", "ini"),
    [
        (("--no-such-option",), ""),
        (("does_not_exist.py",), ""),
        (("test_good.py::missing",), ""),
        (("-k", "not ("), ""),
        (("-p", "no_such_plugin"), ""),
        ((), "addopts = --no-such-option"),
        (("--strict-config",), "no_such_key = 1"),
        (("-W", "error::NoSuchWarning"), ""),
        (("--maxfail=x",), ""),
    ],
    ids=str,
)
def test_usage_errors(twins: Twins, args: tuple[str, ...], ini: str) -> None:
    """Wrong usage is told in the same words, at once."""
    twins.files(test_good="def test_good(): pass")
    twins.ini(ini)
    seen = twins.same(*args)
    assert seen.code != 0


LOCAL_ONLY = "    if not hasattr(session.config, 'workerinput'): "


@pytest.mark.parametrize(
    "source",
    [
        "raise RuntimeError('no conftest')",
        "import pytest; raise pytest.UsageError('not so')",
        "def pytest_sessionstart(): raise OSError('no session')",
        "def pytest_configure(): raise OSError('no configuration')",
        "def pytest_collection_modifyitems(): raise OSError('no items')",
        f"def pytest_sessionfinish(session):\n{LOCAL_ONLY} raise OSError('no end')",
    ],
)
def test_broken_conftest(twins: Twins, source: str) -> None:
    """A conftest that fails in the local session fails it as in plain pytest."""
    twins.files(conftest=source, test_good="def test_good(): pass")
    plain, other = twins.both(())
    assert plain[0].code == other[0].code != 0
    last = plain[0].lines[-1] if plain[0].lines else ""
    assert last in other[0].lines or plain[0].errors.splitlines()[-1] == other[0].errors.splitlines()[-1]


def test_conftest_that_fails_only_on_the_worker(twins: Twins) -> None:
    """That is the infrastructure's failure, not the tests': 70, with the conftest's own traceback."""
    twins.files(
        conftest="import os\nif 'PYTEST_XDIST_WORKER' in os.environ: raise RuntimeError('not on a worker')",
        test_good="def test_good(): pass",
    )
    seen = twins.supercheck()
    assert seen.code == 70
    assert "not on a worker" in seen.output + seen.errors
    assert "conftest.py" in seen.output + seen.errors
    assert seen.counts == {}


def test_ids_that_differ_between_the_sides(twins: Twins) -> None:
    """A test that the worker does not know is an error of that test, with the reason; the rest run."""
    twins.files(
        test_ids="""
            import os, pytest

            @pytest.mark.parametrize("pid", [os.getpid(), "same"])
            def test_pid(pid): pass

            if "PYTEST_XDIST_WORKER" not in os.environ:
                def test_local_only(): pass

            def test_last(): pass
        """
    )
    seen = twins.supercheck()
    assert (seen.code, seen.counts) == (1, {"passed": 2, "error": 2})
    assert "its id differs between the two sides" in seen.output


def test_module_that_only_the_worker_cannot_import(twins: Twins) -> None:
    """Its tests are errors that show why; the rest run."""
    twins.files(
        test_here="import os\nassert 'PYTEST_XDIST_WORKER' not in os.environ, 'not there'\ndef test_here(): pass",
        test_good="def test_good(): pass",
    )
    seen = twins.supercheck()
    assert (seen.code, seen.counts) == (1, {"passed": 1, "error": 1})
    assert "not there" in seen.output


def test_error_in_a_hook_of_the_test_process(twins: Twins) -> None:
    """A plugin's hook that raises ends the session with an internal error, wherever it ran."""
    twins.executions = 1
    twins.files(
        conftest="""
            def pytest_runtest_logreport(report):
                if "second" in report.nodeid: raise RuntimeError("broken hook")
        """,
        test_hooks="def test_first(): pass\ndef test_second(): pass\ndef test_third(): pass",
    )
    plain, other = twins.both(())
    assert plain[0].code == other[0].code == pytest.ExitCode.INTERNAL_ERROR
    assert "INTERNALERROR> RuntimeError: broken hook" in other[0].output
