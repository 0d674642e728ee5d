"""
A project whose tests look for whatever they can get; `test_isolation` copies it and reads what they have found.

Its properties are JSON. It knows where things are, from a file that it is given, and what a secret looks like.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

KNOWN = json.loads(Path(__file__).with_name("known.json").read_text())
SHAPE = re.compile(b"walls-" + b"secret-[0-9a-f]{32}")
MINE = {os.getpid(), os.getppid()}
PTRACE_ATTACH, PTRACE_DETACH = 16, 17


@pytest.fixture
def found(record_property: Callable[[str, object], None]) -> Callable[[str, Any], None]:
    """Tell what has been found."""
    return lambda name, value: record_property(name, json.dumps(value))


def pids() -> list[int]:
    """All processes that are to be seen, but this one and its parent."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in MINE]


def read(path: str | Path, size: int = 1 << 20) -> bytes:
    """What a file holds, nothing when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError:
        return b""


def secrets(texts: Iterable[bytes]) -> list[str]:
    """What looks like one."""
    return sorted({text.decode() for content in texts for text in SHAPE.findall(content)})


def test_environments(found: Callable[[str, Any], None]) -> None:
    """Of all processes."""
    found("environments", secrets(read(f"/proc/{pid}/environ") for pid in pids()))
    found("own_environment", secrets([repr(dict(os.environb)).encode(), read("/proc/self/environ")]))


def test_command_lines(found: Callable[[str, Any], None]) -> None:
    """Of all processes."""
    found("command_lines", secrets(read(f"/proc/{pid}/cmdline") for pid in pids()))
    found("processes", [read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace") for pid in pids()])


def writable_parts(pid: int) -> Iterator[tuple[int, int]]:
    """Where in a process's memory its data are, and how much."""
    for row in read(f"/proc/{pid}/maps", 1 << 24).decode().splitlines():
        where, rights, *_ = row.split()
        if rights.startswith("rw"):
            first, last = (int(number, 16) for number in where.split("-"))
            yield first, min(last - first, 1 << 25)


def test_memories(found: Callable[[str, Any], None]) -> None:
    """Those of the service."""
    taken = []
    for pid in KNOWN["service"]:
        try:
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                for first, size in writable_parts(pid):
                    try:
                        taken.append(os.pread(memory.fileno(), size, first))
                    except OSError:
                        continue
        except OSError:
            continue
    found("memories", secrets(taken))


def test_descriptors(found: Callable[[str, Any], None]) -> None:
    """The service's, and our own."""
    links = {}
    for pid in KNOWN["service"]:
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                links[f"{pid}/{fd}"] = os.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
    found("descriptors", links)
    mine = [
        (fd, os.readlink(f"/proc/self/fd/{fd}"))
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}") or os.path.islink(f"/proc/self/fd/{fd}")
    ]
    found("own_descriptors", [link for fd, link in mine])


def connects(family: int, address: Any) -> bool:
    """Whether somebody lets us in there."""
    with socket.socket(family) as one:
        one.settimeout(2)
        try:
            one.connect(address)
        except OSError:
            return False
        return True


def test_sockets(found: Callable[[str, Any], None]) -> None:
    """Every unix socket that the kernel tells of, and a port of this machine."""
    unix = {
        row.split()[7]
        for row in read("/proc/net/unix").decode(errors="replace").splitlines()[1:]
        if len(row.split()) > 7
    }
    paths = {KNOWN["socket"], *(path for path in unix if path.startswith("/"))}
    found("unix_sockets", sorted(path for path in paths if connects(socket.AF_UNIX, path)))
    found("port", connects(socket.AF_INET, ("127.0.0.1", KNOWN["port"])))


def test_traces(found: Callable[[str, Any], None]) -> None:
    """As a debugger would."""
    libc = ctypes.CDLL(None, use_errno=True)
    traced = []
    for pid in KNOWN["service"][-1:]:
        if libc.ptrace(PTRACE_ATTACH, pid, None, None) == 0:
            traced.append(pid)
            os.waitpid(pid, 0)
            libc.ptrace(PTRACE_DETACH, pid, None, None)
    found("traced", traced)


def test_signals(found: Callable[[str, Any], None]) -> None:
    """None is sent."""
    reached = []
    for pid in KNOWN["service"]:
        try:
            os.kill(pid, 0)
            reached.append(pid)
        except OSError:
            continue
    found("signals", reached)


def test_files(found: Callable[[str, Any], None]) -> None:
    """The service's and other runs' directories."""
    tree = [path for private in KNOWN["private"] for path in Path(private).rglob("*")]
    found("files", secrets(read(path) for path in tree if path.is_file()))
    found(
        "trees",
        sorted(
            path for path in KNOWN["private"] if os.path.exists(path) and os.access(path, os.R_OK) and os.listdir(path)
        ),
    )


def test_writable(found: Callable[[str, Any], None]) -> None:
    """Where we can leave something."""
    able = []
    for place in KNOWN["places"]:
        try:
            Path(place, "supercheck-hostile").write_text("x")
            able.append(place)
        except OSError:
            continue
    found("writable", able)


def test_itself(found: Callable[[str, Any], None]) -> None:
    """Who we are."""
    found("home", os.environ["HOME"])
    found("uid", os.getuid())
    status = dict(row.split(":", 1) for row in Path("/proc/self/status").read_text().splitlines())
    found(
        "status",
        {
            name: value.split()
            for name, value in status.items()
            if name in ("Groups", "CapEff", "CapPrm", "CapBnd", "NoNewPrivs")
        },
    )


def test_keys(found: Callable[[str, Any], None]) -> None:
    """Of the session keyring that we may have from the worker."""
    libc, keyctl = ctypes.CDLL(None), KNOWN["keyctl"]
    buffer = ctypes.create_string_buffer(200)
    search, read_key, session = 10, 11, -3
    key = libc.syscall(keyctl, search, session, b"user", b"walls", 0)
    libc.syscall(keyctl, read_key, key, buffer, len(buffer))
    found("keys", secrets([buffer.raw]))


def test_leaves_a_process(found: Callable[[str, Any], None]) -> None:
    """It would be there when somebody else has this user."""
    if KNOWN["walled"] and os.fork() == 0:
        os.setsid()
        signal.pause()
    found("left", True)
