"""
Files that tests have left behind, as the server hands them out.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from pytest_supercheck.errors import Unreachable
from pytest_supercheck.http_gateway import HttpGateway
from pytest_supercheck.model import RunId
from pytest_supercheck.record import Artifact
from pytest_supercheck.stores import open_store
from supercheck_server.ledger import Ledger, key_of
from supercheck_server.settings import Settings
from tests.s3 import BUCKET, KEY, SECRET, rclone
from tests.server.conftest import Pool, Served, make_record, serving
from tests.server.proxies import pass_on, proxy

FOLDER = "projects/shop/runs/0190-000001/"


@pytest.fixture
def files(served: Served, settings: Settings) -> str:
    """Where those of a run's failing test are."""
    contents = {"video.webm": bytes(range(100)), "page.html": b"<script>", "trace.zip": b"PK", "x.svg": b"<svg>"}
    place = Path(settings.store, FOLDER, "artifacts", "1")
    place.mkdir(parents=True)
    for name, content in contents.items():
        (place / name).write_bytes(content)
    kept = tuple(Artifact(name=name, key=f"artifacts/1/{name}", size_bytes=1) for name in contents)
    record = make_record(1, "PF")
    record = replace(record, items=(record.items[0], replace(record.items[1], artifacts=kept)))
    Ledger(served.parts.database).write(record, FOLDER, delivered=True)
    return "/runs/0190-000001/files/artifacts/1"


def test_sessions_get_them_from_the_store_itself(
    settings: Settings, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they reach it: by an address that is signed, for a while, without their token; else through the server."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    asked: list[bytes] = []

    def note(client: socket.socket, server: socket.socket) -> None:
        asked.append(client.recv(65536))
        server.sendall(asked[-1])
        pass_on(client, server)

    content, key = bytes(range(256)) * 5000, "artifacts/1/a video.webm"
    with rclone(tmp_path / "s3") as s3, proxy(s3.endpoint, note) as outside:
        away = replace(settings, store=f"s3://{BUCKET}/x?addressing=path", s3_endpoint=s3.endpoint)
        open_store(away.store, endpoint=s3.endpoint).put(FOLDER + key, content)
        for public in (None, f"http://{outside}"):
            with serving(replace(away, s3_public_endpoint=public)) as served:
                Ledger(served.parts.database).write(make_record(1, "PF"), FOLDER, delivered=True)
                _, secret = served.parts.access.create("ci", project="shop")
                with contextlib.closing(HttpGateway(served.url, secret)) as gateway:
                    assert b"".join(gateway.file(RunId("0190-000001"), key)) == content
                    with pytest.raises(Unreachable, match="There is no such file"):
                        list(gateway.file(RunId("0190-000001"), "artifacts/1/none"))
                assert len(asked) == (public is not None)
    [request] = asked
    assert b"/x/projects/shop/" in request.partition(b"\r\n")[0]
    assert b"X-Amz-Expires=300" in request
    assert b"response-content-disposition=attachment" in request
    assert b"sct_" not in request
    assert b"authorization" not in request.lower()


def test_pages_link_to_them(client: httpx.Client, files: str) -> None:
    """The run's, and the test's."""
    for address in ("/runs/0190-000001", f"/tests/{key_of('shop', 'test_a.py::test_1')}"):
        page = client.get(address).text
        assert f'href="{files}/video.webm"' in page
        assert f'href="/trace/index.html?trace={files}/trace.zip"' in page


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("video.webm", "video/webm"),
        ("page.html", "text/plain; charset=utf-8"),
        ("trace.zip", "application/zip"),
        ("x.svg", "application/octet-stream"),
    ],
)
def test_browsers_run_none_of_them(client: httpx.Client, files: str, name: str, kind: str) -> None:
    """By their type, which is not guessed, and by a policy."""
    answer = client.get(f"{files}/{name}")
    assert answer.headers["content-type"] == kind
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].endswith("sandbox")


@pytest.mark.parametrize(
    ("wanted", "status", "first", "last"),
    [
        ("bytes=10-19", 206, 10, 19),
        ("bytes=90-", 206, 90, 99),
        ("bytes=0-1000", 206, 0, 99),
        ("bytes=-5", 200, 0, 99),
        ("bytes=0-1,5-6", 200, 0, 99),
        ("lines=1-2", 200, 0, 99),
    ],
)
def test_videos_come_in_parts(
    client: httpx.Client, files: str, wanted: str, status: int, first: int, last: int
) -> None:
    """One part at a time, as players ask for them."""
    answer = client.get(f"{files}/video.webm", headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (status, bytes(range(first, last + 1)))
    if status == 206:
        assert answer.headers["content-range"] == f"bytes {first}-{last}/100"


def test_parts_that_are_not_there(client: httpx.Client, files: str) -> None:
    """Past the end, before the beginning, of no file."""
    past = client.get(f"{files}/video.webm", headers={"Range": "bytes=100-"})
    assert (past.status_code, past.headers["content-range"]) == (416, "bytes */100")
    assert client.get(f"{files}/video.webm", headers={"Range": "bytes=5-4"}).status_code == 416
    assert client.get(f"{files}/other.webm", headers={"Range": "bytes=0-1"}).status_code == 404
    assert client.get(f"{files}/other.webm").status_code == 404
    assert client.get(f"{files}/..%2f..%2frun.json").status_code == 404
