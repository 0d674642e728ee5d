"""
What is built once on a host: by one process at a time, whole or not at all, and kept within bounds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pytest_supercheck.build_cache import BuildCache, Held, remove
from pytest_supercheck.discard import make_workspaces


def nothing() -> None:
    """Nobody has to be told."""


def make(directory: Path, kept: int = 5) -> BuildCache:
    """A cache."""
    return BuildCache(directory, kept=kept, pulse=nothing)


def obtain(cache: BuildCache, key: str) -> Held:
    """Hold a directory with a file in it."""

    def build(place: Path, _lock: int) -> None:
        (place / "file").write_text(key)

    return cache.obtain(key, build, nothing)


def entries(directory: Path) -> set[str]:
    """What is there, but for locks."""
    return {path.name for path in directory.iterdir() if path.suffix != ".lock"}


def test_it_is_built_once(tmp_path: Path) -> None:
    """Whoever asks later gets the same."""
    built: list[Path] = []

    def build(place: Path, _lock: int) -> None:
        built.append(place)
        (place / "file").write_text("x")

    cache = make(tmp_path / "cache")
    for _ in range(3):
        held = cache.obtain("a", build, nothing)
        assert (held.path / "file").read_text() == "x"
        held.close()
    assert len(built) == 1
    assert entries(tmp_path / "cache") == {"a"}


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """The next one begins anew."""

    def build(place: Path, _lock: int) -> None:
        (place / "half").touch()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        make(tmp_path).obtain("a", build, nothing)
    assert entries(tmp_path) == set()
    obtain(make(tmp_path), "b").close()
    assert {path.name for path in tmp_path.iterdir()} == {"b", "b.lock"}
    assert not (obtain(make(tmp_path), "a").path / "half").exists()


def test_those_used_last_are_kept(tmp_path: Path) -> None:
    """Using counts, not building."""
    cache = make(tmp_path, kept=3)
    for number, key in enumerate("abc"):
        obtain(cache, key).close()
        os.utime(tmp_path / key, (number, number))
    obtain(cache, "a").close()
    obtain(cache, "d").close()
    assert entries(tmp_path) == {"a", "c", "d"}
    assert sorted(path.name for path in tmp_path.glob("*.lock")) == ["a.lock", "c.lock", "d.lock"]


def test_what_is_held_is_never_removed(tmp_path: Path) -> None:
    """However many others come; once let go of, it may go."""
    cache = make(tmp_path, kept=1)
    held = obtain(cache, "a")
    os.utime(held.path, (0, 0))
    obtain(cache, "b").close()
    assert (held.path / "file").read_text() == "a"
    held.close()
    obtain(cache, "c").close()
    assert entries(tmp_path) == {"c"}


def test_those_used_last_stay_within_a_length(tmp_path: Path) -> None:
    """What is too much goes, but for what is held."""
    cache = make(tmp_path)
    for number, key in enumerate("abcd"):
        obtain(cache, key).close()
        os.utime(tmp_path / key, (number, number))
    held = obtain(cache, "a")
    os.utime(held.path, (0, 0))
    cache.shrink(20, lambda path: 10 if path.is_dir() else 0)
    assert entries(tmp_path) == {"a", "c", "d"}
    held.close()
    cache.shrink(20, lambda path: 10 if path.is_dir() else 0)
    assert entries(tmp_path) == {"c", "d"}


def test_read_only_ones_are_removed_too(tmp_path: Path) -> None:
    """Builds protect what they have made."""

    def build(place: Path, _lock: int) -> None:
        (place / "inner").mkdir()
        (place / "inner" / "file").touch()
        (place / "inner").chmod(0o500)

    cache = make(tmp_path, kept=1)
    cache.obtain("a", build, nothing).close()
    obtain(cache, "b").close()
    assert entries(tmp_path) == {"b"}


def deepen(place: Path, depth: int = 3_000) -> None:
    """Make directories in directories that no path can name any more; the last one is read-only."""
    at = os.open(place, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(os.open("file", os.O_CREAT, dir_fd=at))
    os.fchmod(at, 0o500)
    os.close(at)


def test_deep_ones_are_removed_too(tmp_path: Path) -> None:
    """Tests can make them as deep as they like."""
    place = tmp_path / "place"
    place.mkdir()
    deepen(place)
    remove(place)
    assert not os.path.lexists(place)


def test_what_links_lead_to_stays(tmp_path: Path) -> None:
    """In a directory, and in its place; neither its contents nor who may read it change."""
    there = tmp_path / "there"
    there.mkdir(mode=0o500)
    place, link = tmp_path / "place", tmp_path / "link"
    place.mkdir()
    (place / "inner").symlink_to(there)
    link.symlink_to(there)
    for path in (place, link):
        remove(path)
        assert not os.path.lexists(path)
    assert there.stat().st_mode & 0o777 == 0o500


def test_tests_pass_through_where_workspaces_are(tmp_path: Path) -> None:
    """They may be somebody else, and the worker one of a unit with UMask=0077."""
    before = os.umask(0o077)
    try:
        made = make_workspaces(tmp_path)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (made, made.parent)] == [0o711, 0o711]


def test_a_worker_starts_whatever_tests_have_left(tmp_path: Path) -> None:
    """The workspaces of one that was killed go, however deep they are."""
    place = tmp_path / "workspaces"
    deserted = place / "1-x"
    deserted.mkdir(parents=True)
    (place / "1-x.host").touch()
    (place / "2-x.host").symlink_to(tmp_path / "nowhere" / "lock")
    deepen(deserted)
    made = make_workspaces(tmp_path)
    assert {path.name for path in place.iterdir()} == {made.name, f"{made.name}.host", "2-x.host"}


CHILD = """
import sys, time
from pathlib import Path
from pytest_supercheck.build_cache import BuildCache

def build(place, lock):
    (place / "half").touch()
    print("building", flush=True)
    sys.stdin.readline()

held = BuildCache(Path(sys.argv[1]), kept=5, pulse=lambda: None).obtain("a", build, lambda: print("waits", flush=True))
print("held", flush=True)
sys.stdin.readline()
"""


def child(directory: Path) -> subprocess.Popen[str]:
    """A process that builds until it is told to go on."""
    command = [sys.executable, "-c", CHILD, str(directory)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def says(process: subprocess.Popen[str]) -> str:
    """Its next line."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_others_wait_for_a_build(tmp_path: Path) -> None:
    """They are told that they do, and use what it has built."""
    with child(tmp_path) as one:
        assert says(one) == "building"
        with child(tmp_path) as other:
            assert says(other) == "waits"
            assert one.stdin is not None
            one.stdin.write("\n")
            assert says(one) == "held"
            assert says(other) == "held"
            other.kill()
        one.kill()


def test_a_killed_build_does_not_count(tmp_path: Path) -> None:
    """Its lock is free, and what it had begun goes, also when another key is wanted next."""
    with child(tmp_path) as one:
        assert says(one) == "building"
        one.send_signal(signal.SIGKILL)
    assert entries(tmp_path) == {"a.building"}
    obtain(make(tmp_path), "b").close()
    assert entries(tmp_path) == {"b"}
    assert not (obtain(make(tmp_path), "a").path / "half").exists()


def test_a_build_under_way_is_left_alone(tmp_path: Path) -> None:
    """When room is made for another key."""
    with child(tmp_path) as one:
        assert says(one) == "building"
        obtain(make(tmp_path, kept=1), "b").close()
        assert entries(tmp_path) == {"a.building", "b"}
        one.kill()


def test_a_wait_can_be_given_up(tmp_path: Path) -> None:
    """By what `pulse` raises."""

    class GivenUp(Exception):
        pass

    def pulse() -> None:
        raise GivenUp

    with child(tmp_path) as one:
        assert says(one) == "building"
        with pytest.raises(GivenUp):
            BuildCache(tmp_path, kept=5, pulse=pulse).obtain("a", lambda place, lock: None, nothing)
        one.kill()


def test_many_at_once(tmp_path: Path) -> None:
    """Keys come and go in several threads; each gets what it asked for."""
    wrong: list[str] = []

    def work(seed: int) -> None:
        cache = make(tmp_path, kept=2)
        for number in range(30):
            key = "abcde"[(number * seed) % 5]
            held = obtain(cache, key)
            time.sleep(0.001)
            if (held.path / "file").read_text() != key:
                wrong.append(key)
            held.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert len(entries(tmp_path)) <= 6
