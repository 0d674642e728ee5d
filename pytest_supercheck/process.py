"""
The supervisor's side of one test process: asked of the host, spoken to over a connection, and killed by its leash.

Nothing that it sends is believed here; knows frames, not what they mean.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from typing import Any, Final

from pytest_supercheck.keeper import Frames, send
from pytest_supercheck.model import Begun

logger = logging.getLogger(__name__)

#: Seconds that it has to read what it is told, where that is more than the kernel keeps for it.
LISTEN_S: Final = 5.0

#: Bytes of a frame, at most, some of the largest results together, and descriptors that may have come before theirs.
FRAME_BYTES: Final = 128 << 20
EARLY: Final = 16


class TestProcess:
    """The supervisor's side of one test process."""

    __test__ = False

    def __init__(self, begun: Begun, host_socket: str, spec: dict[str, Any], *, collects: bool) -> None:
        #: Whether it is to tell what there is to run.
        self.collects = collects
        self.connection, theirs = socket.socketpair()
        leash, self._leash = os.pipe()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.connection.settimeout(LISTEN_S)
        with socket.socket(socket.AF_UNIX) as host:
            host.connect(host_socket)
            request = {"run": begun.run, "n": begun.n, "job": begun.job, "spec": spec, "collects": collects}
            send(host, {"execute": request}, [theirs.fileno(), leash])
        theirs.close()
        os.close(leash)
        self.fresh = True
        self.useful = False
        self.over = False
        self.told = ""
        self.ready = False
        self._host_socket, self._job = host_socket, begun.job
        self._frames = Frames(self.connection, fds=1, limit=FRAME_BYTES, read=1 << 20)
        #: What it has done that no test process of ours does: nothing more is believed but how it ended.
        self.senseless = ""

    def read(self) -> list[bytes] | None:
        """
        The frames that have come; None when no more can.

        Raises:
            ValueError: It sends what it must not.
        """
        frames = self._frames.read()
        if len(self._frames.fds) > EARLY:
            self._drop_files()
            raise ValueError("descriptors come without their frames")
        return frames

    def take_file(self) -> int:
        """The descriptor that has come with a frame."""
        return self._frames.fds.pop(0)

    def say(self, message: dict[str, Any]) -> None:
        """Send a line; one that has died is found out by reading, one that does not listen is ended."""
        try:
            send(self.connection, message)
        except TimeoutError:
            logger.warning("a test process does not listen", extra={"job_id": self._job})
            self.senseless = "it did not read what it was told"
            self.kill()
        except OSError:
            logger.debug("test process gone", extra={"job_id": self._job})

    def interrupt(self) -> None:
        """Have it sent SIGINT, by its parent: whoever is at the other end may say any process id."""
        tell_host(self._host_socket, {"interrupt": self._job})

    def kill(self) -> None:
        """Let go of the leash, at which its parent kills its process group."""
        if self._leash >= 0:
            os.close(self._leash)
            self._leash = -1

    @property
    def killed(self) -> bool:
        """Whether its leash has been let go of."""
        return self._leash < 0

    def close(self) -> None:
        """Forget it; kills what is left."""
        self.kill()
        self.connection.close()
        self._drop_files()

    def _drop_files(self) -> None:
        while self._frames.fds:
            os.close(self._frames.fds.pop())


def tell_host(host_socket: str, message: dict[str, Any]) -> None:
    """Say something to the host, if it is there, that needs no answer."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as host:
        host.connect(host_socket)
        send(host, message)
