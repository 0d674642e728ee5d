"""
Projects' files on their way: from a session's machine through a real server into a store, and from there into a tree.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import random
import socket
import subprocess
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from pytest_supercheck import packs, shipping
from pytest_supercheck.archive import project_folder
from pytest_supercheck.bundle import PIECE_BYTES, Entry, Manifest
from pytest_supercheck.directory_store import DirectoryStore
from pytest_supercheck.errors import Infrastructure, SourceTrouble, StoreTrouble, SupercheckError, Unreachable
from pytest_supercheck.gathering import Gathered, Gathering
from pytest_supercheck.http_gateway import HttpGateway
from pytest_supercheck.model import RunId, RunRequest
from pytest_supercheck.shipping import Shipment
from pytest_supercheck.sources import SourceCache
from pytest_supercheck.stores import open_store
from pytest_supercheck.submission import connect
from supercheck_server.bundle_routes import WISHES
from supercheck_server.bundles import Bundles, live_bundles
from supercheck_server.database import Database
from supercheck_server.parts import Parts
from supercheck_server.rebuild import rebuild
from supercheck_server.settings import Settings
from supercheck_server.tables import bundles
from tests.conftest import Valkey
from tests.s3 import BUCKET, KEY, SECRET, rclone
from tests.server.conftest import GUARD_S, Pool, Served, serving, wait_for

DAY_MS = 86_400_000


def sha(content: bytes) -> str:
    """Of a piece."""
    return hashlib.sha256(content).hexdigest()


def manifest_of(files: dict[str, bytes]) -> Manifest:
    """Of files of one piece."""
    return Manifest(Entry(path, "file", len(content), sha(content)) for path, content in files.items())


def pack_of(*contents: bytes) -> bytes:
    """A pack with these pieces."""
    return packs.encode((sha(content), content) for content in contents)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of a few files in git."""
    path = tmp_path / "project"
    for number in range(30):
        file = path / f"sub{number % 3}" / f"test_{number}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(random.Random(number).randbytes(2000))
    (path / "run.sh").write_text("#!/bin/sh\n")
    (path / "run.sh").chmod(0o755)
    (path / "link").symlink_to("sub1/test_1.py")
    subprocess.run(["git", "init", "-q", str(path)], check=True)
    return path


def ship(url: str, path: Path, tell: Callable[[str], None] = lambda _words: None, **wish: Any) -> dict[str, str]:
    """Ship a project."""
    files = {"include": [], "exclude": [], "limit_bytes": 1_000_000_000}
    asked = {"project": "shop", "rootdir": str(path), **files, **wish}
    with contextlib.closing(HttpGateway(url, None)) as gateway:
        shipment = Shipment(gateway, asked, tell)
        shipment.join(GUARD_S)
        assert not shipment.is_alive()
        return shipment.source()


def unpacked(settings: Settings, bundle: str, place: Path) -> Path:
    """The tree that a worker makes of a bundle."""
    store = open_store(settings.store, endpoint=settings.s3_endpoint)
    target = place / f"tree-{random.getrandbits(64):x}"
    SourceCache(place / "cache", 1_000_000_000).materialise(store, "shop", bundle, target)
    return target


def same(one: Path, other: Path) -> bool:
    """Whether two directories have the same files, links and programs, but for git's own and ours."""

    def look(root: Path) -> dict[str, object]:
        found: dict[str, object] = {}
        for path in root.rglob("*"):
            name = path.relative_to(root)
            if path.is_symlink():
                found[str(name)] = os.readlink(path)
            elif path.is_file() and {".git", ".supercheck"}.isdisjoint(name.parts):
                found[str(name)] = (path.read_bytes(), path.stat().st_mode & 0o100)
        return found

    return look(one) == look(other)


class Line:
    """A line between a client and a server: counts what is sent, and breaks when it is told to."""

    def __init__(self, url: str) -> None:
        self._to = ("127.0.0.1", httpx.URL(url).port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        #: Bytes that clients have sent, and requests among them.
        self.sent = 0
        self.requests = 0
        #: Called with each request's first line; a true answer breaks the connection once the request has begun.
        self.breaks: Callable[[bytes], bool] = lambda _line: False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """No more."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._to)
                except OSError:
                    client.close()
                    continue
                threading.Thread(target=self._up, args=(client, server), daemon=True).start()
                threading.Thread(target=self._down, args=(server, client), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError), client, server:
            while chunk := client.recv(1 << 20):
                self.sent += len(chunk)
                if chunk.startswith((b"POST ", b"GET ")):
                    self.requests += 1
                    if self.breaks(chunk.partition(b"\r\n")[0]):
                        server.sendall(chunk[: len(chunk) // 2])
                        client.shutdown(socket.SHUT_RDWR)
                        return
                server.sendall(chunk)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := server.recv(1 << 20):
                client.sendall(chunk)
            client.shutdown(socket.SHUT_WR)


@pytest.fixture
def line(served: Served) -> Iterator[Line]:
    """A line to the server."""
    made = Line(served.url)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests without an answer are sent again soon."""
    monkeypatch.setattr("pytest_supercheck.http_gateway.AGAIN_S", (0.01, 0.01, 0.01))
    monkeypatch.setattr("pytest_supercheck.http_gateway.AWAY_S", 0)


# -- from end to end


def test_project_comes_to_a_worker(served: Served, settings: Settings, project: Path, tmp_path: Path) -> None:
    """Byte by byte; what has a secret's name stays, and is named."""
    (project / ".env").write_text("PASSWORD=x")
    told: list[str] = []
    source = ship(served.url, project, tell=told.append)
    assert source["root"] == str(project)
    tree = unpacked(settings, source["bundle"], tmp_path)
    (project / ".env").unlink()
    assert same(tree, project)
    assert told == ["supercheck: not shipped: .env (looks like a secret); supercheck_include takes secrets along"]
    assert (project / ".supercheck/.gitignore").exists()


def test_project_comes_to_a_worker_through_s3(
    settings: Settings, project: Path, tmp_path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large files too, and by ranges."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    (project / "large").write_bytes(random.Random(1).randbytes(PIECE_BYTES * 2 + 7))
    with rclone(tmp_path / "s3") as s3:
        away = replace(settings, store=f"s3://{BUCKET}/x?addressing=path", s3_endpoint=s3.endpoint)
        with serving(away) as served:
            first = ship(served.url, project)
            assert same(unpacked(away, first["bundle"], tmp_path), project)
            (project / "sub1/test_1.py").write_text("changed")
            assert same(unpacked(away, ship(served.url, project)["bundle"], tmp_path), project)


def test_nothing_changed_is_one_small_request(line: Line, project: Path) -> None:
    """By the bundle's id alone."""
    first = ship(line.url, project)
    line.sent = line.requests = 0
    assert ship(line.url, project) == first
    assert line.requests == 1
    assert line.sent < 1000


def test_one_changed_file_costs_that_file(line: Line, settings: Settings, tmp_path: Path) -> None:
    """And few bytes more, in a project of 5,000 files, also when one has gone and one is new."""
    project = tmp_path / "large"
    for number in range(5000):
        file = project / f"package_{number % 50}" / f"module_with_a_long_name_{number}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"x = {number}\n")
    ship(line.url, project)
    content = random.Random(1).randbytes(100_000)
    (project / "package_7/module_with_a_long_name_7.py").write_bytes(content)
    (project / "package_8/module_with_a_long_name_8.py").unlink()
    line.sent = line.requests = 0
    source = ship(line.url, project)
    assert line.sent < len(content) + 4000
    assert line.requests == 4
    assert same(unpacked(settings, source["bundle"], tmp_path), project)


def test_base_that_the_server_has_no_more_is_no_matter(
    line: Line, served: Served, settings: Settings, project: Path, tmp_path: Path
) -> None:
    """The whole manifest follows."""
    ship(line.url, project)
    assert served.parts.bundles.sweep((time.time() + 20 * 86400) * 1000) > 0
    (project / "new.py").write_text("new")
    source = ship(line.url, project)
    assert same(unpacked(settings, source["bundle"], tmp_path), project)


@pytest.mark.parametrize("damage", [b"", b"poison", zlib.compress(b"{}")])
def test_damaged_memory_of_the_last_time_is_no_matter(
    line: Line, settings: Settings, project: Path, tmp_path: Path, damage: bytes
) -> None:
    """It only spares bytes."""
    ship(line.url, project)
    [last] = (project / ".supercheck/sources").glob("shipped-*")
    last.write_bytes(damage)
    (project / "new.py").write_text("new")
    assert same(unpacked(settings, ship(line.url, project)["bundle"], tmp_path), project)


def test_upload_that_was_cut_goes_on(line: Line, settings: Settings, tmp_path: Path) -> None:
    """What has arrived is not sent again, by the same session or by the next one."""
    project = tmp_path / "large"
    project.mkdir()
    for number in range(6):
        (project / f"{number}.bin").write_bytes(random.Random(number).randbytes(7_000_000))
    seen = 0
    lock = threading.Lock()

    def after_three_packs(first: bytes) -> bool:
        nonlocal seen
        with lock:
            seen += b"/packs" in first
            return seen > 3

    line.breaks = after_three_packs
    with pytest.raises(Unreachable, match="does not answer"):
        ship(line.url, project)
    line.breaks = lambda _first: False
    line.sent = 0
    source = ship(line.url, project)
    assert 10_000_000 < line.sent < 30_000_000
    assert same(unpacked(settings, source["bundle"], tmp_path), project)


def test_server_that_starts_again_in_the_middle_of_an_upload(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    """It goes on; sent again is at most what was on its way."""
    monkeypatch.setattr("pytest_supercheck.http_gateway.AWAY_S", GUARD_S)
    monkeypatch.setattr(shipping, "PACK_BYTES", 1_000_000)
    project = tmp_path / "large"
    project.mkdir()
    for number in range(40):
        (project / f"{number}.bin").write_bytes(random.Random(number).randbytes(1_000_000))
    line, sources, packs_begun = Line(f"http://127.0.0.1:{unused_port}"), [], []

    def note(first: bytes) -> bool:
        packs_begun.extend([first] * (b"/packs" in first))
        return False

    line.breaks = note
    session = threading.Thread(target=lambda: sources.append(ship(line.url, project)))
    with serving(settings, port=unused_port):
        session.start()
        wait_for(lambda: len(packs_begun) > 1, "it is sent")
    with warnings.catch_warnings():
        # asyncio forgets to close a connection that it takes in the very moment in which its server is closed.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    assert not sources, "it was in the middle"
    with serving(settings, port=unused_port):
        session.join(GUARD_S)
    [source] = sources
    assert same(unpacked(settings, source["bundle"], tmp_path), project)
    assert line.sent < 40_000_000 + shipping.CONNECTIONS * 1_100_000
    line.close()


def test_connection_that_breaks_once_costs_nothing(
    line: Line, settings: Settings, project: Path, tmp_path: Path
) -> None:
    """Every kind of request is sent again."""
    broken: set[bytes] = set()

    def once(first: bytes) -> bool:
        what = first.split(b"/")[3]
        new = what not in broken
        broken.add(what)
        return new

    line.breaks = once
    source = ship(line.url, project)
    assert {what.partition(b"?")[0] for what in broken} == {b"bundles", b"packs"}
    assert same(unpacked(settings, source["bundle"], tmp_path), project)


def test_file_that_changes_before_it_is_sent_is_gathered_again(
    served: Served, settings: Settings, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle is of one moment; one whose files never rest is an error that names one."""
    writes = 1
    original = Gathering.gather

    def gather(self: Gathering, file: Path) -> Gathered:
        nonlocal writes
        gathered = original(self, file)
        if writes > 0:
            writes -= 1
            (project / "run.sh").write_text(f"changed {writes}")
        return gathered

    monkeypatch.setattr(Gathering, "gather", gather)
    assert same(unpacked(settings, ship(served.url, project)["bundle"], tmp_path), project)
    (project / "run.sh").write_text("new")
    writes = 100
    with pytest.raises(SourceTrouble, match=r"run\.sh changes while it is shipped"):
        ship(served.url, project)


def test_directory_that_becomes_a_link_before_it_is_sent(
    served: Served, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it leads to is not sent, were it the same: it is gathered again, as the link that it is now."""
    original = Gathering.gather
    told: list[str] = []

    def gather(self: Gathering, file: Path) -> Gathered:
        gathered = original(self, file)
        if not (project / "sub1").is_symlink():
            (project / "sub1").rename(tmp_path / "outside")
            (project / "sub1").symlink_to(tmp_path / "outside")
        return gathered

    monkeypatch.setattr(Gathering, "gather", gather)
    ship(served.url, project, told.append)
    assert any("sub1 (is a link that leads out of the project)" in words for words in told), told


def test_progress_is_told(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it takes long."""
    monkeypatch.setattr("pytest_supercheck.shipping.QUIET_S", 0.0)
    monkeypatch.setattr("pytest_supercheck.shipping.TELL_S", 0.0)
    (tmp_path / "large").mkdir()
    for number in range(3):
        (tmp_path / "large" / str(number)).write_bytes(random.Random(number).randbytes(6_000_000))
    told: list[str] = []
    ship(served.url, tmp_path / "large", tell=told.append)
    assert told[-1] == "supercheck: shipping the project, 18 MB of 18 MB"


def test_names_that_nobody_can_read_are_told_as_they_can_be(served: Served, project: Path) -> None:
    """A terminal obeys what it is shown."""
    for name in ("\x1b[2J.key", "A.txt", "a.txt"):
        (project / name).write_text("x")
    told: list[str] = []
    ship(served.url, project, tell=told.append)
    assert told == [
        "supercheck: not shipped: ?[2J.key (looks like a secret); supercheck_include takes secrets along",
        "supercheck: names that differ by case only, which not every worker can have: A.txt, a.txt",
    ]


def test_too_large_a_project_is_refused_here(served: Served, project: Path) -> None:
    """Before anything is sent."""
    with pytest.raises(SourceTrouble, match=r"too many to ship.*sub0"):
        ship(served.url, project, limit_bytes=1000)


def test_project_that_may_not_be_written_is_shipped(
    served: Served, settings: Settings, project: Path, tmp_path: Path
) -> None:
    """What is remembered only spares work."""
    (project / ".supercheck").write_text("in the way")
    source = ship(served.url, project)
    assert ship(served.url, project) == source
    (project / ".supercheck").unlink()
    assert same(unpacked(settings, source["bundle"], tmp_path), project)


# -- through a connector


def spec_of(project: Path) -> dict[str, Any]:
    """What a session that wants no files back tells of itself, as far as its connector reads it."""
    known = {"rootdir": str(project), "path": [], "collect": "local", "artifacts": {"of": "none"}, "uid": "r1"}
    return {**known, "args": [], "pytest": "9", "plugins": []}


def test_connector_ships_beside_the_session(served: Served, settings: Settings, pool: Pool, project: Path) -> None:
    """The run's spec says what workers need; the session is told what stays."""
    pool.dispatcher.join("w-1", host="h", pid=1)
    (project / ".env").write_text("x")
    submission = connect(served.url, None)
    try:
        submission.ship(project="shop", rootdir=str(project), include=(), exclude=("*.sh",), limit_bytes=1_000_000)
        assert submission.capacity() == 5
        spec = spec_of(project)
        request = RunRequest(run_id=RunId("r1"), project="shop", spec=json.dumps(spec))
        submission.submit(request, 0, record=0)
        told: list[str] = []
        assert submission.result(told.append).held == 1
        details = pool.dispatcher.details(RunId("r1"))
        assert details is not None
        source = json.loads(details.spec)["source"]
        assert source["root"] == str(project)
        assert len(told) == 1
        assert told[0].startswith("supercheck: not shipped: .env")
        assert served.parts.bundles.ask("shop", source["bundle"], b"") == ("ready", [])
        assert live_bundles(pool.dispatcher) == {source["bundle"]}
    finally:
        submission.close()


def test_connector_says_why_files_cannot_be_shipped(
    served: Served, pool: Pool, project: Path, valkey_server: Valkey
) -> None:
    """As the submission's error; nothing is submitted."""
    for url, words in ((served.url, "too many to ship"), (valkey_server.url, "files are shipped to a server")):
        submission = connect(url, None)
        try:
            submission.ship(project="shop", rootdir=str(project), include=(), exclude=(), limit_bytes=10)
            spec = spec_of(project)
            submission.submit(RunRequest(run_id=RunId("r1"), spec=json.dumps(spec)), 0, record=0)
            with pytest.raises(SupercheckError, match=words):
                submission.result()
        finally:
            submission.close()
        assert pool.dispatcher.queue().runs == ()


def test_session_that_goes_ends_its_shipment(tmp_path: Path) -> None:
    """At once, whatever is on its way."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        submission = connect(f"http://127.0.0.1:{silent.getsockname()[1]}", None)
        submission.ship(project="shop", rootdir=str(tmp_path), include=(), exclude=(), limit_bytes=10)
        spec = {"rootdir": str(tmp_path), "args": [], "pytest": "9", "plugins": []}
        submission.submit(RunRequest(run_id=RunId("r1"), spec=json.dumps(spec)), 0, record=0)
        client, _ = silent.accept()
        pid = submission._pid
        submission.close()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        client.close()


# -- the server's side


@dataclass
class Keeping:
    """Bundles without a server."""

    #: Those.
    bundles: Bundles
    #: Where they are kept.
    store: DirectoryStore
    #: What live runs need.
    needed: set[str] = field(default_factory=set)

    def objects(self) -> list[str]:
        """What is in the store."""
        return [entry.key for entry in self.store.list()]

    def take(self, files: dict[str, bytes], project: str = "shop") -> str:
        """Take a bundle in."""
        manifest = manifest_of(files)
        wish = zlib.compress(manifest.encode())
        state, missing = self.bundles.ask(project, manifest.id, wish)
        by_hash = {sha(content): content for content in files.values()}
        if state == "incomplete":
            self.bundles.keep(project, pack_of(*(by_hash[piece] for piece in missing)))
            state, missing = self.bundles.ask(project, manifest.id, wish)
        assert (state, missing) == ("ready", [])
        return manifest.id

    def knows(self, bundle: str, project: str = "shop") -> bool:
        """Whether a bundle is there."""
        return self.bundles.ask(project, bundle, b"")[0] == "ready"


@pytest.fixture
def keeping(database: Database, tmp_path: Path) -> Keeping:
    """No bundles yet, once with each kind of database."""
    store = DirectoryStore(tmp_path / "store")
    needed: set[str] = set()
    return Keeping(Bundles(database, store, days=14, needed=lambda: needed), store, needed)


def test_pieces_are_kept_once(keeping: Keeping) -> None:
    """However often they come, and in whatever company."""
    assert keeping.bundles.keep("shop", pack_of(b"a", b"b")) == 2
    assert keeping.bundles.keep("shop", pack_of(b"a", b"b")) == 0
    assert len(keeping.objects()) == 1
    assert keeping.bundles.keep("shop", pack_of(b"b", b"c")) == 1
    keeping.take({"x": b"a", "y": b"b", "z": b"c"})
    assert len(keeping.objects()) == 3


def test_several_that_bring_the_same_do_not_disturb_each_other(keeping: Keeping) -> None:
    """Nor is anything missing afterwards."""
    contents = [b"%d" % number for number in range(500)]
    errors: list[BaseException] = []

    def bring(seed: int) -> None:
        mixed = random.Random(seed).sample(contents, len(contents))
        try:
            keeping.bundles.keep("shop", pack_of(*mixed))
            keeping.take({content.decode(): content for content in mixed})
        except BaseException as exc:  # noqa: BLE001
            errors.append(exc)

    threads = [threading.Thread(target=bring, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GUARD_S)
    assert errors == []
    assert keeping.knows(manifest_of({content.decode(): content for content in contents}).id)


def test_projects_learn_nothing_of_each_other(keeping: Keeping) -> None:
    """What one has is missing in another; so are its bundles, by id and as a base."""
    bundle = keeping.take({"x": b"a"})
    assert not keeping.knows(bundle, "bank")
    manifest = manifest_of({"x": b"a"})
    assert keeping.bundles.ask("bank", bundle, zlib.compress(manifest.encode())) == ("incomplete", [sha(b"a")])
    other = manifest_of({"y": b"a"})
    assert keeping.bundles.ask("bank", other.id, zlib.compress(other.since(manifest))) == ("unknown", [])


def test_manifest_of_another_bundle_is_refused(keeping: Keeping) -> None:
    """Or one whose pieces have other lengths."""
    bundle = keeping.take({"x": b"a"})
    wish = zlib.compress(manifest_of({"x": b"a"}).encode())
    with pytest.raises(SourceTrouble, match="not the manifest of that bundle"):
        keeping.bundles.ask("shop", sha(b"another"), wish)
    lies = Manifest([Entry("x", "file", 5, sha(b"a"))])
    with pytest.raises(SourceTrouble, match="another length"):
        keeping.bundles.ask("shop", lies.id, zlib.compress(lies.encode()))
    assert keeping.knows(bundle)


def test_what_nobody_asks_for_goes(keeping: Keeping) -> None:
    """Bundles after some days, then the packs that none needs; nothing of a bundle that stays, or of a live run."""
    now_ms = time.time() * 1000
    shared = {"a": b"shared"}
    old = keeping.take({**shared, "x": b"old"})
    needed = keeping.take({**shared, "x": b"needed"})
    keeping.bundles.keep("shop", pack_of(b"never used"))
    assert keeping.bundles.sweep(now_ms + 13 * DAY_MS) == 0
    keeping.needed.add(needed)
    assert keeping.bundles.sweep(now_ms + 15 * DAY_MS) == 2  # the bundle, and the pack that was never used
    assert not keeping.knows(old)
    assert sorted(keeping.objects()) == sorted(
        [packs.bundle_key(project_folder("shop"), needed), *(key for key in keeping.objects() if "/packs/" in key)]
    )
    assert keeping.knows(needed)
    keeping.needed.clear()
    keeping.take({"x": b"newer"})
    assert keeping.bundles.sweep(now_ms + 15 * DAY_MS) >= 3
    assert keeping.objects() == []
    assert keeping.take({**shared, "x": b"old"}) == old


def test_bundle_whose_packs_go_meanwhile_is_incomplete(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for as any other then, and whole once they are there again."""
    manifest = manifest_of({"x": b"a", "y": b"b"})
    wish = zlib.compress(manifest.encode())
    for content in (b"a", b"b"):
        keeping.bundles.keep("shop", pack_of(content))
    take_in = keeping.bundles._take_in

    def late(*args: Any) -> None:
        assert keeping.bundles.sweep(time.time() * 1000 + 15 * DAY_MS) == 2
        take_in(*args)

    monkeypatch.setattr(keeping.bundles, "_take_in", late)
    state, missing = keeping.bundles.ask("shop", manifest.id, wish)
    assert (state, sorted(missing)) == ("incomplete", sorted([sha(b"a"), sha(b"b")]))
    assert keeping.bundles.ask("shop", manifest.id, b"") == ("unknown", [])
    monkeypatch.undo()
    keeping.bundles.keep("shop", pack_of(b"a", b"b"))
    assert keeping.bundles.ask("shop", manifest.id, wish) == ("ready", [])


def test_slow_store_keeps_nobody_from_the_database(
    keeping: Keeping, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it takes a bundle in."""
    put, written = keeping.store.put, list[str]()

    def slow(key: str, *more: Any, **named: Any) -> bool:
        with database.write() as connection:
            connection.execute(update(bundles).values(used_ms=0))
        written.append(key)
        return put(key, *more, **named)

    monkeypatch.setattr(keeping.store, "put", slow)
    bundle = keeping.take({"x": b"a"})
    assert packs.bundle_key(project_folder("shop"), bundle) in written


def test_store_that_is_away_is_not_waited_for_under_a_lock(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to be removed goes later."""
    keeping.take({"x": b"a"})
    asked: list[str] = []

    def away(*_: object) -> None:
        asked.append("")
        raise StoreTrouble

    monkeypatch.setattr(keeping.store, "head", away)
    monkeypatch.setattr(keeping.store, "delete", lambda _: pytest.fail("within a transaction"))
    later_ms = time.time() * 1000 + 15 * DAY_MS
    with pytest.raises(StoreTrouble):
        keeping.bundles.sweep(later_ms)
    monkeypatch.undo()
    assert keeping.bundles.sweep(later_ms) == 2


def test_asking_for_a_bundle_keeps_it(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    """For as many days again; its packs with it."""
    bundle = keeping.take({"x": b"a"})
    later_ms = (time.time() + 10 * 86400) * 1000
    monkeypatch.setattr("supercheck_server.bundles._now_ms", lambda: round(later_ms))
    assert keeping.knows(bundle)
    assert keeping.bundles.sweep(later_ms + 13 * DAY_MS) == 0
    assert len(keeping.objects()) == 2
    assert keeping.bundles.sweep(later_ms + 15 * DAY_MS) == 2


def test_index_is_made_anew_from_the_store(keeping: Keeping, tmp_path: Path) -> None:
    """With all bundles of all projects; what is damaged is left out, and a second time changes nothing."""
    bundles = [keeping.take({"x": b"a", "y": b"%d" % number}) for number in range(3)]
    others = keeping.take({"x": b"a"}, "bank/../\u00e9")
    keeping.store.put(packs.pack_key(project_folder("shop"), "damaged"), b"SCP1")
    keeping.store.put(packs.bundle_key(project_folder("shop"), "0" * 64), b"damaged")
    database = Database(f"sqlite:///{tmp_path / 'anew.sqlite'}")
    database.migrate()
    anew = Keeping(Bundles(database, keeping.store, days=14, needed=tuple), keeping.store)
    assert anew.bundles.restore() == 4
    assert anew.bundles.restore() == 0
    assert all(anew.knows(bundle) for bundle in bundles)
    assert anew.knows(others, "bank/../\u00e9")
    assert not anew.knows(others)
    before = anew.objects()
    anew.take({"z": b"a", "y": b"2"})
    assert len(anew.objects()) == len(before) + 1  # all pieces were known
    database.close()


def test_rebuild_brings_bundles_back(settings: Settings, served: Served, project: Path, tmp_path: Path) -> None:
    """With the history."""
    source = ship(served.url, project)
    anew = replace(settings, database_url=f"sqlite:///{tmp_path}/anew.sqlite")
    assert rebuild(anew).bundles == 1
    parts = Parts(anew)
    assert parts.bundles.ask("shop", source["bundle"], b"") == ("ready", [])
    parts.close()


def test_store_that_is_away_is_said(settings: Settings, project: Path, pool: Pool) -> None:
    """After some tries; nothing is half."""
    away = replace(settings, store=f"s3://{BUCKET}/x?addressing=path", s3_endpoint="http://127.0.0.1:1")
    with serving(away) as served, pytest.raises((Unreachable, Infrastructure)) as caught:
        ship(served.url, project)
    assert "s3://" in str(caught.value)
    assert not isinstance(caught.value, StoreTrouble)


# -- hostile requests


def ask(client: httpx.Client, path: str, content: bytes = b"", **params: str) -> tuple[int, Any]:
    """The answer's status and JSON."""
    answer = client.post(f"/api/v1/{path}", content=content, params={"project": "shop", **params})
    return answer.status_code, answer.json()


@pytest.mark.parametrize("bundle", ["x", "0" * 63, "0" * 65, "G" * 64, "%2e%2e"])
def test_id_that_cannot_be_is_refused(client: httpx.Client, bundle: str) -> None:
    """In words."""
    assert ask(client, f"bundles/{bundle}")[0] == 400


def test_wrong_content_is_refused(client: httpx.Client, served: Served, settings: Settings) -> None:
    """A pack with one wrong piece is not kept at all."""
    pack = packs.encode([(sha(b"a"), b"a"), (sha(b"b"), b"other")])
    status, row = ask(client, "packs", pack)
    assert status == 400
    assert "another one: it was damaged" in row["detail"]
    manifest = manifest_of({"x": b"a"})
    assert ask(client, f"bundles/{manifest.id}", zlib.compress(manifest.encode()))[1] == {
        "state": "incomplete",
        "missing": [sha(b"a")],
    }
    assert list(open_store(settings.store).list()) == []


@pytest.mark.parametrize("content", [b"", b"x", zlib.compress(b"[]"), zlib.compress(b'{"version":1,"entries":[1]}')])
def test_what_is_no_wish_and_no_pack_is_refused(client: httpx.Client, content: bytes) -> None:
    """With 400 and words; an empty wish asks by id."""
    assert ask(client, "packs", content)[0] == 400
    status, row = ask(client, f"bundles/{'0' * 64}", content)
    assert (status, row.get("state")) == ((400, None) if content else (200, "unknown"))


@pytest.mark.parametrize(("path", "size"), [("packs", 10 << 20), (f"bundles/{'0' * 64}", 17 << 20)])
@pytest.mark.parametrize("chunked", [False, True])
def test_too_long_a_body_is_413(client: httpx.Client, path: str, size: int, chunked: bool) -> None:
    """Whether or not it says how long it is."""
    content = iter([b"x" * (1 << 20)] * (size >> 20)) if chunked else b"x" * size
    answer = client.post(f"/api/v1/{path}", content=content, params={"project": "shop"})
    assert answer.status_code == 413
    assert "MB are taken at once" in answer.json()["detail"]


def test_no_route_takes_a_body_without_end(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is there anybody asked for a token before."""
    monkeypatch.setattr("supercheck_server.middleware.BODY_LIMIT", 1 << 20)
    fits, too_long = ({"names": ["x" * size]} for size in (1000, 1 << 20))
    assert client.post("/api/v1/runs/r1/items", json=fits).status_code == 200
    answers = [client.post(path, json=too_long) for path in ("/api/v1/runs/r1/items", "/api/v1/runs")]
    answers.append(client.post("/sign-in", data={"secret": "x" * (1 << 20)}))
    assert [(answer.status_code, "At most 1 MB" in answer.text) for answer in answers] == [(413, True)] * 3


def test_manifests_are_read_few_at_a_time(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits too long for that is told to come again."""
    monkeypatch.setattr("supercheck_server.bundle_routes.WISH_S", 0.1)
    begun, go_on = threading.Barrier(WISHES + 1), threading.Event()

    def slow(*_args: object) -> tuple[str, list[str]]:
        begun.wait(GUARD_S)
        go_on.wait(GUARD_S)
        return "unknown", []

    monkeypatch.setattr(Bundles, "ask", slow)
    path = f"/api/v1/bundles/{sha(b'x')}?project=shop"
    with ThreadPoolExecutor(WISHES) as pool:
        asked = [pool.submit(client.post, path) for _ in range(WISHES)]
        begun.wait(GUARD_S)
        answer = client.post(path)
        go_on.set()
        assert [one.result().status_code for one in asked] == [200] * WISHES
    assert (answer.status_code, "Ask again" in answer.text) == (503, True)


def test_gateway_says_what_to_do_about_413(served: Served) -> None:
    """It may be a proxy's."""
    words = r"Proxies on the way have to let requests of 10 MB through"
    with contextlib.closing(HttpGateway(served.url, None)) as gateway, pytest.raises(SourceTrouble, match=words):
        gateway.pack("shop", b"x" * (10 << 20))


def test_tokens_are_for_their_project(client: httpx.Client, served: Served) -> None:
    """And for their scope; nothing is read of a body before."""
    _, secret = served.parts.access.create("ci", project="shop")
    _, reader = served.parts.access.create("ci", project="shop", scope="read")
    for token, project, expected in (
        (secret, "shop", 200), (secret, "bank", 403), (reader, "shop", 403), ("wrong", "shop", 401),
    ):  # fmt: skip
        headers = {"Authorization": f"Bearer {token}"}
        for path, content in ((f"bundles/{'0' * 64}", b""), ("packs", pack_of(b"a"))):
            answer = client.post(f"/api/v1/{path}", content=content, params={"project": project}, headers=headers)
            assert answer.status_code == expected, (token, project, path)
