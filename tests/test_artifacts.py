"""
Files of tests on their way into the store: which are taken, which are not, and that none of it costs a result.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_supercheck import artifacts, events, verdicts
from pytest_supercheck.artifacts import Artifacts, Keys
from pytest_supercheck.directory_store import DirectoryStore
from pytest_supercheck.leftovers import open_file
from pytest_supercheck.operators import StoreSettings
from pytest_supercheck.store import check_key
from tests import s3

FOLDER = "projects/shop/runs/r1/"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root directory."""
    made = tmp_path / "shop"
    made.mkdir()
    return made


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    """A store."""
    return DirectoryStore(tmp_path / "store")


def arrived(fd: int) -> bool:
    """Wait as a supervisor does."""
    select.select([fd], [], [], 30)
    return True


def keeper(store: object) -> Artifacts:
    """What keeps files of a run."""
    return Artifacts("shop", "r1", 2, StoreSettings(url=str(store), s3_endpoint=None))


def bring(
    made: Artifacts, directory: Path, names: Sequence[str], wait: Callable[[int], bool] = arrived, index: int = 7
) -> events.Files:
    """What is told of a test that has left these files, as its process sends them."""
    for name in names:
        fd, why = open_file(str(directory), name)
        if why:
            made.leave(index, name, why)
        else:
            made.keep(index, None, name, fd, wait)
    event = made.tell(index)
    assert event is not None
    told = events.decode(event)
    assert isinstance(told, events.Files)
    assert (told.index, told.n) == (index, 2)
    return told


def keep(directory: Path, store: object, *names: str) -> events.Files:
    """The same, with a store."""
    return bring(keeper(store), directory, names)


def read(store: DirectoryStore, key: str) -> bytes:
    """What is in the run's folder there."""
    with store.get(FOLDER + key) as stream:
        return stream.read()


def test_files_are_kept_under_their_names(root: Path, store: DirectoryStore) -> None:
    """With their lengths; in folders as they were."""
    (root / "out" / "deep").mkdir(parents=True)
    (root / "out" / "trace.zip").write_bytes(b"PK")
    (root / "out" / "deep" / "empty").touch()
    told = keep(root / "out", store, "trace.zip", "deep/empty")
    assert told.kept == (("trace.zip", "artifacts/7/trace.zip", 2), ("deep/empty", "artifacts/7/deep/empty", 0))
    assert told.left == ()
    assert read(store, "artifacts/7/trace.zip") == b"PK"
    assert read(store, "artifacts/7/deep/empty") == b""


def test_large_files_go_to_s3_as_they_are(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts, with the type that their key says."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.SECRET)
    content = os.urandom(9 * 1024 * 1024)
    (root / "video.webm").write_bytes(content)
    with s3.rclone(tmp_path / "s3") as server:
        settings = StoreSettings(url=f"s3://{s3.BUCKET}/x", s3_endpoint=server.endpoint)
        told = bring(Artifacts("shop", "r1", 2, settings), root, ["video.webm"])
    assert told.kept == (("video.webm", "artifacts/7/video.webm", len(content)),)
    assert (tmp_path / "s3" / s3.BUCKET / "x" / FOLDER / "artifacts/7/video.webm").read_bytes() == content


def test_what_is_no_file_is_left(root: Path, store: DirectoryStore) -> None:
    """Links, pipes, sockets, directories, and what is not there."""
    (root / "real").write_text("x")
    (root / "link").symlink_to("real")
    os.mkfifo(root / "pipe")
    (root / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(root / "socket"))
        odd = {
            "link": "symbolic link",
            "pipe": "no regular file",
            "folder": "no regular file",
            "folder/": "no regular file",
            "socket": "No such device",
            "/dev/zero": "no regular file",
            "absent": "No such file",
            "": "no regular file",
            "a\0b": "null",
            "\ud800": "surrogates not allowed",
            "x" * 300: "File name too long",
            "real/x": "Not a directory",
        }
        told = keep(root, store, *odd)
    assert told.kept == ()
    for (name, why), (wanted, words) in zip(told.left, odd.items(), strict=True):
        assert name == wanted
        assert words in why, name
    assert not list(store.list())


def test_only_what_can_be_read_from_its_beginning_on_is_kept(root: Path, store: DirectoryStore) -> None:
    """A test process may send any descriptor; that costs its own files at most."""
    path = root / "own"
    path.write_text("own")
    made = keeper(store)
    for how in (os.O_WRONLY, os.O_PATH):
        made.keep(7, None, "own", os.open(path, how), arrived)
        made._again_at = 0
    event = made.tell(7)
    assert event is not None
    told = events.decode(event)
    assert isinstance(told, events.Files)
    assert (told.kept, len(told.left)) == ((), 2)


def test_bounds(root: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one file and of their number; the rest is told in few words."""
    monkeypatch.setattr(artifacts, "FILE_BYTES", 10)
    monkeypatch.setattr(events, "FILES_LIMIT", 3)
    for number in range(5):
        (root / str(number)).write_bytes(b"x" * (9 + number))
    told = keep(root, store, *"01234")
    assert [name for name, _, _ in told.kept] == ["0", "1"]
    assert told.left == (("2", "it is larger than 0 MB"), ("", "more files: there are more than 3"))


def test_many_that_are_left_are_counted(root: Path, store: DirectoryStore) -> None:
    """A test cannot make the record long by naming what is not there."""
    told = keep(root, store, *(f"{number}" * 100 for number in range(900)))
    assert len(told.left) == 101
    assert told.left[-1] == ("", "800 more files")


def test_a_file_that_grows_is_cut_where_it_was(root: Path, tmp_path: Path) -> None:
    """A test may leave processes behind that write on."""
    path = root / "log"
    path.write_bytes(b"x" * 100_000)

    class Growing(DirectoryStore):
        def put(self, key: str, content: object, *, replace: bool = True) -> bool:
            with path.open("ab") as more:
                more.write(b"y" * 1000)
            return super().put(key, content, replace=replace)  # type: ignore[arg-type]

    store = Growing(tmp_path / "store")
    made = keeper(store)
    made._store = store
    told = bring(made, root, ["log"])
    assert told.kept == (("log", "artifacts/7/log", 100_000),)
    assert read(store, "artifacts/7/log") == b"x" * 100_000


def test_without_a_store_files_stay_where_they_are(root: Path) -> None:
    """The reason says what to set."""
    (root / "a").touch()
    told = bring(Artifacts("shop", "r1", 2, StoreSettings(url=None, s3_endpoint=None)), root, ["a"])
    assert told.left == (("a", "the worker has no store: SUPERCHECK_STORE is not set"),)


def test_a_store_that_cannot_be_used_is_left_alone_for_a_while(root: Path, tmp_path: Path) -> None:
    """Its reason is told with each file; nobody waits for it again and again."""
    (root / "a").touch()
    (root / "b").touch()
    (tmp_path / "store").write_text("a file is in the way")
    made = keeper(tmp_path / "store")
    for _ in range(2):
        told = bring(made, root, ["a", "b"])
        assert [name for name, _ in told.left] == ["a", "b"]
        assert all("cannot be used" in why for _, why in told.left)
    (tmp_path / "store").unlink()
    made._again_at = 0
    assert len(bring(made, root, ["a"]).kept) == 1


@pytest.mark.parametrize("why", ["killed", "patience"])
def test_nobody_waits_for_ever(root: Path, tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed ends, whatever the store does, and one that is not goes on."""
    if why == "patience":
        monkeypatch.setattr(artifacts, "PATIENCE_S", 0.0)
    (root / "a").touch()
    (root / "b").touch()
    let_go = threading.Event()

    class Hanging(DirectoryStore):
        def put(self, key: str, content: object, *, replace: bool = True) -> bool:
            return let_go.wait(30)

    made = keeper("x")
    made._store = Hanging(tmp_path / "store")
    told = bring(made, root, ["a", "b"], lambda _: why == "patience")
    let_go.set()
    assert told.kept == ()
    trouble = "the store takes too long" if why == "patience" else "there was no time left for it"
    assert told.left == (("a", "there was no time left for it"), ("b", trouble))


def test_no_descriptor_is_left_open(root: Path, store: DirectoryStore) -> None:
    """Whether files are kept or not."""
    (root / "a").touch()
    os.mkfifo(root / "pipe")
    keep(root, store, "a")
    before = len(os.listdir("/dev/fd"))
    keep(root, store, "a", "pipe", "absent", "absent/x", "..", "a/x")
    for thread in threading.enumerate():
        if thread.name == "supercheck-artifacts":
            thread.join(30)
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["a b.png", ".env"], ["a~20b.png", "~2eenv"]),
        (["../x", "/x"], ["~2e./x", "x"]),
        (["a/b", "a//b"], ["a/b", "~1/a/b"]),
        (["", "/"], ["~", "~1/~"]),
        (["\udcff.txt", "~ff.txt", "ä.txt"], ["~ed~b3~bf.txt", "~7eff.txt", "~c3~a4.txt"]),
    ],
)
def test_odd_names_have_plain_keys(names: Sequence[str], wanted: Sequence[str]) -> None:
    """In letters that need no quoting."""
    made = Keys(3)
    assert [made.of(name) for name in names] == [f"artifacts/3/{key}" for key in wanted]


@given(st.lists(st.text(max_size=300) | st.text("\ud800\udcff/.~\0ab", max_size=300), max_size=6))
def test_keys_are_of_this_test_and_differ(names: list[str]) -> None:
    """Whatever files are called, every store has them, and the record believes their keys."""
    keys = Keys(12)
    made = [keys.of(name) for name in names]
    assert len(set(made)) == len(names)
    for key in made:
        check_key(FOLDER + key)
    told = verdicts.files(events.Files(12, 1, tuple((n, k, 1) for n, k in zip(names, made, strict=True)), ()))
    assert [artifact.key for artifact in told["artifacts"]] == made


def test_long_names_keep_their_suffix() -> None:
    """It says what type they are."""
    keys = Keys(0)
    one, other = keys.of("ü" * 120 + "1.png"), keys.of("ü" * 120 + "2.png")
    assert one != other
    assert one.endswith(".png")
    assert len(one) < 200
