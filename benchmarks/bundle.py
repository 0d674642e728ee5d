"""Bundles: a project of 5,000 files and 60 MB on its way to workers; seconds, and bytes that are sent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final
from urllib.parse import urlsplit

from benchmarks import pool, web
from benchmarks.bench import BenchError, bench
from benchmarks.table import Row, Scale, alone, seconds, value_row
from pytest_supercheck.model import RunRequest, new_run_id
from pytest_supercheck.sources import SourceCache
from pytest_supercheck.stores import open_store
from pytest_supercheck.submission import connect
from tests.s3 import BUCKET, KEY, SECRET, rclone

WARM_S: Final = 1.0
CHANGED_KB: Final = 64.0
FIRST_S: Final = 6.0
TREE_S: Final = 1.0

#: Bytes of a file; with 5,000 of them, 60 MB.
_FILE_BYTES: Final = 12_000


def measure(scale: Scale) -> list[Row]:
    """Measure all four."""
    count, samples = scale.pick(5000, 200), scale.pairs(7, 2)
    with bench() as place, pool.server() as url, rclone(place.folder("s3")) as s3:
        project = place.folder("project")
        _write(project, count)
        settings = {"SUPERCHECK_STORE": f"s3://{BUCKET}/bench?addressing=path", "SUPERCHECK_S3_ENDPOINT": s3.endpoint}
        credentials = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        os.environ.update(credentials)
        place.environ |= {**settings, **credentials}
        with (
            web.served(place, url, data=place.folder("data")) as server,
            contextlib.closing(_Line(server.address)) as line,
        ):
            first = []
            for number in range(scale.pick(3, 1)):
                shutil.rmtree(project / ".supercheck", ignore_errors=True)
                first.append(_ship(line.address, project, f"first-{number}")[0])
            _ship(line.address, project, "shop")
            time.sleep(1.5)  # what was written within the last second is read again
            _ship(line.address, project, "shop")
            warm = [_ship(line.address, project, "shop")[0] for _ in range(samples)]
            changed, bundle = [], ""
            for number in range(samples):
                content = random.Random(number).randbytes(_FILE_BYTES)
                (project / "package_0/sub_0/module_0.py").write_bytes(content)
                before = line.sent
                _, bundle = _ship(line.address, project, "shop")
                changed.append((line.sent - before - len(content)) / 1000)
        store = open_store(settings["SUPERCHECK_STORE"], endpoint=s3.endpoint)
        cache = SourceCache(place.folder("cache"), 10**9)
        trees, copies = [], []  # they stay to the end: what removing costs would fall into the next one
        for number in range(samples + 1):
            tree, copy = place.directory / f"tree-{number}", place.directory / f"copy-{number}"
            started = time.perf_counter()
            cache.materialise(store, "shop", bundle, tree)
            trees.append(time.perf_counter() - started)
            started = time.perf_counter()
            subprocess.run(["cp", "-R", str(tree), str(copy)], check=True, timeout=600)
            copies.append(time.perf_counter() - started)
    about = f"{count:,} files, {count * _FILE_BYTES // 1_000_000} MB"
    return [
        value_row(f"bundle, {about}: nothing changed, from connector to admission", WARM_S, warm, "s"),
        value_row(f"bundle, {about}: one changed file, bytes sent beside it", CHANGED_KB, changed, "kB"),
        value_row(f"bundle, {about}: first shipping, S3", FIRST_S, first, "s"),
        # What `cp` takes for the same shows what the disk does just then.
        replace(
            value_row(f"bundle, {about}: tree on a worker, cache warm", TREE_S, trees[1:], "s"),
            ours=seconds(median(trees[1:])),
            peer=seconds(median(copies[1:])),
        ),
    ]


def _write(project: Path, count: int) -> None:
    """A project that compresses about as well as sources do."""
    made = random.Random(1)
    words = [bytes(made.choices(b"abcdefghij klmnop\n", k=7)) for _ in range(2000)]
    for number in range(count):
        file = project / f"package_{number % 50}" / f"sub_{number % 7}" / f"module_{number}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"".join(made.choices(words, k=_FILE_BYTES // 7)))
    subprocess.run(["git", "init", "-q", str(project)], check=True, timeout=60)
    subprocess.run(["git", "-C", str(project), "add", "."], check=True, timeout=60)


def _ship(url: str, project: Path, name: str) -> tuple[float, str]:
    """Seconds from the start of a connector to the admission of a run, and the run's bundle."""
    known = {"rootdir": str(project), "path": [], "collect": "local", "artifacts": {"of": "none"}}
    spec = {**known, "args": [], "pytest": "", "plugins": []}
    request = RunRequest(run_id=new_run_id(), project=name, spec=json.dumps(spec))
    started = time.perf_counter()
    submission = connect(url, None)
    try:
        submission.ship(project=name, rootdir=str(project), include=(), exclude=(), limit_bytes=10**9)
        submission.submit(request, 0, record=0)
        submission.result()
        took_s = time.perf_counter() - started
    finally:
        submission.close()
    last = sorted((project / ".supercheck/sources").glob("shipped-*"), key=lambda path: path.stat().st_mtime_ns)
    if not last:
        raise BenchError("nothing was shipped")
    return took_s, hashlib.sha256(zlib.decompress(last[-1].read_bytes())).hexdigest()


class _Line:
    """A line to a server that counts what is sent."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._to = (parts.hostname or "", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        #: Where it begins.
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        #: Bytes so far.
        self.sent = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """No more."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._to)
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        for chunk in _chunks(source):
            if target.getpeername() == self._to:
                self.sent += len(chunk)
            target.sendall(chunk)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def _chunks(source: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(OSError):
        while chunk := source.recv(1 << 16):
            yield chunk


if __name__ == "__main__":
    sys.exit(alone(measure))
