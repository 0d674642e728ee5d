"""
What is wrong with a set-up, and what to do about it: looks at everything that a session would need.

Between the command line and the parts that it looks at; changes nothing, but for one object that it puts into the
store and removes.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_supercheck import __version__, valkey
from pytest_supercheck.addresses import is_server
from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.errors import SupercheckError
from pytest_supercheck.gateways import open_server
from pytest_supercheck.masking import masked
from pytest_supercheck.model import PoolStatus
from pytest_supercheck.operators import StoreSettings
from pytest_supercheck.stores import open_store

if TYPE_CHECKING:
    from pytest_supercheck.http_gateway import HttpGateway

#: Seconds by which two clocks may differ: leases last 15.
SKEW_S: Final = 5.0

#: What is put into the store, and removed.
_PROBE: Final = "projects/.doctor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    #: What it was, in a word.
    subject: str
    #: Whether it is as it should be.
    good: bool
    #: What was found; else what is wrong and what to do.
    words: str


def examine(url: str | None, token: str | None, labels: Sequence[str], stores: StoreSettings) -> Iterator[Finding]:
    """
    Look at everything.

    Args:
        url: The pool, or a server; None for embedded runs.
        token: Its password, or the server's token.
        labels: What runs are to ask for.
        stores: Where records are kept.
    """
    yield from _embedded() if url is None else _pool(url, token, labels)
    if stores.url is not None:
        yield _store(stores)


def _embedded() -> Iterator[Finding]:
    try:
        server = valkey.find_server()
    except SupercheckError as exc:
        yield Finding(subject="embedded", good=False, words=str(exc))
    else:
        yield Finding(subject="embedded", good=True, words=f"sessions start {server}")


def _pool(url: str, token: str | None, labels: Sequence[str]) -> Iterator[Finding]:
    name = masked(url)
    try:
        with _connected(url, token) as place:
            if isinstance(place, Dispatcher):
                pool = place.pool()
                yield Finding(subject="pool", good=True, words=f"{name} answers")
            else:
                troubles = place.troubles()
                yield from (Finding(subject="server", good=False, words=f"{one}: {troubles[one]}") for one in troubles)
                pool = place.pool()
                yield Finding(subject="pool", good=True, words=f"{name} answers")
                yield _version("server's", Counter([place.version or "unknown"]))
    except SupercheckError as exc:
        yield Finding(subject="pool", good=False, words=f"{name}: {exc}")
        return
    yield from _clocks(pool)
    yield _workers(pool, labels)
    if pool.workers:
        yield _version("workers'", Counter(worker.version for worker in pool.workers))


@contextlib.contextmanager
def _connected(url: str, token: str | None) -> Iterator[HttpGateway | Dispatcher]:
    """The server, or the pool itself."""
    if is_server(url):
        with contextlib.closing(open_server(url, token)) as server:
            yield server
        return
    from pytest_supercheck.redis_gateway import RedisGateway

    with RedisGateway.connect(url, password=token) as gateway:
        yield gateway.dispatcher


def _clocks(pool: PoolStatus) -> Iterator[Finding]:
    """This machine's, and that of each host of workers."""
    skews_s = {"this machine's": time.time() - pool.now_ms / 1000}
    skews_s |= {f"that of the workers' host {worker.host}": worker.skew_ms / 1000 for worker in pool.workers}
    wrong = {whose: skew_s for whose, skew_s in skews_s.items() if abs(skew_s) > SKEW_S}
    for whose, skew_s in wrong.items():
        words = (
            f"{whose} is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the pool's: times in reports are "
        )
        yield Finding(subject="clock", good=False, words=words + "wrong. Set it, with NTP.")
    if not wrong:
        hosts = " and the workers'" if pool.workers else ""
        yield Finding(subject="clock", good=True, words=f"this machine's{hosts} and the pool's agree")


def _workers(pool: PoolStatus, labels: Sequence[str]) -> Finding:
    if not pool.workers:
        return Finding(subject="workers", good=False, words="none is alive: start one with 'supercheck worker'.")
    fitting = [worker for worker in pool.workers if set(labels) <= set(worker.labels)]
    if not fitting:
        there = sorted({label for worker in pool.workers for label in worker.labels}) or ["none"]
        wanted, known = ", ".join(labels), ", ".join(there)
        return Finding(
            subject="workers",
            good=False,
            words=f"none of {len(pool.workers)} has the labels {wanted}; there are: {known}.",
        )
    hosts = len({worker.host for worker in fitting})
    words = f"{len(fitting)} on {hosts} host{'s' * (hosts > 1)}, {sum(not worker.job for worker in fitting)} idle"
    return Finding(subject="workers", good=True, words=words)


def _version(whose: str, versions: Counter[str]) -> Finding:
    others = sorted(version or "unknown" for version in versions if version != __version__)
    if not others:
        return Finding(subject="release", good=True, words=f"the {whose} is {__version__}, as here")
    words = f"the {whose} is {', '.join(others)}, and {__version__} here: install the same everywhere."
    return Finding(subject="release", good=False, words=words)


def _store(settings: StoreSettings) -> Finding:
    address = settings.url or ""
    try:
        store = open_store(address, endpoint=settings.s3_endpoint)
        store.put(_PROBE, b"")
        store.delete([_PROBE])
    except SupercheckError as exc:
        return Finding(subject="store", good=False, words=f"{masked(address)}: {exc}")
    return Finding(subject="store", good=True, words=f"{masked(address)} can be written")
