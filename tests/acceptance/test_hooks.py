"""
Hooks of plugins and conftest files: which side calls them, and the part of xdist's protocol that plugins rely on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.twins import Twins

LOG = """
    import json, os, pathlib, pytest

    LOG = pathlib.Path(__file__).parent / "log"

    def log(config, *row):
        LOG.mkdir(exist_ok=True)
        side = "worker" if hasattr(config, "workerinput") else "local"
        with open(LOG / f"{os.getpid()}.jsonl", "a") as file:
            print(json.dumps([side, *row]), file=file)
"""


def logged(twins: Twins) -> list[list[Any]]:
    """What `log` wrote, process by process."""
    files = sorted(Path(twins.path, "log").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_reporting_hooks_are_called_on_both_sides(twins: Twins) -> None:
    """A conftest's hooks see every report in the test process and again in the local session, as with xdist."""
    twins.files(
        conftest=LOG
        + """
    @pytest.fixture(autouse=True)
    def _config(request):
        pass

    class Hooks:
        def __init__(self, config): self.config = config
        def pytest_runtest_logstart(self, nodeid): log(self.config, "logstart", nodeid)
        def pytest_runtest_logreport(self, report): log(self.config, "logreport", report.nodeid, report.when)
        def pytest_runtest_logfinish(self, nodeid): log(self.config, "logfinish", nodeid)
        def pytest_runtest_protocol(self, item): log(self.config, "protocol", item.nodeid)
        def pytest_runtest_makereport(self, item, call): log(self.config, "makereport", item.nodeid, call.when)

    def pytest_configure(config): config.pluginmanager.register(Hooks(config))
        """,
        test_one="def test_pass(): pass\ndef test_fail(): assert 0",
    )
    assert twins.supercheck().counts == {"passed": 1, "failed": 1}
    rows = logged(twins)
    for name in ("test_pass", "test_fail"):
        nodeid = f"test_one.py::{name}"
        phases = ("setup", "call", "teardown")
        reports = [["logreport", nodeid, when] for when in phases]
        local = [["logstart", nodeid], *reports, ["logfinish", nodeid]]
        made = [row for when in phases for row in (["makereport", nodeid, when], ["logreport", nodeid, when])]
        remote = [["protocol", nodeid], ["logstart", nodeid], *made, ["logfinish", nodeid]]
        assert [row[1:] for row in rows if row[0] == "local" and row[2] == nodeid] == local
        assert [row[1:] for row in rows if row[0] == "worker" and row[2] == nodeid] == remote


def test_sessions_begin_and_end_once_per_process(twins: Twins) -> None:
    """Each execution has its own `pytest_sessionfinish` and `pytest_unconfigure`, as does the local session."""
    twins.files(
        conftest=LOG
        + """
    def pytest_configure(config): log(config, "configure")
    def pytest_sessionstart(session): log(session.config, "sessionstart")
    def pytest_collection_modifyitems(config, items): log(config, "modifyitems", len(items)); items.reverse()
    def pytest_collection_finish(session): log(session.config, "collection_finish")
    def pytest_sessionfinish(session, exitstatus): log(session.config, "sessionfinish", int(exitstatus))
    def pytest_unconfigure(config): log(config, "unconfigure")
        """,
        test_one="""
            import pathlib, time, pytest

            @pytest.mark.parametrize("n", [0, 1])
            def test_meet(n):
                here = pathlib.Path(__file__).parent
                (here / f"gate-{n}").touch()
                while not (here / f"gate-{1 - n}").exists():
                    time.sleep(0.01)
        """,
    )
    assert twins.supercheck().counts == {"passed": 2}
    rows = logged(twins)
    assert [row[1] for row in rows if row[0] == "local"] == [
        "configure", "sessionstart", "modifyitems", "collection_finish", "sessionfinish", "unconfigure",
    ]  # fmt: skip
    ends = [row for row in rows if row[:2] in (["worker", "sessionfinish"], ["worker", "unconfigure"])]
    assert ends == [["worker", "sessionfinish", 0], ["worker", "unconfigure"]] * 2


NODES = """
    def pytest_configure_node(node):
        log(node.config, "configure_node", node.gateway.id)
        node.workerinput["greeting"] = {"to": node.gateway.id, "numbers": [1, 2]}

    def pytest_testnodeready(node):
        log(node.config, "ready", node.gateway.id, node.workerinfo["id"], node.workerinfo["executable"])

    def pytest_testnodedown(node, error):
        log(node.config, "down", node.gateway.id, node.workeroutput, error)

    def pytest_sessionfinish(session):
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["goodbye"] = session.config.workerinput["greeting"]["to"]

    def pytest_configure(config):
        assert config.getoption("dist", "no") == ("no" if hasattr(config, "workerinput") else "load")
        assert config.getoption("numprocesses", None) == (None if hasattr(config, "workerinput") else 2)
"""


@pytest.mark.parametrize("xdist", [True, False])
def test_node_hooks(twins: Twins, xdist: bool) -> None:
    """The node hooks of xdist carry what plugins send to the executions and back, with and without xdist."""
    if xdist:
        twins.options += ("-p", "xdist")
    twins.files(
        conftest=LOG + NODES,
        test_one="""
            import pathlib, time, pytest

            @pytest.mark.parametrize("n", [0, 1])
            def test_meet(n, request):
                given = request.config.workerinput
                assert given["greeting"] == {"to": given["workerid"], "numbers": [1, 2]}
                here = pathlib.Path(__file__).parent
                (here / f"gate-{n}").touch()
                while not (here / f"gate-{1 - n}").exists():
                    time.sleep(0.01)
        """,
    )
    assert twins.supercheck().counts == {"passed": 2}
    rows = logged(twins)
    assert [row[2] for row in rows if row[1] == "configure_node"] == ["gw0", "gw1"]
    assert sorted(row[2] for row in rows if row[1] == "ready" and row[2] == row[3]) == ["gw0", "gw1"]
    down = {row[2]: (row[3]["goodbye"], row[3]["exitstatus"], row[4]) for row in rows if row[1] == "down"}
    assert down == {"gw0": ("gw0", 0, None), "gw1": ("gw1", 0, None)}


def test_hooks_may_change_the_items(twins: Twins) -> None:
    """Items that a conftest reorders, drops or marks are those that run."""
    twins.files(
        conftest="""
            import pytest

            def pytest_collection_modifyitems(config, items):
                items.sort(key=lambda item: item.name, reverse=True)
                dropped = [item for item in items if "drop" in item.name]
                config.hook.pytest_deselected(items=dropped)
                items[:] = [item for item in items if item not in dropped]
                for item in items:
                    if "slow" in item.name:
                        item.add_marker(pytest.mark.skip(reason="slow"))

            def pytest_generate_tests(metafunc):
                if "size" in metafunc.fixturenames:
                    metafunc.parametrize("size", range(metafunc.config.getoption("--sizes")))

            def pytest_addoption(parser):
                parser.addoption("--sizes", type=int, default=1)
        """,
        test_one="def test_drop(): pass\ndef test_slow(): pass\ndef test_size(size): assert size < 2",
    )
    assert twins.same("--sizes=3", "-v").counts == {"passed": 2, "failed": 1, "skipped": 1, "deselected": 1}


def test_plugin_that_prints(twins: Twins) -> None:
    """Header, status lines and summary of a plugin appear once."""
    twins.files(
        conftest="""
            def pytest_report_header(config): return "header: of a plugin"
            def pytest_report_collectionfinish(items): return f"collected by a plugin: {len(items)}"
            def pytest_terminal_summary(terminalreporter, exitstatus):
                terminalreporter.section("plugin")
                terminalreporter.write_line(f"ended with {int(exitstatus)}")
            def pytest_sessionfinish(session, exitstatus):
                if exitstatus == 1:
                    session.exitstatus = 0
        """,
        test_one="def test_fail(): assert 0",
    )
    assert twins.same().code == 0
