"""
The dispatcher against a model of its rules in plain Python: any operations, in any order, on a real Valkey.

The model says who is admitted, refused and promoted, and where every item is. What the rules leave open (which worker,
how long a chunk, which execution yields) it takes from the dispatcher and checks against what they allow.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.errors import OutOfOrder, QueueFull
from pytest_supercheck.model import (
    PRIORITIES,
    Admission,
    Chunk,
    Gone,
    JobId,
    Leave,
    Next,
    Offer,
    Priority,
    Recycle,
    RunId,
    RunRequest,
    Wait,
    queue_name,
)

LEASE_MS = 15_000
LOSSES = 3
CHUNK = 1000
PROJECTS = ("p", "q")
LABELS: tuple[tuple[str, ...], ...] = ((), (), ("gpu",))

T = TypeVar("T")
PICK = st.integers(0, 999)
SINGLE = st.sampled_from([0, 0, 2, 12])
#: Sizes of groups, over and over until all items are in one.
GROUPS = st.sampled_from([(1,), (3, 1, 4), (1,), (5, 2), (12,)])
#: Concurrency groups, and their limits.
CONCURRENCY = st.sampled_from([("", 1), ("", 1), ("main", 1), ("main", 1), ("main", 2)])


@dataclass
class Worker:
    """A worker process, as the model knows it."""

    name: str
    host: str
    labels: frozenset[str]
    expiry_ms: int
    job: str | None = None
    quitting: bool = False
    suspect: bool = False


@dataclass
class Execution:
    """One slot in use; `chunk` is what it still owes, `bound` what follows of a group that it has begun."""

    job: str
    run: Run
    n: int
    worker: str
    host: str
    expiry_ms: int
    begun: bool = False
    chunk: list[int] = field(default_factory=list)
    bound: list[int] = field(default_factory=list)
    alone: int | None = None
    seq: int = 0
    leaving_for: str | None = None

    @property
    def items(self) -> list[int]:
        """All that it has."""
        return [*self.chunk, *([] if self.alone is None else [self.alone]), *self.bound]


@dataclass
class Run:
    """A run, and where each of its items is."""

    id: str
    project: str
    labels: frozenset[str]
    priority: int
    age: int
    want: int
    maxfail: int
    expiry_ms: int | None
    concurrency: str = ""
    concurrency_limit: int = 1
    #: Whether it has had a slot: in its concurrency group it has its turn until it ends.
    begun: bool = False
    state: str = "waiting"
    outcome: str = ""
    total: int | None = None
    #: How many of the first ones are handed out one at a time.
    single: int = 0
    groups: list[int] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    alone: list[list[int]] = field(default_factory=list)
    done: set[int] = field(default_factory=set)
    failed: int = 0
    losses: int = 0
    crashed: Counter[int] = field(default_factory=Counter)
    lost: Counter[int] = field(default_factory=Counter)
    later: dict[str, int] = field(default_factory=dict)
    attempts: Counter[int] = field(default_factory=Counter)

    @property
    def has_work(self) -> bool:
        """Is there something for another execution to do?"""
        return self.total is None or bool(self.pending or self.alone)

    def limit(self, first: int) -> int:
        """The most items that are handed out at once from that one on."""
        return 1 if first < self.single else CHUNK


class Model:
    """Section 4 of the design as one would write it without Redis."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000
        self.running_capacity = 5
        self.queued_capacity = 50
        self.limits: dict[str, dict[str, int]] = {project: {} for project in PROJECTS}
        self.paused = False
        self.workers: dict[str, Worker] = {}
        self.runs: dict[str, Run] = {}
        self.execs: dict[str, Execution] = {}
        self.past: list[Execution] = []
        self.ages = 0

    # What is there.

    def held(self, run: Run) -> list[Execution]:
        """The executions of a run."""
        return [ex for ex in self.execs.values() if ex.run is run]

    def held_by(self, project: str) -> int:
        """How many slots a project holds."""
        return sum(ex.run.project == project for ex in self.execs.values())

    def in_state(self, *states: str) -> list[Run]:
        """Runs in one of these states."""
        return [run for run in self.runs.values() if run.state in states]

    def peers(self, run: Run) -> list[Run]:
        """A run's concurrency group: those that have begun, then in rank order."""
        peers = [one for one in self.runs.values() if (one.project, one.concurrency) == (run.project, run.concurrency)]
        live = [one for one in peers if one.state != "ended"]
        return sorted(live, key=lambda one: (not one.begun, one.priority, one.age))

    def place_behind(self, run: Run) -> int:
        """The place of a run that waits for its turn among those that do, from 1; 0 when it does not."""
        if run.state != "waiting" or run.begun or not run.concurrency:
            return 0
        peers = self.peers(run)
        limit = min(one.concurrency_limit for one in peers)
        return max(0, peers.index(run) + 1 - max(limit, sum(one.begun for one in peers)))

    def waiting(self, project: str | None = None, *, blocked: bool = False) -> list[Run]:
        """Runs that wait for a slot, or for their turn."""
        waiting = [run for run in self.in_state("waiting") if project in (None, run.project)]
        return [run for run in waiting if bool(self.place_behind(run)) == blocked]

    def live(self) -> list[Worker]:
        """Workers that take work."""
        return [worker for worker in self.workers.values() if not worker.quitting]

    def idle(self, labels: Iterable[str] = ()) -> list[Worker]:
        """Live workers without work that have the labels."""
        return [worker for worker in self.live() if worker.job is None and worker.labels.issuperset(labels)]

    def full(self, project: str) -> bool:
        """May the project not run more?"""
        limit = self.limits[project].get("running")
        return limit is not None and self.held_by(project) >= limit

    def queued(self, project: str | None = None) -> int:
        """Runs that would wait even if every free slot had a worker."""
        running = len(self.execs) if project is None else self.held_by(project)
        limit = self.running_capacity
        if project is not None:
            limit = self.limits[project].get("running", limit)
        behind = len(self.waiting(project, blocked=True))
        return behind + max(0, len(self.waiting(project)) - max(0, limit - running))

    def refuses(self, run: Run) -> bool:
        """Is there no room for a run that waits?"""
        if run.state != "waiting":
            return False
        project_limit = self.limits[run.project].get("queued")
        return self.queued() > self.queued_capacity or (
            project_limit is not None and self.queued(run.project) > project_limit
        )

    def eligible(self, run: Run) -> bool:
        """Does the run wish for a slot now?"""
        wish = run.want - len(self.held(run)) - len(run.later)
        if run.state == "waiting":
            return wish > 0 and not self.place_behind(run)
        return run.state == "running" and wish > 0 and run.has_work

    def next_in_rank(self) -> Run | None:
        """Who has to get the next slot, or None when nobody can."""
        if self.paused or len(self.execs) >= self.running_capacity:
            return None
        able = [run for run in self.runs.values() if self.eligible(run)]
        able = [run for run in able if not self.full(run.project) and self.idle(run.labels)]
        return min(able, key=self.rank, default=None)

    def rank(self, run: Run) -> tuple[int, bool, int, int, int]:
        """The order of promotion."""
        held = len(self.held(run))
        return (run.priority, held > 0, self.held_by(run.project), held, run.age)

    # What happens.

    def reap(self) -> None:
        """Everything whose time is over, in the order of time."""
        leases = [(ex.expiry_ms, "e:" + ex.job) for ex in self.execs.values()]
        leases += [(worker.expiry_ms, "w:" + worker.name) for worker in self.workers.values()]
        leases += [(run.expiry_ms, "c:" + run.id) for run in self.runs.values() if run.expiry_ms is not None]
        for expiry_ms, member in sorted(leases):
            if expiry_ms <= self.now_ms:
                {"e": self.reap_exec, "w": self.reap_worker, "c": self.reap_controller}[member[0]](member[2:])
        for run in list(self.runs.values()):
            run.later = {job: due_ms for job, due_ms in run.later.items() if due_ms > self.now_ms}

    def reap_exec(self, job: str) -> None:
        """An execution was not renewed."""
        ex = self.execs.get(job)
        if ex:
            if ex.worker in self.workers:
                self.workers[ex.worker].suspect = True
            self.lapse(ex)

    def reap_worker(self, name: str) -> None:
        """A worker was not renewed."""
        worker = self.workers.pop(name, None)
        ex = self.execs.get(worker.job) if worker and worker.job else None
        if ex and not ex.begun:
            self.lapse(ex)

    def reap_controller(self, run_id: str) -> None:
        """Nobody asks for a run any more."""
        run = self.runs.get(run_id)
        if run and run.state != "ended":
            run.expiry_ms = None
            self.stop(run, "abandoned")

    def promote(self, promoted: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
        """What was promoted must be what has to be promoted, in this order; returns what more was promoted."""
        for place, (job, name) in enumerate(promoted):
            run = self.next_in_rank()
            if run is None:
                return promoted[place:]
            taken = {ex.n for ex in self.held(run)}
            n = min(set(range(1, len(taken) + 2)) - taken)
            run.attempts[n] += 1
            assert job == f"{run.id}-{n}-{run.attempts[n]}", f"{job} was promoted instead of {run.id}-{n}"
            self.reserve(run, job, n, name)
        left = self.next_in_rank()
        assert left is None, f"{left.id} should have been promoted"
        return ()

    def reserve(self, run: Run, job: str, n: int, name: str) -> None:
        """The worker must be one of the best ones."""
        hosts = {ex.host for ex in self.held(run)}
        choice = {worker.name: (worker.suspect, worker.host not in hosts) for worker in self.idle(run.labels)}
        assert name in choice, f"{job} was promoted to {name}, which is not idle or lacks a label"
        assert choice[name] == min(choice.values()), f"{job} was promoted to {name}, there is a better one"
        worker = self.workers[name]
        worker.job = job
        self.execs[job] = Execution(job, run, n, name, worker.host, self.now_ms + LEASE_MS)
        run.state, run.begun = "running", True

    def supersede(self, run: Run) -> bool:
        """Stop those of a run's concurrency group that are over the limit, the oldest first."""
        limit = min(one.concurrency_limit for one in self.peers(run))
        going_on = sorted((one for one in self.peers(run) if one.state != "stopping"), key=lambda one: one.age)
        for one in going_on[:-limit]:
            self.stop(one, "cancelled")
        return len(going_on) > limit

    def settle(self, run: Run) -> None:
        """Where a run stands follows from what it holds."""
        if run.state == "ended":
            return
        if self.held(run):
            run.state = "running" if run.state == "waiting" else run.state
        elif run.state == "stopping":
            self.end(run, run.outcome)
        elif run.want <= 0:
            self.end(run, "lost")
        else:
            run.state = "waiting"

    def end(self, run: Run, outcome: str) -> None:
        """A run is over."""
        run.state, run.outcome, run.expiry_ms = "ended", outcome, None
        run.later.clear()
        if outcome == "withdrawn":
            del self.runs[run.id]

    def stop(self, run: Run, outcome: str) -> None:
        """A run is to end."""
        if run.state == "ended":
            return
        if run.state != "stopping" or outcome == "withdrawn" or (outcome == "fatal" and run.outcome != "finished"):
            run.outcome = outcome
        run.state = "stopping"
        run.later.clear()
        for ex in self.held(run):
            if not ex.begun:
                self.free(ex)
        self.settle(run)

    def free(self, ex: Execution) -> None:
        """A slot is free again, and its worker."""
        del self.execs[ex.job]
        self.past.append(ex)
        worker = self.workers.get(ex.worker)
        if worker and worker.job == ex.job:
            worker.job = None
            if worker.quitting:
                del self.workers[worker.name]

    def fail(self, run: Run, failed: int) -> None:
        """Failures are counted as they come."""
        run.failed += failed
        if failed and run.maxfail and run.failed >= run.maxfail and run.state == "running":
            self.stop(run, "maxfail")

    def do(self, run: Run, items: Iterable[int]) -> None:
        """Items are reported."""
        run.done.update(items)
        if run.state == "running" and run.done and len(run.done) == run.total:
            self.stop(run, "finished")

    def give_back(self, ex: Execution, but: int | None = None) -> None:
        """What an execution owes goes to the front."""
        if ex.alone is not None and ex.alone != but:
            ex.run.alone.insert(0, [ex.alone, *ex.bound])
        else:
            ex.run.pending[:0] = [item for item in (*ex.chunk, *ex.bound) if item != but]
        ex.chunk, ex.bound, ex.alone = [], [], None

    def lapse(self, ex: Execution) -> None:
        """An execution is lost."""
        run, item, reported = ex.run, ex.alone if ex.alone is not None else next(iter(ex.chunk), None), None
        if ex.begun and item is not None:
            run.lost[item] += 1
            if run.lost[item] >= LOSSES:
                reported = item
                self.fail(run, 1)
                self.do(run, [item])
        self.give_back(ex, reported)
        self.free(ex)
        if run.state in ("running", "waiting"):
            run.losses += 1
            if run.losses > LOSSES:
                run.want = min(run.want, max(run.want - 1, len(self.held(run))))
            else:
                run.later[ex.job] = self.now_ms + 1000 * 2**run.losses
        self.settle(run)

    def share(self, run: Run) -> int:
        """The most items of several groups that may be handed out at once."""
        share = math.ceil(len(run.pending) / (2 * max(len(self.held(run)), run.want)))
        return min(run.limit(run.pending[0]), max(1, share))


class Recorder(Dispatcher):
    """A dispatcher that writes down what it promoted."""

    promoted: list[tuple[str, str]]

    def _note(self, promoted: Iterable[tuple[str, str]]) -> None:
        self.promoted += [(job, worker) for job, worker in promoted]


class Machine(RuleBasedStateMachine):
    """Does the same to the dispatcher and to the model, and compares everything after each step."""

    client: Any

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.model = Model()
        self.dispatcher = Recorder(self.client, now_ms=lambda: self.model.now_ms)
        self.dispatcher.promoted = []
        self.names = 0
        self.closed: set[str] = set()
        #: False between an operation and the end of its checks: after a failure nothing more is worth checking.
        self.sound = False

    # How a step is made.

    def call(self, real: Callable[[], T]) -> T:
        """Let the dispatcher act; the model reaps as every operation does."""
        self.dispatcher.promoted = []
        self.sound = False
        self.model.reap()
        return real()

    def check(self) -> None:
        """After the model has acted too: promotions and yields."""
        rest = self.model.promote(self.dispatcher.promoted)
        assert not rest, f"{rest} were promoted, nobody should have been"
        for ex in self.model.execs.values():
            queued = self.client.lrange(f"rq:queue:{queue_name(ex.worker)}", 0, -1)
            assert ex.begun or ex.job.encode() in queued, f"{ex.job} is not on the queue of {ex.worker}"
        self.check_yields()
        self.sound = True

    def check_yields(self) -> None:
        """Who was told to yield may have been, and nobody who should have been was forgotten."""
        model = self.model
        with self.client.pipeline(transaction=False) as pipe:
            jobs = sorted(job.decode() for job in self.client.smembers("sc:leaving"))
            for job in jobs:
                pipe.hget(f"sc:exec:{job}", "leaving_for")
            serves = dict(zip(jobs, [waiter.decode() for waiter in pipe.execute()], strict=True))
        assert {ex.job for ex in model.execs.values() if ex.leaving_for} <= set(serves)
        for job, waiter_id in serves.items():
            ex = model.execs[job]
            if ex.leaving_for is None:
                self.check_yield(ex, model.runs[waiter_id])
                ex.leaving_for = waiter_id
        leaving = [ex for ex in model.execs.values() if ex.leaving_for]
        served = {ex.leaving_for for ex in leaving}
        spare = len(leaving) - len([run for run in model.waiting() if run.id in served])
        for run in model.waiting():
            if run.id not in served and not spare and model.eligible(run) and not model.limits[run.project]:
                assert model.paused or run.labels or not self.giver_for(run), f"nobody yields to {run.id}"

    def check_yield(self, ex: Execution, waiter: Run) -> None:
        """One execution was told to yield to a run: all that this asks for."""
        model = self.model
        staying = [other for other in model.held(ex.run) if not other.leaving_for]
        assert ex.run.state == "running"
        assert not model.paused
        assert len(model.execs) <= model.running_capacity, "a yielded slot is of no use"
        assert len(staying) >= 2, f"{ex.job} was the last one"
        assert ex.run.priority >= waiter.priority, f"{ex.job} ranks above {waiter.id}"
        assert waiter.state == "waiting"
        assert model.eligible(waiter)
        leaving = [other for other in model.execs.values() if other.leaving_for]
        assert waiter.id not in {other.leaving_for for other in leaving}, f"{waiter.id} is served already"
        assert len(leaving) < len(model.waiting()), "more leave than wait"
        limit = model.limits[waiter.project].get("running")
        if limit is not None and ex.run.project != waiter.project:
            assert model.held_by(waiter.project) - sum(o.run.project == waiter.project for o in leaving) < limit
        assert model.idle(waiter.labels) or model.workers[ex.worker].labels >= waiter.labels

    def giver_for(self, waiter: Run) -> bool:
        """Is there a run that has to yield to one without labels and limits?"""
        model = self.model
        if len(model.execs) > model.running_capacity:
            return False
        for run in model.in_state("running"):
            staying = [ex for ex in model.held(run) if not ex.leaving_for]
            on_live = [ex for ex in staying if ex.worker in {worker.name for worker in model.live()}]
            if len(staying) >= 2 and run.priority >= waiter.priority and (on_live or model.idle()):
                return True
        return False

    def runs(self, *states: str) -> list[Run]:
        """Runs to choose from."""
        return self.model.in_state(*states)

    def begun(self) -> list[Execution]:
        """Executions to choose from."""
        return [ex for ex in self.model.execs.values() if ex.begun]

    # Clients.

    @initialize(
        running=st.integers(2, 5),
        queued=st.sampled_from([50, 1, 3, 0]),
        workers=st.integers(1, 6),
        want=st.integers(1, 4),
        project_running=st.sampled_from([None, 1, 2]),
        project_queued=st.sampled_from([1, 0, None]),
        sizes=GROUPS,
    )
    def begin_small(
        self,
        running: int,
        queued: int,
        workers: int,
        want: int,
        project_running: int | None,
        project_queued: int | None,
        sizes: tuple[int, ...],
    ) -> None:
        """A small pool is full soon; one run is there already."""
        self.operate(None, running, queued)
        self.operate("q", project_running, project_queued)
        for n in range(workers):
            self.join_new(host=n % 2, gpu=n == 0)
        self.submit("p", "normal", want, (), 0, True, 12, 0, sizes, ("main", 2), False)
        for ex in list(self.model.execs.values()):
            self.begin_one(ex)

    @rule(
        project=st.sampled_from(PROJECTS),
        priority=st.sampled_from(PRIORITIES),
        want=st.integers(1, 4),
        labels=st.sampled_from(LABELS),
        maxfail=st.sampled_from([0, 0, 0, 1, 2]),
        detached=st.booleans(),
        items=st.sampled_from([12, 5, 2, 1, 12, None]),
        single=SINGLE,
        sizes=GROUPS,
        concurrency=CONCURRENCY,
        cancel=st.booleans(),
    )
    def submit(
        self,
        project: str,
        priority: Priority,
        want: int,
        labels: tuple[str, ...],
        maxfail: int,
        detached: bool,
        items: int | None,
        single: int,
        sizes: tuple[int, ...],
        concurrency: tuple[str, int],
        cancel: bool,
    ) -> None:
        """A run comes, often with its items."""
        self.names += 1
        run_id = f"r{self.names}"
        request = RunRequest(
            run_id=RunId(run_id), project=project, priority=priority, want=want, labels=labels, maxfail=maxfail,
            detached=detached, concurrency=concurrency[0], concurrency_limit=concurrency[1], cancel_in_progress=cancel,
        )  # fmt: skip
        model = self.model
        answer = self.call(lambda: self.submitted(request))
        refused = answer is None
        expiry_ms = None if detached else model.now_ms + LEASE_MS
        model.ages += 1
        rank = PRIORITIES.index(priority)
        run = Run(run_id, project, frozenset(labels), rank, model.ages, want, maxfail, expiry_ms, *concurrency)
        model.runs[run_id] = run
        supersedes = cancel and bool(run.concurrency) and model.supersede(run)
        self.dispatcher.promoted = list(model.promote(self.dispatcher.promoted))
        refuses = model.refuses(run) and not supersedes
        assert refused == refuses, f"{run_id} was {'refused' if refused else 'admitted'}"
        if refused:
            del model.runs[run_id]
        self.check()
        if answer is not None:
            assert answer.held == len(model.held(run))
            assert (answer.state == "queued") == (run.state == "waiting")
            if items is not None:
                self.offer(run, items, single, sizes)

    def submitted(self, request: RunRequest) -> Admission | None:
        """The answer to a request, None for a refusal."""
        try:
            return self.dispatcher.submit(request)
        except QueueFull:
            return None

    @precondition(lambda self: self.runs("waiting", "running", "stopping"))
    @rule(pick=PICK)
    def submit_again(self, pick: int) -> None:
        """A client lost the answer: nothing changes."""
        run = choose(self.runs("waiting", "running", "stopping"), pick)
        admission = self.call(lambda: self.dispatcher.submit(RunRequest(run_id=RunId(run.id))))
        self.check()
        assert admission.held == len(self.model.held(run))

    @precondition(lambda self: self.runs("waiting", "running", "stopping", "ended"))
    @rule(pick=PICK, count=st.integers(0, 12), single=SINGLE, sizes=GROUPS)
    def offer_any(self, pick: int, count: int, single: int, sizes: tuple[int, ...]) -> None:
        """Items come, perhaps a second time, perhaps too late."""
        self.offer(choose(list(self.model.runs.values()), pick), count, single, sizes)

    def offer(self, run: Run, count: int, single: int, sizes: tuple[int, ...]) -> None:
        """Hand over items, in groups of these sizes."""
        numbers = (number for number, size in enumerate(itertools.cycle(sizes)) for _ in range(size))
        groups = list(itertools.islice(numbers, count))
        joined = [item for item in range(1, count) if groups[item] == groups[item - 1]]
        offer = Offer(names=nodeids(count), single=single, joined=joined)
        taken = self.call(lambda: self.dispatcher.offer(RunId(run.id), offer))
        assert taken == (run.state != "ended")
        if taken and run.total is None:
            run.total, run.single, run.pending, run.groups = count, single, list(range(count)), groups
            run.want = max(1, min(run.want, len(set(groups))))
            if count == 0:
                self.model.stop(run, "finished")
        self.check()

    @rule(pick=PICK)
    def keep(self, pick: int) -> None:
        """A controller asks where its run stands, or one that never was."""
        run = choose(list(self.model.runs.values()), pick) if self.model.runs else None
        status = self.call(lambda: self.dispatcher.keep(RunId(run.id if run else "none")))
        if run and run.state not in ("ended", "gone") and run.expiry_ms is not None:
            run.expiry_ms = self.model.now_ms + LEASE_MS
        self.check()
        if run is None or run.id not in self.model.runs:
            assert status.state == "gone"
            return
        held = len(self.model.held(run))
        assert (status.state, status.outcome, status.held) == (run.state, run.outcome, held)
        assert (status.done, status.total) == (len(run.done), run.total)

    @precondition(lambda self: self.runs("waiting", "running", "stopping"))
    @rule(pick=PICK, outcome=st.sampled_from(["cancelled", "timeout", "withdrawn"]))
    def cancel(self, pick: int, outcome: str) -> None:
        """A run is stopped."""
        run = choose(self.runs("waiting", "running", "stopping"), pick)
        self.call(lambda: self.dispatcher.cancel(RunId(run.id), outcome=outcome, how="kill"))
        self.model.stop(run, outcome)
        self.check()

    @precondition(lambda self: self.runs("waiting", "running"))
    @rule(pick=PICK, priority=st.sampled_from(PRIORITIES))
    def priority(self, pick: int, priority: Priority) -> None:
        """A run's rank changes."""
        run = choose(self.runs("waiting", "running"), pick)
        self.call(lambda: self.dispatcher.priority(RunId(run.id), priority=priority))
        if run.state != "ended":
            run.priority = PRIORITIES.index(priority)
        self.check()

    @rule(
        project=st.sampled_from([None, *PROJECTS]),
        running=st.one_of(st.none(), st.integers(-1, 4)),
        queued=st.one_of(st.none(), st.integers(-1, 3)),
    )
    def operate(self, project: str | None, running: int | None, queued: int | None) -> None:
        """Limits change while runs run."""
        self.call(lambda: self.dispatcher.limits(running=running, queued=queued, project=project))
        if project is None:
            if running is not None:
                self.model.running_capacity = running if running >= 0 else 5
            if queued is not None:
                self.model.queued_capacity = queued if queued >= 0 else 50
        else:
            for name, value in (("running", running), ("queued", queued)):
                if value is not None:
                    self.model.limits[project].pop(name, None)
                    if value >= 0:
                        self.model.limits[project][name] = value
        self.check()

    @rule(on=st.sampled_from([False, False, True]))
    def pause(self, on: bool) -> None:
        """The pool is paused or resumed."""
        self.call(lambda: self.dispatcher.pause(on=on))
        self.model.paused = on
        self.check()

    # Workers.

    @precondition(lambda self: len(self.model.workers) < 7)
    @rule(host=st.integers(0, 1), gpu=st.booleans())
    def join_new(self, host: int, gpu: bool) -> None:
        """A worker comes."""
        self.names += 1
        self.join(f"w{self.names}", f"h{host}", frozenset({"gpu"} if gpu else ()))

    @precondition(lambda self: self.model.execs or self.model.workers)
    @rule(pick=PICK)
    def join_again(self, pick: int) -> None:
        """A worker joins again, known or forgotten: it keeps its job."""
        known = [(worker.name, worker.host, worker.labels) for worker in self.model.workers.values()]
        known += [(ex.worker, ex.host, frozenset({"gpu"})) for ex in self.model.execs.values()]
        self.join(*choose(known, pick))

    def join(self, name: str, host: str, labels: frozenset[str]) -> None:
        """Enrol a worker."""
        self.call(lambda: self.dispatcher.join(name, host=host, pid=1, labels=labels))
        job = next((ex.job for ex in self.model.execs.values() if ex.worker == name), None)
        self.model.workers[name] = Worker(name, host, labels, self.model.now_ms + LEASE_MS, job)
        self.check()

    @precondition(lambda self: self.model.workers)
    @rule(pick=PICK)
    def quit(self, pick: int) -> None:
        """A worker goes, as soon as it has no work."""
        worker = choose(list(self.model.workers.values()), pick)
        self.call(lambda: self.dispatcher.quit(worker.name))
        if worker.name in self.model.workers:
            worker.quitting = True
            ex = self.model.execs.get(worker.job or "")
            if worker.job is None:
                del self.model.workers[worker.name]
            elif ex and not ex.begun:
                self.model.free(ex)
                self.model.settle(ex.run)
        self.check()

    @rule()
    def beat(self) -> None:
        """A host says that its workers live; unknown ones are named."""
        names = sorted(self.model.workers)
        gone = self.call(lambda: self.dispatcher.beat([*names, "stranger"]))
        for name in names:
            if name in self.model.workers:
                self.model.workers[name].expiry_ms = self.model.now_ms + LEASE_MS
        assert set(gone) == {"stranger", *names} - set(self.model.workers)
        self.check()

    # Executions.

    @precondition(lambda self: self.model.execs)
    @rule(pick=PICK, count=st.sampled_from([0, 0, 1, 2, 6]), again=st.booleans())
    def work(self, pick: int, count: int, again: bool) -> None:
        """An execution does what it does next, as a supervisor would."""
        ex = choose(list(self.model.execs.values()), pick)
        if not ex.begun:
            self.begin_one(ex)
        if ex.job in self.model.execs and len(ex.chunk) <= 1:
            answer = self.next_one(ex, fresh=not ex.chunk)
            if isinstance(answer, Leave) and not ex.chunk:
                self.leave_one(ex)
        if ex.job in self.model.execs:
            items = self.append_one(ex, count)
            if again:
                self.append_items(ex, items, 0, seq=ex.seq)

    @precondition(lambda self: self.model.past)
    @rule(pick=PICK)
    def haunt(self, pick: int) -> None:
        """An execution whose slot is gone does not know it yet: nothing it says is taken."""
        ex = choose(self.model.past[::-1], pick)
        job, worker = JobId(ex.job), ex.worker
        assert self.call(lambda: self.dispatcher.begin(job, worker=worker)) is None
        self.check()
        assert not self.call(lambda: self.dispatcher.renew(job))
        assert not self.dispatcher.back(job)
        assert self.dispatcher.next(job, fresh=True) == Gone()
        assert self.dispatcher.append(job, b'{"t":"result","i":0}', seq=ex.seq + 1, done=[0]) == Gone()
        assert self.dispatcher.crash(job, seq=ex.seq + 1, idx=0).gone
        self.dispatcher.lapse(job)
        self.check()

    @precondition(lambda self: self.model.execs)
    @rule(pick=PICK)
    def begin(self, pick: int) -> None:
        """A work-horse starts, perhaps twice, perhaps too late."""
        self.begin_one(choose(list(self.model.execs.values()), pick))

    def begin_one(self, ex: Execution) -> None:
        """Begin an execution."""
        begun = self.call(lambda: self.dispatcher.begin(JobId(ex.job), worker=ex.worker))
        assert (begun is not None) == (ex.job in self.model.execs)
        if begun:
            assert (begun.run, begun.n, begun.total) == (ex.run.id, ex.n, ex.run.total)
            ex.begun, ex.expiry_ms = True, self.model.now_ms + LEASE_MS
            if ex.worker in self.model.workers:
                self.model.workers[ex.worker].suspect = False
        self.check()

    @precondition(lambda self: self.begun())
    @rule(pick=PICK, fresh=st.booleans(), failed=st.sampled_from([0, 0, 0, 1]))
    def next(self, pick: int, fresh: bool, failed: int) -> None:
        """An execution asks for items."""
        self.next_one(choose(self.begun(), pick), fresh, failed)

    def next_one(self, ex: Execution, fresh: bool, failed: int = 0) -> Next | None:
        """Ask for items; None when it owed too many."""
        run = ex.run
        answer: Next | None = None
        try:
            answer = self.call(lambda: self.dispatcher.next(JobId(ex.job), fresh=fresh, failed=failed))
        except OutOfOrder:
            pass
        if ex.job not in self.model.execs:
            assert answer == Gone()
        else:
            self.model.fail(run, failed)
            self.check_answer(ex, fresh, answer)
        self.check()
        return answer

    def check_answer(self, ex: Execution, fresh: bool, answer: Next | None) -> None:
        """The answer to an execution that holds its slot."""
        run, owed = ex.run, len(ex.chunk) + (ex.alone is not None)
        if run.state == "stopping":
            assert answer == Leave(reason="done" if run.outcome == "finished" else "stop")
        elif ex.leaving_for and not ex.bound:
            assert answer == Leave(reason="yield")
        elif run.total is None:
            assert answer == Wait()
        elif owed > 1:
            assert answer is None
        elif not run.has_work and not ex.bound:
            assert answer == Leave(reason="done")
        elif run.alone and fresh and not owed and not ex.bound:
            ex.alone, *ex.bound = run.alone.pop(0)
            assert answer == Chunk(items=((ex.alone, nodeid(ex.alone)),), alone=True)
        elif ex.alone is not None or not (run.pending or ex.bound):
            assert answer == Recycle()
        else:
            assert isinstance(answer, Chunk)
            assert not answer.alone
            items = [index for index, _ in answer.items]
            assert answer.items == tuple((index, nodeid(index)) for index in items)
            assert items == list(range(items[0], items[0] + len(items)))
            self.continue_group(ex, items) if ex.bound else self.take_share(ex, items)
            ex.chunk += items

    def continue_group(self, ex: Execution, items: list[int]) -> None:
        """Items that were handed out of the group that an execution has begun: as many as may be."""
        assert items == ex.bound[: ex.run.limit(items[0])]
        del ex.bound[: len(items)]

    def take_share(self, ex: Execution, items: list[int]) -> None:
        """Other items that were handed out: from the front, whole groups, not too many."""
        run, share = ex.run, self.model.share(ex.run)
        groups = [run.groups[item] for item in items]
        assert items == run.pending[: len(items)]
        del run.pending[: len(items)]
        while run.pending and run.groups[run.pending[0]] == groups[-1]:
            ex.bound.append(run.pending.pop(0))
        assert len(items) <= share or len(set(groups)) == 1
        assert not ex.bound or (len(set(groups)) == 1 and len(items) == run.limit(items[0]))

    @precondition(lambda self: self.begun())
    @rule(pick=PICK, count=st.integers(0, 6), failed=st.sampled_from([0, 0, 1]), again=st.booleans())
    def append(self, pick: int, count: int, failed: int, again: bool) -> None:
        """An execution reports what it has done, perhaps twice."""
        ex = choose(self.begun(), pick)
        items = self.append_one(ex, count, failed if count else 0)
        if again:
            self.append_items(ex, items, failed, seq=ex.seq)

    def append_one(self, ex: Execution, count: int, failed: int = 0) -> list[int]:
        """Report the first items of what an execution owes; which they were."""
        items = ex.chunk[:count] if ex.chunk or not count or ex.alone is None else [ex.alone]
        self.append_items(ex, items, failed, seq=ex.seq + 1)
        return items

    def append_items(self, ex: Execution, items: list[int], failed: int, *, seq: int) -> None:
        """Report items, perhaps again."""
        run = ex.run
        payload = b"\n".join(b'{"t":"result","i":%d}' % item for item in items)
        answer = self.call(lambda: self.dispatcher.append(JobId(ex.job), payload, seq=seq, done=items, failed=failed))
        if ex.job not in self.model.execs:
            assert answer == Gone()
            self.check()
            return
        if seq == ex.seq + 1:
            ex.seq = seq
            run.losses = 0 if items else run.losses
            ex.chunk = [item for item in ex.chunk if item not in items]
            ex.alone = None if ex.alone in items else ex.alone
            self.model.fail(run, failed)
            self.model.do(run, items)
        expected = None
        if run.state == "stopping":
            expected = Leave(reason="done" if run.outcome == "finished" else "stop")
        elif ex.leaving_for:
            expected = Leave(reason="yield")
        assert answer == expected
        self.check()

    @precondition(lambda self: self.begun())
    @rule(pick=PICK)
    def back(self, pick: int) -> None:
        """A child has ended: the rest is given back."""
        ex = choose(self.begun(), pick)
        assert self.call(lambda: self.dispatcher.back(JobId(ex.job))) == (ex.job in self.model.execs)
        if ex.job in self.model.execs:
            self.model.give_back(ex)
        self.check()

    @precondition(lambda self: self.begun())
    @rule(pick=PICK, running=st.booleans(), again=st.booleans())
    def crash(self, pick: int, running: bool, again: bool) -> None:
        """A child died, while a test was running or between two; perhaps this is said twice."""
        self.crash_one(choose(self.begun(), pick), running, again)

    def crash_one(self, ex: Execution, running: bool = True, again: bool = False) -> None:
        """Let a child of an execution die."""
        if not ex.chunk and ex.alone is None:
            self.next_one(ex, fresh=True)
        run, item = ex.run, ex.alone if ex.alone is not None else next(iter(ex.chunk), None)
        charged = item if running else None
        seq, idx = ex.seq + 1, -1 if charged is None else charged
        answer = self.call(lambda: self.dispatcher.crash(JobId(ex.job), seq=seq, idx=idx))
        assert answer.gone == (ex.job not in self.model.execs)
        if not answer.gone:
            self.charge(ex, charged)
            assert answer.again == (charged is not None and charged not in run.done)
        self.check()
        if again:
            repeated = self.call(lambda: self.dispatcher.crash(JobId(ex.job), seq=seq, idx=idx))
            assert repeated == answer
            self.check()

    def charge(self, ex: Execution, item: int | None) -> None:
        """A child died while it ran an item, or none."""
        run = ex.run
        self.model.give_back(ex, item)
        ex.seq += 1
        if item is None:
            return
        run.crashed[item] += 1
        if run.crashed[item] == 1:
            rest = [other for other in run.pending if other > item and run.groups[other] == run.groups[item]]
            run.alone.insert(0, [item, *rest])
            run.pending = [other for other in run.pending if other not in rest]
        else:
            run.losses = 0
            self.model.fail(run, 1)
            self.model.do(run, [item])

    @precondition(lambda self: self.begun())
    @rule(pick=PICK, again=st.booleans())
    def leave(self, pick: int, again: bool) -> None:
        """An execution gives its slot back, perhaps twice."""
        self.leave_one(choose(self.begun(), pick), again)

    def leave_one(self, ex: Execution, again: bool = False) -> None:
        """Let an execution leave."""
        left = self.call(lambda: self.dispatcher.leave(JobId(ex.job)))
        assert left == (ex.job in self.model.execs)
        if left:
            self.model.give_back(ex)
            self.model.free(ex)
            self.model.settle(ex.run)
        self.check()
        if again:
            assert self.call(lambda: self.dispatcher.leave(JobId(ex.job))) == left
            self.check()

    @precondition(lambda self: self.model.execs)
    @rule(pick=PICK)
    def lapse(self, pick: int) -> None:
        """A work-horse died."""
        self.lapse_one(choose(list(self.model.execs.values()), pick))

    def lapse_one(self, ex: Execution) -> None:
        """Lapse an execution."""
        self.call(lambda: self.dispatcher.lapse(JobId(ex.job)))
        if ex.job in self.model.execs:
            self.model.lapse(ex)
        self.check()

    @precondition(lambda self: len(self.begun()) > 2)
    @rule(pick=PICK)
    def fatal(self, pick: int) -> None:
        """A run cannot work."""
        ex = choose(self.begun(), pick)
        self.call(lambda: self.dispatcher.fatal(JobId(ex.job), "no"))
        if ex.job in self.model.execs:
            self.model.stop(ex.run, "fatal")
            self.model.give_back(ex)
            self.model.free(ex)
            self.model.settle(ex.run)
        self.check()

    # Time.

    @rule(seconds=st.sampled_from([0, 1, 2, 5, 14]))
    def everybody_lives(self, seconds: int) -> None:
        """Time goes by and every lease is renewed."""
        self.renew()
        self.model.now_ms += seconds * 1000
        self.tick()

    @precondition(lambda self: self.client.zcard("sc:leases"))
    @rule(pick=PICK)
    def somebody_dies(self, pick: int) -> None:
        """One lease lapses; all others are renewed."""
        victim = choose(sorted(self.client.zrange("sc:leases", 0, -1)), pick)
        self.renew(but=victim)
        self.model.now_ms += 8_000
        self.renew(but=victim)
        self.model.now_ms += 14_000
        self.tick()

    @precondition(lambda self: self.begun())
    @rule(pick=PICK, ends=st.lists(st.booleans(), min_size=2, max_size=5))
    def curse(self, pick: int, ends: list[bool]) -> None:
        """A run loses its children (True) or executions again and again, at the same item."""
        run = choose(self.begun(), pick).run
        for child in ends:
            for ex in self.model.held(run)[:1]:
                self.begin_one(ex)
                self.next_one(ex, fresh=True)
                if ex.job in self.model.execs:
                    self.crash_one(ex) if child else self.lapse_one(ex)
            self.everybody_lives(seconds=8)

    def renew(self, but: bytes = b"") -> None:
        """Renew leases without a call, so that nothing is reaped by it."""
        expiry_ms = self.model.now_ms + LEASE_MS
        holders: dict[str, Any] = {"e": self.model.execs, "w": self.model.workers, "c": self.model.runs}
        for member in self.client.zrange("sc:leases", 0, -1):
            if member == but:
                continue
            self.client.zadd("sc:leases", {member: expiry_ms})
            kind, _, name = member.decode().partition(":")
            if kind in holders:
                holders[kind][name].expiry_ms = expiry_ms

    def tick(self) -> None:
        """A timer."""
        self.call(self.dispatcher.tick)
        self.check()

    # What must hold after every step.

    @invariant()
    def everything_agrees(self) -> None:
        """All of the following."""
        self.same_queue()
        self.same_sets()
        self.no_item_is_lost_or_doubled()
        self.groups_stay_together()
        self.runs_of_a_group_take_turns()
        self.ended_runs_told_everything_once()

    def same_queue(self) -> None:
        """The figures and every row of the queue are the model's."""
        model = self.model
        status = self.call(self.dispatcher.queue)
        self.check()
        figures = status.figures
        assert (figures.running, figures.running_capacity) == (len(model.execs), model.running_capacity)
        assert (figures.queued, figures.queued_capacity) == (model.queued(), model.queued_capacity)
        assert figures.waiting == len(model.in_state("waiting"))
        assert (figures.workers, figures.idle) == (len(model.live()), len(model.idle()))
        rows = [(row.run, row.state, row.held, row.want, row.done, row.total) for row in status.runs]
        running = sorted(model.in_state("running", "stopping"), key=lambda run: run.age)
        waiting, behind = (
            sorted(model.waiting(blocked=blocked), key=lambda run: (run.priority, run.age)) for blocked in (False, True)
        )
        assert rows == [
            (run.id, run.state, len(model.held(run)), run.want, len(run.done), run.total)
            for run in running + waiting + behind
        ]
        places = [0] * len(running) + list(range(1, len(waiting) + 1)) + [model.place_behind(run) for run in behind]
        assert [row.position for row in status.runs] == places
        assert [row.waits_for for row in status.runs[-len(behind) :] if behind] == [run.concurrency for run in behind]

    def same_sets(self) -> None:
        """Every index holds what lives and nothing else."""
        model = self.model
        expected = {"sc:held": set(model.execs), "sc:workers": {worker.name for worker in model.live()}}
        expected["sc:idle"] = {worker.name for worker in model.idle()}
        expected["sc:runs"] = {ex.run.id for ex in model.execs.values()}
        expected["sc:hungry"] = {run.id for run in model.in_state("running") if model.eligible(run)}
        for project in PROJECTS:
            expected[f"sc:held:{project}"] = {ex.job for ex in model.execs.values() if ex.run.project == project}
            expected[f"sc:waiting:{project}"] = {run.id for run in model.waiting(project)}
            expected[f"sc:blocked:{project}"] = {run.id for run in model.waiting(project, blocked=True)}
        with self.client.pipeline(transaction=False) as pipe:
            for key in expected:
                pipe.smembers(key)
            pipe.zrange("sc:leases", 0, -1)
            pipe.zrange("sc:later", 0, -1)
            *sets, leases, later = pipe.execute()
        assert {key: texts(found) for key, found in zip(expected, sets, strict=True)} == expected
        holders = {f"e:{job}" for job in model.execs} | {f"w:{name}" for name in model.workers}
        live = self.runs("waiting", "running", "stopping")
        holders |= {f"g:{run.project}\x1f{run.concurrency}" for run in live if run.concurrency}
        assert texts(leases) == holders | {f"c:{run.id}" for run in model.runs.values() if run.expiry_ms is not None}
        assert texts(later) == {job for run in model.runs.values() for job in run.later}

    def no_item_is_lost_or_doubled(self) -> None:
        """Every item of a run is pending, to be tried alone, with one execution, or done; where the model has it."""
        for run in self.model.runs.values():
            if run.total is None or run.id in self.closed:
                continue
            with self.client.pipeline(transaction=False) as pipe:
                pipe.lrange(f"sc:run:{run.id}:pending", 0, -1)
                pipe.lrange(f"sc:run:{run.id}:alone", 0, -1)
                pipe.get(f"sc:run:{run.id}:done")
                pending, alone, bitmap = pipe.execute()
            assert [item for part in pending for item in expand(part)] == run.pending
            assert [expand(part) for part in alone] == run.alone
            done = {n for n in range(run.total) if (bitmap or b"").ljust(n // 8 + 1, b"\0")[n // 8] & 128 >> n % 8}
            assert done == run.done
            held = [item for ex in self.model.held(run) for item in ex.items]
            everywhere = Counter([*run.pending, *itertools.chain(*run.alone), *held, *run.done])
            assert everywhere == Counter(range(run.total))

    def groups_stay_together(self) -> None:
        """What is undone of a group is in one place: pending at a stretch, to be tried alone, or with one execution."""
        for run in self.runs("waiting", "running", "stopping"):
            places = [run.pending, *run.alone]
            for ex in self.model.held(run):
                texts = self.client.hmget(f"sc:exec:{ex.job}", "chunk", "alone", "bound")
                has = [item for text in texts for item in expand(text or b"") if item not in run.done]
                assert Counter(has) == Counter(ex.items)
                places.append(has)
            stretches = [run.groups[items[0]] for place in places for items in at_a_stretch(place, run.groups)]
            assert len(stretches) == len(set(stretches)), f"a group of {run.id} is in several places: {places}"

    def runs_of_a_group_take_turns(self) -> None:
        """No run that holds slots shares its group with more that do than it has asked for."""
        sharing = [run for run in self.runs("running", "stopping") if run.concurrency]
        with self.client.pipeline(transaction=False) as pipe:
            for run in sharing:
                pipe.exists(f"sc:run:{run.id}:held")
            holding = [run for run, holds in zip(sharing, pipe.execute(), strict=True) if holds]
        for run in holding:
            others = [one for one in holding if (one.project, one.concurrency) == (run.project, run.concurrency)]
            assert len(others) <= run.concurrency_limit, f"{others} of one group hold slots"

    def ended_runs_told_everything_once(self) -> None:
        """The stream of a run that is over reports each done item once, and its end once."""
        for run in self.runs("ended"):
            if run.id in self.closed:
                continue
            self.closed.add(run.id)
            entries, _ = self.dispatcher.events(RunId(run.id), after="0", wait_s=0)
            events = [json.loads(line) for entry in entries for line in entry.splitlines()]
            reported = Counter(event["i"] for event in events if event["t"] in ("result", "crash"))
            assert reported == Counter(run.done)
            assert [event["outcome"] for event in events if event["t"] == "end"] == [run.outcome]
            assert events[-1]["t"] == "end"
            if run.outcome == "finished":
                assert run.done == set(range(run.total or 0))
            for number in set(run.groups):
                told = [item for item in reported if run.groups[item] == number]
                assert told == sorted(told), f"a group of {run.id} did not run in order"

    def teardown(self) -> None:
        """With room and workers for all, every run comes to its end, and the pool is empty."""
        if self.sound:
            self.finish_everything()
        self.dispatcher.close()

    def finish_everything(self) -> None:
        """Serve every run to its end."""
        self.renew()
        self.pause(on=False)
        self.operate(None, 6, 50)
        for project in PROJECTS:
            self.operate(project, -1, -1)
        for n in range(3):
            self.join_new(host=0, gpu=n != 1)
        for _ in range(200):
            if not self.runs("waiting", "running", "stopping"):
                break
            self.everybody_lives(seconds=2)
            for ex in list(self.model.execs.values()):
                if ex.job in self.model.execs:
                    self.serve(ex)
        assert not self.runs("waiting", "running", "stopping"), "a run does not end"
        assert not self.model.execs
        self.everything_agrees()

    def serve(self, ex: Execution) -> None:
        """Let an execution do what it can until it has to leave."""
        if ex.run.total is None:
            self.offer(ex.run, 3, single=0, sizes=(2, 1))
        if not ex.begun and ex.job in self.model.execs:
            self.begin_one(ex)
        while ex.job in self.model.execs:
            self.append_one(ex, len(ex.chunk) or 1)
            answer = self.next_one(ex, fresh=True)
            if not isinstance(answer, Chunk):
                self.leave_one(ex)


#: Where pools spend their time: these come up more often than what happens now and then.
WEIGHTS = {"submit": 4, "work": 8, "crash": 3, "lapse": 2, "everybody_lives": 2, "somebody_dies": 2}

for name, weight in WEIGHTS.items():
    for number in range(1, weight):
        setattr(Machine, f"{name}_{number}", getattr(Machine, name))


def choose(options: Sequence[T], pick: int) -> T:
    """One of the options; a small number means an early one, so that examples shrink."""
    return options[pick % len(options)]


def nodeid(index: int) -> str:
    """The nodeid of an item."""
    return f"t.py::t[{index}]"


def nodeids(count: int) -> list[str]:
    """The nodeids of so many items."""
    return [nodeid(index) for index in range(count)]


def expand(ranges: bytes) -> list[int]:
    """The items of ranges, or single items, with commas between."""
    ends = [part.split(b"-") for part in ranges.split(b",") if part]
    return [item for first, *last in ends for item in range(int(first), int(last[0] if last else first) + 1)]


def at_a_stretch(items: list[int], groups: list[int]) -> list[list[int]]:
    """Items that are beside each other and of one group."""
    return [list(stretch) for _, stretch in itertools.groupby(items, key=lambda item: groups[item])]


def texts(members: Iterable[bytes]) -> set[str]:
    """Members of a collection."""
    return {member.decode() for member in members}


def test_dispatcher_agrees_with_the_model(valkey: redis.Redis) -> None:
    """
    Whatever is done in whatever order: admission, promotion, yields, items and figures follow the rules.

    Looking for a shorter example of a failure takes minutes: set SUPERCHECK_SHRINK to have it done.
    """
    phases = [phase for phase in Phase if phase is not Phase.shrink or os.environ.get("SUPERCHECK_SHRINK")]
    machine = type("Bound", (Machine,), {"client": valkey})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=100,
            stateful_step_count=50,
            deadline=None,
            derandomize="CI" in os.environ,  # new examples are for developers, who can look into them
            phases=phases,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
