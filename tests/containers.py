"""
What a container has, for processes of this machine, without an engine: networks, a host name, a user, a view of files.

Needs root, Linux, iproute2 and bubblewrap.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest_supercheck
import supercheck_server

#: Seconds after which something hangs.
GUARD_S: Final = 120.0

#: Users of containers; the first id of a range that is nobody's.
FIRST_USER: Final = 60_900

#: The system.  All else that a container sees is named.
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/opt", "/sys")

_CLONE_NEWNET: Final = 0x40000000


@dataclass
class Container:
    """A network and a view of the machine, and what is run in them."""

    #: Its user's id.
    uid: int
    #: bubblewrap's words for its view.
    view: Sequence[str]
    #: The variables of all that is run in it.
    environ: Mapping[str, str]
    #: What all say that is started in it.
    log: Path
    #: Keeps its network.
    holder: subprocess.Popen[bytes]
    #: Its addresses, one on each network.
    addresses: Sequence[str]
    #: What was started.
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def _words(self, command: Sequence[str]) -> list[str]:
        """How root runs a command in here, as a user without any right."""
        enter = ("nsenter", f"--target={self.holder.pid}", "--net", "--uts")
        identity = (f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups", "--pdeathsig=KILL")
        rights = ("--no-new-privs", "--inh-caps=-all", "--bounding-set=-all")
        return [*enter, "bwrap", *self.view, "--", "setpriv", *identity, *rights, "--", *command]

    def start(self, command: Sequence[str]) -> None:
        """Start a command, which says what it has to say in the log."""
        with self.log.open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    self._words(command), env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            )

    def run(self, command: Sequence[str], **more: str) -> tuple[int, str]:
        """Run a command to its end, with more variables: its exit code, and what it says."""
        done = subprocess.run(
            self._words(command),
            env={**self.environ, **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=GUARD_S,
        )
        return done.returncode, done.stdout.decode("utf-8", "replace")

    def python(self, script: str, *arguments: str) -> str:
        """
        What a script says.

        Raises:
            RuntimeError: It failed; with what it said.
        """
        status, said = self.run([sys.executable, "-c", script, *arguments])
        if status:
            raise RuntimeError(said)
        return said

    def reaches(self, host: str, port: int) -> bool:
        """Whether a connection can be made from here."""
        script = "import socket, sys; print(socket.socket().connect_ex((sys.argv[1], int(sys.argv[2]))))"
        return self.python(script, host, str(port)).strip() == "0"

    def stop(self) -> None:
        """End what was started as an engine does, and wait for it."""
        for process in self.processes:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended by itself
                for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                    os.kill(int(child), signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(GUARD_S)
            finally:
                process.kill()
        self.processes.clear()


class Machine:
    """
    Networks, and containers on them.

    Args:
        place: A directory that all may enter, for what containers need.
        networks: Their names.
    """

    def __init__(self, place: Path, networks: Sequence[str]) -> None:
        self.place = place
        self._numbers = {name: number for number, name in enumerate(networks, 1)}
        self._hosts: dict[str, dict[str, str]] = {name: {} for name in networks}
        self._holders: list[subprocess.Popen[bytes]] = []
        self.containers: dict[str, Container] = {}
        self._switch = self._holder("switch")
        for number in self._numbers.values():
            bridge = f"net{number}"
            self._ip(self._switch, "link", "add", bridge, "type", "bridge")
            self._ip(self._switch, "address", "add", f"10.77.{number}.1/24", "dev", bridge)
            self._ip(self._switch, "link", "set", bridge, "up")

    def _holder(self, name: str) -> subprocess.Popen[bytes]:
        """A process with a network and a host name."""
        script = 'hostname "$1" && ip link set lo up && echo && exec setpriv --pdeathsig=KILL sleep infinity'
        made = subprocess.Popen(["unshare", "--net", "--uts", "sh", "-c", script, "sh", name], stdout=subprocess.PIPE)
        self._holders.append(made)
        assert made.stdout is not None
        with made.stdout:
            assert made.stdout.readline(), "no network of its own can be had"
        return made

    @staticmethod
    def _ip(holder: subprocess.Popen[bytes], *words: str) -> None:
        subprocess.run(["nsenter", f"--target={holder.pid}", "--net", "ip", *words], check=True)

    def container(
        self, name: str, networks: Sequence[str], mounts: Mapping[str, Path], environ: Mapping[str, str]
    ) -> Container:
        """
        Make a container in which nothing runs yet.

        Args:
            networks: It knows those by name that are there already.
            mounts: Directories by where they are in the container: its user's own, the first is its home. Files, which
                it only reads.
            environ: Its variables, besides those that a user has.
        """
        holder = self._holder(name)
        addresses = [self._plug(holder, name, network, f"eth{place}") for place, network in enumerate(networks)]
        uid = FIRST_USER + len(self.containers)
        home = next((inside for inside, path in mounts.items() if path.is_dir()), "/tmp")
        known = [f"{address} {other}\n" for network in networks for other, address in self._hosts[network].items()]
        etc = self.place / "etc" / name
        etc.mkdir(parents=True)
        (etc / "hosts").write_text("127.0.0.1 localhost\n" + "".join(known))
        (etc / "passwd").write_text(f"root:x:0:0::/root:/bin/sh\n{name}:x:{uid}:{uid}::{home}:/bin/sh\n")
        view = [*_system(self.place / "bin")]
        for file in etc.iterdir():
            view += _shown(file, f"/etc/{file.name}")
        for inside, path in mounts.items():
            view += _shown(path, inside, "--bind" if path.is_dir() else "--ro-bind")
            for own in (path, *path.rglob("*")) if path.is_dir() else ():
                os.chown(own, uid, uid, follow_symlinks=False)
        path_variable = os.pathsep.join([str(self.place / "bin"), sysconfig.get_path("scripts"), "/usr/bin", "/bin"])
        variables = {"HOME": home, "PATH": path_variable, "PYTHONDONTWRITEBYTECODE": "1", **environ}
        made = Container(uid, [*view, "--chdir", home], variables, self.place / f"{name}.log", holder, addresses)
        self.containers[name] = made
        return made

    def _plug(self, holder: subprocess.Popen[bytes], name: str, network: str, device: str) -> str:
        """Plug a container in, and tell its address."""
        number = self._numbers[network]
        address = f"10.77.{number}.{len(self._hosts[network]) + 2}"
        plug = f"net{number}-{len(self._hosts[network])}"
        peer = ("peer", "name", device, "netns", str(holder.pid))
        self._ip(self._switch, "link", "add", plug, "type", "veth", *peer)
        self._ip(self._switch, "link", "set", plug, "master", f"net{number}", "up")
        self._ip(holder, "address", "add", f"{address}/24", "dev", device)
        self._ip(holder, "link", "set", device, "up")
        self._hosts[network][name] = address
        return address

    @contextlib.contextmanager
    def proxy(self, network: str) -> Iterator[str]:
        """A way out of a network, for TLS alone: the address of an HTTP proxy."""
        host = f"10.77.{self._numbers[network]}.1"
        made: list[socket.socket] = []

        def listen() -> None:
            """In a thread, which alone is moved."""
            with open(f"/proc/{self._switch.pid}/ns/net") as space:
                assert ctypes.CDLL(None).setns(space.fileno(), _CLONE_NEWNET) == 0
            made.append(socket.create_server((host, 0)))

        def serve(listener: socket.socket) -> None:
            with contextlib.suppress(OSError):  # it was shut down
                while True:
                    threading.Thread(target=_pass_on, args=[listener.accept()[0]], daemon=True).start()

        mover = threading.Thread(target=listen)
        mover.start()
        mover.join()
        [listener] = made
        server = threading.Thread(target=serve, args=[listener])
        server.start()
        try:
            yield f"http://{host}:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            server.join()
            listener.close()

    def close(self) -> None:
        """Stop all containers, the last one first."""
        try:
            for container in reversed(self.containers.values()):
                container.stop()
        finally:
            for holder in self._holders:
                holder.kill()
                holder.wait()


def _pass_on(client: socket.socket) -> None:
    """Answer one CONNECT."""
    with client, contextlib.suppress(OSError, ValueError):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        method, target, _ = head.split(None, 2)
        host, _, port = target.decode().rpartition(":")
        if (method, port) != (b"CONNECT", "443"):
            raise ValueError(head)
        with socket.create_connection((host, 443), GUARD_S) as server:
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            ways = {client: server, server: client}
            while ready := select.select(list(ways), [], [], GUARD_S)[0]:
                for source in ready:
                    chunk = source.recv(1 << 16)
                    if not chunk:
                        return
                    ways[source].sendall(chunk)


def _system(programs: Path) -> Iterator[str]:
    """Bubblewrap's words for what all containers see: the system, our Python, this package, and some programs."""
    for name in ("SETUID", "SETGID", "SETPCAP"):
        yield from ("--cap-add", f"CAP_{name}")
    # Its own /proc would have covered places, as an engine's has that is not told `systempaths=unconfined`.
    yield from ("--die-with-parent", "--unshare-ipc", "--bind", "/proc", "/proc", "--dev", "/dev")
    for path in ("/tmp", "/dev/shm"):
        yield from ("--perms", "1777", "--tmpfs", path)
    for path in _SYSTEM:
        if os.path.islink(path):
            yield from ("--symlink", os.readlink(path), path)
        else:
            yield from ("--ro-bind-try", path, path)
    packages = [Path(one.__file__ or "").parent for one in (pytest_supercheck, supercheck_server)]
    pythons = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent.parent]
    linked = [link.resolve().parent for link in programs.iterdir() if link.is_symlink()]
    for place in dict.fromkeys([*pythons, *packages, programs, *linked]):
        if not any(place.is_relative_to(above) for above in _SYSTEM):
            yield from _shown(place, str(place))


def _shown(path: Path, inside: str, how: str = "--ro-bind") -> Iterator[str]:
    """The words for one mount; bubblewrap by itself would make the directories above it for root only."""
    for above in reversed(Path(inside).parents):
        yield from ("--perms", "0755", "--dir", str(above))
    yield from (how, str(path), inside)


def programs(place: Path, links: Mapping[str, Path | str], scripts: Mapping[str, str]) -> None:
    """
    Make the directory of programs that is first in containers' PATH.

    Args:
        links: Where programs are.
        scripts: Texts of others.
    """
    place.mkdir()
    for name, target in links.items():
        (place / name).symlink_to(shutil.which(target) or target)
    for name, text in scripts.items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
