"""
Reads runs' results from Redis for many at a time, without a thread for each.

What a server uses for sessions that reach it by HTTP; those in the network read with `Dispatcher.events`.
"""

from __future__ import annotations

from typing import Any, Final

import redis.asyncio

from pytest_supercheck.model import RunId
from pytest_supercheck.redis_errors import redis_errors
from pytest_supercheck.redis_gateway import CONNECT_TIMEOUT_S

#: Entries that are read at once.
READ_ENTRIES: Final = 200


class EventReader:
    """A reader of streams, for one event loop."""

    def __init__(self, url: str, *, password: str | None) -> None:
        """
        Make a reader; it connects when it is used.

        Raises:
            ValueError: It is no URL of Redis.
        """
        # Reads wait for long: of the two limits only that of the connection's making holds.
        self._redis: Any = redis.asyncio.Redis.from_url(
            url, password=password, socket_timeout=None, socket_connect_timeout=CONNECT_TIMEOUT_S
        )

    async def read(self, run: RunId, *, after: str, wait_s: float) -> list[tuple[str, bytes]]:
        """
        Read entries, 200 at most.

        Args:
            after: Id of the last entry read, `0` for the beginning.
            wait_s: Seconds to wait for a first one, above 0.

        Returns:
            Their ids, and their NDJSON lines.

        Raises:
            Unreachable: Redis does not answer.
        """
        with redis_errors():
            answer = await self._redis.xread(
                {f"sc:run:{run}:results": after}, count=READ_ENTRIES, block=round(wait_s * 1000)
            )
        if not answer:
            return []
        # A list of pairs, or with newer protocols an object whose values have one more list around them.
        rows = answer[0][1] if isinstance(answer, list) else next(iter(answer.values()))[0]
        return [(entry.decode(), fields[b"e"]) for entry, fields in rows]

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
