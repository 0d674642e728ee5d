"""
Many viewers of one live page: each a connection that reads server-sent events, and notes when it has seen which number.

Stdlib only: it runs by its path, in a process of its own.

Usage: ``audience.py ADDRESS PATH VIEWERS TOTAL LAST``. A picture says "NUMBER of TOTAL". Prints ``watching`` when every
viewer has had a picture, and when all have seen LAST a line of JSON: per viewer its numbers, each with the time by the
system's monotonic clock.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import TypeAlias
from urllib.parse import urlsplit

#: A number, and when it was seen.
Sight: TypeAlias = "tuple[int, float]"


async def view(host: str, path: str, total: int, last: int, there: asyncio.Semaphore) -> list[Sight]:
    """Watch until the last number is seen; the semaphore is released at the first picture."""
    name, _, port = host.partition(":")
    reader, writer = await asyncio.open_connection(name, int(port), limit=1 << 20)
    clock, number, seen = asyncio.get_running_loop().time, re.compile(rb"(\d+) of %d\b" % total), list[Sight]()
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n".encode())
    while not seen or seen[-1][0] < last:
        event = await reader.readuntil(b"\n\n")
        if found := number.search(event):
            if not seen:
                there.release()
            seen.append((int(found[1]), clock()))
    writer.close()
    return seen


async def main(address: str, path: str, viewers: int, total: int, last: int) -> None:
    """Seat all viewers, and wait for the end."""
    there = asyncio.Semaphore(0)
    host = urlsplit(address).netloc
    watching = [asyncio.create_task(view(host, path, total, last, there)) for _ in range(viewers)]
    for _ in watching:
        await there.acquire()
    print("watching", flush=True)
    print(json.dumps(await asyncio.gather(*watching)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], *(int(argument) for argument in sys.argv[3:6])))
