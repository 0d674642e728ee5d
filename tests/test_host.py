"""
A host goes on whatever happens to one of those whom it serves: it has the runs of all others of its machine.
"""

from __future__ import annotations

import json
import os
import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_supercheck import host as module
from pytest_supercheck.host import Host
from pytest_supercheck.isolation import Cell, Open
from pytest_supercheck.keeper import send
from pytest_supercheck.sandbox import Places

#: As much of a run's specification as is looked at before its runner is started.
SPEC: dict[str, Any] = {
    "interpreter": "/nothing",
    "path": [],
    "rootdir": "",
    "cwd": "",
    "start": "auto",
    "argv": [],
    "args": [],
    "collect": "",
    "markup": False,
    "width": 80,
    "count": 1,
    "uid": "",
    "nodes": [{}],
    "artifacts": {},
    "group": "",
}


class Walls(Open):
    """An isolation that is what a test makes of it; knows how many of its cells are taken."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.taken = 0

    def cell(self) -> Cell:
        """One more."""
        self.taken += 1
        return self

    def command(
        self, argv: Sequence[str], environ: Mapping[str, str], places: Places | None
    ) -> tuple[list[str], dict[str, str]]:
        """As it is, if it can be."""
        if self.error:
            raise self.error
        return super().command(argv, environ, places)

    def release(self) -> None:
        """One less."""
        self.taken -= 1


@pytest.fixture
def walls() -> Walls:
    """All is well."""
    return Walls()


@pytest.fixture
def host(tmp_path: Path, walls: Walls, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """One without a spare runner."""
    monkeypatch.chdir(tmp_path)  # whose path may be too long for a socket's name
    made = Host(Path(), spare=False, isolation=walls)
    yield made
    close(made)


def close(host: Host) -> None:
    """End it in a process that goes on."""
    host.close()
    for pid in host.unwatched():
        os.waitpid(pid, 0)
        host.reap(pid)
    for key in list(host.selector.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]
    host.selector.close()


def ask(host: Host, leash_to: list[int] | None = None, **spec: object) -> socket.socket:
    """Ask for a test process as a supervisor does, which dies at once unless its leash goes somewhere."""
    ours, theirs = socket.socketpair()
    leash, held = os.pipe()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(host.socket_path)
        asked = {"run": "run", "n": 1, "job": "run-1-1", "spec": {**SPEC, **spec}, "collects": False}
        # A supervisor waits until it is heard.
        sender = threading.Thread(target=send, args=(connection, {"execute": asked}, [theirs.fileno(), leash]))
        sender.start()
        host.step(1)
        sender.join()
    theirs.close()
    os.close(leash)
    if leash_to is None:
        os.close(held)
    else:
        leash_to.append(held)
    return ours


def pending(connection: socket.socket) -> bool:
    """Whether something has come."""
    return bool(select.select([connection], [], [], 0)[0])


@pytest.mark.parametrize(
    "error", [RecursionError("too deep"), AttributeError("nothing"), OSError(28, "No space")], ids=str
)
def test_what_cannot_be_started_costs_its_run_only(host: Host, walls: Walls, error: Exception) -> None:
    """Whatever it is that a run's directories or its specification have led to; its cell is free again."""
    walls.error = error
    with ask(host) as answer:
        kind, _, told = answer.recv(10_000).split(b"\n")[1].partition(b" ")
    assert kind == b"F"
    assert "cannot start the run's tests" in json.loads(told)["message"]
    host.step(0)
    assert walls.taken == 0


def test_a_supervisor_that_says_nothing_does_not_hold_the_others_up(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory is short it may take long to come to that."""
    monkeypatch.setattr(module, "HEARD_S", 0.01)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(host.socket_path)
        host.step(1)
    with ask(host) as answer:
        assert b"F " in answer.recv(10_000)


def test_a_runner_that_does_not_read_holds_nobody_up(host: Host, tmp_path: Path) -> None:
    """Whatever a run's environment loads before it listens; what it is told comes whole once it does."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nread -r line < {tmp_path}/go\ncat <&3 > {tmp_path}/told\n")
    program.chmod(0o755)
    os.mkfifo(tmp_path / "go")
    many = ["word" * 100] * 10_000
    answers = [ask(host, interpreter=str(program), args=many) for _ in range(2)]
    (tmp_path / "go").write_text("go\n")
    told = tmp_path / "told"
    while not told.exists() or told.read_bytes().count(b"\n") < 2:
        host.step(0.1)
    spec, workerinput = map(json.loads, told.read_bytes().splitlines())
    assert spec["spec"]["args"] == many
    assert "configure" in workerinput
    for answer in answers:
        answer.close()


def test_a_runner_that_is_the_test_process_itself_leaves_no_descriptor(host: Host, tmp_path: Path) -> None:
    """Nor does it stop the host when its end, and that of its connection, come in one look in this order."""
    program = tmp_path / "python"
    program.write_text("""#!/bin/sh\nread -r spec <&3\necho '{"ready": {"spawn": "why"}}' >&3\nread -r execute <&3\n""")
    program.chmod(0o755)
    before, held = set(os.listdir("/proc/self/fd")), list[int]()
    with ask(host, held, interpreter=str(program)) as answer:
        [pid] = host.unwatched()
        while host.unwatched():
            host.step(0.1)
        _, runner = host._kept[pid]
        late = host.selector.get_key(runner.control).data
        while not pending(answer):
            host.step(0.1)
        late()
    os.close(*held)
    host.step(1)  # lets go of its leash
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_nobody_can_watch_costs_its_run_only(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no descriptor left for a test process; its supervisor hears of it, and nothing is closed twice."""
    program = tmp_path / "python"
    program.write_text("""#!/bin/sh\nread -r spec <&3\necho '{"ready": {"spawn": "why"}}' >&3\nexec sleep 100\n""")
    program.chmod(0o755)

    def full(_pid: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", full)
    before, held = set(os.listdir("/proc/self/fd")), list[int]()
    with ask(host, held, interpreter=str(program)) as answer:
        [pid] = host.unwatched()
        while not pending(answer):
            host.step(0.1)
        assert b"Too many open files" in answer.recv(10_000)
        assert os.waitpid(pid, 0) == (pid, 9)
        assert host.reap(pid)
    os.close(*held)
    host.step(1)  # lets go of its leash
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_spare_runner_that_cannot_be_started_is_tried_again(
    tmp_path: Path, walls: Walls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk or a table was full; nothing is kept of the try."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "SPARE_S", 0.01)
    walls.error = OSError(28, "No space left on device")
    host = Host(Path(), spare=True, isolation=walls)
    host.step(0)
    assert walls.taken == 0
    walls.error = None
    time.sleep(0.01)
    host.step(0)
    assert (walls.taken, len(host.unwatched())) == (1, 1)
    close(host)
