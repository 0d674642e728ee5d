"""
What is live: one look a moment, however many watch, and the newest picture to each of them.

Between whoever renders a picture and its viewers. Knows asyncio and the form of server-sent events, nothing of pools.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from starlette.concurrency import run_in_threadpool

from pytest_supercheck.errors import SupercheckError

logger = logging.getLogger(__name__)

#: Seconds between two looks.
EVERY_S: Final = 0.25
#: Seconds of silence after which a viewer gets a comment, so that a dead connection is noticed.
PING_S: Final = 15.0
#: Seconds after which a viewer is let go. Browsers come back by themselves, through the gate.
WATCH_S: Final = 300.0

PING: Final = b": still here\n\n"


def encode_event(name: str, text: str) -> bytes:
    """
    Write one server-sent event.

    Args:
        name: Its type, one word.
        text: Its data, any text; line ends of other systems become newlines.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    lines = "".join(f"data: {line}\n" for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    return f"event: {name}\n{lines}\n".encode()


class Feed:
    """
    A picture that changes.

    It is looked at only while somebody watches. Viewers who cannot follow miss pictures, never the newest one.
    """

    def __init__(self, name: str, look: Callable[[], str], *, every_s: float = EVERY_S) -> None:
        """
        Make a feed that nobody watches yet.

        Args:
            name: Type of the events.
            look: Renders the picture, in a thread; a `SupercheckError` becomes an event `trouble` with its words.
            every_s: Seconds between two looks, above 0.
        """
        self._name = name
        self._look = look
        self._every_s = every_s
        self._picture = b""
        self._changed = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._viewers = 0
        self._closed = False

    async def watch(self) -> AsyncIterator[bytes]:
        """
        Watch for a while, at most until the feed is closed.

        Yields:
            Encoded events: the picture, at once and whenever it has changed, and pings.
        """
        self._viewers += 1
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._keep_looking(), name=f"feed {self._name}")
        seen, until = b"", time.monotonic() + WATCH_S
        try:
            while not self._closed and time.monotonic() < until:
                changed = self._changed
                if self._picture != seen:
                    seen = self._picture
                    yield seen
                    continue
                try:
                    await asyncio.wait_for(changed.wait(), PING_S)
                except (asyncio.TimeoutError, TimeoutError):
                    yield PING
        finally:
            self._viewers -= 1

    def close(self) -> None:
        """Let all viewers go."""
        self._closed = True
        self._wake()

    @property
    def is_watched(self) -> bool:
        """Whether anybody watches."""
        return self._viewers > 0

    async def _keep_looking(self) -> None:
        try:
            while self._viewers and not self._closed:
                picture = await run_in_threadpool(self._take)
                if picture != self._picture:
                    self._picture = picture
                    self._wake()
                await asyncio.sleep(self._every_s)
        finally:
            # The next viewer starts anew: an old picture would be shown as the present one.
            self._watcher, self._picture = None, b""

    def _take(self) -> bytes:
        try:
            return encode_event(self._name, self._look())
        except SupercheckError as exc:
            return encode_event("trouble", str(exc))
        except Exception:
            logger.exception("feed failed", extra={"feed": self._name})
            return encode_event("trouble", "The server failed to look: its log says why.")

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Feeds:
    """Feeds by name, each made when its first viewer comes."""

    def __init__(self) -> None:
        self._feeds: dict[str, Feed] = {}
        #: Whether all viewers are to go.
        self.is_closed = False

    def named(self, name: str, look: Callable[[], str], *, event: str = "") -> Feed:
        """
        The feed of that name; those that nobody watches any more are forgotten.

        Args:
            look: As of `Feed`; used when there is none yet.
            event: Type of its events, its name when empty.
        """
        self._feeds = {known: feed for known, feed in self._feeds.items() if feed.is_watched or known == name}
        return self._feeds.setdefault(name, Feed(event or name, look))

    def close(self) -> None:
        """Let all viewers go."""
        self.is_closed = True
        for feed in self._feeds.values():
            feed.close()
