"""
The plugin's own options, and those of others that it has to get along with.
"""

from __future__ import annotations

import sys

import pytest

from tests.acceptance.twins import Twins


@pytest.fixture(autouse=True)
def suite(twins: Twins) -> None:
    """Tests that say in what kind of process they run."""
    twins.files(
        test_where="""
            import os, pytest
            LOADED_BY = os.getpid()

            @pytest.mark.parametrize("n", range(6))
            def test_where(n, record_property):
                record_property("forked", LOADED_BY != os.getpid())
        """
    )


def forked(session: object) -> set[str]:
    """What the tests said of their process."""
    return {p for p in ("True", "False") if f"'value': '{p}'" in str(session)}


@pytest.mark.parametrize("value", ["0", "-1", "abc", "1.5", "", " "])
def test_bad_number_of_executions(twins: Twins, value: str) -> None:
    """A number of executions that is none is a usage error."""
    seen = twins.run("--supercheck", f"--supercheck-executions={value}")
    if value:
        assert seen.code == pytest.ExitCode.USAGE_ERROR
        assert "--supercheck-executions" in seen.errors
    else:
        assert seen.code == 0


@pytest.mark.parametrize("option", ["start=thread", "priority=urgent", "wait=soon", "timeout=-1", "url=ftp://host"])
def test_bad_values(twins: Twins, option: str) -> None:
    """A bad value of an option is a usage error that names the option."""
    seen = twins.supercheck(f"--supercheck-{option}")
    assert seen.code == pytest.ExitCode.USAGE_ERROR
    assert f"--supercheck-{option.split('=', maxsplit=1)[0]}" in seen.errors


@pytest.mark.parametrize("value", ["1", "3", "auto"])
def test_number_of_executions(twins: Twins, value: str) -> None:
    """At most that many executions run the tests."""
    seen = twins.run("--supercheck", f"--supercheck-executions={value}")
    assert seen.counts == {"passed": 6}
    if value != "auto":
        assert len({pid for nodeid, pid in seen.where if nodeid}) <= int(value)


def test_switched_on_by_ini_and_environment(twins: Twins) -> None:
    """Each option is an ini key and an environment variable, too; the command line wins."""
    twins.ini("supercheck = true\nsupercheck_executions = abc\n")
    assert twins.run().code == pytest.ExitCode.USAGE_ERROR
    assert twins.run(SUPERCHECK_EXECUTIONS="2").counts == {"passed": 6}
    assert twins.run("--supercheck-executions=2", SUPERCHECK_EXECUTIONS="xyz").counts == {"passed": 6}


@pytest.mark.parametrize("number", ["2", "auto", "logical"])
def test_xdists_number_means_executions(twins: Twins, number: str) -> None:
    """`-n` in addopts sets the executions; xdist itself distributes nothing, and the header says so."""
    twins.options += ("-p", "xdist")
    twins.ini(f"addopts = -n {number} --dist loadscope")
    seen = twins.run("--supercheck")
    assert seen.counts == {"passed": 6}
    assert "-n sets the executions, xdist does not distribute" in seen.output
    assert "bringing up nodes" not in seen.output
    assert len({pid for _, pid in seen.where}) > 1


def test_xdists_zero_means_locally(twins: Twins) -> None:
    """`-n 0` distributes nothing, as without `--supercheck`, and the header says so; our own option wins."""
    twins.options += ("-p", "xdist")
    twins.ini("supercheck_executions = 3\naddopts = --supercheck")
    here = "supercheck: -n 0 runs every test here, in this process"
    local, remote = twins.run("-n0"), twins.run("-n0", "--supercheck-executions=2")
    assert local.counts == remote.counts == {"passed": 6}
    assert len({pid for _, pid in local.where}) == 1
    assert len({pid for _, pid in remote.where}) > 1
    assert here in local.output
    assert here not in remote.output


def test_xdist_alone_still_distributes(twins: Twins) -> None:
    """Without `--supercheck` xdist is xdist."""
    twins.options += ("-p", "xdist")
    seen = twins.run("-n2")
    assert seen.counts == {"passed": 6}
    assert "created: 2/2 workers" in seen.output


@pytest.mark.parametrize(("start", "fork"), [("fork", True), ("spawn", False), ("auto", True)])
def test_start(twins: Twins, start: str, fork: bool) -> None:
    """Test processes are forked after one collection, or each collects for itself."""
    seen = twins.supercheck(f"--supercheck-start={start}", "-v")
    assert seen.counts == {"passed": 6}
    assert forked(seen.junit) == {str(fork)}
    assert ("each execution collects for itself" in seen.output) == (not fork)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "import threading; threading.Thread(target=threading.Event().wait, daemon=True, name='poller').start()",
            "poller",
        ),
        ("import socket; server = socket.create_server(('127.0.0.1', 0))", "network connections"),
        ("import os; worker = os.environ.get('PYTEST_XDIST_WORKER')", "worker's id"),
    ],
)
def test_what_does_not_survive_a_fork(twins: Twins, source: str, reason: str) -> None:
    """Threads, connections or the worker's id taken during collection make executions collect for themselves."""
    twins.files(conftest=source)
    seen = twins.supercheck("-v")
    assert seen.counts == {"passed": 6}
    assert forked(seen.junit) == {"False"}
    told = [line for line in seen.output.splitlines() if "each execution collects for itself" in line]
    assert len(told) == 1
    assert reason in told[0]


@pytest.mark.parametrize("option", ["--pdb", "--trace"])
def test_debuggers_run_locally(twins: Twins, option: str) -> None:
    """`--pdb` and `--trace` run every test in the local session, and say so."""
    twins.files(conftest="import pdb\npdb.Pdb.set_trace = lambda *args: None")
    seen = twins.supercheck(option)
    assert seen.counts == {"passed": 6}
    assert len({pid for _, pid in seen.where}) == 1
    assert f"supercheck: {option} runs every test here, in this process" in seen.output


def test_without_capture(twins: Twins) -> None:
    """`-s` shows what tests print when they end, each text once, and reports have no captured sections."""
    twins.files(
        test_talk="""
            import os, sys, pytest
            @pytest.fixture
            def talk():
                print("set-up says"); yield; print("teardown says", file=sys.stderr)
            def test_talk(talk):
                print("test says"); os.system("echo child says")
            def test_fail(): print("failing test says"); assert 0
        """
    )
    seen = twins.supercheck("-s", "test_talk.py")
    printed = [line.lstrip(".F") for line in seen.output.splitlines() if line.endswith("says")]
    assert sorted(printed) == ["child says", "failing test says", "set-up says", "teardown says", "test says"]
    assert all(dict(row[4])["sections"] == [] for row in seen.record if row[0] == "report")


@pytest.mark.slow
def test_very_many_tests(twins: Twins) -> None:
    """100,000 parametrised cases run, each once, and the local session needs at most twice plain pytest's memory."""
    twins.files(
        test_where="import pytest\n@pytest.mark.parametrize('n', range(100_000))\ndef test_many(n): assert n != 77_777",
        conftest="""
            import resource
            def pytest_terminal_summary(terminalreporter):
                used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                terminalreporter.write_line(f"memory {used}")
        """,
    )
    used = []
    for options in ((), ("--supercheck", "--supercheck-executions=2")):
        result = twins.pytester.run(
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, timeout=600
        )
        result.assert_outcomes(passed=99_999, failed=1)
        used += [int(line.split()[1]) for line in result.outlines if line.startswith("memory")]
    assert used[1] < 2 * used[0]
