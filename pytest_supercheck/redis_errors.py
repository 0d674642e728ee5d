"""
What redis-py raises → this package's errors, in words that say what to do.

Around everything that asks Redis itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)

from pytest_supercheck.errors import Infrastructure, Unreachable


@contextmanager
def redis_errors() -> Iterator[None]:
    """
    Translate what redis-py raises into this package's errors.

    Raises:
        Unreachable: No connection, no permission, or a server that does not take writes now.
        Infrastructure: The server answered with an error of another kind.
    """
    try:
        yield
    except (AuthenticationError, AuthorizationError, NoPermissionError) as exc:
        raise Unreachable(
            f"Redis refuses the credentials ({exc}). Give a user and password in the URL that may run scripts."
        ) from exc
    except ReadOnlyError as exc:
        raise Unreachable(f"Redis is a read-only replica ({exc}). Give the URL of the primary.") from exc
    except BusyLoadingError as exc:
        raise Unreachable(f"Redis is still loading its data ({exc}). Try again in a moment.") from exc
    except OutOfMemoryError as exc:
        raise Unreachable(f"Redis is out of memory and takes no writes ({exc}). Raise its maxmemory.") from exc
    except (redis.ConnectionError, redis.TimeoutError) as exc:
        raise Unreachable(f"Redis does not answer ({exc}). Check the URL, the network and that it runs.") from exc
    except RedisError as exc:
        raise Infrastructure(f"Redis failed: {exc}") from exc
