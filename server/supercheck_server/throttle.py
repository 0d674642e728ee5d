"""
How often somebody may come with a wrong token: a memory of addresses, nothing of HTTP or of what a token is.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, TypeVar

#: Wrong tokens of one address within `WINDOW_S` seconds, after which it has to wait.
LIMIT: Final = 10
WINDOW_S: Final = 60.0
#: Addresses, and right tokens, that are remembered.
MEMORY: Final = 10_000

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Throttle:
    """
    Counts wrong tokens by address; safe to share between threads.

    A token that this server has found right never waits: whoever shares an address, a proxy's perhaps, with somebody
    whose token has lapsed goes on.
    """

    def __init__(self, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        #: When the last wrong ones came, by address; the address that erred last is the last one.
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        #: Hashes of right ones, the last used last.
        self._right: OrderedDict[bytes, None] = OrderedDict()

    def wait_s(self, address: str, secret: str) -> float:
        """Seconds after which a token may be tried; 0 for now."""
        with self._lock:
            times = self._wrong.get(address)
            if times is None or len(times) < LIMIT or _hash(secret) in self._right:
                return 0
            return max(0.0, times[0] + WINDOW_S - self._now_s())

    def note(self, address: str, secret: str, *, right: bool) -> None:
        """Note what a token has turned out to be."""
        with self._lock:
            if right:
                _remember(self._right, _hash(secret), None)
            else:
                times = self._wrong.get(address) or deque(maxlen=LIMIT)
                times.append(self._now_s())
                _remember(self._wrong, address, times)


def _remember(known: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > MEMORY:
        known.popitem(last=False)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
