"""
The session's output → the step's log, where GitHub acts upon none of it.

Beside the session.  Tests print what they like, and a line that begins with two colons would be a command.  One kind
goes through: whoever names a secret wants it masked, as our own sign-in does.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import threading
from typing import IO, Final

from action.commands import command

_MASK: Final = b"::add-mask::"
#: Seconds for the last lines, where something that tests have started holds the output open.
_REST_S: Final = 5.0


def follow(process: subprocess.Popen[bytes]) -> int:
    """
    Copy a process's output until it ends.

    Args:
        process: With a pipe for its output.

    Returns:
        Its exit status.
    """
    assert process.stdout is not None
    log = _Log()
    reader = threading.Thread(target=log.copy, args=(process.stdout,), daemon=True)
    reader.start()
    status = process.wait()
    reader.join(_REST_S)
    log.end()
    return status


class _Log:
    """The log, with commands stopped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over = False
        self._token = ""
        self._write(self._stop())

    def copy(self, source: IO[bytes]) -> None:
        """Copy lines until there are no more, or it is over."""
        for line in source:
            with self._lock:
                if self._over:
                    return
                if line.lstrip().startswith(_MASK):
                    # GitHub's runner takes a lone carriage return for the end of a line, too.
                    mask = line.strip().partition(b"\r")[0]
                    self._write(self._resume() + mask + b"\n" + self._stop())
                else:
                    self._write(line)

    def end(self) -> None:
        """What comes now is the step's own."""
        with self._lock:
            self._over = True
            self._write(self._resume())

    def _stop(self) -> bytes:
        self._token = secrets.token_hex(16)
        return f"{command('stop-commands', self._token)}\n".encode()

    def _resume(self) -> bytes:
        # A command begins a line, and the last one may not have been ended.
        return f"\n{command(self._token)}\n".encode()

    def _write(self, text: bytes) -> None:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
