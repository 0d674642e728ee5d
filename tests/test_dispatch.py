"""
The dispatcher, operation by operation, on a real Valkey and by a clock of the test's own.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue, Worker
from rq.job import Job
from rq.serializers import JSONSerializer

from pytest_supercheck.dispatch import OFFER_BATCH, Dispatcher
from pytest_supercheck.errors import Infrastructure, OutOfOrder, QueueFull, SupercheckError, Unreachable
from pytest_supercheck.model import (
    Begun,
    Chunk,
    Crashed,
    Gone,
    JobId,
    Leave,
    Next,
    Offer,
    Recycle,
    RunId,
    RunRequest,
    Wait,
    queue_name,
)
from pytest_supercheck.worker import SUPERVISE, PoolJob
from tests.conftest import Valkey

LEASE_MS = 15_000

#: As many as there can be.
ALL = 2_000


class Pool:
    """A dispatcher whose clock stands until it is moved, with what tests say most."""

    def __init__(self, client: redis.Redis) -> None:
        self.now_ms = 1_700_000_000_000
        self.client: Any = client
        self.dispatcher = Dispatcher(client, now_ms=lambda: self.now_ms)

    def forward(self, seconds: float, *, alive: bool = True) -> None:
        """Let time pass; with `alive` whoever holds a lease renews it every 5 seconds."""
        end_ms = self.now_ms + round(seconds * 1000)
        while alive and end_ms - self.now_ms > 5_000:
            self.now_ms += 5_000
            self.renew_all()
        self.now_ms = end_ms
        if alive:
            self.renew_all()
        self.dispatcher.tick()

    def renew_all(self, *, but: Sequence[str] = ()) -> None:
        """Renew every lease but some; done behind the dispatcher's back, so that nothing is reaped by it."""
        for member in self.client.zrange("sc:leases", 0, -1):
            if member.decode()[2:] not in but:
                self.client.zadd("sc:leases", {member: self.now_ms + LEASE_MS})

    def workers(self, count: int, *, host: str = "h", labels: Sequence[str] = ()) -> list[str]:
        """Enrol so many workers of a host."""
        names = [f"{host}-{n}" for n in range(1, count + 1)]
        for name in names:
            self.dispatcher.join(name, host=host, pid=1, labels=labels)
        return names

    def submit(self, run: str, **asked: Any) -> int:
        """Submit a run; how many slots it holds at once."""
        return self.dispatcher.submit(RunRequest(run_id=RunId(run), **asked)).held

    def held(self, run: str) -> int:
        """How many slots a run holds."""
        return self.dispatcher.keep(RunId(run)).held

    def jobs(self, run: str) -> list[JobId]:
        """The jobs of a run that hold a slot, by number."""
        return sorted(JobId(job.decode()) for job in self.client.smembers(f"sc:run:{run}:held"))

    def worker_of(self, job: str) -> str:
        """The worker that a job was promoted to."""
        worker: bytes = self.client.hget(f"sc:exec:{job}", "worker")
        return worker.decode()

    def begin(self, job: str) -> Begun:
        """Begin a job on its worker."""
        begun = self.dispatcher.begin(JobId(job), worker=self.worker_of(job))
        assert begun is not None
        return begun

    def started(
        self, run: str, items: int = 0, *, single: int = 0, groups: Sequence[int] = (), **asked: Any
    ) -> list[JobId]:
        """Submit a run, offer items to it, that many or in groups of those sizes, and begin all its executions."""
        self.submit(run, **asked)
        if items or groups:
            nodeids = [f"t.py::{run}[{n}]" for n in range(items or sum(groups))]
            assert self.dispatcher.offer(RunId(run), Offer(names=nodeids, single=single, joined=joined(groups)))
        jobs = self.jobs(run)
        for job in jobs:
            self.begin(job)
            self.client.delete(f"sc:control:{job}")
        return jobs

    def ask(self, job: str, *, fresh: bool = False) -> Next:
        """Ask for items."""
        return self.dispatcher.next(JobId(job), fresh=fresh)

    def take(self, job: str, *, fresh: bool = False) -> list[int]:
        """Ask for items and get some."""
        answer = self.ask(job, fresh=fresh)
        assert isinstance(answer, Chunk), answer
        return [index for index, _ in answer.items]

    def report(self, job: str, done: Sequence[int], *, seq: int | None = None, failed: int = 0) -> Leave | Gone | None:
        """Report items in one append, with the next sequence number unless another is given."""
        number = seq or int(self.client.hget(f"sc:exec:{job}", "seq") or 0) + 1
        payload = b"".join(b'{"t":"result","i":%d}\n' % index for index in done)
        return self.dispatcher.append(JobId(job), payload, seq=number, done=done, failed=failed)

    def finish(self, job: str) -> None:
        """Take and report items until told to leave, then leave."""
        while isinstance(answer := self.ask(job, fresh=True), Chunk):
            self.report(job, [index for index, _ in answer.items])
        assert isinstance(answer, Leave), answer
        assert self.dispatcher.leave(JobId(job))

    def results(self, run: str) -> list[dict[str, Any]]:
        """All events of a run's results."""
        entries, _ = self.dispatcher.events(RunId(run), after="0", wait_s=0)
        return [json.loads(line) for entry in entries for line in entry.splitlines()]

    def reported(self, run: str) -> list[int]:
        """The items that a run's results report, in stream order."""
        return [event["i"] for event in self.results(run) if event["t"] in ("result", "crash")]

    def word(self, job: str) -> str | None:
        """The newest word in a job's mailbox, if any."""
        found = self.client.lpop(f"sc:control:{job}")
        return found.decode() if isinstance(found, bytes) else None

    def all_keys(self) -> set[str]:
        """All keys of the dispatcher's."""
        return {key.decode() for key in self.client.scan_iter("sc:*")}


def joined(groups: Sequence[int]) -> list[int]:
    """The items that are of the same group as the one before, of groups of those sizes."""
    starts = {0, *itertools.accumulate(groups)}
    return [item for item in range(sum(groups)) if item not in starts]


@pytest.fixture
def pool(valkey: redis.Redis) -> Iterator[Pool]:
    """An empty pool."""
    made = Pool(valkey)
    yield made
    made.dispatcher.close()


# Admission.


def test_run_takes_a_free_slot(pool: Pool) -> None:
    """A run is admitted to a slot when one is free."""
    pool.workers(1)
    admission = pool.dispatcher.submit(RunRequest(run_id=RunId("a")))
    assert (admission.state, admission.held, admission.position, admission.eta_s) == ("admitted", 1, 0, 0)
    assert (admission.figures.running, admission.figures.running_capacity) == (1, 5)
    assert (admission.figures.queued, admission.figures.queued_capacity) == (0, 50)


@pytest.mark.parametrize(("workers", "capacity", "want", "held"), [(9, 3, 8, 3), (2, 5, 8, 2), (9, 5, 4, 4)])
def test_run_holds_at_most_what_it_wants_and_the_pool_has(
    pool: Pool, workers: int, capacity: int, want: int, held: int
) -> None:
    """Slots are bounded by the run's wish, the running capacity and the idle workers."""
    pool.workers(workers)
    pool.dispatcher.limits(running=capacity)
    assert pool.submit("a", want=want) == held


def test_run_waits_for_a_worker_without_counting_as_queued(pool: Pool) -> None:
    """A free slot without a worker stays waiting; the figures tell that no worker lives."""
    admission = pool.dispatcher.submit(RunRequest(run_id=RunId("a"), want=3))
    assert (admission.state, admission.position) == ("queued", 1)
    figures = admission.figures
    assert (figures.waiting, figures.queued, figures.workers, figures.idle) == (1, 0, 0, 0)
    pool.workers(1)
    assert pool.held("a") == 1


def test_full_queue_refuses_and_keeps_nothing(pool: Pool) -> None:
    """Beyond the queued capacity a run is refused, with the four figures, and no key of it exists."""
    pool.workers(1)
    pool.dispatcher.limits(running=1, queued=1)
    pool.submit("a")
    pool.submit("b")
    before = pool.all_keys()
    with pytest.raises(QueueFull) as caught:
        pool.submit("c")
    figures = caught.value.figures
    assert (figures.running, figures.running_capacity, figures.queued, figures.queued_capacity) == (1, 1, 1, 1)
    assert caught.value.retry_after_s > 0
    assert "running 1/1, queued 1/1" in str(caught.value)
    assert pool.all_keys() == before
    assert not [key for key in before if "c" in key.split(":")]
    assert [row.run for row in pool.dispatcher.queue().runs] == ["a", "b"]
    assert pool.dispatcher.keep(RunId("c")).state == "gone"


def test_full_queue_does_not_refuse_while_a_slot_is_free(pool: Pool) -> None:
    """With no queue at all, a run that finds a slot is still taken."""
    pool.workers(2)
    pool.dispatcher.limits(running=2, queued=0)
    assert [pool.submit("a"), pool.submit("b")] == [1, 1]
    with pytest.raises(QueueFull):
        pool.submit("c")


def test_free_slots_make_room_for_runs_that_wait_for_workers(pool: Pool) -> None:
    """Admission reckons with the configured limits, not with the workers that live at the moment."""
    pool.dispatcher.limits(running=2, queued=1)
    for run in "abc":
        pool.submit(run)
    with pytest.raises(QueueFull):
        pool.submit("d")


def test_greedy_run_takes_one_place_in_the_queue(pool: Pool) -> None:
    """A wish for many slots counts once."""
    pool.workers(1)
    pool.dispatcher.limits(running=1, queued=2)
    pool.submit("a", want=100)
    pool.submit("b", want=100)
    pool.submit("c", want=100)
    assert pool.dispatcher.queue().figures.queued == 2


def test_repeated_submission_is_the_same_run(pool: Pool) -> None:
    """A client that lost the answer asks again: same answer, no second slot, no second job."""
    pool.workers(2)
    first = pool.dispatcher.submit(RunRequest(run_id=RunId("a")))
    assert pool.dispatcher.submit(RunRequest(run_id=RunId("a"))) == first
    assert pool.client.lrange("rq:queue:supercheck:h-1", 0, -1) == [b"a-1-1"]
    pool.dispatcher.limits(running=1, queued=0)
    assert pool.submit("a") == 1


def test_project_limits_refuse_only_that_project(pool: Pool) -> None:
    """A project's queue is its own; the refusal names it."""
    pool.workers(3)
    pool.dispatcher.limits(project="p", running=1, queued=1)
    pool.submit("a", project="p")
    pool.submit("b", project="p")
    with pytest.raises(QueueFull, match="project p: queued 1/1"):
        pool.submit("c", project="p")
    assert pool.submit("d", project="q") == 1


def test_project_at_its_running_limit_is_passed_by(pool: Pool) -> None:
    """A project that may not run more does not keep others waiting, and gets its slot when it may again."""
    pool.workers(3)
    pool.dispatcher.limits(project="p", running=1)
    assert pool.submit("a", project="p", want=3) == 1
    assert pool.submit("b", project="p") == 0
    assert pool.submit("c", project="q") == 1
    pool.dispatcher.cancel(RunId("a"), outcome="cancelled", how="leave")
    assert pool.held("b") == 1


def test_removed_limits_are_the_defaults_again(pool: Pool) -> None:
    """-1 takes a limit away; what is not named stays."""
    pool.workers(9)
    assert pool.dispatcher.limits(running=2, queued=3).running_capacity == 2
    assert pool.dispatcher.limits(running=-1).queued_capacity == 3
    assert pool.dispatcher.limits(queued=-1).running_capacity == 5
    pool.dispatcher.limits(project="p", running=1, queued=0)
    figures = pool.dispatcher.limits(project="p", queued=-1)
    assert figures.project is not None
    assert (figures.project.running_capacity, figures.project.queued_capacity) == (1, None)
    assert pool.dispatcher.limits(project="p", running=-1).project is None


def test_lowered_limit_ends_nothing_and_promotes_nothing(pool: Pool) -> None:
    """Executions over a lowered limit go on; nobody is promoted until they are below it."""
    pool.workers(4)
    first, second, third = pool.started("a", want=3)
    pool.dispatcher.limits(running=2)
    pool.submit("b")
    assert pool.word(third) is None
    pool.dispatcher.leave(first)
    assert pool.held("b") == 0
    pool.dispatcher.leave(second)
    assert pool.held("b") == 1


def test_raised_limit_promotes_at_once(pool: Pool) -> None:
    """Promotion is part of the change that makes room."""
    pool.workers(3)
    pool.dispatcher.limits(running=1)
    pool.submit("a")
    pool.submit("b", want=2)
    assert pool.dispatcher.limits(running=3).running == 3


def test_paused_pool_queues_and_promotes_nothing(pool: Pool) -> None:
    """While paused, what runs goes on and what comes is queued; resuming promotes."""
    pool.workers(2)
    pool.submit("a")
    assert pool.dispatcher.pause(on=True).paused
    assert pool.submit("b") == 0
    pool.dispatcher.cancel(RunId("a"), outcome="cancelled", how="leave")
    assert pool.held("b") == 0
    assert not pool.dispatcher.pause(on=False).paused
    assert pool.held("b") == 1


def test_position_counts_who_ranks_before(pool: Pool) -> None:
    """Rank is priority, then age, over all projects."""
    pool.submit("a", project="p")
    pool.submit("b", project="q", priority="low")
    pool.submit("c", project="q", priority="high")
    pool.submit("d", project="r")
    places = {run: pool.dispatcher.keep(RunId(run)).position for run in "abcd"}
    assert places == {"c": 1, "a": 2, "d": 3, "b": 4}
    waiting = [(row.run, row.position) for row in pool.dispatcher.queue().runs]
    assert waiting == [("c", 1), ("a", 2), ("d", 3), ("b", 4)]


def test_priority_change_keeps_age(pool: Pool) -> None:
    """A run whose priority changes ranks by its original age in the new one."""
    pool.submit("a", priority="low")
    pool.submit("b")
    assert pool.dispatcher.keep(RunId("a")).position == 2
    assert pool.dispatcher.priority(RunId("a"), priority="normal").position == 1
    assert pool.dispatcher.priority(RunId("z"), priority="low").state == "gone"


def test_new_run_does_not_overtake(pool: Pool) -> None:
    """A slot that becomes free goes to who waits, even if the freeing call is a new submission."""
    pool.workers(1)
    pool.submit("a", detached=True)
    pool.submit("b", detached=True)
    pool.forward(15, alive=False)
    pool.workers(1)
    assert pool.submit("c", detached=True) == 0
    assert pool.held("b") == 1


def test_estimate_follows_what_runs_take(pool: Pool) -> None:
    """Unknown at first; then place times the mean duration over how many run abreast."""
    pool.workers(1)
    (job,) = pool.started("a", 1)
    pool.submit("b")
    assert pool.dispatcher.keep(RunId("b")).eta_s is None
    pool.forward(10)
    pool.finish(job)
    pool.submit("c")
    assert pool.dispatcher.keep(RunId("c")).eta_s == pytest.approx(10)
    pool.dispatcher.limits(queued=0, running=1)
    with pytest.raises(QueueFull) as caught:
        pool.submit("d")
    assert caught.value.retry_after_s == 10


def test_submission_costs_the_same_however_many_wait(pool: Pool) -> None:
    """Ranks come from sorted sets: as many commands with 1,000 waiting runs as with ten."""

    def commands() -> int:
        return sum(row["calls"] for row in pool.client.info("commandstats").values())

    pool.workers(2)
    pool.dispatcher.limits(running=2, queued=2000)
    costs = []
    for n in range(1000):
        before = commands() if n in (10, 999) else 0
        pool.submit(f"r{n}", want=2, project=f"p{n % 3}")
        if before:
            costs.append(commands() - before)
    assert costs[0] == costs[1]
    assert costs[0] < 100


# Promotion.


def test_first_slot_goes_before_anybodys_second(pool: Pool) -> None:
    """A run without a slot precedes an older one that wishes for more."""
    pool.submit("a", want=3)
    pool.submit("b", want=3)
    pool.workers(3)
    assert [pool.held("a"), pool.held("b")] == [2, 1]


def test_first_slot_goes_before_another_projects_second(pool: Pool) -> None:
    """A run without a slot precedes a run that has one, even if its own project holds more."""
    pool.workers(3)
    pool.started("a", want=2, project="p")
    pool.started("b", want=2, project="q")
    pool.submit("c", project="p")
    pool.dispatcher.join("h-4", host="h", pid=1)
    assert [pool.held("b"), pool.held("c")] == [1, 1]


def test_project_with_the_smallest_share_goes_first(pool: Pool) -> None:
    """Between runs without a slot, the project that holds less precedes age."""
    pool.workers(2)
    pool.started("a", want=2, project="p")
    pool.submit("b", project="p", want=2)
    pool.submit("c", project="q")
    pool.dispatcher.leave(JobId("a-1-1"))
    assert [pool.held("b"), pool.held("c")] == [0, 1]


def test_priority_precedes_everything(pool: Pool) -> None:
    """A run of higher priority gets its second slot before another's first."""
    pool.submit("a")
    pool.submit("b", want=2, priority="high")
    pool.workers(2)
    assert [pool.held("a"), pool.held("b")] == [0, 2]


def test_run_that_holds_fewest_gets_the_next_slot(pool: Pool) -> None:
    """Second slots even out before age decides."""
    pool.workers(3)
    pool.dispatcher.pause(on=True)
    for run in "ab":
        pool.submit(run, want=4)
    pool.dispatcher.pause(on=False)
    assert [pool.held("a"), pool.held("b")] == [2, 1]
    pool.workers(4)
    assert [pool.held("a"), pool.held("b")] == [2, 2]


def test_labels_must_all_be_offered(pool: Pool) -> None:
    """A run takes a worker that has all its labels; one that has to wait for it keeps nobody else waiting."""
    pool.workers(1, host="plain", labels=["gpu"])
    assert pool.submit("a", labels=("gpu", "big")) == 0
    assert pool.submit("b") == 1
    pool.workers(1, host="large", labels=["big", "gpu", "x"])
    assert pool.held("a") == 1
    assert pool.worker_of(pool.jobs("a")[0]) == "large-1"


def test_label_with_a_comma_is_refused(pool: Pool) -> None:
    """Labels are kept as a list with commas."""
    with pytest.raises(ValueError, match="comma"):
        pool.submit("a", labels=("x,y",))


def test_run_prefers_hosts_that_serve_it(pool: Pool) -> None:
    """A runner that has collected is used again, whatever else idles."""
    pool.workers(1, host="b")
    pool.submit("a", want=2)
    pool.dispatcher.pause(on=True)
    pool.workers(3, host="a")
    pool.workers(2, host="b")
    pool.dispatcher.pause(on=False)
    assert {pool.worker_of(job) for job in pool.jobs("a")} == {"b-1", "b-2"}


def test_new_run_goes_to_the_idlest_host(pool: Pool) -> None:
    """Load spreads over hosts."""
    pool.workers(1, host="a")
    pool.workers(2, host="b")
    pool.submit("r")
    assert pool.worker_of("r-1-1") == "b-1"


def test_promoted_job_is_on_the_workers_own_rq_queue(pool: Pool) -> None:
    """RQ's worker makes of the id alone a job that is JSON, has no timeout of RQ's, and names nothing but itself."""
    pool.workers(1)
    pool.submit("a")
    name = queue_name("h-1")
    assert pool.client.lrange(f"rq:queue:{name}", 0, -1) == [b"a-1-1"]
    queue = Queue(name, connection=pool.client, serializer=JSONSerializer, job_class=PoolJob)
    taken = Queue.dequeue_any([queue], None, pool.client, job_class=PoolJob, serializer=JSONSerializer)
    assert taken is not None
    job = Job.fetch("a-1-1", connection=pool.client, serializer=JSONSerializer)
    for made in (taken[0], job):
        assert (made.func_name, list(made.args), made.kwargs, made.timeout) == (SUPERVISE, ["a-1-1"], {}, -1)
        assert (made.result_ttl, made.failure_ttl) == (3600, 86400)
    assert PoolJob.fetch("a-1-1", connection=pool.client, serializer=JSONSerializer).created_at == job.created_at


def test_job_that_is_taken_back_leaves_the_queue(pool: Pool) -> None:
    """No worker wastes a fork on an execution that was cancelled, or that lapsed, before it began."""
    pool.workers(1)
    pool.submit("a")
    pool.dispatcher.cancel(RunId("a"), outcome="cancelled", how="kill")
    assert pool.client.exists("rq:queue:supercheck:h-1") == 0


# Begin.


def test_first_begin_starts_the_runs_time(pool: Pool) -> None:
    """The deadline counts from the first begin; later executions share it."""
    pool.workers(2)
    pool.submit("a", want=2, timeout_s=60, maxfail=3, spec='{"x": "é"}', project="p")
    first, second = pool.jobs("a")
    pool.forward(3)
    begun = pool.begin(first)
    assert (begun.run, begun.n, begun.attempt, begun.project, begun.want) == ("a", 1, 1, "p", 2)
    assert (begun.spec, begun.maxfail, begun.timeout_s, begun.total) == ('{"x": "é"}', 3, 60, None)
    assert begun.started_ms == begun.now_ms == pool.now_ms
    assert begun.deadline_ms == pool.now_ms + 60_000
    pool.forward(2)
    assert pool.begin(second).deadline_ms == begun.deadline_ms


def test_begin_is_for_the_promoted_worker_once(pool: Pool) -> None:
    """Another worker gets nothing; the same one may repeat itself; the stream has one begin event."""
    pool.workers(2)
    pool.submit("a")
    assert pool.dispatcher.begin(JobId("a-1-1"), worker="h-2") is None
    assert pool.begin("a-1-1") == pool.begin("a-1-1")
    (event,) = pool.results("a")
    assert event == {
        "t": "begin", "v": 1, "at": pool.now_ms, "n": 1, "job": "a-1-1", "worker": "h-1", "host": "h"
    }  # fmt: skip
    assert pool.dispatcher.begin(JobId("z-1-1"), worker="h-1") is None


# Items.


def test_items_arrive_whole_and_unchanged(pool: Pool) -> None:
    """More than one batch, any text: the indexes name what was offered."""
    pool.workers(1)
    (job,) = pool.started("a")
    nodeids = [f"t.py::é[{n}]" for n in range(2 * OFFER_BATCH + 1)] + ["t.py::lone[\udce9]", 'q"\\/\n']
    assert pool.dispatcher.offer(RunId("a"), Offer(names=nodeids))
    assert pool.dispatcher.nodeids(RunId("a")) == nodeids
    assert pool.word(job) == "items"
    seen: list[str] = []
    while isinstance(answer := pool.ask(job), Chunk):
        seen += [nodeid for _, nodeid in answer.items]
        pool.report(job, [index for index, _ in answer.items])
    assert seen == nodeids


def test_second_offer_changes_nothing(pool: Pool) -> None:
    """What has been offered stays, even while it is being run."""
    pool.workers(1)
    (job,) = pool.started("a", 3)
    pool.take(job)
    assert pool.dispatcher.offer(RunId("a"), Offer(names=["other"] * 9))
    assert pool.dispatcher.keep(RunId("a")).total == 3
    assert len(pool.dispatcher.nodeids(RunId("a"))) == 3
    assert not [key for key in pool.all_keys() if ":offer" in key]


def test_offer_to_a_run_that_is_over(pool: Pool) -> None:
    """It is told so, and leaves nothing."""
    assert not pool.dispatcher.offer(RunId("a"), Offer(names=["x"]))
    assert pool.all_keys() == set()


def test_offer_that_arrived_twice_is_sent_again(pool: Pool) -> None:
    """A batch that a reconnecting client sends twice is noticed by its length."""

    class Stuttering(Dispatcher):
        stutters = 1

        def _send_nodeids(self, key: str, nodeids: Sequence[str]) -> None:
            super()._send_nodeids(key, nodeids)
            if self.stutters:
                self.stutters -= 1
                pool.client.rpush(key, *nodeids)

    stuttering = Stuttering(pool.client, now_ms=lambda: pool.now_ms)
    pool.submit("a")
    assert stuttering.offer(RunId("a"), Offer(names=["x", "y"]))
    assert stuttering.nodeids(RunId("a")) == ["x", "y"]
    pool.submit("b")
    stuttering.stutters = 99
    with pytest.raises(Infrastructure, match="did not arrive whole"):
        stuttering.offer(RunId("b"), Offer(names=["x"]))


def test_offers_at_the_same_time(pool: Pool) -> None:
    """Of two executions that both tell what there is to run one is taken, whole, with what belongs to it."""
    pool.submit("a")

    class Slow(Dispatcher):
        def _send_nodeids(self, key: str, nodeids: Sequence[str]) -> None:
            super()._send_nodeids(key, nodeids)
            assert pool.dispatcher.offer(RunId("a"), Offer(names=["first", "second"], listing='"of the first"'))

    slow = Slow(pool.client, now_ms=lambda: pool.now_ms)
    assert slow.offer(RunId("a"), Offer(names=["second", "first"], listing='"of the slow one"'))
    assert pool.dispatcher.nodeids(RunId("a")) == ["first", "second"]
    entries, _ = pool.dispatcher.events(RunId("a"), after="0", wait_s=0)
    assert [entry for entry in entries if b"of the" in entry] == [b'"of the first"']
    assert not [key for key in pool.all_keys() if ":offer" in key]


def test_execution_waits_for_items(pool: Pool) -> None:
    """Who asks before the offer waits, and is told by mail."""
    pool.workers(2)
    jobs = pool.started("a", want=2)
    assert [pool.ask(job) for job in jobs] == [Wait(), Wait()]
    pool.dispatcher.offer(RunId("a"), Offer(names=["x", "y"]))
    assert [pool.word(job) for job in jobs] == ["items", "items"]
    assert [pool.take(job) for job in jobs] == [[0], [1]]


def test_offer_bounds_the_wish(pool: Pool) -> None:
    """A run with one item wishes for one slot; more executions than items leave."""
    pool.workers(3)
    first, second = pool.started("a", want=2)
    pool.dispatcher.offer(RunId("a"), Offer(names=["x"]))
    assert pool.dispatcher.queue().runs[0].want == 1
    assert pool.take(first) == [0]
    assert pool.ask(second) == Leave(reason="done")


def test_chunks_shrink_to_single_items(pool: Pool) -> None:
    """Guided self-scheduling: half of an even share of what is left, in collection order."""
    pool.workers(2)
    first, second = pool.started("a", 20, want=2)
    sizes, items = [], []
    job = first
    while isinstance(answer := pool.ask(job), Chunk):
        indexes = [index for index, _ in answer.items]
        sizes.append(len(indexes))
        items += indexes
        pool.report(job, indexes)
        job = second if job == first else first
    assert items == list(range(20))
    assert sizes == [5, 4, 3, 2, 2, 1, 1, 1, 1]


def test_chunk_has_a_thousand_items_at_most(pool: Pool) -> None:
    """However many there are: an answer stays small, and others get their turn."""
    pool.workers(2)
    first, second = pool.started("a", 10_000, want=2)
    assert pool.take(first) == list(range(1000))
    assert pool.take(second) == list(range(1000, 2000))


def test_single_hands_out_one_at_a_time(pool: Pool) -> None:
    """As -x needs."""
    pool.workers(1)
    (job,) = pool.started("a", 50, single=ALL)
    assert pool.take(job) == [0]


def test_the_first_ones_are_handed_out_one_at_a_time(pool: Pool) -> None:
    """Those that take long; a group among them goes to one execution nevertheless."""
    pool.workers(2)
    first, second = pool.started("a", groups=[1, 2, *[1] * 37], want=2, single=3)
    assert pool.take(first) == [0]
    assert pool.take(second) == [1]
    pool.report(second, [1])
    assert pool.take(second) == [2]
    pool.report(first, [0])
    assert pool.take(first) == list(range(3, 13))


def test_next_is_asked_before_the_last_item_runs(pool: Pool) -> None:
    """One item may be undone: pytest must know the next item before it; what is owed stays owed."""
    pool.workers(1)
    (job,) = pool.started("a", 8)
    assert pool.take(job) == [0, 1, 2, 3]
    with pytest.raises(OutOfOrder, match="owes 4 items"):
        pool.ask(job)
    pool.report(job, [0, 1, 2])
    assert pool.take(job) == [4, 5]
    pool.dispatcher.leave(job)
    (again,) = pool.jobs("a")
    pool.begin(again)
    assert pool.take(again) == [3, 4, 5]


def test_question_that_is_repeated_gets_the_same_answer(pool: Pool) -> None:
    """A reconnecting client sends a command twice: items and failures count once."""
    pool.workers(1)
    (job,) = pool.started("a", 8, maxfail=2)
    question: dict[str, Any] = {"job": job, "fresh": 1, "failed": 1, "nonce": "n"}
    answers = [pool.dispatcher._call("next", **question) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert [index for index, _ in answers[0]["items"]] == [0, 1, 2, 3]
    assert pool.dispatcher.keep(RunId("a")).state == "running"


def test_append_is_taken_once_and_in_order(pool: Pool) -> None:
    """A repeated append is ignored; a gap, or an item that is not the run's, is a fault and changes nothing."""
    pool.workers(1)
    (job,) = pool.started("a", 8)
    pool.take(job)
    assert pool.report(job, [0], seq=1) is None
    assert pool.report(job, [0], seq=1) is None
    with pytest.raises(OutOfOrder, match="sends 3 after 1"):
        pool.report(job, [1], seq=3)
    with pytest.raises(OutOfOrder, match="item 8"):
        pool.report(job, [8], seq=2)
    assert pool.report(job, [1], seq=2) is None
    assert pool.reported("a") == [0, 1]
    assert pool.dispatcher.keep(RunId("a")).done == 2


def test_last_item_ends_the_run(pool: Pool) -> None:
    """When all is reported, others are told to leave, and the last to leave ends the run."""
    pool.workers(2)
    first, second = pool.started("a", 2, want=2)
    pool.take(first)
    pool.take(second)
    assert pool.report(first, [0]) is None
    assert pool.ask(first) == Leave(reason="done")
    assert pool.report(second, [1]) == Leave(reason="done")
    assert pool.word(first) == "leave"
    assert pool.dispatcher.keep(RunId("a")).state == "stopping"
    pool.dispatcher.leave(first, b'{"t":"output"}\n')
    pool.dispatcher.leave(second)
    status = pool.dispatcher.keep(RunId("a"))
    assert (status.state, status.outcome, status.done, status.total) == ("ended", "finished", 2, 2)
    kinds = [event["t"] for event in pool.results("a")]
    assert kinds == ["begin", "begin", "result", "result", "output", "left", "left", "end"]
    assert pool.dispatcher.queue().runs == ()


def test_run_without_items_ends(pool: Pool) -> None:
    """Nothing to run is finished at once."""
    pool.workers(1)
    (job,) = pool.started("a")
    pool.dispatcher.offer(RunId("a"), Offer(names=[]))
    assert pool.ask(job) == Leave(reason="done")
    pool.dispatcher.leave(job)
    assert pool.dispatcher.keep(RunId("a")).outcome == "finished"


@pytest.mark.parametrize("carrier", ["append", "next"])
def test_maxfail_stops_handing_out(pool: Pool, carrier: str) -> None:
    """Past the limit nothing starts anywhere; what runs is reported."""
    pool.workers(2)
    first, second = pool.started("a", 9, want=2, maxfail=2, single=ALL)
    pool.take(first)
    pool.take(second)
    assert pool.report(first, [0], failed=1) is None
    if carrier == "append":
        assert pool.dispatcher.append(first, b"", seq=2, failed=1) == Leave(reason="stop")
    else:
        assert pool.dispatcher.next(first, fresh=False, failed=1) == Leave(reason="stop")
    assert pool.word(second) == "leave"
    assert pool.report(second, [1]) == Leave(reason="stop")
    pool.dispatcher.leave(first)
    pool.dispatcher.leave(second)
    status = pool.dispatcher.keep(RunId("a"))
    assert (status.state, status.outcome, status.done) == ("ended", "maxfail", 2)


def test_back_gives_the_rest_to_others_first(pool: Pool) -> None:
    """What was not done goes to the front, in order and in one piece."""
    pool.workers(2)
    first, second = pool.started("a", 16, want=2)
    assert pool.take(first) == [0, 1, 2, 3]
    pool.report(first, [0])
    assert pool.dispatcher.back(first)
    assert pool.client.lrange("sc:run:a:pending", 0, -1) == [b"1-15"]
    assert pool.take(second) == [1, 2, 3, 4]


def test_execution_that_leaves_costs_nothing(pool: Pool) -> None:
    """A run whose execution leaves before the end waits again at its old place, without a loss."""
    pool.workers(1)
    (job,) = pool.started("a", 8)
    pool.submit("b")
    assert pool.take(job) == [0, 1, 2, 3]
    assert pool.dispatcher.leave(job)
    assert pool.dispatcher.leave(job)
    assert (pool.held("a"), pool.held("b")) == (1, 0)
    (again,) = pool.jobs("a")
    assert again == "a-1-2"
    assert pool.begin(again).attempt == 2
    assert pool.take(again)[0] == 0
    assert not pool.dispatcher.leave(JobId("z-1-1"))


# Groups.


def test_groups_are_handed_out_whole(pool: Pool) -> None:
    """A chunk ends where a group ends: sooner than its share, or later when the first group is longer."""
    pool.workers(2)
    first, second = pool.started("a", groups=[3, 1, 4, 2, 1], want=2)
    assert pool.take(first) == [0, 1, 2]
    assert pool.take(second) == [3]
    pool.report(second, [3])
    assert pool.take(second) == [4, 5, 6, 7]
    pool.report(first, [0, 1])
    assert pool.take(first) == [8, 9]
    pool.report(first, [2, 8, 9])
    assert pool.take(first) == [10]


@pytest.mark.parametrize("single", [0, ALL])
def test_every_group_is_with_one_execution(pool: Pool, single: int) -> None:
    """Whatever their sizes, one that takes all and those beyond a chunk's limit included; and in order."""
    sizes = [1, 7, 9, 8, 16, 2, 1, 1, 33, 64, 1, 12 if single else 1200, 3]
    groups = [number for number, size in enumerate(sizes) for _ in range(size)]
    pool.workers(3)
    jobs = pool.started("a", groups=sizes, want=3, single=single)
    had: dict[int, list[tuple[int, str]]] = {}
    for job in itertools.cycle(jobs):
        if not isinstance(answer := pool.ask(job), Chunk):
            break
        assert len(answer.items) <= (1 if single else 1000)
        for index, _ in answer.items:
            had.setdefault(groups[index], []).append((index, job))
        pool.report(job, [index for index, _ in answer.items])
    for job in jobs:
        pool.finish(job)
    told = pool.reported("a")
    assert sorted(told) == list(range(len(groups)))
    for number, items in had.items():
        assert len({job for _, job in items}) == 1
        assert items == sorted(items)
        assert [index for index in told if groups[index] == number] == [n for n, g in enumerate(groups) if g == number]


def test_long_group_is_handed_out_in_parts(pool: Pool) -> None:
    """To the execution that has begun it, and to nobody else."""
    pool.workers(2)
    first, second = pool.started("a", groups=[2500, 1], want=2)
    assert pool.take(first) == list(range(1000))
    assert pool.take(second) == [2500]
    pool.report(second, [2500])
    assert pool.ask(second) == Leave(reason="done")
    pool.report(first, range(999))
    assert pool.take(first) == list(range(1000, 2000))
    pool.report(first, range(999, 2000))
    assert pool.take(first) == list(range(2000, 2500))


def test_single_items_of_a_group_go_to_who_has_begun_it(pool: Pool) -> None:
    """As -x needs, one at a time; another execution begins another group."""
    pool.workers(2)
    first, second = pool.started("a", groups=[3, 2], want=2, single=ALL)
    assert [pool.take(first), pool.take(second), pool.take(first), pool.take(second)] == [[0], [3], [1], [4]]
    pool.report(second, [3, 4])
    assert pool.ask(second) == Leave(reason="done")
    pool.report(first, [0])
    assert pool.take(first) == [2]


def test_maxfail_stops_a_group_in_its_middle(pool: Pool) -> None:
    """Nothing is started any more, not even what is bound to an execution."""
    pool.workers(2)
    first, second = pool.started("a", groups=[3, 3], want=2, single=ALL, maxfail=1)
    assert [pool.take(first), pool.take(second)] == [[0], [3]]
    assert pool.report(first, [0], failed=1) == Leave(reason="stop")
    assert pool.ask(second) == Leave(reason="stop")


def test_run_wishes_for_no_more_executions_than_groups(pool: Pool) -> None:
    """More would have nothing to do."""
    pool.workers(4)
    pool.dispatcher.pause(on=True)
    pool.started("a", groups=[5, 5, 1], want=4)
    pool.dispatcher.pause(on=False)
    assert (pool.held("a"), pool.dispatcher.queue().runs[0].want) == (3, 3)


@pytest.mark.parametrize("how", ["lapse", "back", "leave"])
def test_rest_of_a_group_goes_elsewhere_as_a_whole(pool: Pool, how: str) -> None:
    """When its execution is lost, its process ends, or it leaves: who comes next gets all that is left."""
    pool.workers(3)
    first, second, _ = pool.started("a", groups=[1, 1500, 1], want=3)
    assert pool.take(first) == [0]
    assert pool.take(first) == list(range(1, 1001))
    pool.report(first, [0, 1, 2])
    getattr(pool.dispatcher, how)(first)
    assert pool.take(second) == list(range(3, 1003))
    pool.report(second, range(3, 1003))
    assert pool.take(second) == list(range(1003, 1501))


@pytest.mark.parametrize("single", [0, ALL])
def test_group_waits_for_its_item_that_crashed(pool: Pool, single: int) -> None:
    """The item first, alone; nobody else has the rest meanwhile, whoever has the item."""
    pool.workers(2)
    first, second = pool.started("a", groups=[4, 1], want=2, single=single)
    pool.take(first)
    pool.take(second)
    pool.report(first, [0])
    if single:
        assert pool.take(first) == [1]
    assert pool.dispatcher.crash(first, seq=2, idx=1).again
    pool.report(second, [4])
    assert pool.ask(second) == Recycle()
    assert pool.take(second, fresh=True) == [1]
    assert pool.ask(first, fresh=True) == Leave(reason="done")
    assert pool.ask(second) == Recycle()
    pool.report(second, [1])
    pool.dispatcher.back(second)
    assert pool.take(first, fresh=True) == ([2] if single else [2, 3])


def test_only_its_group_waits_for_an_item_that_crashed(pool: Pool) -> None:
    """Not what its execution was given after it, and somebody else had given back."""
    pool.workers(2)
    first, second = pool.started("a", groups=[1] * 16, want=2)
    assert [pool.take(first), pool.take(second)] == [[0, 1, 2, 3], [4, 5, 6]]
    pool.report(second, [4, 5])
    pool.dispatcher.back(first)
    assert pool.take(second) == [0, 1, 2, 3]
    assert pool.dispatcher.crash(second, seq=2, idx=6).again
    assert pool.take(first) == [0, 1, 2, 3]


@pytest.mark.parametrize("how", ["back", "lapse"])
def test_group_of_a_lonely_item_stays_with_it(pool: Pool, how: str) -> None:
    """Given back or lost, the item is still to be tried alone, before what follows of its group."""
    pool.workers(2)
    first, second = pool.started("a", groups=[3, 2], want=2)
    pool.take(first)
    pool.dispatcher.crash(first, seq=1, idx=0)
    assert pool.take(first, fresh=True) == [0]
    getattr(pool.dispatcher, how)(first)
    assert pool.take(second) == [3, 4]
    pool.report(second, [3, 4])
    assert pool.ask(second) == Recycle()
    assert pool.take(second, fresh=True) == [0]


def test_group_goes_on_when_an_item_has_crashed_for_good(pool: Pool) -> None:
    """The second crash is reported; the rest is run."""
    pool.workers(1)
    (job,) = pool.started("a", groups=[3])
    pool.take(job)
    pool.dispatcher.crash(job, seq=1, idx=0)
    pool.take(job, fresh=True)
    assert not pool.dispatcher.crash(job, seq=2, idx=0).again
    assert pool.take(job, fresh=True) == [1, 2]


def test_group_with_a_hole_stays_whole(pool: Pool) -> None:
    """An item reported ahead of its turn, as one that the worker did not collect, splits nothing."""
    pool.workers(2)
    first, second = pool.started("a", groups=[6], want=2)
    assert pool.take(first) == [0, 1, 2, 3, 4, 5]
    pool.report(first, [3])
    pool.dispatcher.back(first)
    assert pool.client.lrange("sc:run:a:pending", 0, -1) == [b"0-2", b"4-5"]
    assert pool.take(second) == [0, 1, 2]
    assert pool.ask(first) == Leave(reason="done")
    pool.report(second, [0, 1])
    assert pool.take(second) == [4, 5]


def test_slot_is_yielded_at_the_end_of_a_group(pool: Pool) -> None:
    """What is bound to the execution is handed out first."""
    pool.workers(2)
    first, second = pool.started("a", groups=[2, 3, 1, 1], want=2, single=ALL)
    assert [pool.take(first), pool.take(second)] == [[0], [2]]
    pool.submit("b")
    assert pool.word(second) == "yield"
    assert pool.report(second, [2]) == Leave(reason="yield")
    assert [pool.take(second), pool.take(second)] == [[3], [4]]
    pool.report(second, [3, 4])
    assert pool.ask(second) == Leave(reason="yield")


# Concurrency groups.


def waits_for(pool: Pool, run: str) -> tuple[str, int]:
    """The group in which a run waits for its turn, and its place."""
    status = pool.dispatcher.look(RunId(run))
    return status.waits_for, status.position


def test_runs_of_a_group_take_turns(pool: Pool) -> None:
    """With slots and workers to spare: one after the other, in rank order."""
    pool.workers(5)
    (job,) = pool.started("a", 1, concurrency="main")
    admission = pool.dispatcher.submit(RunRequest(run_id=RunId("b"), concurrency="main"))
    assert (admission.state, admission.waits_for, admission.position, admission.eta_s) == ("queued", "main", 1, None)
    pool.submit("c", concurrency="main")
    pool.submit("d", concurrency="main", priority="high")
    assert [waits_for(pool, run) for run in "abcd"] == [("", 0), ("main", 2), ("main", 3), ("main", 1)]
    pool.finish(job)
    assert [pool.held(run) for run in "bcd"] == [0, 0, 1]
    pool.dispatcher.priority(RunId("c"), priority="high")
    assert [waits_for(pool, run) for run in "bc"] == [("main", 2), ("main", 1)]


def test_limit_of_a_group(pool: Pool) -> None:
    """So many at a time; where runs differ, the smallest limit of those that have not ended."""
    pool.workers(5)
    for run in "ab":
        pool.started(run, 1, concurrency="main", concurrency_limit=2)
    assert [pool.submit("c", concurrency="main", concurrency_limit=1)] == [0]
    assert pool.submit("d", concurrency="main", concurrency_limit=4) == 0
    pool.finish(pool.jobs("a")[0])
    assert [pool.held(run) for run in "bcd"] == [1, 0, 0]
    pool.dispatcher.cancel(RunId("c"), outcome="cancelled", how="leave")
    assert [pool.held(run) for run in "bd"] == [1, 1]


def test_groups_of_projects_are_their_own(pool: Pool) -> None:
    """The same name in another project, and another name in the same, are other groups."""
    pool.workers(5)
    assert pool.submit("a", project="p", concurrency="main") == 1
    assert pool.submit("b", project="q", concurrency="main") == 1
    assert pool.submit("c", project="p", concurrency="release/1.0") == 1
    assert pool.submit("d", project="p") == 1


@pytest.mark.parametrize("end", ["cancelled", "withdrawn", "lapsed", "fatal"])
def test_run_that_ends_frees_its_turn_at_once(pool: Pool, end: str) -> None:
    """However it ends, when its last execution has left."""
    pool.workers(5)
    (job,) = pool.started("a", 1, concurrency="main")
    pool.submit("b", concurrency="main")
    if end == "fatal":
        pool.dispatcher.fatal(job, "no")
    elif end == "lapsed":
        pool.now_ms += LEASE_MS - 1
        pool.renew_all(but=["a"])
        pool.now_ms += 1
        pool.dispatcher.tick()
    else:
        pool.dispatcher.cancel(RunId("a"), outcome=end, how="kill")
    if end != "fatal":
        assert pool.held("b") == 0, "an execution of the other still runs"
        pool.dispatcher.leave(job)
    assert pool.held("b") == 1


def test_run_that_lost_its_slots_keeps_its_turn(pool: Pool) -> None:
    """Also against those of the group that rank before it."""
    pool.workers(5)
    (job,) = pool.started("a", 2, concurrency="main")
    pool.submit("b", concurrency="main", priority="high")
    pool.dispatcher.lapse(job)
    assert (pool.held("a"), pool.held("b")) == (0, 0)
    assert [waits_for(pool, run) for run in "ab"] == [("", 1), ("main", 1)]
    pool.forward(2)
    assert (pool.held("a"), pool.held("b")) == (1, 0)


def test_turn_goes_to_who_ranks_first_until_its_first_slot(pool: Pool) -> None:
    """While nobody of the group has a slot, rank decides whose turn it is."""
    pool.submit("a", concurrency="main")
    assert waits_for(pool, "a") == ("", 1)
    pool.submit("b", concurrency="main", priority="high")
    assert [waits_for(pool, run) for run in "ab"] == [("main", 1), ("", 1)]
    pool.workers(2)
    assert [pool.held(run) for run in "ab"] == [0, 1]


def test_new_run_supersedes_the_oldest(pool: Pool) -> None:
    """With cancel_in_progress: running ones, waiting ones, until no more than the limit are left."""
    pool.workers(4)
    for run in "ab":
        pool.started(run, 3, concurrency="main", concurrency_limit=2)
    assert [pool.submit(run, concurrency="main", concurrency_limit=2) for run in "cd"] == [0, 0]
    assert pool.submit("e", concurrency="main", concurrency_limit=2, cancel_in_progress=True) == 0
    a, b, c, d, e = (pool.dispatcher.look(RunId(run)) for run in "abcde")
    assert {(run.outcome, run.message) for run in (a, b, c)} == {("cancelled", "superseded by run e")}
    assert [run.state for run in (a, b, c, d, e)] == ["stopping", "stopping", "ended", "waiting", "waiting"]
    assert (pool.word("a-1-1"), pool.word("b-1-1")) == ("interrupt", "interrupt")
    pool.dispatcher.leave(JobId("b-1-1"))
    assert [pool.held(run) for run in "de"] == [1, 0]
    pool.dispatcher.leave(JobId("a-1-1"))
    assert [pool.held(run) for run in "de"] == [1, 1]
    pool.submit("f", concurrency="main", concurrency_limit=2, cancel_in_progress=True)
    assert [pool.dispatcher.look(RunId(run)).state for run in "def"] == ["ended", "running", "running"]


def test_execution_that_has_not_begun_is_superseded_at_once(pool: Pool) -> None:
    """Its slot goes to the newcomer in the same instant."""
    pool.workers(1)
    pool.submit("a", concurrency="main", detached=True)
    assert pool.submit("b", concurrency="main", cancel_in_progress=True) == 1
    assert pool.results("a")[-1]["message"] == "superseded by run b"


def test_repeated_submission_supersedes_nobody(pool: Pool) -> None:
    """A client that lost the answer does not stop those that have come since."""
    pool.workers(1)
    pool.submit("a", concurrency="main", cancel_in_progress=True)
    pool.submit("b", concurrency="main")
    pool.submit("a", concurrency="main", cancel_in_progress=True)
    assert pool.dispatcher.look(RunId("b")).state == "waiting"


def test_run_that_supersedes_is_not_refused(pool: Pool) -> None:
    """It has the room of those whose place it takes; one that does not is refused, and stops nobody."""
    pool.workers(1)
    pool.dispatcher.limits(running=1, queued=1)
    pool.started("a", 1, concurrency="main")
    pool.submit("b", concurrency="main")
    with pytest.raises(QueueFull):
        pool.submit("c", concurrency="other", cancel_in_progress=True)
    assert pool.submit("d", concurrency="main", cancel_in_progress=True) == 0
    assert [row.run for row in pool.dispatcher.queue().runs] == ["a", "d"]


def test_smaller_limit_takes_turns_back_that_have_not_begun(pool: Pool) -> None:
    """Those that rank behind wait again."""
    for run in "ab":
        pool.submit(run, concurrency="main", concurrency_limit=2)
    assert [waits_for(pool, run) for run in "ab"] == [("", 1), ("", 2)]
    pool.submit("c", concurrency="main")
    assert [waits_for(pool, run) for run in "abc"] == [("", 1), ("main", 1), ("main", 2)]


def test_run_that_is_refused_costs_nobody_a_turn(pool: Pool) -> None:
    """Its limit counts for nothing: who has its turn without it gets the slot that is free."""
    pool.workers(2)
    pool.dispatcher.limits(running=2, queued=1)
    pool.started("a", 2, concurrency="main", concurrency_limit=2)
    (lost,) = pool.started("b", 2)
    pool.submit("c", concurrency="main", concurrency_limit=2)
    pool.now_ms += LEASE_MS
    pool.renew_all(but=[lost])
    with pytest.raises(QueueFull):
        pool.submit("d", concurrency="main")
    assert len(pool.jobs("c")) == 1


def test_who_waits_for_a_group_is_in_nobodys_way(pool: Pool) -> None:
    """It takes no slot, blocks no lane, has no place among those that wait for slots, and nobody yields to it."""
    pool.workers(3)
    pool.dispatcher.limits(running=3)
    pool.started("a", 9, concurrency="main", want=2)
    pool.submit("b", concurrency="main", priority="high")
    assert pool.client.scard("sc:leaving") == 0
    assert pool.submit("c") == 1
    assert pool.submit("d") == 0
    assert pool.dispatcher.look(RunId("d")).position == 1
    rows = [(row.run, row.position, row.waits_for) for row in pool.dispatcher.queue().runs]
    assert rows == [("a", 0, ""), ("c", 0, ""), ("d", 1, ""), ("b", 1, "main")]
    assert pool.client.hget(f"sc:exec:{pool.jobs('a')[1]}", "leaving_for") == b"d"


def test_who_waits_for_a_group_counts_as_queued(pool: Pool) -> None:
    """However many slots are free; and these are still there for others."""
    pool.dispatcher.limits(running=3, queued=2)
    pool.dispatcher.limits(project="p", queued=1)
    for run in "abc":
        pool.submit(run, concurrency="main")
    figures = pool.dispatcher.queue().figures
    assert (figures.waiting, figures.queued) == (3, 2)
    with pytest.raises(QueueFull):
        pool.submit("d", concurrency="main")
    assert [pool.submit("e"), pool.submit("f")] == [0, 0], "slots for which workers are missing"
    assert pool.dispatcher.queue().figures.queued == 2
    with pytest.raises(QueueFull):
        pool.submit("g")


def test_expired_runs_leave_their_group(pool: Pool) -> None:
    """One of which nothing is left does not keep the others waiting, whether it had its turn or not."""
    pool.submit("a", concurrency="main", detached=True)
    pool.submit("b", concurrency="main", detached=True)
    pool.submit("c", concurrency="main", detached=True)
    pool.client.delete("sc:run:a", "sc:run:b")
    assert waits_for(pool, "c") == ("main", 2)
    pool.forward(LEASE_MS / 1000, alive=False)
    pool.workers(1)
    assert pool.held("c") == 1
    assert pool.dispatcher.queue().figures.waiting == 0


def test_expired_run_whose_turn_comes_is_queued_no_more(pool: Pool) -> None:
    """Whoever finds first that nothing is left of it."""
    for run in "abc":
        pool.submit(run, concurrency="main", detached=True)
    pool.client.delete("sc:run:b")
    pool.dispatcher.cancel(RunId("a"), outcome="cancelled", how="kill", message="")
    assert pool.dispatcher.queue().figures.queued == 0
    pool.workers(1)
    assert pool.held("c") == 1


def test_details_have_the_group(pool: Pool) -> None:
    """For who runs it once more."""
    pool.submit("a", concurrency="main", concurrency_limit=3)
    details = pool.dispatcher.details(RunId("a"))
    assert details is not None
    assert (details.concurrency, details.concurrency_limit) == ("main", 3)


# Crashes.


def test_item_that_crashed_is_tried_once_more_alone(pool: Pool) -> None:
    """First crash: alone, in a fresh child, on whoever asks. The rest of the chunk goes back."""
    pool.workers(1)
    (job,) = pool.started("a", 8)
    assert pool.take(job) == [0, 1, 2, 3]
    pool.report(job, [0])
    assert pool.dispatcher.crash(job, seq=2, idx=1, post_mortem=b"{}") == Crashed(again=True, gone=False)
    answer = pool.ask(job, fresh=True)
    assert isinstance(answer, Chunk)
    assert answer.alone
    assert [index for index, _ in answer.items] == [1]
    assert pool.ask(job) == Recycle()
    pool.report(job, [1])
    assert pool.take(job) == [2, 3, 4]


def test_child_that_is_not_fresh_leaves_the_lonely_item_for_later(pool: Pool) -> None:
    """It gets what else there is, then has to end for a fresh one."""
    pool.workers(1)
    (job,) = pool.started("a", 2, single=ALL)
    pool.take(job)
    pool.dispatcher.crash(job, seq=1, idx=0)
    assert pool.take(job) == [1]
    pool.report(job, [1])
    assert pool.ask(job) == Recycle()
    assert pool.take(job, fresh=True) == [0]
    assert pool.ask(job) == Leave(reason="done")


def test_second_crash_is_reported_with_a_post_mortem(pool: Pool) -> None:
    """The item is done and counts as a failure."""
    pool.workers(1)
    (job,) = pool.started("a", 2, maxfail=1)
    pool.take(job)
    pool.dispatcher.crash(job, seq=1, idx=0)
    assert pool.take(job, fresh=True) == [0]
    assert pool.dispatcher.crash(job, seq=2, idx=0, post_mortem=b'{"signal":11}') == Crashed(again=False, gone=False)
    assert pool.dispatcher.crash(job, seq=2, idx=0, post_mortem=b'{"signal":11}') == Crashed(again=False, gone=False)
    (event,) = [event for event in pool.results("a") if event["t"] == "crash"]
    assert event == {"t": "crash", "at": pool.now_ms, "i": 0, "n": 1, "job": job, "pm": {"signal": 11}}
    assert pool.ask(job) == Leave(reason="stop")
    assert pool.dispatcher.keep(RunId("a")).outcome == "maxfail"


def test_crash_of_the_last_item_ends_the_run(pool: Pool) -> None:
    """A reported crash is a result like any other."""
    pool.workers(1)
    (job,) = pool.started("a", 1)
    for seq in (1, 2):
        pool.take(job, fresh=True)
        pool.dispatcher.crash(job, seq=seq, idx=0)
    pool.dispatcher.leave(job)
    assert pool.dispatcher.keep(RunId("a")).outcome == "finished"


def test_repeated_crash_report_counts_once(pool: Pool) -> None:
    """By its number, which it shares with append; the answer is the same."""
    pool.workers(1)
    (job,) = pool.started("a", 4)
    pool.take(job)
    for _ in range(3):
        assert pool.dispatcher.crash(job, seq=1, idx=0) == Crashed(again=True, gone=False)
    with pytest.raises(OutOfOrder):
        pool.dispatcher.crash(job, seq=3, idx=0)
    assert pool.take(job, fresh=True) == [0]


@pytest.mark.parametrize("idx", [-1, 0, 7])
def test_crash_between_tests_charges_nobody(pool: Pool, idx: int) -> None:
    """With no test running, or one that is reported or not held, the chunk goes back and that is all."""
    pool.workers(1)
    (job,) = pool.started("a", 8)
    pool.take(job)
    pool.report(job, [0])
    crashed = pool.dispatcher.crash(job, seq=2, idx=idx)
    assert not crashed.gone
    assert pool.take(job, fresh=True)[0] == 1


def test_lonely_item_survives_its_execution(pool: Pool) -> None:
    """Lost or given back, it is still to be tried alone."""
    pool.workers(1)
    (job,) = pool.started("a", 4)
    pool.take(job)
    pool.dispatcher.crash(job, seq=1, idx=0)
    pool.take(job, fresh=True)
    pool.dispatcher.back(job)
    assert pool.take(job, fresh=True) == [0]
    pool.dispatcher.lapse(job)
    pool.forward(2)
    (again,) = pool.jobs("a")
    pool.begin(again)
    answer = pool.ask(again, fresh=True)
    assert isinstance(answer, Chunk)
    assert answer.alone


def test_lonely_item_is_run_with_nothing_after_it(pool: Pool) -> None:
    """Its child gets no next item, even while others are pending."""
    pool.workers(1)
    (job,) = pool.started("a", 4)
    pool.take(job)
    pool.dispatcher.crash(job, seq=1, idx=0)
    assert pool.take(job, fresh=True) == [0]
    assert pool.ask(job) == Recycle()


# Losses.


def test_lost_slot_is_wished_for_again_after_2_4_8_seconds(pool: Pool) -> None:
    """Without progress between, the fourth loss ends the wish, and with it this run: outcome lost."""
    pool.workers(1)
    pool.started("a", 4)
    for delay in (2, 4, 8):
        (job,) = pool.jobs("a")
        pool.dispatcher.lapse(job)
        pool.forward(delay - 0.001)
        assert (pool.held("a"), pool.dispatcher.keep(RunId("a")).state) == (0, "waiting")
        pool.forward(0.001)
        assert pool.held("a") == 1
    pool.dispatcher.lapse(pool.jobs("a")[0])
    status = pool.dispatcher.keep(RunId("a"))
    assert (status.state, status.outcome) == ("ended", "lost")
    assert pool.results("a")[-1]["t"] == "end"


def test_progress_forgives_losses(pool: Pool) -> None:
    """Any appended result starts the count again."""
    pool.workers(1)
    pool.started("a", 40, single=ALL)
    for index in range(6):
        (job,) = pool.jobs("a")
        pool.begin(job)
        assert pool.take(job) == [index]
        pool.report(job, [index])
        pool.dispatcher.lapse(job)
        pool.forward(2)
        assert pool.held("a") == 1


def test_fourth_loss_costs_a_run_with_other_slots_one_wish(pool: Pool) -> None:
    """It goes on with what it has."""
    pool.workers(5)
    jobs = pool.started("a", 100, want=5)
    for job in jobs[:4]:
        pool.dispatcher.lapse(job)
    pool.forward(8)
    assert pool.held("a") == 4
    assert pool.dispatcher.queue().runs[0].want == 4


def test_lapsed_execution_is_reaped_by_any_call(pool: Pool) -> None:
    """Its chunk goes back to the front; whatever it says later is refused and written nowhere."""
    pool.workers(2)
    (job,) = pool.started("a", 8)
    pool.take(job)
    pool.report(job, [0])
    pool.now_ms += LEASE_MS
    pool.renew_all(but=[job])
    pool.dispatcher.tick()
    assert pool.report(job, [1]) == Gone()
    assert pool.ask(job) == Gone()
    assert not pool.dispatcher.renew(job)
    assert not pool.dispatcher.back(job)
    assert not pool.dispatcher.leave(job, b'{"t":"output"}\n')
    assert pool.dispatcher.crash(job, seq=9, idx=1) == Crashed(again=False, gone=True)
    assert pool.dispatcher.begin(job, worker="h-1") is None
    assert pool.word(job) == "kill"
    assert [event["t"] for event in pool.results("a")] == ["begin", "result"]
    pool.forward(2)
    (again,) = pool.jobs("a")
    assert pool.worker_of(again) == "h-2"
    pool.begin(again)
    assert pool.take(again)[0] == 1


@pytest.mark.parametrize("how", ["renew", "beat", "begin"])
def test_renewed_lease_does_not_lapse(pool: Pool, how: str) -> None:
    """15 seconds from the last renewal, by itself or by its host."""
    pool.workers(1)
    (job,) = pool.started("a")
    renew: dict[str, Callable[[], object]] = {
        "renew": lambda: pool.dispatcher.renew(job),
        "beat": lambda: pool.dispatcher.beat([], jobs=[job]),
        "begin": lambda: pool.begin(job),
    }
    pool.now_ms += LEASE_MS - 1
    pool.renew_all(but=[job])
    renew[how]()
    pool.now_ms += LEASE_MS - 1
    pool.renew_all(but=[job])
    assert pool.held("a") == 1
    pool.now_ms += 1
    assert pool.held("a") == 0


def test_item_that_was_running_at_three_losses_is_reported(pool: Pool) -> None:
    """A test that kills hosts is reported as failed; the run goes on without it."""
    pool.workers(1)
    pool.started("a", 4, single=ALL)
    for delay in (2, 4, 8):
        (job,) = pool.jobs("a")
        pool.begin(job)
        assert pool.take(job, fresh=True) == [0]
        pool.dispatcher.lapse(job)
        pool.forward(delay)
    (event,) = [event for event in pool.results("a") if event["t"] == "crash"]
    assert event["pm"] == {"reason": "lost", "host": "h", "losses": 3}
    (job,) = pool.jobs("a")
    pool.begin(job)
    assert pool.take(job) == [1]


def test_last_item_reported_as_lost_finishes_the_run(pool: Pool) -> None:
    """A run with nothing left to do does not wait for another slot."""
    pool.workers(1)
    pool.started("a", 1)
    for delay in (2, 4, 8):
        (job,) = pool.jobs("a")
        pool.begin(job)
        pool.take(job, fresh=True)
        pool.dispatcher.lapse(job)
        pool.forward(delay)
    status = pool.dispatcher.keep(RunId("a"))
    assert (status.state, status.outcome, status.done) == ("ended", "finished", 1)


def test_promoted_execution_that_nobody_starts_is_promoted_again(pool: Pool) -> None:
    """Whoever should have enqueued it died: its lease lapses, and another worker is asked first."""
    pool.workers(2)
    pool.submit("a")
    worker = pool.worker_of("a-1-1")
    pool.now_ms += LEASE_MS
    pool.renew_all(but=["a-1-1"])
    pool.dispatcher.tick()
    pool.forward(2)
    (again,) = pool.jobs("a")
    assert (again, pool.worker_of(again) != worker) == ("a-1-2", True)


def test_dead_worker_is_forgotten_with_what_it_had_not_begun(pool: Pool) -> None:
    """What it had begun has a lease of its own; what it had not is promoted elsewhere."""
    pool.workers(2)
    pool.submit("a", want=2)
    first, second = pool.jobs("a")
    pool.begin(first)
    pool.now_ms += LEASE_MS
    pool.renew_all(but=["h-1", "h-2"])
    assert pool.dispatcher.queue().figures.workers == 0
    assert pool.jobs("a") == [first]
    assert pool.dispatcher.begin(second, worker="h-2") is None
    assert pool.dispatcher.beat(["h-1", "h-2"]) == ("h-1", "h-2")


def test_dead_worker_leaves_nothing_in_rq(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its queue, nor what it was at, nor that it was there; only what expires by itself."""
    (name,) = pool.workers(1)
    monkeypatch.setattr(PoolJob, "home", queue_name(name))
    queue = Queue(PoolJob.home, connection=pool.client, serializer=JSONSerializer, job_class=PoolJob)
    worker: Any = Worker([queue], name=name, connection=pool.client, serializer=JSONSerializer, job_class=PoolJob)
    worker.register_birth()
    (job,) = pool.started("a")
    taken = worker.dequeue_job_and_maintain_ttl(timeout=None)
    worker.prepare_execution(taken[0])
    assert pool.client.exists(f"rq:wip:{queue.name}", f"rq:workers:{queue.name}", f"rq:job:{job}") == 3
    pool.client.rpush(f"rq:queue:{queue.name}", "of a run that is gone")
    pool.forward(LEASE_MS / 1000, alive=False)
    assert pool.dispatcher.queue().figures.workers == 0
    assert pool.client.smembers("rq:workers") == pool.client.smembers("rq:queues") == set()
    keys = [key.decode() for key in pool.client.scan_iter("rq:*")]
    assert [key for key in keys if pool.client.pttl(key) < 0] == []


def test_run_that_lost_its_last_slot_keeps_its_age_and_is_never_refused(pool: Pool) -> None:
    """It waits before younger ones, even over the queue's capacity."""
    pool.workers(1)
    pool.dispatcher.limits(running=1, queued=1)
    pool.started("a")
    pool.submit("b")
    pool.dispatcher.pause(on=True)
    pool.dispatcher.lapse(JobId("a-1-1"))
    pool.forward(2)
    assert pool.dispatcher.keep(RunId("a")).position == 1
    figures = pool.dispatcher.queue().figures
    assert (figures.waiting, figures.queued) == (2, 1)
    with pytest.raises(QueueFull):
        pool.submit("c")
    pool.dispatcher.pause(on=False)
    assert (pool.held("a"), pool.held("b")) == (1, 0)


def test_lost_controller_ends_its_run(pool: Pool) -> None:
    """Nobody asks for 15 seconds: abandoned, everything killed; a detached run goes on."""
    pool.workers(2)
    (job,) = pool.started("a", 4)
    pool.started("b", 4, detached=True)
    pool.submit("c")
    pool.now_ms += LEASE_MS
    pool.renew_all(but=["a", "c"])
    pool.dispatcher.tick()
    assert pool.word(job) == "kill"
    assert pool.dispatcher.keep(RunId("c")).outcome == "abandoned"
    assert pool.ask(job) == Leave(reason="stop")
    pool.dispatcher.leave(job)
    assert pool.dispatcher.keep(RunId("a")).outcome == "abandoned"
    assert pool.dispatcher.keep(RunId("b")).state == "running"


def test_slot_of_an_evicted_execution_does_not_leak(pool: Pool) -> None:
    """A server that throws keys away costs a run, not a slot."""
    pool.workers(2)
    pool.submit("a")
    pool.submit("b", project="q")
    pool.client.delete("sc:exec:a-1-1", "sc:run:b")
    pool.now_ms += LEASE_MS
    pool.renew_all(but=["a-1-1", "b-1-1"])
    pool.dispatcher.tick()
    assert pool.dispatcher.queue().figures.running == 0
    assert not [key for key in pool.all_keys() if key.startswith("sc:held")]


def test_expired_run_leaves_the_queue(pool: Pool) -> None:
    """A waiting run whose keys have gone is dropped when its turn comes."""
    pool.submit("a")
    pool.submit("b")
    pool.client.delete("sc:run:a")
    pool.workers(1)
    assert pool.held("b") == 1
    assert pool.dispatcher.queue().figures.waiting == 0


# Yield.


def test_greedy_run_gives_a_slot_to_one_that_waits(pool: Pool) -> None:
    """At its next test boundary; its undone items stay the run's."""
    pool.workers(2)
    first, second = pool.started("a", 8, want=2)
    assert pool.take(second) == [0, 1]
    pool.submit("b")
    assert pool.word(second) == "yield"
    assert pool.word(first) is None
    assert pool.report(second, [0]) == Leave(reason="yield")
    assert pool.ask(second) == Leave(reason="yield")
    pool.dispatcher.leave(second)
    assert (pool.held("a"), pool.held("b")) == (1, 1)
    pool.begin(pool.jobs("b")[0])
    assert pool.take(first)[0] == 1


def test_no_more_leave_than_wait(pool: Pool) -> None:
    """One slot for each run that waits, however many calls are made meanwhile; one always stays."""
    pool.workers(4)
    jobs = pool.started("a", want=4)
    pool.submit("b", want=4)
    for _ in range(3):
        pool.dispatcher.tick()
    assert [pool.word(job) for job in jobs] == [None, None, None, "yield"]
    for run in "cdef":
        pool.submit(run)
    assert [pool.word(job) for job in jobs] == [None, "yield", "yield", None]


def test_one_slot_always_stays(pool: Pool) -> None:
    """However many wait at once."""
    pool.workers(2)
    jobs = pool.started("a", want=2)
    pool.dispatcher.pause(on=True)
    for run in "bcd":
        pool.submit(run, project=run)
    pool.dispatcher.pause(on=False)
    assert [pool.word(job) for job in jobs] == [None, "yield"]


def test_run_that_holds_most_gives(pool: Pool) -> None:
    """Among runs of no higher priority."""
    pool.workers(5)
    a_jobs = pool.started("a", want=2, priority="low")
    b_jobs = pool.started("b", want=3)
    pool.submit("c")
    assert [pool.word(job) for job in a_jobs + b_jobs] == [None, None, None, None, "yield"]
    pool.submit("d", priority="low")
    assert [pool.word(job) for job in a_jobs + b_jobs] == [None, "yield", None, None, None]


def test_higher_priority_does_not_yield(pool: Pool) -> None:
    """A run waits for runs above it."""
    pool.workers(2)
    jobs = pool.started("a", want=2, priority="high")
    pool.submit("b")
    assert [pool.word(job) for job in jobs] == [None, None]
    pool.dispatcher.priority(RunId("b"), priority="high")
    assert [pool.word(job) for job in jobs] == [None, "yield"]


@pytest.mark.parametrize("reason", ["paused", "single slots", "project full"])
def test_nobody_yields_in_vain(pool: Pool, reason: str) -> None:
    """A slot is given back only if who waits can use it."""
    pool.workers(2)
    if reason == "project full":
        pool.dispatcher.limits(project="q", running=0)
    jobs = pool.started("a") + pool.started("b") if reason == "single slots" else pool.started("a", want=2)
    if reason == "paused":
        pool.dispatcher.pause(on=True)
    pool.submit("c", project="q")
    assert [pool.word(job) for job in jobs] == [None, None]


def test_full_project_yields_to_itself(pool: Pool) -> None:
    """At its limit, a project's waiting run gets a slot of the same project's, not of another that holds more."""
    pool.workers(5)
    pool.dispatcher.limits(project="p", running=2)
    p_jobs = pool.started("a", want=2, project="p")
    q_jobs = pool.started("b", want=3, project="q")
    pool.submit("c", project="p")
    assert [pool.word(job) for job in p_jobs + q_jobs] == [None, "yield", None, None, None]


def test_blocked_runs_hide_nobody(pool: Pool) -> None:
    """A project that may not run more stands before in rank; who stands behind gets the slot, and one slot only."""
    pool.workers(3)
    pool.dispatcher.limits(project="p", running=0)
    for n in range(5):
        pool.submit(f"p{n}", project="p")
    jobs = pool.started("a", want=3)
    pool.submit("b")
    pool.dispatcher.tick()
    assert [pool.word(job) for job in jobs] == [None, None, "yield"]


def test_yielding_worker_must_suit_the_waiter(pool: Pool) -> None:
    """The execution that goes is one whose worker has the labels."""
    pool.workers(1, host="gpu", labels=["gpu"])
    pool.workers(1, host="plain")
    jobs = pool.started("a", want=2)
    workers = [pool.worker_of(job) for job in jobs]
    pool.submit("b", labels=("gpu",))
    assert [pool.word(job) for job in jobs] == ["yield" if worker == "gpu-1" else None for worker in workers]
    pool.submit("c", labels=("none",))
    assert [pool.word(job) for job in jobs] == [None, None]


# Cancel, fatal, quit.


def test_waiting_run_is_cancelled_at_once(pool: Pool) -> None:
    """Nothing holds it up."""
    pool.submit("a")
    status = pool.dispatcher.cancel(RunId("a"), outcome="cancelled", how="leave", message="by hand")
    assert (status.state, status.outcome, status.message) == ("ended", "cancelled", "by hand")
    assert pool.results("a") == [{"t": "end", "at": pool.now_ms, "outcome": "cancelled", "message": "by hand"}]
    assert pool.dispatcher.queue().figures.waiting == 0
    assert pool.dispatcher.cancel(RunId("z"), outcome="cancelled", how="leave").state == "gone"


def test_running_run_ends_with_its_last_execution(pool: Pool) -> None:
    """Everybody is told how to go; a stronger word may follow; the first outcome stays."""
    pool.workers(3)
    pool.submit("a", want=3)
    first, second, third = pool.jobs("a")
    pool.begin(first)
    pool.begin(second)
    status = pool.dispatcher.cancel(RunId("a"), outcome="interrupted", how="interrupt")
    assert (status.state, status.held) == ("stopping", 2)
    assert pool.dispatcher.begin(third, worker="h-3") is None
    pool.dispatcher.cancel(RunId("a"), outcome="cancelled", how="kill")
    assert [pool.word(first), pool.word(first), pool.word(first)] == ["kill", "interrupt", None]
    assert pool.ask(first) == Leave(reason="stop")
    pool.dispatcher.leave(first)
    pool.dispatcher.lapse(second)
    status = pool.dispatcher.keep(RunId("a"))
    assert (status.state, status.outcome) == ("ended", "interrupted")
    assert pool.dispatcher.cancel(RunId("a"), outcome="cancelled", how="kill").outcome == "interrupted"


@pytest.mark.parametrize("running", [False, True])
def test_withdrawn_run_was_never_there(pool: Pool, running: bool) -> None:
    """No key of the run is left, at once or after its last execution."""
    pool.workers(int(running))
    jobs = pool.started("a", 4)
    for job in jobs:
        pool.take(job)
    pool.dispatcher.cancel(RunId("a"), outcome="withdrawn", how="kill")
    for job in jobs:
        pool.dispatcher.leave(job)
    assert not [key for key in pool.all_keys() if key.startswith("sc:run")]
    assert pool.dispatcher.keep(RunId("a")).state == "gone"
    assert pool.dispatcher.queue().runs == ()
    assert pool.dispatcher.is_withdrawn(RunId("a"))
    assert not pool.dispatcher.is_withdrawn(RunId("b"))


def test_fatal_ends_the_run_for_everybody(pool: Pool) -> None:
    """The others are killed; the message says why; the slot is free at once."""
    pool.workers(2)
    first, second = pool.started("a", 4, want=2)
    pool.dispatcher.fatal(first, "no such interpreter: \udce9")
    assert pool.dispatcher.leave(first)
    assert pool.word(second) == "kill"
    assert pool.dispatcher.queue().figures.running == 1
    pool.dispatcher.leave(second)
    status = pool.dispatcher.keep(RunId("a"))
    assert (status.outcome, status.message) == ("fatal", "no such interpreter: \udce9")


def test_quitting_worker_gets_nothing_new(pool: Pool) -> None:
    """An idle one is forgotten at once, a busy one when it has finished; what it had not begun goes elsewhere."""
    pool.workers(2)
    pool.started("a")
    pool.submit("b")
    pool.dispatcher.quit("h-1")
    assert pool.held("a") == 1
    pool.dispatcher.quit("h-2")
    assert pool.dispatcher.queue().figures.workers == 0
    assert pool.dispatcher.begin(JobId("b-1-1"), worker="h-2") is None
    assert pool.dispatcher.keep(RunId("b")).state == "waiting"
    pool.dispatcher.leave(JobId("a-1-1"))
    assert not [key for key in pool.all_keys() if key.startswith("sc:worker")]
    pool.workers(3)
    assert pool.jobs("b") == ["b-1-2"]


def test_returning_worker_keeps_its_job(pool: Pool) -> None:
    """A worker that was forgotten joins again while its work-horse lives on: it is not idle."""
    pool.workers(1)
    (job,) = pool.started("a", 2)
    pool.now_ms += LEASE_MS
    pool.renew_all(but=["h-1"])
    pool.dispatcher.tick()
    pool.workers(1)
    figures = pool.dispatcher.queue().figures
    assert (figures.workers, figures.idle) == (1, 0)
    pool.finish(job)
    assert pool.dispatcher.queue().figures.idle == 1


# Looking.


def test_queue_shows_running_by_age_then_waiting_by_rank(pool: Pool) -> None:
    """Every row says how far its run is."""
    pool.workers(1)
    (job,) = pool.started("a", 4, project="p")
    pool.take(job)
    pool.report(job, [0])
    pool.submit("b")
    pool.submit("c", priority="high", want=7)
    rows = pool.dispatcher.queue().runs
    assert [(row.run, row.state, row.priority, row.position) for row in rows] == [
        ("a", "running", "normal", 0),
        ("c", "waiting", "high", 1),
        ("b", "waiting", "normal", 2),
    ]
    first = rows[0]
    assert (first.project, first.held, first.want, first.done, first.total) == ("p", 1, 1, 1, 4)
    assert first.started_ms == first.submitted_ms == pool.now_ms
    assert (rows[1].want, rows[1].total, rows[1].started_ms) == (7, None, None)


def test_state_stream_tells_who_did_what(pool: Pool) -> None:
    """One entry a change, for live views."""
    pool.workers(1)
    (job,) = pool.started("a", 1)
    pool.finish(job)
    kinds = [json.loads(entry)["t"] for entry in reversed(pool.dispatcher.last_states(RunId("a"), 100))]
    assert kinds == ["submitted", "promoted", "begin", "chunk", "left", "end"]
    assert [json.loads(entry)["t"] for entry in pool.dispatcher.last_states(RunId("a"), 2)] == ["end", "left"]


def test_state_stream_keeps_the_last_thousand(pool: Pool) -> None:
    """It is for looking, not for the record."""
    pool.submit("a")
    for n in range(1010):
        pool.client.xadd("sc:run:a:state", {"e": str(n)})
    pool.dispatcher.cancel(RunId("a"), outcome="cancelled", how="leave")
    assert pool.client.xlen("sc:run:a:state") == 1000


def test_reader_waits_for_events_and_resumes(pool: Pool, valkey_server: Valkey) -> None:
    """From an id on; a wait longer than the client's socket timeout is no error."""
    pool.workers(1)
    (job,) = pool.started("a", 4)
    entries, last = pool.dispatcher.events(RunId("a"), after="0", wait_s=5)
    assert len(entries) == 1
    impatient = redis.Redis.from_url(valkey_server.url, socket_timeout=0.05)
    reader = Dispatcher(impatient)
    assert reader.events(RunId("a"), after=last, wait_s=0.2) == ([], last)
    assert reader.mail(job, timeout_s=0.2) is None
    pool.take(job)
    thread = threading.Timer(0.1, lambda: pool.report(job, [0]))
    thread.start()
    entries, newer = reader.events(RunId("a"), after=last, wait_s=10)
    thread.join()
    assert entries == [b'{"t":"result","i":0}\n']
    assert newer > last
    reader.close()
    impatient.close()


def test_mail_is_newest_first(pool: Pool) -> None:
    """A stronger word overtakes a weaker one."""
    pool.workers(1)
    (job,) = pool.started("a")
    pool.dispatcher.cancel(RunId("a"), outcome="cancelled", how="leave")
    pool.dispatcher.cancel(RunId("a"), outcome="cancelled", how="kill")
    assert [pool.dispatcher.mail(job, timeout_s=0.1) for _ in range(3)] == ["kill", "leave", None]


# Keys.


def documented_keys() -> list[tuple[re.Pattern[str], str, str]]:
    """The keys that the header of the Lua file documents: pattern, type, TTL."""
    text = resources.files("pytest_supercheck").joinpath("dispatch.lua").read_text(encoding="utf-8")
    rows = re.findall(r"^--   (sc:\S+) +(\w+) +(none|index|\d+ \w+) ", text, re.MULTILINE)
    return [(re.compile(re.sub(r"[A-Z]+", "[^:]+", key) + r"\Z"), kind, ttl) for key, kind, ttl in rows]


def test_every_key_is_documented_and_expires(pool: Pool) -> None:
    """Each key has the type and the TTL that the header of the Lua file says, in every state of a run."""
    pool.dispatcher.limits(running=2, project="p")
    pool.dispatcher.limits(running=4)
    pool.workers(5)
    first, second = pool.started("a", groups=[4] * 10, want=4, project="p")
    pool.take(first)
    pool.report(first, [0])
    pool.dispatcher.crash(first, seq=2, idx=1)
    pool.dispatcher.lapse(second)
    pool.started("b", want=2)
    pool.submit("c", labels=("gpu",))
    pool.submit("d")
    pool.submit("e")
    pool.submit("f")
    pool.submit("g", concurrency="main")
    pool.submit("h", concurrency="main")
    for run in ("e", "f"):
        pool.dispatcher.cancel(RunId(run), outcome="cancelled", how="leave")
    pool.dispatcher.recorded(RunId("f"))
    pool.submit("i")
    pool.dispatcher.cancel(RunId("i"), outcome="withdrawn", how="leave")
    pool.client.rpush("sc:run:d:offer:1f", "left over")
    pool.client.expire("sc:run:d:offer:1f", 5)
    rows = documented_keys()
    seen = set()
    for key in pool.all_keys():
        matching = [row for row in rows if row[0].match(key)]
        assert len(matching) >= 1, f"{key} is not documented"
        pattern, kind, ttl = matching[0]
        seen.add(pattern)
        assert pool.client.type(key).decode() == kind, key
        left_ms = pool.client.pttl(key)
        assert left_ms == -1 if ttl in ("none", "index") else 0 < left_ms <= milliseconds(ttl), (key, left_ms)
    missing = {pattern.pattern for pattern, _, _ in rows if pattern not in seen}
    assert missing == set()


def milliseconds(ttl: str) -> int:
    """A TTL as the header of the Lua file writes it."""
    number, unit = ttl.split()
    return int(number) * {"h": 3_600_000, "day": 86_400_000, "days": 86_400_000}[unit]


def test_finished_runs_leave_only_what_expires(pool: Pool) -> None:
    """Every index is empty again."""
    pool.workers(2)
    jobs = pool.started("a", 9, want=2, concurrency="main")
    pool.submit("b", concurrency="main")
    pool.dispatcher.cancel(RunId("b"), outcome="cancelled", how="leave")
    for job in jobs:
        pool.finish(job)
    for worker in ("h-1", "h-2"):
        pool.dispatcher.quit(worker)
    assert [key for key in pool.all_keys() if pool.client.pttl(key) < 0] == ["sc:pool"]


# Looking on, and recording.


def test_pool_tells_who_works_on_what(pool: Pool) -> None:
    """Every worker with what it does, every execution with the first of its tests that is not reported."""
    busy, idle = pool.workers(2)
    assert {busy, idle} == {"h-1", "h-2"}
    [job] = pool.started("a", items=3, want=1)
    pool.take(job)
    pool.report(job, [0])
    status = pool.dispatcher.pool()
    assert status.now_ms == pool.now_ms
    assert [(worker.worker, worker.host, worker.job) for worker in status.workers] == [
        (name, "h", job if name == pool.worker_of(job) else "") for name in ("h-1", "h-2")
    ]
    assert all(worker.renewed_ms == pool.now_ms for worker in status.workers)
    [execution] = status.executions
    assert (execution.job, execution.run, execution.n, execution.state) == (job, "a", 1, "begun")
    assert (execution.item, execution.nodeid) == (1, "t.py::a[1]")


def test_execution_without_a_test_says_so(pool: Pool) -> None:
    """Before anything was offered."""
    pool.workers(1)
    pool.submit("a")
    [execution] = pool.dispatcher.pool().executions
    assert (execution.state, execution.item, execution.nodeid) == ("promoted", None, "")


def test_look_keeps_nobody_alive(pool: Pool) -> None:
    """A viewer is no session: the run of a session that has gone is abandoned however many look at it."""
    pool.submit("a")
    for _ in range(4):
        pool.now_ms += 5_000
        pool.dispatcher.look(RunId("a"))
    status = pool.dispatcher.look(RunId("a"))
    assert (status.state, status.outcome) == ("ended", "abandoned")
    assert pool.dispatcher.look(RunId("b")).state == "gone"


def test_ended_run_is_claimed_once_until_it_is_recorded(pool: Pool) -> None:
    """By one recorder at a time; by another when the first says nothing for a minute; by nobody afterwards."""
    pool.workers(1)
    assert pool.dispatcher.claim() is None
    [job] = pool.started("a", items=1, spec='{"x": 1}')
    assert pool.dispatcher.claim() is None
    pool.take(job)
    pool.report(job, [0])
    pool.dispatcher.leave(job)
    claimed = pool.dispatcher.claim()
    assert claimed is not None
    assert (claimed.run, claimed.outcome, claimed.total, claimed.spec) == ("a", "finished", 1, '{"x": 1}')
    assert claimed.ended_ms == pool.now_ms
    assert pool.dispatcher.claim() is None
    pool.forward(61)
    assert pool.dispatcher.claim() == claimed
    pool.dispatcher.recorded(RunId("a"))
    pool.forward(61)
    assert pool.dispatcher.claim() is None
    assert pool.dispatcher.details(RunId("a")) == claimed


def test_the_pool_keeps_the_last_thousand_recorded_runs(pool: Pool) -> None:
    """Those can be run once more; what is older takes no memory."""
    for number in range(1002):
        run = RunId(f"r{number}")
        pool.submit(run)
        pool.dispatcher.cancel(run, outcome="cancelled", how="leave")
        pool.now_ms += 1
        pool.dispatcher.recorded(run)
    known = [number for number in (0, 1, 2, 1001) if pool.dispatcher.details(RunId(f"r{number}"))]
    assert known == [2, 1001]
    assert not list(pool.client.scan_iter("sc:run:r1:*"))


def test_runs_that_have_ended_can_be_forgotten(pool: Pool) -> None:
    """The recorded ones, the others when that is said; none that sessions may still read or a recorder has."""
    pool.submit("lives")
    for number in range(203):
        pool.submit(f"r{number}")
        pool.dispatcher.cancel(RunId(f"r{number}"), outcome="cancelled", how="leave")
        pool.dispatcher.recorded(RunId(f"r{number}"))
    for run in ("open", "claimed"):
        pool.submit(run)
        pool.dispatcher.cancel(RunId(run), outcome="cancelled", how="leave")
    assert pool.dispatcher.clear(unrecorded=True) == 0
    pool.forward(61)
    claimed = pool.dispatcher.claim()
    assert claimed is not None
    pool.submit("late")
    pool.dispatcher.cancel(RunId("late"), outcome="cancelled", how="leave")
    pool.dispatcher.recorded(RunId("late"))
    assert pool.dispatcher.clear() == 203
    assert pool.dispatcher.clear(unrecorded=True) == 1
    known = {key.removeprefix("sc:run:").partition(":")[0] for key in pool.all_keys() if key.startswith("sc:run:")}
    assert known == {"lives", "late", claimed.run}
    pool.dispatcher.recorded(claimed.run)
    assert pool.dispatcher.claim() is None


def test_keys_without_a_time_to_live_get_one(pool: Pool) -> None:
    """Those of runs and jobs; neither the pool's own nor anybody else's."""
    pool.workers(1)
    pool.started("a", items=1)
    job = "01a20182-6a65-7ddc-9cb7-0475201c5e1d-1-1"
    for key in ("sc:run:a:results", "sc:exec:a-1-1", f"rq:job:{job}"):
        pool.client.hset(key, "x", 1) if key.startswith("rq") else pool.client.persist(key)
    for number in range(250):
        pool.client.set(f"sc:control:lost-{number}", "x")
    pool.client.set("rq:job:theirs", "x")
    before = {key for key in pool.client.scan_iter("*") if pool.client.ttl(key) == -1}
    assert pool.dispatcher.expire_orphans() == 253
    after = {key for key in pool.client.scan_iter("*") if pool.client.ttl(key) == -1}
    assert before - after >= {b"sc:run:a:results", b"sc:exec:a-1-1", f"rq:job:{job}".encode()}
    assert {b"rq:job:theirs", b"sc:held", b"sc:workers"} <= after
    assert pool.dispatcher.expire_orphans() == 0


def test_withdrawn_run_is_not_recorded(pool: Pool) -> None:
    """Nothing of it is kept."""
    pool.submit("a")
    pool.dispatcher.cancel(RunId("a"), outcome="withdrawn", how="leave")
    assert pool.dispatcher.claim() is None


def test_runs_that_nobody_records_are_forgotten_in_time(pool: Pool) -> None:
    """A pool without a server keeps a week of them, not all."""
    for run in ("a", "b"):
        pool.submit(run)
        pool.dispatcher.cancel(RunId(run), outcome="cancelled", how="leave")
        pool.forward(7 * 24 * 3600 + 1, alive=False)
    assert pool.client.zrange("sc:ended", 0, -1) == [b"b"]


# Faults.


def test_unknown_operation_is_a_fault(pool: Pool) -> None:
    """Not a Lua error."""
    with pytest.raises(OutOfOrder, match="no operation"):
        pool.dispatcher._call("nonsense")


def test_server_that_is_gone_is_unreachable() -> None:
    """Nothing is admitted when Redis cannot answer; the message says what to do."""
    client = redis.Redis(unix_socket_path="/nonexistent/socket", retry=Retry(NoBackoff(), 0))
    with pytest.raises(Unreachable, match="Check the URL") as caught:
        Dispatcher(client).submit(RunRequest(run_id=RunId("a")))
    assert caught.value.exit_code == 69


def test_error_of_another_kind_is_infrastructure(pool: Pool) -> None:
    """A key of the wrong type is nobody's test failure."""
    pool.client.set("sc:leases", "x")
    with pytest.raises(Infrastructure) as caught:
        pool.dispatcher.tick()
    assert caught.value.exit_code == 70


@pytest.mark.parametrize("kind", [kind for kind in SupercheckError.__subclasses__() if kind is not QueueFull])
def test_docstring_is_the_default_message(kind: type[SupercheckError]) -> None:
    """An error raised without words has some."""
    assert str(kind()) == kind.__doc__
    assert str(kind("mine")) == "mine"


@pytest.mark.parametrize(
    "asked",
    [{"want": 0}, {"priority": "urgent"}, {"concurrency": "a b"}, {"concurrency": "a", "concurrency_limit": 0}],
)
def test_senseless_request_is_refused_at_home(asked: dict[str, Any]) -> None:
    """Before it goes anywhere."""
    with pytest.raises(ValueError, match=r"slot|priority|group"):
        RunRequest(run_id=RunId("a"), **asked)
