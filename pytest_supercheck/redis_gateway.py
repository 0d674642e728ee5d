"""
The gateway of clients in the same network as Redis: the dispatcher behind the port, and a checked connection.

Must not know pytest or what a spec says.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.errors import SupercheckError, Unreachable
from pytest_supercheck.masking import masked
from pytest_supercheck.model import Admission, How, Offer, QueueStatus, RunId, RunRequest, RunStatus
from pytest_supercheck.redis_errors import redis_errors

if TYPE_CHECKING:
    from typing_extensions import Self

#: What a URL may begin with.
SCHEMES: Final = ("redis", "rediss", "unix")
#: Oldest server: 6.2 has the commands that the dispatcher and RQ use.
OLDEST_VERSION: Final = (6, 2)
#: Seconds in which a connection is judged.
CONNECT_TIMEOUT_S: Final = 5.0


class RedisGateway:
    """`Gateway` over Redis itself."""

    def __init__(self, client: redis.Redis) -> None:
        """
        Make a gateway over a connection that has been checked.

        Args:
            client: Client that returns bytes, not text.
        """
        self._client = client
        #: The dispatcher, for operations that are not a gateway's.
        self.dispatcher = Dispatcher(client)

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        username: str | None = None,
        password: str | None = None,
        timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> RedisGateway:
        """
        Connect and check the server, as `connect_redis` does.

        Raises:
            Unreachable: It cannot be used; the message says why and what to do.
        """
        return cls(connect_redis(url, username=username, password=password, timeout_s=timeout_s))

    @classmethod
    def later(cls, url: str, *, username: str | None = None, password: str | None = None) -> RedisGateway:
        """
        Make a gateway without asking whether the server is there: for who outlives its absences.

        Raises:
            Unreachable: The URL is malformed.
        """
        try:
            return cls(open_redis(url, username, password, socket_timeout=CONNECT_TIMEOUT_S))
        except ValueError:
            raise _malformed(url) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.dispatcher.close()
        self._client.close()

    def check(self) -> None:
        """
        Check that the server answers, lets us in, takes writes and is new enough.

        Raises:
            Unreachable: It does not; the message says why and what to do.
        """
        with redis_errors():
            facts: Any = self._client.info()
        check_server(facts)

    def submit(self, request: RunRequest) -> Admission:
        """As `Gateway.submit`."""
        return self.dispatcher.submit(request)

    def offer(self, run: RunId, offer: Offer) -> bool:
        """As `Gateway.offer`."""
        return self.dispatcher.offer(run, offer)

    def events(self, run: RunId, *, after: str, wait_s: float) -> tuple[list[bytes], str]:
        """As `Gateway.events`."""
        return self.dispatcher.events(run, after=after, wait_s=wait_s)

    def keep(self, run: RunId, *, ours: bool = True) -> RunStatus:
        """As `Gateway.keep`."""
        return self.dispatcher.keep(run) if ours else self.dispatcher.look(run)

    def cancel(self, run: RunId, *, outcome: str, how: How, message: str = "") -> RunStatus:
        """As `Gateway.cancel`."""
        return self.dispatcher.cancel(run, outcome=outcome, how=how, message=message)

    def queue(self) -> QueueStatus:
        """As `Gateway.queue`."""
        return self.dispatcher.queue()


def connect_redis(
    url: str,
    *,
    username: str | None = None,
    password: str | None = None,
    timeout_s: float = CONNECT_TIMEOUT_S,
) -> redis.Redis:
    """
    Connect to Redis and check that it can be worked with: it answers, lets us in, takes writes and is new enough.

    Args:
        url: `redis://`, `rediss://` or `unix://`; credentials in it win over the arguments.
        username: ACL user.
        password: Its password.
        timeout_s: Seconds in which the answer is known, above 0.

    Returns:
        A client that returns bytes.

    Raises:
        Unreachable: It cannot be used; the message says why and what to do, and holds no password.
    """
    try:
        # Its own client: a retry or a longer patience would spoil the deadline.
        checker = open_redis(url, username, password, socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0))
        client = open_redis(url, username, password, socket_timeout=timeout_s)
    except ValueError:
        raise _malformed(url) from None
    try:
        _check_within(checker, timeout_s)
    except Unreachable as exc:
        raise Unreachable(f"Cannot use {masked(url)}. {exc}") from exc
    return client


def check_server(facts: Mapping[str, Any]) -> None:
    """
    Check what a server says of itself.

    Args:
        facts: Its INFO, as redis-py parses it.

    Raises:
        Unreachable: It is a replica, still loading, or older than 6.2.
    """
    if facts.get("loading"):
        raise Unreachable("Redis is still loading its data. Try again in a moment.")
    if facts.get("role") != "master":
        raise Unreachable(
            f"Redis is a replica of {facts.get('master_host', 'another server')} and takes no writes. "
            "Give the URL of the primary."
        )
    version = str(facts.get("redis_version", "0"))
    if not is_new_enough(version):
        raise Unreachable(_too_old(version))


def _too_old(version: str) -> str:
    return f"Redis {version} is too old. Use Redis 6.2 or later, or any Valkey."


def is_new_enough(version: str) -> bool:
    """
    Compare a server's version with the oldest that is supported.

    Args:
        version: As in INFO, such as `7.2.4` or `6.2`; whatever follows the numbers is ignored.

    Returns:
        True from 6.2 on.
    """
    numbers = [int(number) for number in re.findall(r"\d+", version)[:2]]
    return tuple(numbers) >= OLDEST_VERSION


def _malformed(url: str) -> Unreachable:
    # Without the words of the error: they may quote a part of the password.
    return Unreachable(
        f"{masked(url)} is not a Redis URL. Use redis://, rediss:// or unix://, and percent-encode the password."
    )


def open_redis(url: str, username: str | None = None, password: str | None = None, **settings: Any) -> redis.Redis:
    """
    Make a client of a Redis that `connect_redis` has found good, in this process or another; connects when it is used.

    Raises:
        ValueError: It is no URL of Redis.
    """
    if url.partition("://")[0] not in SCHEMES:
        raise ValueError("its scheme is unknown")
    return redis.Redis.from_url(url, username=username, password=password, **settings)


def _check_within(client: redis.Redis, timeout_s: float) -> None:
    # In a thread: looking up a host's name, or trying its addresses one by one, has no timeout of its own.
    failures: list[Unreachable] = []

    def check() -> None:
        try:
            with redis_errors():
                facts: Any = client.info()
            check_server(facts)
        except SupercheckError as exc:
            ancient = "unknown command" in str(exc)  # older than 6.0, it cannot even be greeted
            failures.append(Unreachable(_too_old("that does not know HELLO") if ancient else str(exc)))
        except TypeError:
            failures.append(
                Unreachable("Its URL has an option that is unknown: look at what follows the question mark.")
            )
        finally:
            client.close()

    thread = threading.Thread(target=check, name="supercheck-connect", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise Unreachable(f"Redis has not answered for {timeout_s:g} s. Check the URL, the network and that it runs.")
    if failures:
        raise failures[0]
