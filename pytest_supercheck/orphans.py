"""
Keys in Redis that would stay for ever: all of them have a TTL, unless something has gone wrong.

Beneath the dispatcher, on behalf of whoever records runs; knows the names of keys, as `dispatch.lua` documents them.
"""

from __future__ import annotations

import itertools
from typing import Final

import redis

#: Whose keys have a TTL, always; RQ's are those of our jobs.
ORPHANS: Final = (
    "sc:run:*",
    "sc:exec:*",
    "sc:control:*",
    "sc:worker:*",
    "rq:job:????????-????-????-????-????????????-*-*",
)

#: Keys that are looked at in one go.
SCAN_BATCH: Final = 100

#: Seconds for which the data of a run is kept, as in dispatch.lua.
RUN_TTL_S: Final = 7 * 24 * 3600


def expire_orphans(client: redis.Redis) -> int:
    """
    Give keys of runs, executions and jobs that lost their TTL one of 7 days, so that nothing stays for ever.

    Looks at 100 keys at a time; others are served in between.

    Returns:
        How many keys had none.
    """
    orphans = 0
    for pattern in ORPHANS:
        found: list[bytes] = []
        for key in itertools.chain(client.scan_iter(pattern, count=SCAN_BATCH), (None,)):
            if key is not None:
                found.append(key)
            if key is None or len(found) == SCAN_BATCH:
                orphans += _expire(client, found)
                found = []
    return orphans


def _expire(client: redis.Redis, keys: list[bytes]) -> int:
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.ttl(key)
        without = [key for key, ttl_s in zip(keys, pipeline.execute(), strict=True) if ttl_s == -1]
        for key in without:
            pipeline.expire(key, RUN_TTL_S)
        pipeline.execute()
    return len(without)
