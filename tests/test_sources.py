"""
The worker's cache of sources: from a store to trees, through a cache that nobody need trust. Real files and processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from pytest_supercheck import packs
from pytest_supercheck.archive import project_folder
from pytest_supercheck.bundle import PIECE_BYTES, Entry, Manifest
from pytest_supercheck.directory_store import DirectoryStore
from pytest_supercheck.errors import Infrastructure, SourceTrouble, StoreTrouble
from pytest_supercheck.packs import Located, Place
from pytest_supercheck.sources import SourceCache, _ranges
from tests.conftest import small_disk

FOLDER = project_folder("shop")


def sha(content: bytes) -> str:
    """Of a piece."""
    return hashlib.sha256(content).hexdigest()


def shipped(store: DirectoryStore, files: dict[str, bytes], links: dict[str, str] | None = None, *,
            pack: str = "p", project: str = "shop") -> str:  # fmt: skip
    """Put a bundle into a store as a server does; names that end with `*` are programs."""
    entries = [Entry(path, "link", 0, target) for path, target in (links or {}).items()]
    where: dict[str, tuple[str, Place]] = {}
    folder = project_folder(project)
    for number, (path, content) in enumerate(files.items()):
        pieces = [content[start : start + PIECE_BYTES] for start in range(0, len(content), PIECE_BYTES)]
        kind = "program" if path.endswith("*") else "file"
        entries.append(Entry(path.rstrip("*"), kind, len(content), "".join(map(sha, pieces))))  # type: ignore[arg-type]
        if pieces:
            name = f"{pack}{number // 3}"
            held = [(sha(piece), piece) for piece in pieces]
            with contextlib.suppress(Exception), store.get(packs.pack_key(folder, name)) as stream:
                old = stream.read()
                held = [
                    (
                        place.piece,
                        packs.unpack(old[place.offset : place.offset + place.stored], place.piece, place.size),
                    )
                    for place in packs.check(old)
                ] + held
            encoded = packs.encode(dict(held).items())
            store.put(packs.pack_key(folder, name), encoded)
            where |= {place.piece: (name, place) for place in packs.check(encoded)}
    manifest = Manifest(entries)
    store.put(packs.bundle_key(folder, manifest.id), Located(manifest, where).encode())
    return manifest.id


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    """An empty store."""
    return DirectoryStore(tmp_path / "store")


@pytest.fixture
def cache(tmp_path: Path) -> SourceCache:
    """An empty cache."""
    return SourceCache(tmp_path / "cache", 1_000_000_000)


def tree(root: Path) -> dict[str, object]:
    """What is in a directory: contents, targets of links, None for an empty directory."""
    found: dict[str, object] = {}
    for place, folders, names in os.walk(root):
        for name in [*names, *(one for one in folders if os.path.islink(os.path.join(place, one)))]:
            path = Path(place, name)
            target = os.readlink(path) if path.is_symlink() else path.read_bytes()
            found[str(path.relative_to(root))] = target
    return found


FILES = {"a.py": b"a", "sub/b.py": b"b" * 5000, "sub/deep/tool*": b"#!/bin/sh\n", "empty": b"", "same.py": b"a"}


def test_tree_is_what_was_shipped(store: DirectoryStore, cache: SourceCache, tmp_path: Path) -> None:
    """Contents, links, who may execute what, and names that are no UTF-8."""
    strange = os.fsdecode(b"\xff\n")
    long = random.Random(1).randbytes(PIECE_BYTES + 5)
    files = {**FILES, strange: b"s", "long": long}
    bundle = shipped(store, files, {"link": "sub/b.py", "sub/up": "../a.py", "dangling": "nowhere"})
    cache.materialise(store, "shop", bundle, tmp_path / "tree")
    plain = {name.rstrip("*"): content for name, content in files.items()}
    expected = {**plain, "link": "sub/b.py", "sub/up": "../a.py", "dangling": "nowhere"}
    assert tree(tmp_path / "tree") == expected
    assert (tmp_path / "tree/sub/deep/tool").stat().st_mode & stat.S_IXUSR
    assert not (tmp_path / "tree/a.py").stat().st_mode & stat.S_IXUSR
    assert sorted(os.listdir(tmp_path)) == ["cache", "store", "tree"]


def test_second_time_needs_no_store(store: DirectoryStore, cache: SourceCache, tmp_path: Path) -> None:
    """All of it is here."""
    bundle = shipped(store, FILES)
    cache.materialise(store, "shop", bundle, tmp_path / "one")
    shutil.rmtree(store.root)
    cache.materialise(store, "shop", bundle, tmp_path / "two")
    assert tree(tmp_path / "two") == tree(tmp_path / "one")


def test_only_what_is_missing_is_fetched(store: DirectoryStore, cache: SourceCache, tmp_path: Path) -> None:
    """One changed file costs that file."""
    asked: list[tuple[str, int]] = []

    class Counting(DirectoryStore):
        def get(self, key: str, *, start: int = 0, length: int | None = None) -> BinaryIO:
            asked.append((key, length or 0))
            return super().get(key, start=start, length=length)

    cache.materialise(store, "shop", shipped(store, FILES), tmp_path / "one")
    bundle = shipped(store, {**FILES, "a.py": b"changed"}, pack="q")
    cache.materialise(Counting(store.root), "shop", bundle, tmp_path / "two")
    assert asked == [(packs.bundle_key(FOLDER, bundle), 0), (packs.pack_key(FOLDER, "q0"), 7)]


def test_near_pieces_are_read_at_once() -> None:
    """Far ones are not, nor those of different packs."""
    places = [Place(sha(b"%d" % at), 10, at, 10) for at in (100, 110, 130, 900_000)]
    wanted = [("b", places[0]), ("a", places[3]), ("a", places[0]), ("a", places[2]), ("a", places[1])]
    found = [(one.pack, one.start, one.length) for one in _ranges(wanted)]
    assert found == [("a", 100, 40), ("a", 900_000, 10), ("b", 100, 10)]


def test_tree_cannot_change_the_cache(store: DirectoryStore, cache: SourceCache, tmp_path: Path) -> None:
    """A test that writes into its files writes into copies."""
    bundle = shipped(store, FILES)
    cache.materialise(store, "shop", bundle, tmp_path / "one")
    before = tree(tmp_path / "one")
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            assert path.stat().st_nlink == 1
            with path.open("r+b") as file:
                file.write(b"poison")
    cache.materialise(store, "shop", bundle, tmp_path / "two")
    assert tree(tmp_path / "two") == before


def _lose(path: Path) -> None:
    path.unlink()


def _change(path: Path) -> None:
    path.write_bytes(b"poison")


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("harm", [_lose, _change, _link, _pipe])
def test_cache_is_not_believed(store: DirectoryStore, cache: SourceCache, tmp_path: Path, harm: object) -> None:
    """What has been changed in it is fetched again: tests of the same user can reach it."""
    assert callable(harm)
    bundle = shipped(store, {**FILES, **{f"{number}.py": b"%d" % number for number in range(20)}})
    cache.materialise(store, "shop", bundle, tmp_path / "one")
    pieces = [path for path in (tmp_path / "cache/pieces").rglob("*") if path.is_file()]
    assert len(pieces) == 23
    for path in pieces:
        harm(path)
    for path in (tmp_path / "cache/bundles").iterdir():
        path.write_bytes(b"poison")
    (tmp_path / "cache/size").write_text("poison")
    cache.materialise(store, "shop", bundle, tmp_path / "two")
    assert tree(tmp_path / "two") == tree(tmp_path / "one")


def test_projects_do_not_see_each_others_bundles(store: DirectoryStore, cache: SourceCache, tmp_path: Path) -> None:
    """Not even through the cache."""
    bundle = shipped(store, FILES)
    cache.materialise(store, "shop", bundle, tmp_path / "one")
    with pytest.raises(SourceTrouble, match="not in the store"):
        cache.materialise(store, "bank", bundle, tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_bundle_that_was_taken_in_again_is_found(store: DirectoryStore, cache: SourceCache, tmp_path: Path) -> None:
    """In other packs than those that are remembered."""
    bundle = shipped(store, FILES)
    cache.materialise(store, "shop", bundle, tmp_path / "one")
    shutil.rmtree(store.root)
    store = DirectoryStore(store.root)
    assert shipped(store, FILES, pack="q") == bundle
    shutil.rmtree(tmp_path / "cache/pieces")
    cache.materialise(store, "shop", bundle, tmp_path / "two")
    assert tree(tmp_path / "two") == tree(tmp_path / "one")


@pytest.mark.parametrize("damage", ["pack lost", "pack changed", "bundle changed", "bundle of another"])
def test_damaged_store_is_fatal_in_words(
    store: DirectoryStore, cache: SourceCache, tmp_path: Path, damage: str
) -> None:
    """And leaves nothing half."""
    bundle = shipped(store, FILES)
    key = packs.pack_key(FOLDER, "p0") if "pack" in damage else packs.bundle_key(FOLDER, bundle)
    with store.get(key) as stream:
        content = bytearray(stream.read())
    if damage == "pack lost":
        store.delete([key])
    elif damage == "bundle of another":
        with store.get(packs.bundle_key(FOLDER, shipped(store, {"x": b"y"}, pack="q"))) as stream:
            store.put(key, stream.read())
    else:
        content[-1] ^= 0xFF
        store.put(key, bytes(content))
    with pytest.raises(SourceTrouble, match=r"not in the store any more|is another one|damaged"):
        cache.materialise(store, "shop", bundle, tmp_path / "tree")
    assert sorted(os.listdir(tmp_path)) == ["cache", "store"]
    assert not list((tmp_path / "cache/.tmp").iterdir())


@pytest.mark.parametrize(
    "entries",
    [
        [Entry("../out", "file", 0, "")],
        [Entry("/tmp/out", "file", 0, "")],
        [Entry("l", "link", 0, "..")],
        [Entry("l", "link", 0, "/etc")],
        [Entry("l", "link", 0, "d"), Entry("l/x", "file", 0, "")],
        [Entry("x", "file", 0, ""), Entry("x", "program", 0, "")],
    ],
)
def test_bundle_that_leads_elsewhere_is_refused(
    store: DirectoryStore, cache: SourceCache, tmp_path: Path, entries: list[Entry]
) -> None:
    """Also when the store itself has it."""
    manifest = Manifest(entries)
    store.put(packs.bundle_key(FOLDER, manifest.id), Located(manifest, {}).encode())
    with pytest.raises(SourceTrouble):
        cache.materialise(store, "shop", manifest.id, tmp_path / "tree")
    assert sorted(os.listdir(tmp_path)) == ["cache", "store"]


def test_unusable_store_is_its_own_trouble(cache: SourceCache, tmp_path: Path) -> None:
    """The run is not to blame: it can be tried on another worker, or later."""
    (tmp_path / "store").write_text("no directory")
    (tmp_path / "file").write_text("")

    class Broken(DirectoryStore):
        def get(self, key: str, *, start: int = 0, length: int | None = None) -> BinaryIO:
            raise StoreTrouble

    with pytest.raises(StoreTrouble):
        cache.materialise(Broken(tmp_path), "shop", "0" * 64, tmp_path / "tree")


FILL = """
    import resource, sys
    from pathlib import Path
    from pytest_supercheck.directory_store import DirectoryStore
    from pytest_supercheck.sources import SourceCache

    store, cache, bundle, target = sys.argv[1:]
    SourceCache(Path(cache), 10**9).materialise(DirectoryStore(Path(store)), "shop", bundle, Path(target))
"""


def fill(store: DirectoryStore, cache: Path, bundle: str, target: Path) -> subprocess.Popen[bytes]:
    """Another process that makes a tree."""
    code = textwrap.dedent(FILL)
    return subprocess.Popen([sys.executable, "-c", code, str(store.root), str(cache), bundle, str(target)])


@pytest.mark.parametrize("what", ["cache", "tree"])
def test_full_disk_is_said_and_leaves_nothing(store: DirectoryStore, tmp_path: Path, what: str) -> None:
    """It is the worker's trouble, not the run's."""
    bundle = shipped(store, {str(number): random.Random(number).randbytes(300_000) for number in range(9)})
    with small_disk(tmp_path / "small", 1_000_000) as small:
        places = {"cache": tmp_path / "cache", "tree": tmp_path / "tree", what: small / what}
        with pytest.raises(Infrastructure, match="no room for the project on the worker's disk"):
            SourceCache(places["cache"], 1_000_000_000).materialise(store, "shop", bundle, places["tree"])
        assert not places["tree"].exists()
        assert not list(places["cache"].glob(".tmp/*"))
        assert not [name for name in os.listdir(places["tree"].parent) if name.startswith(".tree")]


def test_processes_share_the_cache(store: DirectoryStore, tmp_path: Path) -> None:
    """Several that begin at once, with a limit that none of them can keep."""
    files = {f"{number}.py": random.Random(number).randbytes(20_000) for number in range(60)}
    bundles = [shipped(store, {**files, "a.py": b"%d" % number}, pack=f"{number}-") for number in range(2)]
    targets = [tmp_path / f"tree-{number}" for number in range(6)]
    made = [fill(store, tmp_path / "cache", bundles[n % 2], target) for n, target in enumerate(targets)]
    assert [process.wait(60) for process in made] == [0] * 6
    for number, target in enumerate(targets):
        assert tree(target) == {**files, "a.py": b"%d" % (number % 2)}
    assert not list((tmp_path / "cache/.tmp").iterdir())


def test_killed_process_leaves_the_cache_whole(store: DirectoryStore, cache: SourceCache, tmp_path: Path) -> None:
    """Whatever it was doing: the next one goes on."""
    files = {f"{number}.py": random.Random(number).randbytes(50_000) for number in range(200)}
    bundle = shipped(store, files)
    for pause_s in (0.15, 0.2, 0.25, 0.3):
        process = fill(store, tmp_path / "cache", bundle, tmp_path / "killed")
        time.sleep(pause_s)
        process.kill()
        process.wait()
    cache.materialise(store, "shop", bundle, tmp_path / "tree")
    assert tree(tmp_path / "tree") == files


def test_cache_stays_within_its_limit(store: DirectoryStore, tmp_path: Path) -> None:
    """What has not been used for longest goes first."""
    cache = SourceCache(tmp_path / "cache", 250_000)
    bundles = {}
    for name in ("old", "used", "new"):
        bundles[name] = shipped(store, {name: random.Random(name).randbytes(100_000)}, pack=name)
    hour_s = 3600
    for name, age_s in (("old", 2 * hour_s), ("used", 3 * hour_s)):
        cache.materialise(store, "shop", bundles[name], tmp_path / name)
        for path in (tmp_path / "cache/pieces").rglob(sha(random.Random(name).randbytes(100_000))):
            os.utime(path, (time.time() - age_s,) * 2)
    cache.materialise(store, "shop", bundles["used"], tmp_path / "used again")
    (tmp_path / "cache/.tmp/forgotten").touch()
    os.utime(tmp_path / "cache/.tmp/forgotten", (1, 1))
    cache.materialise(store, "shop", bundles["new"], tmp_path / "tree")
    left = {path.name for path in (tmp_path / "cache/pieces").rglob("*") if path.is_file()}
    assert left == {sha(random.Random(name).randbytes(100_000)) for name in ("used", "new")}
    assert not list((tmp_path / "cache/.tmp").iterdir())
    large = shipped(store, {"large": random.Random(1).randbytes(400_000)}, pack="large")
    cache.materialise(store, "shop", large, tmp_path / "large")
    assert (tmp_path / "large/large").stat().st_size == 400_000


def test_target_that_is_in_use_is_left_alone(store: DirectoryStore, cache: SourceCache, tmp_path: Path) -> None:
    """An empty directory is filled."""
    bundle = shipped(store, FILES)
    (tmp_path / "empty").mkdir()
    cache.materialise(store, "shop", bundle, tmp_path / "empty")
    assert tree(tmp_path / "empty")["a.py"] == b"a"
    (tmp_path / "used").mkdir()
    (tmp_path / "used/mine").touch()
    with pytest.raises(Infrastructure):
        cache.materialise(store, "shop", bundle, tmp_path / "used")
    assert os.listdir(tmp_path / "used") == ["mine"]


@pytest.mark.parametrize("names", [("a.py", "A.py"), ("sub/a.py", "Sub/b.py")])
def test_names_that_differ_by_case(
    store: DirectoryStore, cache: SourceCache, tmp_path: Path, names: tuple[str, str]
) -> None:
    """Two files where the file system knows two names; else an error that says so, and no tree."""
    bundle = shipped(store, {name: name.encode() for name in names})
    (tmp_path / "probe").touch()
    if (tmp_path / "PROBE").exists():
        with pytest.raises(SourceTrouble, match="upper from lower case"):
            cache.materialise(store, "shop", bundle, tmp_path / "tree")
        assert not (tmp_path / "tree").exists()
    else:
        cache.materialise(store, "shop", bundle, tmp_path / "tree")
        assert tree(tmp_path / "tree") == {name: name.encode() for name in names}
