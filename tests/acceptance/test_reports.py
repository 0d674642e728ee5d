"""
What reporting plugins get: junit files with all their options, warnings, properties, and what hooks added to reports.
"""

from __future__ import annotations

import pytest

from tests.acceptance.twins import Twins

PROPERTIES = """
    import logging, sys, warnings, pytest

    @pytest.fixture(scope="session", autouse=True)
    def suite_properties(record_testsuite_property):
        record_testsuite_property("release", "1.0")

    def test_properties(record_property, record_xml_attribute):
        record_property("plain", "text")
        record_property("number", 3.5)
        record_property("nothing", None)
        record_property("tuple", (1, "a", b"x"))
        record_property("odd", {1, 2}.__class__)
        record_property("nan", float("nan"))
        record_xml_attribute("assertions", "7")

    class TestClass:
        def test_output(self):
            print("to stdout"); print("to stderr", file=sys.stderr); logging.error("logged")
            assert 0, "with <markup> & ]]>"

        def test_skipped(self): pytest.skip("<why>")

    @pytest.mark.xfail(reason="known")
    def test_xfail(): assert 0

    @pytest.mark.xfail(strict=True)
    def test_strict(): pass

    @pytest.fixture
    def torn(): yield; raise OSError("down")
    def test_torn(torn): assert 0, "both"
"""


@pytest.mark.parametrize(
    "args",
    [
        ("-o", "junit_logging=all", "-o", "junit_family=xunit1"),
        ("-o", "junit_logging=system-out", "-o", "junit_log_passing_tests=false", "--junitprefix=pre"),
        ("-o", "junit_logging=out-err", "-o", "junit_duration_report=call", "-o", "junit_suite_name=mine"),
        ("-o", "junit_logging=log", "--show-capture=no"),
    ],
    ids=" ".join,
)
def test_junit_options(twins: Twins, args: tuple[str, ...]) -> None:
    """The junit file has the same cases, properties, attributes, texts and totals."""
    twins.files(test_junit=PROPERTIES)
    assert len(twins.same(*args).junit) == 1 + 6


def test_properties_and_own_attributes(twins: Twins) -> None:
    """What hooks add to items and reports, of whatever type, reaches the local session's plugins."""
    twins.files(
        conftest="""
            import datetime, enum, json, pathlib, pytest

            class Level(enum.IntEnum):
                HIGH = 3

            @pytest.hookimpl(wrapper=True)
            def pytest_runtest_makereport(item, call):
                report = yield
                report.owner = {"team": "shop", 1: ("a", ["b"])}
                report.tags = frozenset({"x"})
                report.raw = b"\\x00\\xff"
                report.level = Level.HIGH
                report.sections.append((f"extra {report.when}", "a section"))
                report.user_properties.append((report.when, {"nested": (1, None, True)}))
                if report.when == "call" and report.failed:
                    report.longrepr.addsection("advice", "try again")
                return report

            def pytest_report_teststatus(report):
                if report.when == "call" and report.passed:
                    return "splendid", "S", ("SPLENDID", {"green": True})

            def pytest_terminal_summary(terminalreporter):
                for report in terminalreporter.stats["splendid"]:
                    owner = report.owner
                    seen = [report.level == 3, owner["team"], owner[1][0], report.raw[1]]
                    terminalreporter.write_line(json.dumps(seen))
        """,
        test_own="def test_pass(): pass\ndef test_fail(): assert 0",
    )
    seen = twins.same("-rA", "-v")
    assert seen.counts == {"splendid": 1, "failed": 1}
    assert '[true, "shop", "a", 255]' in seen.lines


def test_objects_without_plain_form(twins: Twins) -> None:
    """What JSON has no form for becomes its repr; nothing is lost, even where repr() fails."""
    twins.files(
        test_objects="""
            class Broken:
                def __repr__(self): raise ValueError
            class Named:
                def __repr__(self): return "<Named>"
            def test_objects(record_property):
                record_property("broken", Broken())
                record_property("named", [Named(), {Named(): Named()}])
        """
    )
    seen = twins.supercheck()
    assert seen.counts == {"passed": 1}
    properties = dict(dict([row for row in seen.record if row[0] == "report"][-1][4])["user_properties"])
    assert properties["named"][0] == "<Named>"
    assert "Broken" in properties["broken"]


def test_reports_of_another_serialiser(twins: Twins) -> None:
    """A plugin with report classes of its own serialises and reads them itself."""
    twins.files(
        conftest="""
            import pytest

            class OwnReport(pytest.TestReport):
                pass

            @pytest.hookimpl(wrapper=True)
            def pytest_runtest_makereport(item, call):
                report = yield
                report.__class__ = OwnReport
                report.secret = "kept"
                return report

            def pytest_report_to_serializable(config, report):
                if isinstance(report, OwnReport):
                    data = report._to_json()
                    data["$own"] = data.pop("secret")
                    return data

            def pytest_report_from_serializable(config, data):
                if "$own" in data:
                    secret = data.pop("$own")
                    report = OwnReport._from_json(data)
                    report.secret = secret
                    return report
        """,
        test_own="def test_pass(): pass\ndef test_fail(): assert 0",
    )
    assert twins.same().counts == {"passed": 1, "failed": 1}


WARNINGS = """
    import warnings, pytest

    warnings.warn("while it is imported", DeprecationWarning)

    class Odd(UserWarning):
        def __init__(self, code, text):
            super().__init__(code)
            self.text = text
        def __str__(self):
            return f"odd: {self.text}"

    class Outer:
        class Inner(FutureWarning):
            pass

    @pytest.fixture
    def warns_late():
        yield
        warnings.warn("in teardown", ResourceWarning)

    @pytest.mark.parametrize("n", [1, 2])
    def test_warns(n, warns_late):
        warnings.warn("old", DeprecationWarning)
        warnings.warn(Odd(7, "é"))
        warnings.warn(Outer.Inner("inner"))
        def local():
            class Local(RuntimeWarning): pass
            warnings.warn("local", Local)
        local()

    def test_fails_with_warning():
        warnings.warn("before the failure", PendingDeprecationWarning, stacklevel=1)
        assert 0

    def test_unraisable():
        class Bad:
            def __del__(self): raise ValueError("in __del__")
        Bad()

    def test_thread():
        import threading
        thread = threading.Thread(target=lambda: 1 / 0, name="worker")
        thread.start()
        thread.join()

    def test_returns(): return 3

    async def test_async(): pass
"""


@pytest.mark.parametrize("args", [(), ("-W", "ignore::DeprecationWarning"), ("-W", "error::FutureWarning")], ids=str)
def test_warnings(twins: Twins, args: tuple[str, ...]) -> None:
    """Warnings are shown once each, with category, place and text; those of collection once, not once per process."""
    twins.files(test_warnings=WARNINGS, conftest="import warnings; warnings.warn('conftest')")
    seen = twins.same(*args)
    assert sum(row[0] == "warning" for row in seen.record) >= 10


def test_warnings_as_errors(twins: Twins) -> None:
    """`-W error` fails the tests that warn, and collection where that warns."""
    twins.files(test_warnings=WARNINGS.replace('warnings.warn("while', '0 and warnings.warn("while'))
    assert twins.same("-W", "error").counts["failed"] >= 4
    twins.files(test_warnings=WARNINGS)
    assert twins.same("-W", "error").code == pytest.ExitCode.INTERRUPTED


def test_configured_filters(twins: Twins) -> None:
    """Filters of the ini file and of marks hold in the test processes."""
    twins.ini("filterwarnings =\n    error:old\n    ignore:odd\n")
    twins.files(
        test_filters="""
            import warnings, pytest
            def test_error(): warnings.warn("old")
            def test_ignored(): warnings.warn("odd")
            @pytest.mark.filterwarnings("default:old")
            def test_mark(): warnings.warn("old")
            def test_recorded(recwarn):
                warnings.warn("kept")
                assert len(recwarn) == 1
        """
    )
    assert twins.same().counts == {"passed": 3, "failed": 1}
