"""
Files that tests of an embedded run leave behind.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_supercheck.archive import Archive
from pytest_supercheck.directory_store import DirectoryStore
from pytest_supercheck.record import ItemRecord
from tests.acceptance.twins import Twins

SUITE = """
    import pathlib
    import pytest

    @pytest.fixture
    def output_path(tmp_path_factory, request):
        made = pathlib.Path("results", request.node.name)
        made.mkdir(parents=True)
        return str(made)

    @pytest.fixture
    def page(output_path):
        yield pathlib.Path(output_path)
        (pathlib.Path(output_path) / "trace.zip").write_text("written in the teardown")

    @pytest.fixture
    def broken(page):
        raise OSError("not there")

    def test_passes(page): (page / "a.png").touch()
    def test_fails(page): (page / "a.png").touch(); assert 0
    def test_setup(broken): pass
    def test_teardown(page):
        (page / "trace.zip").mkdir()
    def test_other(): assert 0
"""


def items(twins: Twins) -> dict[str, ItemRecord]:
    """What is recorded of each test of the last run."""
    archive = Archive(DirectoryStore(twins.path / ".supercheck" / "store"))
    return {item.nodeid.partition("::")[2]: item for item in archive.load(archive.find()).items}


def names(twins: Twins) -> dict[str, list[str]]:
    """The files of each test that has some."""
    return {name: [one.name for one in item.artifacts] for name, item in items(twins).items() if item.artifacts}


def test_playwrights_directory_is_kept_of_failing_tests(twins: Twins) -> None:
    """With what is written in the teardown, whatever failed; the session is as without."""
    twins.files(test_it=SUITE)
    twins.same()
    assert names(twins) == {"test_fails": ["a.png", "trace.zip"], "test_setup": ["trace.zip"]}
    [artifact] = items(twins)["test_setup"].artifacts
    store = twins.path / ".supercheck" / "store"
    [path] = store.glob(f"projects/*/runs/*/{artifact.key}")
    assert path.read_text() == "written in the teardown"


@pytest.mark.parametrize(
    ("args", "ini", "environ", "kept"),
    [
        (["--supercheck-artifacts=all"], "", {}, 3),
        (["--supercheck-artifacts=none"], "", {}, 0),
        ([], "supercheck_artifacts = none", {}, 0),
        ([], "supercheck_artifacts = none", {"SUPERCHECK_ARTIFACTS": "failed"}, 2),
        (["--supercheck-record=0"], "", {}, 0),
    ],
)
def test_of_which_tests(twins: Twins, args: list[str], ini: str, environ: dict[str, str], kept: int) -> None:
    """By option, variable and ini key; where nothing is recorded, none."""
    twins.files(test_it=SUITE)
    twins.ini(ini)
    twins.supercheck(*args, **environ)
    store = twins.path / ".supercheck" / "store"
    assert len(list(store.glob("projects/*/runs/*/artifacts/*"))) == kept


@pytest.mark.parametrize(
    ("args", "environ"),
    [
        (["--supercheck-artifact=*.log", "--supercheck-artifact=d/*.txt"], {}),
        ([], {"SUPERCHECK_ARTIFACT": "*.log\nd/*.txt\n"}),
        ([], {}),
    ],
    ids=["option", "variable", "ini"],
)
def test_patterns(twins: Twins, args: list[str], environ: dict[str, str]) -> None:
    """Several of them; the files of other tests and older ones are not this test's."""
    twins.files(
        test_it="""
        import pathlib

        def test_fails():
            pathlib.Path("d").mkdir()
            pathlib.Path("d/b.txt").touch()
            pathlib.Path("a.log").touch()
            pathlib.Path("a.png").touch()
            assert 0
        """
    )
    if not (args or environ):
        twins.ini("supercheck_artifact =\n    *.log\n    d/*.txt\n")
    Path(twins.path, "old.log").touch()
    twins.supercheck(*args, **environ)
    assert names(twins) == {"test_fails": ["a.log", "d/b.txt"]}


def test_a_wrong_word_is_refused(twins: Twins) -> None:
    """Before anything runs."""
    twins.files(test_it="def test_it(): pass")
    session = twins.supercheck("--supercheck-artifacts=some")
    assert session.code == 4
    assert "--supercheck-artifacts: 'some' is none of failed, all, none" in session.errors


def test_a_store_that_cannot_be_written_costs_no_result(twins: Twins) -> None:
    """The session is as without, and says so with -v."""
    twins.files(test_it=SUITE)
    (twins.path / ".supercheck").write_text("a file is in the way")
    session = twins.supercheck("-v")
    assert session.counts == {"passed": 2, "failed": 2, "error": 2}
    assert "stay where they are" in session.output
