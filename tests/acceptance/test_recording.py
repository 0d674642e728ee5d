"""
What an embedded run leaves behind, and the commands that show it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_supercheck.archive import Archive
from pytest_supercheck.directory_store import DirectoryStore
from pytest_supercheck.record import RunRecord, RunSummary
from tests.acceptance.twins import GUARD_S, Session, Twins

SUITE = """
    import os, signal, sys, warnings
    import pytest

    @pytest.fixture
    def broken():
        raise OSError("not there")

    @pytest.fixture
    def torn():
        yield
        raise OSError("not torn down")

    def test_pass(record_property):
        record_property("build", 7)

    def test_print():
        print("\\x1b[31mred\\x1b[0m and \\x00 and", "\\ud800".encode("utf-8", "surrogatepass"))

    def test_fail():
        print("</pre><script>alert(1)</script>")
        assert [1] == [2]

    def test_setup(broken):
        pass

    def test_teardown(torn):
        pass

    def test_skip():
        pytest.skip("no network")

    @pytest.mark.xfail(reason="known")
    def test_xfail():
        assert 0

    @pytest.mark.xfail(reason="known")
    def test_xpass():
        pass

    def test_warn():
        warnings.warn("old")

    @pytest.mark.parametrize("text", ["<b>", "a/b", "x" * 300])
    def test_ids(text):
        pass

    def test_dies():
        print("last words")
        os.kill(os.getpid(), signal.SIGSEGV)
"""

#: Outcomes in the order in which one hides another.
_RANK = ("failed", "error", "skipped", "xfailed", "xpassed", "passed")


def archive(twins: Twins) -> Archive:
    """The records of the suite's directory."""
    return Archive(DirectoryStore(twins.path / ".supercheck" / "store"))


def recorded(twins: Twins) -> list[RunSummary]:
    """Its runs, the newest first."""
    return list(archive(twins).summaries())


def last(twins: Twins) -> RunRecord:
    """Its last run."""
    return archive(twins).load(archive(twins).find())


def outcomes(session: Session) -> dict[str, str]:
    """How each test ended, as pytest said in the session."""
    told: dict[str, list[str]] = {}
    for row in session.record:
        if row[0] == "report" and row[3][0]:
            told.setdefault(row[1], []).append(row[3][0])
    return {nodeid: min(kinds, key=_RANK.index) for nodeid, kinds in told.items()}


def command(*args: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """What a `supercheck` command does there."""
    line = [sys.executable, "-m", "pytest_supercheck.cli", *args]
    return subprocess.run(line, cwd=cwd, env={**os.environ, **environ}, capture_output=True, text=True, timeout=GUARD_S)


def test_the_record_says_what_the_session_said(twins: Twins) -> None:
    """Of each test, in pytest's words."""
    twins.files(test_it=SUITE)
    session = twins.supercheck()
    written = last(twins)
    assert {item.nodeid: item.outcome for item in written.items} == outcomes(session)
    summary = written.summary
    assert (summary.outcome, summary.verdict, summary.notes) == ("finished", "failed", ())
    assert (summary.total, summary.done, summary.executions) == (13, 13, 2)
    assert summary.project == twins.path.name
    assert summary.origin.argv[0] == "pytest"
    assert "--supercheck" in summary.origin.argv
    by_name = {item.nodeid.partition("::")[2]: item for item in written.items}
    assert by_name["test_pass"].properties == (("build", "7"),)
    assert by_name["test_skip"].reason == "no network"
    assert by_name["test_fail"].failures[0].message == "assert [1] == [2]"
    assert "E       assert [1] == [2]" in by_name["test_fail"].failures[0].trace.text
    crash = by_name["test_dies"].crash
    assert crash is not None
    assert crash.signal == signal.SIGSEGV
    assert "old" in [warning.text for warning in written.warnings]
    assert all(execution.python for execution in written.executions)
    assert {item.host for item in written.items} == {execution.host for execution in written.executions}


def test_its_report_can_be_made(twins: Twins) -> None:
    """From anywhere in the project; the page is beside the record, and in the project's list."""
    twins.files(test_it=SUITE)
    twins.supercheck()
    (twins.path / "tests").mkdir()
    made = command("report", cwd=twins.path / "tests")
    assert made.returncode == 0, made.stderr
    page = Path(made.stdout.strip().removeprefix("file://"))
    assert page == twins.path / ".supercheck" / "store" / archive(twins).find() / "index.html"
    text = page.read_text("utf-8")
    assert "test_fail" in text
    assert "<script>alert" not in text
    assert page.parent.name in (page.parent.parent.parent / "index.html").read_text("utf-8")


def test_a_report_can_be_sent_to_somebody(twins: Twins) -> None:
    """As one file; the run is named by the beginning of its id."""
    twins.files(test_it="def test_it(): pass")
    twins.supercheck()
    run = recorded(twins)[0].id
    made = command("report", run[:8], "--output", "page.html", cwd=twins.path)
    assert made.stdout.strip() == (twins.path / "page.html").as_uri()
    assert run in (twins.path / "page.html").read_text("utf-8")


def test_runs_are_listed(twins: Twins) -> None:
    """The newest first, for people and for programs."""
    twins.files(test_it="def test_it(): pass\ndef test_other(): assert 0")
    twins.supercheck()
    twins.supercheck("-k", "test_it")
    newest, oldest = recorded(twins)
    lines = command("runs", cwd=twins.path).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [newest.id, oldest.id]
    assert "2 passed" in lines[0] or "1 passed" in lines[0]
    assert "failed" in lines[1]
    rows = command("runs", "--json", "--limit", "1", "--project", newest.project, cwd=twins.path).stdout.splitlines()
    assert [json.loads(row)["id"] for row in rows] == [newest.id]
    assert command("runs", "--project", "other", cwd=twins.path).stdout == ""
    by_variable = command("runs", cwd=twins.path.parent, SUPERCHECK_STORE=str(twins.path / ".supercheck" / "store"))
    assert by_variable.stdout.splitlines() == lines


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["report", "0000"], 70, "no run '0000' is recorded here"),
        (["runs", "--store", "ftp://host"], 69, "is no store"),
        (["runs", "--limit", "0"], 2, "0 is not in the range"),
        (["runs", "--project", "other"], 0, "no run of other is recorded there"),
        (["report", "--output", "not/there.html"], 2, "not/there.html cannot be written: No such file or directory"),
    ],
)
def test_wrong_commands_are_told(twins: Twins, args: list[str], code: int, message: str) -> None:
    """With an exit code that says of which kind the trouble is."""
    twins.files(test_it="def test_it(): pass")
    twins.supercheck()
    told = command(*args, cwd=twins.path)
    assert (told.returncode, message in told.stderr) == (code, True), told.stderr


def test_where_nothing_is_recorded(tmp_path: Path) -> None:
    """The commands say what to do."""
    told = command("runs", cwd=tmp_path)
    assert told.returncode == 2
    assert "run 'pytest --supercheck' without a pool first" in told.stderr


def test_a_damaged_record_is_told(twins: Twins) -> None:
    """And of a newer version, too."""
    twins.files(test_it="def test_it(): pass")
    twins.supercheck()
    path = twins.path / ".supercheck" / "store" / archive(twins).find() / "run.json"
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":7'))
    told = command("report", cwd=twins.path)
    assert told.returncode == 70
    assert "install a newer pytest-supercheck" in told.stderr


def test_the_last_runs_are_kept(twins: Twins) -> None:
    """As many as wanted."""
    twins.files(test_it="def test_it(): pass")
    for _ in range(3):
        twins.supercheck("--supercheck-record=2")
    assert len(recorded(twins)) == 2


@pytest.mark.parametrize("how", ["option", "ini", "variable"])
def test_recording_can_be_switched_off(twins: Twins, how: str) -> None:
    """By option, ini key and variable."""
    twins.files(test_it="def test_it(): assert 0")
    if how == "ini":
        twins.ini("supercheck_record = 0")
    args = ["--supercheck-record=0"] if how == "option" else []
    environ = {"SUPERCHECK_RECORD": "0"} if how == "variable" else {}
    session = twins.supercheck(*args, **environ)
    assert "supercheck report" not in session.output
    assert not (twins.path / ".supercheck").exists()


@pytest.mark.parametrize(
    ("args", "source"),
    [
        (["--collect-only"], "def test_it(): pass"),
        (["-k", "nothing"], "def test_it(): pass"),
        ([], "raise OSError"),
        (["--supercheck-record=few"], "def test_it(): pass"),
    ],
)
def test_what_did_not_run_is_not_recorded(twins: Twins, args: list[str], source: str) -> None:
    """No directory is made."""
    twins.files(test_it=source)
    twins.supercheck(*args)
    assert not (twins.path / ".supercheck").exists()


@pytest.mark.parametrize(("args", "told"), [([], True), (["-v"], True), (["-q"], False)])
def test_a_failing_session_says_where_to_look(twins: Twins, args: list[str], told: bool) -> None:
    """In one line; quiet ones are quiet."""
    twins.files(test_it="def test_it(): assert 0")
    session = twins.supercheck(*args)
    lines = re.findall(r"^supercheck: run .*, see it with 'supercheck report --open'$", session.output, re.MULTILINE)
    assert len(lines) == told


def test_a_passing_session_says_nothing(twins: Twins) -> None:
    """Unless it is asked to be verbose."""
    twins.files(test_it="def test_it(): pass")
    assert "supercheck report" not in twins.supercheck().output
    assert "supercheck report" in twins.supercheck("-v").output


def test_a_directory_that_cannot_be_written_costs_nothing(twins: Twins) -> None:
    """The session ends as it would, and says so."""
    twins.files(test_it="def test_it(): pass")
    (twins.path / ".supercheck").write_text("a file is in the way")
    session = twins.supercheck()
    assert session.code == 0
    assert re.search(r"^supercheck: run .*, not recorded: the store .* cannot be used", session.output, re.MULTILINE)


def wait_for(what: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + GUARD_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "verdict"), [(signal.SIGINT, "interrupted"), (signal.SIGKILL, "cancelled")])
def test_a_session_that_is_stopped_leaves_a_partial_record(twins: Twins, number: int, verdict: str) -> None:
    """With Ctrl-C, and with kill -9: what was done is there."""
    twins.files(
        test_it="""
        import pathlib, time

        def test_first(): pass

        def test_hangs():
            pathlib.Path("hangs").touch()
            time.sleep(600)
        """
    )
    line = [sys.executable, "-m", "pytest", "-q", "--supercheck", "--supercheck-executions=1", "-p", "no:cacheprovider"]
    with subprocess.Popen(line, cwd=twins.path, stdout=subprocess.PIPE) as session:
        try:
            assert session.stdout is not None
            assert session.stdout.read(1) == b"."  # the first result has come as far as here
            wait_for((twins.path / "hangs").exists)
            session.send_signal(number)
            session.wait(GUARD_S)
        finally:
            session.kill()
    wait_for(lambda: recorded(twins))
    written = last(twins)
    assert written.summary.verdict == verdict
    assert [item.nodeid for item in written.items][:1] == ["test_it.py::test_first"]
    assert written.summary.total == 2
