"""
Records in a store.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_supercheck.archive import Archive, project_folder, project_segment, run_folder
from pytest_supercheck.directory_store import DirectoryStore
from pytest_supercheck.errors import NotStored, StoreTrouble
from pytest_supercheck.local_archive import find_local_store, mark_served, record_locally
from pytest_supercheck.record import RecordError
from pytest_supercheck.store import BadKey, check_key
from pytest_supercheck.transcript import Recorded
from tests.records import make_item, make_record


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    """An empty one."""
    return DirectoryStore(tmp_path / "store")


def make_recorded(run: str = "0195-run", project: str = "shop", **texts: str) -> Recorded:
    """A run with one test."""
    record = make_record([make_item()], id=run, project=project)
    return Recorded(record=record, events=b"packed", texts={f"texts/{name}.txt": text for name, text in texts.items()})


def test_a_saved_run_can_be_loaded(store: DirectoryStore) -> None:
    """With all that belongs to it."""
    recorded = make_recorded(long="a long text \ud800")
    archive = Archive(store)
    folder = archive.save(recorded)
    assert folder == "projects/shop/runs/0195-run/"
    assert archive.load(folder) == recorded.record
    assert archive.summary(folder) == recorded.record.summary
    assert [entry.key.removeprefix(folder) for entry in store.list(folder)] == [
        "events.ndjson.gz",
        "run.json",
        "summary.json",
        "texts/long.txt",
    ]
    with store.get(f"{folder}texts/long.txt") as stream:
        assert stream.read() == b"a long text \\ud800"


def test_saving_again_changes_nothing(store: DirectoryStore) -> None:
    """Whoever was interrupted begins anew."""
    archive = Archive(store)
    before = archive.save(make_recorded())
    assert archive.save(make_recorded()) == before
    assert len(archive.folders()) == 1


class Interrupted(Exception):
    """The recorder was killed."""


class FragileStore(DirectoryStore):
    """One whose user is killed after so many writes."""

    left = 0

    def put(self, key: str, content: object, *, replace: bool = True) -> bool:
        """Write, or be killed."""
        if not self.left:
            raise Interrupted
        self.left -= 1
        return super().put(key, content, replace=replace)  # type: ignore[arg-type]


@pytest.mark.parametrize("writes", range(4))
def test_a_run_is_there_as_a_whole_or_not(tmp_path: Path, writes: int) -> None:
    """Killed at any point it is not recorded yet, and the next attempt completes it."""
    fragile = FragileStore(tmp_path)
    fragile.left = writes
    with pytest.raises(Interrupted):
        Archive(fragile).save(make_recorded(long="text"))
    archive = Archive(DirectoryStore(tmp_path))
    assert list(archive.summaries()) == []
    recorded = make_recorded(long="text")
    archive.save(recorded)
    assert list(archive.summaries()) == [recorded.record.summary]


def test_runs_are_found_newest_first(store: DirectoryStore) -> None:
    """Of all projects, or of one."""
    archive = Archive(store)
    for run, project in (("01", "shop"), ("03", "shop"), ("02", "bank")):
        archive.save(make_recorded(run, project))
    assert [summary.id for summary in archive.summaries()] == ["03", "02", "01"]
    assert [summary.id for summary in archive.summaries("shop")] == ["03", "01"]
    assert archive.folders("none") == []


def test_a_run_is_found_by_the_beginning_of_its_id(store: DirectoryStore) -> None:
    """Of several the newest counts."""
    archive = Archive(store)
    with pytest.raises(NotStored, match="no run is recorded here"):
        archive.find()
    for run in ("01aa", "01ab", "02"):
        archive.save(make_recorded(run))
    assert archive.find("01aa") == run_folder("shop", "01aa")
    assert archive.find("01") == run_folder("shop", "01ab")
    assert archive.find() == run_folder("shop", "02")
    with pytest.raises(NotStored, match="no run '03'"):
        archive.find("03")


def test_a_run_that_runs_is_not_found(store: DirectoryStore) -> None:
    """Files of its tests are there before it is recorded."""
    archive = Archive(store)
    store.put(f"{run_folder('shop', '0195-b')}artifacts/0/trace.zip", b"PK")
    with pytest.raises(NotStored):
        archive.find()
    store.put(f"{run_folder('shop', '0195-a')}summary.json", b"{}")
    assert archive.find() == run_folder("shop", "0195-a")


def test_a_removed_run_is_gone(store: DirectoryStore) -> None:
    """With its report and whatever else is in its folder; the others stay."""
    archive = Archive(store)
    folder, other = archive.save(make_recorded("01")), archive.save(make_recorded("02"))
    store.put(f"{folder}artifacts/film.webm", b"")
    archive.remove(folder)
    archive.remove(folder)
    assert archive.folders() == [other]
    assert [entry.key for entry in store.list() if entry.key.startswith(folder)] == []
    with pytest.raises(NotStored):
        archive.load(folder)


def test_unreadable_records_are_passed_over_in_lists(store: DirectoryStore) -> None:
    """And told when they are asked for."""
    archive = Archive(store)
    folder = archive.save(make_recorded("01"))
    archive.save(make_recorded("02"))
    store.put(f"{folder}summary.json", b'{"version": 9}')
    assert [summary.id for summary in archive.summaries()] == ["02"]
    with pytest.raises(RecordError, match="version 9"):
        archive.summary(folder)


# -- keys


@pytest.mark.parametrize(
    ("project", "segment"),
    [
        ("shop", "shop"),
        ("My.Shop-2_x", "My.Shop-2_x"),
        ("a/b", "a~2fb"),
        ("..", "~2e."),
        (".hidden", "~2ehidden"),
        ("a b", "a~20b"),
        ("~", "~7e"),
        ("é", "~c3~a9"),
        ("", "~"),
    ],
)
def test_projects_have_segments(project: str, segment: str) -> None:
    """That no web server and no file system takes for something else."""
    assert project_segment(project) == segment


@given(st.text(), st.text())
def test_different_projects_have_different_segments(one: str, other: str) -> None:
    """And each is a key."""
    assert (project_segment(one) == project_segment(other)) == (one == other)
    assert check_key(project_folder(one)[:-1])


def test_long_projects_have_short_segments() -> None:
    """Which differ as the names do."""
    names = ["x" * 500, "x" * 499 + "y", "é" * 300]
    segments = {project_segment(name) for name in names}
    assert len(segments) == 3
    assert max(map(len, segments)) == 100


@pytest.mark.parametrize("run", ["", "..", "a/b", "-a", "a.b", "x" * 129, "a\n", "é"])
def test_ids_that_no_run_has_are_refused(run: str) -> None:
    """They come from clients."""
    with pytest.raises(BadKey):
        run_folder("shop", run)


# -- the archive of a root directory


def test_the_last_runs_of_a_directory_are_kept(tmp_path: Path) -> None:
    """As many as are wanted, in a directory that git ignores."""
    for number in range(5):
        record_locally(tmp_path, make_recorded(f"0{number}"), keep=3)
    found = find_local_store(tmp_path)
    assert found is not None
    assert [summary.id for summary in Archive(DirectoryStore(found)).summaries()] == ["04", "03", "02"]
    assert (tmp_path / ".supercheck" / ".gitignore").read_text().splitlines()[-1] == "*"


def test_sessions_remove_nothing_from_a_servers_store(tmp_path: Path) -> None:
    """It records the runs of a pool there, and knows where they are."""
    mark_served(str(tmp_path / ".supercheck" / "store"))
    for number in range(3):
        record_locally(tmp_path, make_recorded(f"0{number}"), keep=1)
    found = Archive(DirectoryStore(tmp_path / ".supercheck" / "store"))
    assert [summary.id for summary in found.summaries()] == ["02", "01", "00"]
    assert (tmp_path / ".supercheck" / ".gitignore").exists()


@pytest.mark.parametrize("store", ["s3://bucket/.supercheck/store", "reports"])
def test_other_stores_are_not_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    """Nothing of a session is there."""
    monkeypatch.chdir(tmp_path)
    mark_served(store)
    assert list(tmp_path.iterdir()) == []


def test_a_servers_store_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """At its start."""
    (tmp_path / ".supercheck").write_text("a file")
    with pytest.raises(StoreTrouble, match="cannot be written"):
        mark_served(str(tmp_path / ".supercheck" / "store"))


def test_the_nearest_directory_counts(tmp_path: Path, make_directory: Callable[[str], Path]) -> None:
    """From wherever in the project one asks."""
    inner = make_directory("project/tests/unit")
    assert find_local_store(inner) is None
    record_locally(tmp_path / "project", make_recorded(), keep=1)
    assert find_local_store(inner) == tmp_path / "project" / ".supercheck" / "store"
    assert find_local_store(tmp_path) is None


@pytest.fixture
def make_directory(tmp_path: Path) -> Callable[[str], Path]:
    """Makes directories."""

    def make(name: str) -> Path:
        (tmp_path / name).mkdir(parents=True)
        return tmp_path / name

    return make
