"""
The dispatcher's Python face: one method per operation of `dispatch.lua`, and a few that read what it has written.

Sits between gateways, workers and Redis. Must not know pytest, bundles or what a spec says.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from typing import Any, Final

import redis

from pytest_supercheck import __version__, replies
from pytest_supercheck.errors import Infrastructure, OutOfOrder, QueueFull
from pytest_supercheck.model import (
    PRIORITIES,
    Admission,
    Begun,
    Crashed,
    Figures,
    Gone,
    How,
    JobId,
    Leave,
    Next,
    Offer,
    PoolStatus,
    Priority,
    QueueStatus,
    RunDetails,
    RunId,
    RunRequest,
    RunStatus,
)
from pytest_supercheck.orphans import expire_orphans
from pytest_supercheck.redis_errors import redis_errors
from pytest_supercheck.replies import Reply

logger = logging.getLogger(__name__)

#: Nodeids sent in one command.
OFFER_BATCH: Final = 5000
#: Seconds that an offer may take from its first batch to its last.
OFFER_TTL_S: Final = 3600
#: How often an offer whose batches arrived twice or not at all is sent again.
OFFER_ATTEMPTS: Final = 3
#: Longest single blocking read, and the socket timeout of the connection that blocks.
BLOCK_S: Final = 20.0
BLOCK_SOCKET_TIMEOUT_S: Final = 30.0
#: Entries read from a stream at once.
READ_COUNT: Final = 500


class Dispatcher:
    """Every operation on the pool's state; safe to share between threads."""

    def __init__(self, redis: redis.Redis, *, now_ms: Callable[[], int] | None = None) -> None:
        """
        Make a dispatcher over a connection.

        Args:
            redis: Client that returns bytes, not text.
            now_ms: Clock in ms since 1970, above 0; the server's own when absent.
        """
        self._redis = redis
        self._now_ms = now_ms
        self._script = redis.register_script(_script_text())
        self._patient = _patient_client(redis)

    def close(self) -> None:
        """Close the connection for blocking reads; the client given is its owner's to close."""
        self._patient.close()

    # Operations of a client.

    def submit(self, request: RunRequest) -> Admission:
        """
        Ask for a run; repeating the request is harmless.

        Returns:
            Whether the run has a slot or a place in the queue.

        Raises:
            QueueFull: Refused; nothing of the run was kept.
        """
        reply = self._call(
            "submit",
            payload=request.spec.encode(),
            run=request.run_id,
            project=request.project,
            labels=_label_text(request.labels),
            priority=PRIORITIES.index(request.priority),
            want=request.want,
            timeout_ms=round(request.timeout_s * 1000),
            maxfail=request.maxfail,
            detached=int(request.detached),
            grace_ms=round(request.grace_s * 1000),
            concurrency=request.concurrency,
            concurrency_limit=request.concurrency_limit,
            cancel_in_progress=int(request.cancel_in_progress),
        )
        if "refused" in reply:
            raise QueueFull(figures=replies.figures(reply["figures"]), retry_after_s=reply["retry_after_s"])
        return replies.admission(reply)

    def offer(self, run: RunId, offer: Offer) -> bool:
        """
        Hand over the items of a run, once; a second offer changes nothing.

        Returns:
            False when the run is over already.

        Raises:
            Infrastructure: The nodeids did not arrive whole.
        """
        for _ in range(OFFER_ATTEMPTS):
            mark = secrets.token_hex(8)  # several executions may tell what there is to run, at the same time
            self._send_nodeids(f"sc:run:{run}:offer:{mark}", offer.names)
            reply = self._call(
                "offer",
                payload=_bitmap(offer.joined),
                told=offer.listing.encode("ascii"),
                run=run,
                id=mark,
                count=len(offer.names),
                single=offer.single,
                detached=int(offer.detached),
                outcome="fatal" if offer.trouble else None,
                message=offer.trouble or None,
            )
            if "again" not in reply:
                return "gone" not in reply
        raise Infrastructure(f"The test ids of run {run} did not arrive whole in Redis. Start the run again.")

    def keep(self, run: RunId) -> RunStatus:
        """
        Renew the run's lease and look where it stands.

        Returns:
            Its status; state `gone` when there is no such run.
        """
        return replies.run_status(run, self._call("keep", run=run))

    def detach(self, run: RunId) -> RunStatus:
        """
        Let a run go on without anybody who keeps it alive.

        Returns:
            Its status; state `gone` when there is no such run.
        """
        return replies.run_status(run, self._call("detach", run=run))

    def cancel(self, run: RunId, *, outcome: str, how: How, message: str = "") -> RunStatus:
        """
        Stop a run: at once when it waits, else when its last execution has left.

        Args:
            outcome: What the run ends with; `withdrawn` leaves nothing of it behind.
            how: Finish the current tests, interrupt them, or kill them. A stronger one may follow.
            message: Why, in words.

        Returns:
            Its status; state `gone` when there is no such run, or no longer.
        """
        return replies.run_status(run, self._call("cancel", run=run, outcome=outcome, how=how, message=message))

    def queue(self) -> QueueStatus:
        """
        Look at the pool.

        Returns:
            Its figures and its runs.
        """
        return replies.queue_status(self._call("queue"))

    def look(self, run: RunId) -> RunStatus:
        """
        Look where a run stands, without keeping it alive.

        Returns:
            Its status; state `gone` when there is no such run.
        """
        return replies.run_status(run, self._call("look", run=run))

    def pool(self) -> PoolStatus:
        """
        Look at the workers and at the executions that hold a slot.

        Returns:
            Both, and the clock by which their times are meant.
        """
        return replies.pool_status(self._call("pool"))

    def limits(self, *, running: int | None = None, queued: int | None = None, project: str | None = None) -> Figures:
        """
        Set the capacities of the pool or of a project; what is absent stays.

        Args:
            running: Most executions at a time, at least 0; -1 puts the default back (a project's: no limit).
            queued: Most queued runs, likewise.
            project: Whose; the pool's when absent.

        Returns:
            The figures under the new limits.
        """
        return replies.figures(self._call("limits", running=running, queued=queued, project=project)["figures"])

    def pause(self, *, on: bool) -> Figures:
        """
        Stop or resume promotion; what runs goes on, what comes is queued.

        Returns:
            The figures after it.
        """
        return replies.figures(self._call("pause", on=int(on))["figures"])

    def clear(self, *, unrecorded: bool = False) -> int:
        """
        Forget runs that ended more than a minute ago: they can neither be followed nor run once more.

        Args:
            unrecorded: Also those that nobody has recorded, and now never will.

        Returns:
            How many there were.
        """
        cleared = 0
        for which in (0, 1) if unrecorded else (0,):
            while some := int(self._call("clear", unrecorded=which)["cleared"]):
                cleared += some
        return cleared

    def priority(self, run: RunId, *, priority: Priority) -> RunStatus:
        """
        Change a run's rank; its age stays.

        Returns:
            Its status; state `gone` when there is no such run.
        """
        return replies.run_status(run, self._call("priority", run=run, priority=PRIORITIES.index(priority)))

    def tick(self) -> None:
        """Reap what has lapsed and promote; every other operation does so too."""
        self._call("tick")

    # Operations of a recorder.

    def details(self, run: RunId) -> RunDetails | None:
        """
        Read what is known of a run beside its results.

        Returns:
            Its details, or None when there is no such run.
        """
        reply = self._call("details", run=run)
        return None if "gone" in reply else replies.run_details(reply)

    def project(self, run: RunId) -> str | None:
        """The project of a run; None when there is no such run."""
        with redis_errors():
            name: Any = self._redis.hget(f"sc:run:{run}", "project")
        return None if name is None else str(name, "utf-8", "surrogatepass")

    def is_withdrawn(self, run: RunId) -> bool:
        """Whether it was wanted that nothing is kept of a run, in the last 24 hours."""
        with redis_errors():
            return self._redis.zscore("sc:withdrawn", run) is not None

    def claim(self) -> RunDetails | None:
        """
        Take a run that has ended, to record it; nobody else gets it for 60 seconds.

        Returns:
            The one that ended first, or None when there is nothing to do.
        """
        reply = self._call("claim")
        return None if "none" in reply else replies.run_details(reply)

    def recorded(self, run: RunId) -> None:
        """Say that a run is recorded for good: nobody gets it any more. Repeating it is harmless."""
        self._call("recorded", run=run)

    def expire_orphans(self) -> int:
        """Give keys that lost their TTL one, as `orphans.expire_orphans`; how many there were."""
        with redis_errors():
            return expire_orphans(self._redis)

    # Operations of a worker.

    def join(self, worker: str, *, host: str, pid: int, labels: Iterable[str] = ()) -> None:
        """
        Enrol a worker process for 15 seconds, or again.

        Args:
            worker: Its id, unique for the process; names its RQ queue.
            host: Where it runs; runs prefer hosts that serve them already.
            pid: Its process id, for people.
            labels: What it offers, none with a comma in it.
        """
        clock_ms = self._now_ms() if self._now_ms else int(time.time() * 1000)
        self._call(
            "join",
            worker=worker,
            host=host,
            pid=pid,
            labels=_label_text(labels),
            version=__version__,
            clock_ms=clock_ms,
        )

    def beat(self, workers: Iterable[str], *, jobs: Iterable[JobId] = ()) -> tuple[str, ...]:
        """
        Renew the leases of worker processes, and of executions, for 15 seconds.

        Returns:
            The workers that are unknown and have to join again.
        """
        return tuple(self._call("beat", workers=list(workers), jobs=list(jobs))["gone"])

    def quit(self, worker: str) -> None:
        """Give a worker no new work, and forget it once it has none."""
        self._call("quit", worker=worker)

    def begin(self, job: JobId, *, worker: str) -> Begun | None:
        """
        Start an execution that was promoted; repeating it is harmless.

        Returns:
            What it serves, or None when the slot is gone and there is nothing to do.
        """
        reply = self._call("begin", job=job, worker=worker)
        return None if "gone" in reply else replies.begun(job, reply)

    def renew(self, job: JobId) -> bool:
        """
        Renew an execution's lease for 15 seconds.

        Returns:
            False when the slot is gone.
        """
        return "gone" not in self._call("renew", job=job)

    def next(self, job: JobId, *, fresh: bool, failed: int = 0) -> Next:
        """
        Ask for items, just before they are needed: at most one of the last ones may be undone.

        Args:
            fresh: The child has run nothing yet, so it may take an item that crashed before.
            failed: Failing reports that no append has carried.

        Returns:
            Items, or what to do instead.

        Raises:
            OutOfOrder: It still owes two items or more.
        """
        reply = self._call("next", job=job, fresh=int(fresh), failed=failed, nonce=secrets.token_hex(8))
        return replies.next_items(reply)

    def append(
        self, job: JobId, payload: bytes, *, seq: int, done: Sequence[int] = (), failed: int = 0
    ) -> Leave | Gone | None:
        """
        Append events to the run's results; repeating it is harmless.

        Args:
            payload: NDJSON lines; empty to report without.
            seq: 1 for the first append or crash of the execution, then one more each time.
            done: Indexes of the items that these lines report.
            failed: Failing reports among them.

        Returns:
            None to carry on, else to leave or to stop at once; on `Gone` nothing was written.

        Raises:
            OutOfOrder: A sequence number was left out.
        """
        reply = self._call("append", payload=payload, job=job, seq=seq, done=list(done), failed=failed)
        if "gone" in reply:
            return Gone()
        return Leave(reason=reply["leave"]) if "leave" in reply else None

    def back(self, job: JobId) -> bool:
        """
        Give back what the execution has not done.

        Returns:
            False when the slot is gone, and the items with it.
        """
        return "gone" not in self._call("back", job=job)

    def crash(self, job: JobId, *, seq: int, idx: int = -1, post_mortem: bytes = b"") -> Crashed:
        """
        Report that the child died; the execution keeps its slot. Repeating it is harmless.

        Args:
            seq: The same sequence as `append`'s.
            idx: The item that was running, -1 for none.
            post_mortem: What is known, as one JSON value.

        Returns:
            Whether the item is tried once more, alone.

        Raises:
            OutOfOrder: A sequence number was left out.
        """
        reply = self._call("crash", payload=post_mortem, job=job, seq=seq, idx=idx)
        return Crashed(again=bool(reply.get("again")), gone="gone" in reply)

    def leave(self, job: JobId, event: bytes = b"") -> bool:
        """
        Give the slot back, with what is undone; repeating it is harmless.

        Args:
            event: NDJSON lines to append first; may be empty.

        Returns:
            False when the slot was gone before; nothing was written then.
        """
        return "gone" not in self._call("leave", payload=event, job=job)

    def fatal(self, job: JobId, message: str) -> None:
        """
        End the run as one that cannot work anywhere, and give the slot back.

        Args:
            message: What happened, why, and what to do.
        """
        self._call("fatal", job=job, message=message)

    def lapse(self, job: JobId) -> None:
        """Lapse an execution now: its work-horse has died."""
        self._call("lapse", job=job)

    def mail(self, job: JobId, *, timeout_s: float) -> str | None:
        """
        Wait for a word to an execution, the newest first.

        Args:
            timeout_s: Seconds to wait, above 0; at most 20 are waited.

        Returns:
            `leave`, `yield`, `interrupt`, `kill` or `items`; None when none came.
        """
        with redis_errors():
            found: Any = self._patient.blpop([f"sc:control:{job}"], timeout=_block_s(timeout_s))
        return found[1].decode() if found else None

    # Reading what a run has left.

    def nodeids(self, run: RunId) -> list[str]:
        """
        Read the items of a run.

        Returns:
            Their nodeids in collection order; empty when none were offered.
        """
        with redis_errors():
            rows: Any = self._redis.lrange(f"sc:run:{run}:items", 0, -1)
        return [row.decode(errors="surrogatepass") for row in rows]

    def events(self, run: RunId, *, after: str, wait_s: float) -> tuple[list[bytes], str]:
        """
        Read a run's results.

        Args:
            after: Id of the last entry read, `0` for the beginning.
            wait_s: Seconds to wait for a first entry; at most 20 are waited.

        Returns:
            The entries, each of one or more NDJSON lines, and the id to go on from.
        """
        block_ms = max(1, round(_block_s(wait_s) * 1000)) if wait_s > 0 else None
        with redis_errors():
            reply: Any = self._patient.xread({f"sc:run:{run}:results": after}, count=READ_COUNT, block=block_ms)
        # A list of streams in RESP2, a dict in RESP3.
        streams = list(reply.values()) if isinstance(reply, dict) else [entries for _, entries in reply or ()]
        entries = streams[0] if streams else []
        return [fields[b"e"] for _, fields in entries], entries[-1][0].decode() if entries else after

    def all_events(self, run: RunId) -> Iterator[bytes]:
        """Read a run's results from the beginning to where they end now; each of one or more NDJSON lines."""
        after, batches = "0", [b""]
        while batches:
            batches, after = self.events(run, after=after, wait_s=0)
            yield from batches

    def last_states(self, run: RunId, count: int) -> list[bytes]:
        """Read who ran what: that many entries at most, the newest first, one JSON object each."""
        with redis_errors():
            rows: Any = self._redis.xrevrange(f"sc:run:{run}:state", count=count)
        return [fields[b"e"] for _, fields in rows]

    # The call.

    def _send_nodeids(self, key: str, nodeids: Sequence[str]) -> None:
        with redis_errors():
            for start in range(0, len(nodeids), OFFER_BATCH):
                batch = [nodeid.encode(errors="surrogatepass") for nodeid in nodeids[start : start + OFFER_BATCH]]
                with self._redis.pipeline(transaction=False) as pipe:
                    pipe.rpush(key, *batch)
                    pipe.expire(key, OFFER_TTL_S)
                    pipe.execute()

    def _call(self, op: str, *, payload: bytes = b"", told: bytes = b"", **args: object) -> Reply:
        given = {name: value for name, value in args.items() if value is not None}
        arguments = json.dumps(given, ensure_ascii=False).encode(errors="surrogatepass")
        now_ms = self._now_ms() if self._now_ms else 0
        with redis_errors():
            raw: Any = self._script(args=[op, now_ms, arguments, payload, told])
            reply: Reply = json.loads(raw)
        self._note(reply.pop("promoted", ()))
        if "error" in reply:
            raise OutOfOrder(reply["error"])
        return reply

    def _note(self, promoted: Iterable[tuple[str, str]]) -> None:
        for job_id, worker in promoted:
            logger.debug("promoted", extra={"job_id": job_id, "worker": worker})


def _script_text() -> str:
    return resources.files("pytest_supercheck").joinpath("dispatch.lua").read_text(encoding="utf-8")


def _patient_client(client: redis.Redis) -> redis.Redis:
    # redis-py's socket timeout of 5 s would cut a longer blocking read.
    pool = client.connection_pool
    settings = {**pool.connection_kwargs, "socket_timeout": BLOCK_SOCKET_TIMEOUT_S}
    return redis.Redis(connection_pool=redis.ConnectionPool(connection_class=pool.connection_class, **settings))


def _block_s(wait_s: float) -> float:
    # 0 would block for ever.
    return min(max(wait_s, 0.001), BLOCK_S)


def _bitmap(indexes: Sequence[int]) -> bytes:
    # As Redis counts bits: the first is the highest of the first byte.
    bits = bytearray(max(indexes, default=-1) // 8 + 1)
    for index in indexes:
        bits[index // 8] |= 128 >> index % 8
    return bytes(bits)


def _label_text(labels: Iterable[str]) -> str:
    names = sorted(set(labels))
    if any("," in name for name in names):
        raise ValueError(f"a label has no comma in it: {names}")
    return ",".join(names)
