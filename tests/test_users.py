"""
Users for runs: nobody has one twice, what is given to one is its own, and nothing of it is left for the next.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_supercheck.errors import CannotIsolate
from pytest_supercheck.users import LOCKS, User, Users, give, is_closed_to

#: Not the default range: a worker may be running here.
FIRST = 62_500

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="CANNOT BE TRIED: changing users takes root")


@pytest.fixture
def users() -> Iterator[Users]:
    """Three of them."""
    made = Users(FIRST, FIRST + 4)
    yield made
    made.close()
    for uid in range(FIRST, FIRST + 5):
        (LOCKS / str(uid)).unlink(missing_ok=True)


def took(users: Users) -> User:
    """One that there is."""
    user = users.take()
    assert user is not None
    return user


def run_as(user: User, *command: str) -> subprocess.Popen[bytes]:
    """Start something as somebody, in a session of its own."""
    identity = {"user": user.uid, "group": user.uid, "extra_groups": []}
    return subprocess.Popen(command, start_new_session=True, **identity)  # type: ignore[call-overload,no-any-return]


def wait(condition: Callable[[], object]) -> None:
    """Until it holds."""
    give_up_at = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


def test_nobody_has_a_user_twice(users: Users) -> None:
    """Not in this process, not in another one that has the same range; the first two of the range run no tests."""
    mine, others = [took(users), took(users)], Users(FIRST, FIRST + 4)
    last = took(others)
    assert sorted(user.uid for user in (*mine, last)) == [FIRST + 2, FIRST + 3, FIRST + 4]
    assert users.take() is None
    others.release(last)
    others.close()
    assert took(users).uid == last.uid


def test_an_id_of_somebody_is_left_alone() -> None:
    """It is a user of this machine: their processes are not ours to kill."""
    nobody = pwd.getpwnam("nobody").pw_uid
    assert Users(nobody - 2, nobody).take() is None


@pytest.mark.parametrize("place", [0, 1])
def test_who_kills_and_who_builds_is_nobody(place: int) -> None:
    """Somebody's processes would be killed with a run's, or have the caches."""
    nobody = pwd.getpwnam("nobody").pw_uid
    with pytest.raises(CannotIsolate, match=f"user id {nobody} is nobody's: set SUPERCHECK_ISOLATE_UIDS"):
        Users(nobody - place, nobody - place + 5)


def test_nothing_is_left_when_a_user_is_released(users: Users) -> None:
    """No process, even one that forks all the time, and no file in the common places, however deep or many."""
    user = took(users)
    # Faster than anybody could kill one after the other.
    bomb = """if True:
        import os, resource
        resource.setrlimit(resource.RLIMIT_NPROC, (60, 60))
        while True:
            try:
                os.fork() or os.setsid()
            except OSError:
                pass
    """
    name = f"supercheck-users-{os.getpid()}"
    deep = "/".join(["d" * 100] * 60)
    run_as(user, "sh", "-c", f"mkdir -p -m 700 /tmp/{name} && cd /tmp/{name} && mkdir -p {deep[:2000]}").wait()
    many = f"for n in range(9_000): open(f'/tmp/{name}-{{n:0200}}', 'x').close()"  # more than a command can be given
    run_as(user, "/usr/bin/python3", "-c", many).wait()
    run_as(user, "ipcmk", "-M", "4096").wait()
    process = run_as(user, "/usr/bin/python3", "-c", bomb)
    wait(lambda: len(processes_of(user.uid)) > 5)
    users.release(user)
    users.close()
    process.wait()
    assert not processes_of(user.uid)
    assert not list(Path("/tmp").glob(f"{name}*"))
    assert str(user.uid) not in Path("/proc/sysvipc/shm").read_text().split()
    assert took(users).uid == user.uid


def processes_of(uid: int) -> list[int]:
    """Those that live."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            rows = dict(row.split(":", 1) for row in status.read_text().splitlines())
        except OSError:
            continue
        if rows["Uid"].split()[0] == str(uid) and rows["State"].split()[0] != "Z":
            found.append(int(status.parent.name))
    return found


def test_a_user_of_a_killed_worker_is_swept_before_somebody_has_it(users: Users) -> None:
    """Whoever takes users finds the mark that it was not released."""
    user = took(users)
    process = run_as(user, "sleep", "600")
    os.close(user.lock)  # as the kernel does when a process dies
    assert took(users).uid != user.uid
    process.wait()
    assert process.returncode == -9
    users.close()
    assert took(users).uid == user.uid


def test_a_home_of_a_killed_worker_is_removed(users: Users, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the worker has its temporary files; nobody has told of it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    user = took(users)
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, user.uid, user.uid)
    os.close(user.lock)
    assert took(users).uid != user.uid
    users.close()
    assert not home.exists()


def test_a_tree_is_its_users_and_nobody_elses(users: Users, tmp_path: Path) -> None:
    """But for files that have other names; once released nobody gets there any more."""
    outside = tmp_path / "outside"
    outside.write_text("cached")
    tree = tmp_path / "tree"
    (tree / "folder").mkdir(parents=True)
    (tree / "folder" / "file").write_text("own")
    (tree / "shared").hardlink_to(outside)
    (tree / "link").symlink_to(outside)
    user = took(users)
    give(str(tree), user)
    assert {path.lstat().st_uid for path in (tree, tree / "folder", tree / "folder" / "file")} == {user.uid}
    assert outside.stat().st_uid == 0
    assert tree.stat().st_mode & 0o777 == 0o700
    assert not is_closed_to(user, str(tree), above=False)
    assert is_closed_to(took(users), str(tree), above=False)
    users.release(user)
    assert is_closed_to(user, str(tree), above=False)
