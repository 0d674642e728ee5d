"""
Tests that stay together: with whom, in which order, and when something happens in the middle; xdist does the same.
"""

from __future__ import annotations

from itertools import groupby

import pytest

from tests.acceptance.twins import Session, Twins

#: Two processes take part, or nothing goes on.
CONFTEST = """
    import os, pathlib, time

    HERE = pathlib.Path(__file__).parent

    def pytest_runtest_setup(item):
        (HERE / f"began-{os.getpid()}").touch()
        while len(list(HERE.glob("began-*"))) < int(os.environ.get("TOGETHER", 0)):
            time.sleep(0.01)
"""

SUITE = """
    import pytest

    def test_before(): pass

    class TestOne:
        @pytest.mark.parametrize("n", range(3))
        def test_many(self, n): pass
        @pytest.mark.xdist_group("far")
        def test_far(self): pass
        def test_last(self): pass

    def test_between(): pass

    @pytest.mark.xdist_group(name="near")
    class TestTwo:
        def test_first(self): pass
        def test_second(self): pass

    @pytest.mark.xdist_group(name="far")
    def test_farther(): pass

    def test_after(): pass
"""


@pytest.fixture(autouse=True)
def suite(twins: Twins) -> None:
    """Two files alike, of which no test has to run where another one does."""
    twins.ini("addopts = --strict-markers\n")
    twins.files(conftest=CONFTEST, test_one=SUITE, test_two=SUITE)


def distributed(twins: Twins, *args: str) -> Session:
    """A session in which two processes run tests."""
    for began in twins.path.glob("began-*"):
        began.unlink()
    seen = twins.run(*args, TOGETHER="2")
    assert seen.code == 0, seen.output
    assert len({pid for nodeid, pid in seen.where if nodeid}) == 2
    return seen


def places(seen: Session, group: str) -> dict[str, list[tuple[int, str]]]:
    """By the name of each group, the processes and tests in the order in which they ran; `none` are the marks alone."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name, pid in seen.where[1:]:
        nodeid = name.partition("@")[0]  # xdist adds the group's name
        mark = "far" if "far" in nodeid else "near" if "TestTwo" in nodeid else ""
        parts = {"none": nodeid, "file": nodeid.partition("::")[0], "class": nodeid.rpartition("::")[0]}
        found.setdefault(mark if mark and group == "none" else parts[group], []).append((pid, nodeid))
    return found


@pytest.mark.parametrize(("group", "dist"), [("file", "loadfile"), ("class", "loadscope"), ("none", "loadgroup")])
def test_same_tests_stay_together_as_with_xdist(twins: Twins, group: str, dist: str) -> None:
    """In one process, in the same order; with our option, and where `--dist` asks for it."""
    if group != "none":  # a mark wins over the option, which xdist does not know
        for name in ("test_one", "test_two"):
            path = twins.path / f"{name}.py"
            path.write_text("\n".join(line for line in path.read_text().splitlines() if "xdist_group" not in line))
    sessions = [distributed(twins, "--supercheck", "--supercheck-executions=2", f"--supercheck-group={group}")]
    twins.options += ("-p", "xdist")
    sessions.append(distributed(twins, "--supercheck", "-n2", f"--dist={dist}"))
    if group != "none" or pytest.version_tuple < (9, 2):  # with which xdist 3.8 does not group by marks
        sessions.append(distributed(twins, "-n2", f"--dist={dist}"))
    orders = []
    for seen in sessions:
        assert seen.counts == {"passed": 22}
        found = places(seen, group)
        for name, tests in found.items():
            assert len({pid for pid, _ in tests}) == 1, name
        orders.append({name: [nodeid for _, nodeid in tests] for name, tests in found.items()})
    assert orders[1:] == orders[:-1]


@pytest.mark.parametrize("args", [(), ("--supercheck-group=file",), ("--supercheck-group=module", "-v")], ids=str)
def test_nobody_sees_a_difference(twins: Twins, args: tuple[str, ...]) -> None:
    """Ids, reports, junit and order of the files are those of plain pytest; marks are known where xdist is absent."""
    assert twins.same(*args).counts == {"passed": 22}


def test_a_bad_mark_is_still_refused(twins: Twins) -> None:
    """`--strict-markers` knows one mark more, not any."""
    twins.files(test_one="import pytest\n@pytest.mark.xdist_grope('a')\ndef test_it(): pass")
    assert twins.same().code == pytest.ExitCode.INTERRUPTED


def test_a_crash_gives_the_rest_of_its_group_to_one_process(twins: Twins) -> None:
    """The test that killed its process is tried again first, alone; then the rest runs, in order and in one process."""
    twins.files(
        conftest="",
        test_one="""
            import os, pathlib, pytest

            ONCE = pathlib.Path(__file__).with_name("once")

            @pytest.mark.parametrize("n", range(8))
            def test_steps(n):
                if n == 3 and not ONCE.exists():
                    ONCE.touch()
                    os.kill(os.getpid(), 9)
        """,
        test_two="import pytest\n@pytest.mark.parametrize('n', range(200))\ndef test_other(n): pass",
    )
    seen = twins.supercheck("--supercheck-group=file")
    assert seen.counts == {"passed": 208}
    ran = [(nodeid.partition("[")[2].rstrip("]"), pid) for nodeid, pid in seen.where if "steps" in nodeid]
    assert [n for n, _ in ran] == ["0", "1", "2", "3", "3", "4", "5", "6", "7"]
    assert [len(list(tests)) for _, tests in groupby(ran, key=lambda row: row[1])] == [4, 1, 4]


def test_first_failure_stops_every_group(twins: Twins) -> None:
    """With `-x` tests of a group go one by one: after a failure anywhere nothing of any group is started."""
    twins.files(
        conftest="""
            import os, pathlib, time

            HERE = pathlib.Path(__file__).parent

            def pytest_runtest_logreport(report):
                if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
                    (HERE / "failure-is-known").touch()

            def wait_for(name):
                while not (HERE / name).exists():
                    time.sleep(0.01)
        """,
        test_one="""
            from conftest import HERE, wait_for
            def test_passes(): wait_for("other-runs")
            def test_fails(): assert 0
            def test_not_reached(): pass
        """,
        test_two="""
            from conftest import HERE, wait_for
            def test_passes():
                (HERE / "other-runs").touch()
                wait_for("failure-is-known")
            def test_not_reached(): pass
        """,
    )
    seen = twins.supercheck("-x", "--supercheck-group=file")
    assert seen.counts == {"passed": 2, "failed": 1}
    assert sorted(nodeid for nodeid, _ in seen.where[1:]) == [
        "test_one.py::test_fails",
        "test_one.py::test_passes",
        "test_two.py::test_passes",
    ]


@pytest.mark.parametrize("option", ["-x", "--sw", "--maxfail=2"])
def test_one_execution_stops_where_plain_pytest_does(twins: Twins, option: str) -> None:
    """Whatever is grouped, when that leaves the tests in their order."""
    twins.executions = 1
    twins.files(test_one=SUITE.replace("def test_between(): pass", "def test_between(): assert 0"), conftest="")
    seen = twins.same(option, "--supercheck-group=file", "-m", "not xdist_group")
    assert seen.counts["failed"] == 1


def test_stepwise_remembers_the_order_of_collection(twins: Twins) -> None:
    """Though a group's tests run before what was collected between them."""
    twins.files(
        conftest="",
        test_one="""
            import pytest
            together = pytest.mark.xdist_group("together")
            @together
            def test_first(): pass
            def test_fails(): assert 0
            @together
            def test_second(): pass
            def test_last(): pass
        """,
    )
    (twins.path / "test_two.py").unlink()
    first, second = twins.same_each(("--sw",), ("--sw",))
    assert first.counts == {"passed": 1, "failed": 1}
    assert second.counts == {"failed": 1, "deselected": 1}


def test_option_is_read_like_the_others(twins: Twins) -> None:
    """Ini key, variable and command line, each before the one before, all before `--dist`."""
    twins.options += ("-p", "xdist")
    twins.ini("supercheck_group = nonsense\naddopts = --dist loadfile -n2")
    twins.files(conftest="", test_one="def test_a(): pass\ndef test_b(): pass")
    (twins.path / "test_two.py").unlink()
    alone = "1 execution on this machine"
    seen = twins.run("--supercheck")
    assert (seen.code, "--supercheck-group: 'nonsense' is none of" in seen.errors) == (4, True)
    assert "2 executions" in twins.run("--supercheck", SUPERCHECK_GROUP="none").output
    assert alone in twins.run("--supercheck", "--supercheck-group=module", SUPERCHECK_GROUP="none").output
    twins.ini("addopts = --dist loadfile -n2")
    assert alone in twins.run("--supercheck").output


def test_what_took_long_begins_first_the_next_time(twins: Twins) -> None:
    """Unless the order matters, as with -x, or is asked to be forgotten."""
    for old in twins.path.glob("*.py"):
        old.unlink()
    twins.files(
        test_order="""
            import pathlib, pytest, time

            @pytest.mark.parametrize("n", range(12))
            def test_it(n):
                with pathlib.Path("began").open("a") as file:
                    file.write(f"{n}\\n")
                time.sleep(0.5 if n == 11 else 0.02)
        """
    )

    def began(*args: str) -> list[int]:
        twins.path.joinpath("began").unlink(missing_ok=True)
        seen = twins.run("--supercheck", "--supercheck-executions=2", *args)
        assert seen.code == 0, seen.output
        return [int(line) for line in twins.path.joinpath("began").read_text().split()]

    assert began().index(11) > 2
    assert began().index(11) < 2
    assert began("-x").index(11) > 2
    assert began("--cache-clear").index(11) > 2
    assert began("-p", "no:cacheprovider").index(11) > 2
