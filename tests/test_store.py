"""
The contract of a store, over all its adapters: a directory, and S3 as two servers have it.
"""

from __future__ import annotations

import contextlib
import http.server
import io
import itertools
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import boto3
import pytest

from pytest_supercheck.directory_store import DirectoryStore
from pytest_supercheck.errors import NotStored, StoreTrouble
from pytest_supercheck.s3_store import PART_BYTES, S3Store
from pytest_supercheck.store import BadKey, Store, check_key, headers
from pytest_supercheck.stores import open_store
from tests import s3

_numbers = itertools.count()

#: What is no key.
TRICKS = (
    *("", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a/..", "a\\b", "a\x00b", "a\nb", "\x7f", "\ud800"),
    *(".tmp/a", ".gitignore", "x" * 241, "é" * 121, "/".join(["x" * 100] * 10)),
)

#: What boto3 and the servers of the tests warn of themselves.
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.S3Server]:
    """A server that checks signatures."""
    with s3.rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def moto_server() -> Iterator[s3.S3Server]:
    """A server that knows conditional writes."""
    with s3.moto() as server:
        client: Any = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            region_name="us-east-1",
            aws_access_key_id=s3.KEY,
            aws_secret_access_key=s3.SECRET,
        )
        client.create_bucket(Bucket=s3.BUCKET)
        yield server


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of the servers, and nothing of whoever runs the tests."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.SECRET)


def make_s3_store(server: s3.S3Server) -> S3Store:
    """An empty store: a prefix that nobody has used."""
    return S3Store(s3.BUCKET, f"store-{next(_numbers)}/", endpoint=server.endpoint)


@pytest.fixture(params=["directory", "rclone", "moto"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "directory":
        return DirectoryStore(tmp_path / "store")
    return make_s3_store(request.getfixturevalue(f"{request.param}_server"))


@pytest.fixture(params=["directory", "moto"])
def exclusive_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind that lets one of several writers win."""
    if request.param == "directory":
        return DirectoryStore(tmp_path / "store")
    return make_s3_store(request.getfixturevalue("moto_server"))


def read(store: Store, key: str, **part: int) -> bytes:
    """An object, or a part of one."""
    with store.get(key, **part) as stream:
        return stream.read()


def keys(store: Store, folder: str = "", *, deep: bool = True) -> list[str]:
    """The keys of a folder."""
    return [entry.key for entry in store.list(folder, deep=deep)]


# -- what every store does


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_what_is_put_can_be_read(store: Store, size: int) -> None:
    """Bytes of any length, also none."""
    content = os.urandom(size)
    assert store.put("folder/object", content)
    assert read(store, "folder/object") == content


def test_streams_can_be_put(store: Store) -> None:
    """A file is read to its end."""
    store.put("object", io.BytesIO(b"abc" * 1000))
    assert read(store, "object") == b"abc" * 1000


@pytest.mark.parametrize("size", [PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES + 5])
def test_long_objects_arrive_whole(store: Store, size: int) -> None:
    """Around the size at which they go in parts."""
    content = os.urandom(size)
    store.put("long", io.BytesIO(content))
    assert read(store, "long") == content
    assert (found := store.head("long")) is not None
    assert found.size_bytes == size


def test_an_object_is_replaced(store: Store) -> None:
    """By whoever comes later."""
    store.put("object", b"long and old")
    assert store.put("object", b"new")
    assert read(store, "object") == b"new"


@pytest.mark.parametrize("size", [3, PART_BYTES + 1])
def test_without_replace_the_first_wins(exclusive_store: Store, size: int) -> None:
    """The object that was there stays."""
    assert exclusive_store.put("object", b"1" * size, replace=False)
    assert not exclusive_store.put("object", b"2" * size, replace=False)
    assert read(exclusive_store, "object") == b"1" * size


def test_one_of_many_writers_wins(exclusive_store: Store) -> None:
    """However close they come."""
    together = threading.Barrier(8)
    won: list[int] = []

    def write(number: int) -> None:
        together.wait()
        if exclusive_store.put("claim", b"%d" % number, replace=False):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [read(exclusive_store, "claim")] == [b"%d" % number for number in won]


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [(0, 4, b"0123"), (3, 2, b"34"), (8, 100, b"89"), (5, None, b"56789"), (10, 5, b""), (50, None, b"")],
)
def test_parts_of_an_object_can_be_read(store: Store, start: int, length: int | None, expected: bytes) -> None:
    """From any byte on, as many as there are."""
    store.put("object", b"0123456789")
    with store.get("object", start=start, length=length) as stream:
        assert stream.read() == expected


def test_streams_are_read_piece_by_piece(store: Store) -> None:
    """As files are."""
    store.put("object", b"0123456789")
    with store.get("object", start=1, length=7) as stream:
        assert [stream.read(3), stream.read(3), stream.read(3), stream.read(3)] == [b"123", b"456", b"7", b""]


def test_what_is_not_there_is_told(store: Store) -> None:
    """Neither an object nor, instead of one, a folder."""
    store.put("folder/object", b"")
    for key in ("other", "folder", "folder/object/below", "folder/other"):
        with pytest.raises(NotStored):
            store.get(key)
        assert store.head(key) is None


def test_head_tells_size_and_time(store: Store) -> None:
    """The time is aware, and about now."""
    before = datetime.now(timezone.utc)
    store.put("object", b"12345")
    found = store.head("object")
    assert found is not None
    assert (found.key, found.size_bytes) == ("object", 5)
    assert found.written_at is not None
    assert abs(found.written_at - before) < timedelta(minutes=1)


def test_list_has_the_order_of_keys(store: Store) -> None:
    """As bytes, whatever folders there are: a dash comes before a slash, and a dot, too."""
    names = ["a-b", "a.b", "a/b/c", "a/b.c", "a/c", "a0", "b/x", "Z", "é"]
    for name in reversed(names):
        store.put(name, b"")
    assert keys(store) == sorted(names)
    assert keys(store, "a/") == ["a/b.c", "a/b/c", "a/c"]


def test_list_of_one_level_names_folders(store: Store) -> None:
    """With a slash, in the order of their names with it."""
    for name in ("runs/a/run.json", "runs/a/x/y", "runs/b/run.json", "runs/index.html", "other/x"):
        store.put(name, b"")
    assert keys(store, "runs/", deep=False) == ["runs/a/", "runs/b/", "runs/index.html"]
    assert keys(store, deep=False) == ["other/", "runs/"]


def test_list_of_what_is_not_there_is_empty(store: Store) -> None:
    """Also before anything was put."""
    assert keys(store) == []
    store.put("folder/object", b"")
    assert keys(store, "other/") == []
    assert keys(store, "fol" + "d/") == []


@pytest.mark.slow
def test_list_of_more_than_a_page(moto_server: s3.S3Server) -> None:
    """Of S3, where a page has a thousand."""
    store = make_s3_store(moto_server)
    names = [f"{number % 3}/{number:04}" for number in range(1005)]
    for name in names:
        store.put(name, b"")
    assert keys(store) == sorted(names)
    store.delete(names)
    assert keys(store) == []


def test_deleted_objects_are_gone(store: Store) -> None:
    """The others stay; what is not there is no matter."""
    for name in ("a/1", "a/2", "b/1"):
        store.put(name, b"x")
    store.delete(["a/1", "a/2", "never/there"])
    assert keys(store) == ["b/1"]
    store.delete([])
    store.put("a/1", b"again")
    assert read(store, "a/1") == b"again"


@pytest.mark.parametrize("kind", ["directory", "rclone"])
def test_a_browser_can_read_the_url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Without credentials of its own; the server checks the signature."""
    rest = DirectoryStore(tmp_path) if kind == "directory" else make_s3_store(request.getfixturevalue("rclone_server"))
    rest.put("folder/a page.html", b"<p>")
    url = rest.url("folder/a page.html", ttl_s=60)
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"<p>"


def test_an_address_can_be_for_saving_only(moto_server: s3.S3Server) -> None:
    """Whatever the object says of itself: no browser shows it as a page of the bucket's."""
    store = make_s3_store(moto_server)
    store.put("folder/a page.html", b"<script>")
    with urllib.request.urlopen(store.url("folder/a page.html", download=True)) as answer:
        assert answer.headers["Content-Disposition"] == "attachment"
        assert answer.headers["Content-Type"] == "application/octet-stream"


def test_tricks_in_keys_are_refused(store: Store) -> None:
    """By every verb, before anything is touched."""
    for key in TRICKS:
        verbs: list[Callable[[], object]] = [
            lambda key=key: store.put(key, b""),  # type: ignore[misc]
            lambda key=key: store.get(key),  # type: ignore[misc]
            lambda key=key: store.head(key),  # type: ignore[misc]
            lambda key=key: store.delete(["fine", key]),  # type: ignore[misc]
            lambda key=key: store.url(key),  # type: ignore[misc]
        ]
        store.put("fine", b"")
        for verb in verbs:
            with pytest.raises(BadKey):
                verb()
    assert keys(store) == ["fine"]


def test_tricks_in_folders_are_refused(store: Store) -> None:
    """A folder ends with a slash and is inside of the store."""
    for folder in ("a", "../", "a/../", "/", ".tmp/"):
        with pytest.raises(BadKey):
            list(store.list(folder))


def test_odd_keys_are_keys(store: Store) -> None:
    """They mean themselves."""
    odd = ["a", "a b", "a~2fb/c.d", "é", "b/.b", "-", "x" * 240, "<script>", "%2e%2e/x", "a'\"&?#"]
    for key in odd:
        assert check_key(key) == key
        store.put(key, key.encode())
    assert [(key, read(store, key)) for key in keys(store)] == [(key, key.encode()) for key in sorted(odd)]


# -- what browsers are told


@pytest.mark.parametrize(
    ("key", "content_type"),
    [
        ("projects/p/index.html", "text/html; charset=utf-8"),
        ("projects/p/runs/r/artifacts/page.html", "text/plain; charset=utf-8"),
        ("projects/p/runs/r/artifacts/picture.svg", "application/octet-stream"),
        ("projects/p/runs/r/artifacts/shot.PNG", "image/png"),
        ("projects/p/runs/r/texts/1-0.txt", "text/plain; charset=utf-8"),
        ("projects/p/runs/r/run.json", "application/json"),
        ("projects/p/runs/r/events.ndjson.gz", "application/gzip"),
        ("artifacts", "application/octet-stream"),
    ],
)
def test_content_types_follow_from_keys(key: str, content_type: str) -> None:
    """What a test left behind is never a page."""
    assert headers(key).content_type == content_type


def test_only_what_changes_is_asked_for_again() -> None:
    """Pages and records; the rest never changes."""
    assert headers("projects/p/index.html").cache_control == "no-cache"
    assert headers("projects/p/runs/r/run.json").cache_control == "no-cache"
    assert "immutable" in headers("projects/p/runs/r/texts/1-0.txt").cache_control


def test_s3_tells_browsers(moto_server: s3.S3Server) -> None:
    """With each object, however it was sent."""
    store = make_s3_store(moto_server)
    store.put("index.html", b"<p>")
    store.put("artifacts/film.webm", b"x" * (PART_BYTES + 1))
    for key in ("index.html", "artifacts/film.webm"):
        with urllib.request.urlopen(store.url(key)) as answer:
            assert answer.headers["Content-Type"] == headers(key).content_type
            assert answer.headers["Cache-Control"] == headers(key).cache_control


# -- a directory


def test_a_killed_writer_leaves_nothing_to_read(tmp_path: Path) -> None:
    """Killed half-way, it has not replaced the object; what it left is removed a day later."""
    store = DirectoryStore(tmp_path)
    store.put("object", b"old")
    code = (
        "import os, sys, pathlib\n"
        "from pytest_supercheck.directory_store import DirectoryStore\n"
        "class Half:\n"
        "    def read(self, size=-1):\n"
        "        if hasattr(self, 'read_once'): print('half', flush=True); os.read(0, 1)\n"
        "        self.read_once = True\n"
        "        return b'half'\n"
        "DirectoryStore(pathlib.Path(sys.argv[1])).put('object', Half())"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half\n"
        writer.kill()
    assert read(store, "object") == b"old"
    assert keys(store) == ["object"]
    [left] = (tmp_path / ".tmp").iterdir()
    DirectoryStore(tmp_path).put("other", b"")
    assert left.exists()
    os.utime(left, (0, time.time() - 25 * 3600))
    DirectoryStore(tmp_path).put("other", b"")
    assert not left.exists()


def test_deleting_leaves_no_empty_folders(tmp_path: Path) -> None:
    """Or a directory would fill up with them."""
    store = DirectoryStore(tmp_path)
    store.put("a/b/c/d", b"")
    store.put("a/x", b"")
    store.delete(["a/b/c/d"])
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["x"]


def test_writers_and_deleters_do_not_disturb_each_other(tmp_path: Path) -> None:
    """A folder that is removed between is made again."""
    store = DirectoryStore(tmp_path)
    over = threading.Event()

    def delete() -> None:
        while not over.is_set():
            store.delete(["a/b/other"])

    deleter = threading.Thread(target=delete)
    deleter.start()
    try:
        for number in range(300):
            store.put("a/b/object", b"%d" % number)
            store.delete(["a/b/object"])
    finally:
        over.set()
        deleter.join()


def test_a_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """Here because a file is in its place."""
    (tmp_path / "file").write_text("")
    store = DirectoryStore(tmp_path / "file")
    with pytest.raises(StoreTrouble, match=r"the store .*file cannot be used: "):
        store.put("object", b"")
    assert keys(store) == []


def test_links_are_not_followed_into_folders(tmp_path: Path) -> None:
    """A loop of them would never end."""
    store = DirectoryStore(tmp_path)
    store.put("a/object", b"")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert "a/object" in keys(store)
    assert len(keys(store)) == 2


# -- S3


def test_wrong_credentials_are_told(rclone_server: s3.S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a server that checks them; the secret is not."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "quite-another-secret-quite-another-secret")
    store = make_s3_store(rclone_server)
    with pytest.raises(StoreTrouble, match="refuses the credentials") as caught:
        store.put("object", b"")
    assert "another" not in str(caught.value)


def test_no_credentials_are_told(rclone_server: s3.S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent without."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreTrouble, match="credentials"):
        make_s3_store(rclone_server).put("object", b"")


def test_a_bucket_that_is_not_there_is_told(moto_server: s3.S3Server) -> None:
    """With what to do."""
    with pytest.raises(StoreTrouble, match="no such bucket; create it"):
        S3Store("absent", endpoint=moto_server.endpoint).put("object", b"")


def test_a_server_that_is_not_there_is_told() -> None:
    """After its few attempts."""
    store = S3Store(s3.BUCKET, endpoint="http://127.0.0.1:9")
    for verb in (lambda: store.put("object", b""), lambda: store.get("object"), lambda: list(store.list())):
        with pytest.raises(StoreTrouble, match="cannot be used: Could not connect"):
            verb()


@contextlib.contextmanager
def grumpy_server(*answers: tuple[int, str]) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these answers, the last one again and again; its address, and what it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, code = answers[min(len(asked), len(answers) - 1)]
            asked.append(self.path)
            body = f"<Error><Code>{code}</Code><Message>not now</Message></Error>".encode() if code else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_a_server_that_is_busy_is_asked_again() -> None:
    """Until it takes the object."""
    with grumpy_server((503, "SlowDown"), (500, "InternalError"), (200, "")) as (endpoint, asked):
        assert S3Store(s3.BUCKET, endpoint=endpoint).put("object", b"content")
    assert len(asked) == 3


def test_a_server_that_is_full_is_told() -> None:
    """At once, with what it says."""
    told = r"cannot be used now \(XMinioStorageFull: not now\)"
    with grumpy_server((507, "XMinioStorageFull")) as (endpoint, _), pytest.raises(StoreTrouble, match=told):
        S3Store(s3.BUCKET, endpoint=endpoint).put("object", b"content")


def test_a_failed_upload_leaves_no_parts(moto_server: s3.S3Server) -> None:
    """They would be paid for, and never seen."""
    store = make_s3_store(moto_server)

    class Breaks(io.RawIOBase):
        left = 2

        def read(self, size: int = -1) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise EOFError("the file broke")
            return b"x" * size

    with pytest.raises(EOFError):
        store.put("long", Breaks())  # type: ignore[arg-type]
    client: Any = boto3.client("s3", endpoint_url=moto_server.endpoint, region_name="us-east-1")
    assert not client.list_multipart_uploads(Bucket=s3.BUCKET).get("Uploads")
    assert store.head("long") is None


@pytest.mark.parametrize(
    ("addressing", "expected"), [("path", "http://s3.test/reports/a"), ("virtual", "http://reports.s3.test/a")]
)
def test_addresses_have_the_bucket_where_it_is_wanted(addressing: str, expected: str) -> None:
    """In the path, as with any endpoint by default, or in the host's name."""
    store = open_store(f"s3://reports?addressing={addressing}", endpoint="http://s3.test")
    assert store.url("a").partition("?")[0] == expected
    default = open_store("s3://reports", endpoint="http://s3.test")
    assert default.url("a").startswith("http://s3.test/reports/a?")


# -- addresses of stores


def test_a_directory_is_opened(tmp_path: Path) -> None:
    """And made when something is put."""
    store = open_store(str(tmp_path / "new"))
    assert keys(store) == []
    store.put("object", b"1")
    assert (tmp_path / "new" / "object").read_bytes() == b"1"


def test_a_bucket_is_opened(rclone_server: s3.S3Server) -> None:
    """Prefixes are apart from each other."""
    one = open_store(f"s3://{s3.BUCKET}/team/one/", endpoint=rclone_server.endpoint)
    team = open_store(f"s3://{s3.BUCKET}/team", endpoint=rclone_server.endpoint)
    one.put("object", b"1")
    assert keys(team) == ["one/object"]
    assert str(one) == f"s3://{s3.BUCKET}/team/one/"


@pytest.mark.parametrize(
    "url",
    ["http://bucket", "s3://", "s3:///prefix", "s3://bucket?x=1", "s3://bucket?addressing=odd", "s3://b/../x",
     "s3://key:hidden@bucket/prefix"],
)  # fmt: skip
def test_other_addresses_are_refused(url: str) -> None:
    """With what an address looks like, and without what could be secret."""
    with pytest.raises(StoreTrouble) as caught:
        open_store(url)
    assert "hidden" not in str(caught.value)


def test_boto3_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the line that installs it."""
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delitem(sys.modules, "pytest_supercheck.s3_store")
    with pytest.raises(StoreTrouble, match=r"pip install 'pytest-supercheck\[s3\]'"):
        open_store("s3://bucket")
