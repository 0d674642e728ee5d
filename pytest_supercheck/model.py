"""
The nouns that cross the dispatcher's door: what a caller asks for and what it is told.

Pure data, and how a run is named. Must not know Redis, RQ or pytest.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NewType, TypeAlias

RunId = NewType("RunId", str)
JobId = NewType("JobId", str)

Priority = Literal["high", "normal", "low"]
How = Literal["leave", "interrupt", "kill"]
RunState = Literal["waiting", "running", "stopping", "ended", "gone"]

#: Priorities in rank order; the index is the rank.
PRIORITIES: Final[tuple[Priority, ...]] = ("high", "normal", "low")


def new_run_id() -> RunId:
    """Make an id for a run: random, and sorted by time (RFC 9562, version 7; `uuid.uuid7` is in Python 3.14)."""
    value = (int(time.time() * 1000) << 80) | (int.from_bytes(os.urandom(10), "big"))
    value = (value & ~(0xF000 << 64)) | (0x7000 << 64)
    return RunId(str(uuid.UUID(int=(value & ~(0xC000 << 48)) | (0x8000 << 48))))


def is_label(text: str) -> bool:
    """Whether that can be a worker's label: 1 to 100 letters, digits and ``._-:`` of ASCII."""
    return re.fullmatch(r"[A-Za-z0-9._:-]{1,100}", text) is not None


def is_group_name(text: str) -> bool:
    """Whether that can be a concurrency group's name: 1 to 200 letters, digits and ``._-:/`` of ASCII."""
    return re.fullmatch(r"[A-Za-z0-9._:/-]{1,200}", text) is not None


def queue_name(worker: str) -> str:
    """
    Name the RQ queue of one worker process.

    Args:
        worker: The worker's id, as in `Dispatcher.join`.

    Returns:
        The queue's name, without RQ's own prefix.
    """
    return f"supercheck:{worker}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What a client asks for."""

    #: The run's id; a repeated submission with the same id is the same run.
    run_id: RunId
    #: Tenant, for shares and limits.
    project: str = "default"
    #: Rank before age.
    priority: Priority = "normal"
    #: Most slots to hold at a time, at least 1.
    want: int = 1
    #: What workers need to know, as JSON text; opaque here.
    spec: str = "{}"
    #: Seconds from the first begin to the deadline, 0 for none.
    timeout_s: float = 0
    #: Failing reports after which nothing is started, 0 for no limit.
    maxfail: int = 0
    #: True when nobody keeps the run alive by asking for it.
    detached: bool = False
    #: Labels that a worker must have, none with a comma in it.
    labels: tuple[str, ...] = ()
    #: Seconds for which the run lives without a word from its session.
    grace_s: float = 15
    #: The concurrency group of its project that it is in; empty for none.
    concurrency: str = ""
    #: Most runs of the group at a time, at least 1; where its runs differ, the smallest counts.
    concurrency_limit: int = 1
    #: True to stop those of the group that are over the limit, the oldest first.
    cancel_in_progress: bool = False

    def __post_init__(self) -> None:
        if self.want < 1:
            raise ValueError(f"a run wants at least one slot, not {self.want}")
        if self.priority not in PRIORITIES:
            raise ValueError(f"priority is one of {', '.join(PRIORITIES)}, not {self.priority}")
        if self.concurrency and not is_group_name(self.concurrency):
            raise ValueError(f"a group's name is 1 to 200 letters, digits or any of ._-:/, not {self.concurrency!r}")
        if self.concurrency_limit < 1:
            raise ValueError(f"a concurrency group has at least one run at a time, not {self.concurrency_limit}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a run consists of."""

    #: Its items, in the order in which they are to run; their indexes name them from here on.
    names: Sequence[str]
    #: How many of them, from the first on, are handed out one at a time: with `-x` all of them, else those that take
    #: long.
    single: int = 0
    #: Indexes, each above 0, of those that are of the same group as the item before: one execution at a time has a
    #: group, whole and in order.
    joined: Sequence[int] = ()
    #: The line of a `events.Collected`, for others who will follow the run; empty for none.
    listing: str = ""
    #: Whether nobody keeps the run from here on, and it goes on all the same.
    detached: bool = False
    #: Without items, why there are none: the run ends as fatal. A worker's word, not a client's.
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectFigures:
    """One project's capacities and what they hold."""

    #: The project's name.
    name: str
    #: Executions that hold a slot.
    running: int
    #: Most executions at a time; None for no limit of its own.
    running_capacity: int | None
    #: Runs that would wait even if every free slot had a worker.
    queued: int
    #: Most queued runs; None for no limit of its own.
    queued_capacity: int | None
    #: Runs without a slot, for whatever reason.
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The pool's capacities and what they hold."""

    #: Executions that hold a slot.
    running: int
    #: Most executions at a time.
    running_capacity: int
    #: Runs that would wait even if every free slot had a worker.
    queued: int
    #: Most queued runs.
    queued_capacity: int
    #: Runs without a slot, for whatever reason.
    waiting: int
    #: Worker processes that are alive and take work.
    workers: int
    #: Those of them that have none.
    idle: int
    #: True while nothing is promoted.
    paused: bool
    #: The same for the run's project, if it has limits.
    project: ProjectFigures | None

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Figures:
        """The figures that `dataclasses.asdict` took apart."""
        project = row["project"]
        return cls(**{**row, "project": ProjectFigures(**project) if project else None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A run was taken."""

    #: `admitted` with a slot, `queued` without.
    state: Literal["admitted", "queued"]
    #: Slots held now.
    held: int
    #: Place among the runs that wait for the same, from 1; 0 with a slot.
    position: int
    #: Seconds until a slot is likely, None while nothing is known.
    eta_s: float | None
    #: Live workers that have the run's labels.
    fitting: int
    #: The pool at this moment.
    figures: Figures
    #: The concurrency group in which it waits for its turn; empty when it waits for a slot, or not at all.
    waits_for: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """Where a run stands."""

    #: The run.
    run: RunId
    #: `gone` when there is no such run.
    state: RunState
    #: How it ends or ended; empty before.
    outcome: str
    #: Why, in words; often empty.
    message: str
    #: Slots held now.
    held: int
    #: Place among the runs that wait for the same, from 1; 0 when it does not wait.
    position: int
    #: Seconds until a slot is likely, None while nothing is known.
    eta_s: float | None
    #: Items reported.
    done: int
    #: Items offered; None before that.
    total: int | None
    #: The pool at this moment.
    figures: Figures
    #: The concurrency group in which it waits for its turn; empty when it waits for a slot, or not at all.
    waits_for: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedRun:
    """One row of the queue."""

    #: The run.
    run: RunId
    #: Tenant.
    project: str
    #: Rank before age.
    priority: Priority
    #: `waiting`, `running` or `stopping`.
    state: RunState
    #: Slots held now.
    held: int
    #: Most slots to hold at a time.
    want: int
    #: Items reported.
    done: int
    #: Items offered; None before that.
    total: int | None
    #: Place among the runs that wait for the same, from 1; 0 when it does not wait.
    position: int
    #: Seconds until a slot is likely, None while nothing is known.
    eta_s: float | None
    #: When it was submitted, ms since 1970.
    submitted_ms: int
    #: When its first execution began, ms since 1970; None before.
    started_ms: int | None
    #: The concurrency group in which it waits for its turn; empty when it waits for a slot, or not at all.
    waits_for: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """The live queue."""

    #: The pool at this moment.
    figures: Figures
    #: Running runs by age, then those that wait for a slot in rank order, then those that wait for their turn.
    runs: tuple[QueuedRun, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolWorker:
    """A worker process that takes work."""

    #: Its id.
    worker: str
    #: Where it runs.
    host: str
    #: Its process id there.
    pid: int
    #: What it offers.
    labels: tuple[str, ...]
    #: Its release of this package.
    version: str
    #: The execution that it serves; empty when idle.
    job: str
    #: True when its last execution lapsed: others are asked first.
    suspect: bool
    #: When it last gave a sign of life, ms since 1970; None when its lease is gone.
    renewed_ms: int | None
    #: By how much its clock was ahead of the pool's when it began, in ms.
    skew_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolExecution:
    """An execution that holds a slot."""

    #: Its RQ job.
    job: JobId
    #: The run it serves.
    run: RunId
    #: The run's project.
    project: str
    #: Number of the slot within the run, from 1.
    n: int
    #: How often that number has been given out, from 1.
    attempt: int
    #: The worker that serves it.
    worker: str
    #: That worker's host.
    host: str
    #: ``promoted`` until its supervisor has begun, then ``begun``.
    state: str
    #: True when it has been told to give its slot back.
    leaving: bool
    #: When its lease was last renewed, ms since 1970; None when that is gone.
    renewed_ms: int | None
    #: Index of the test that it runs; None when it has none.
    item: int | None
    #: That test; empty when it has none.
    nodeid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus:
    """Who works on what."""

    #: The dispatcher's clock, ms since 1970.
    now_ms: int
    #: By host, then process.
    workers: tuple[PoolWorker, ...]
    #: By run, then number.
    executions: tuple[PoolExecution, ...]
    #: Runs that have ended and are not recorded.
    unrecorded: int
    #: Runs refused because the queue was full, since the pool's data began.
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDetails:
    """What the pool knows of one run beside its results."""

    #: The run.
    run: RunId
    #: Tenant.
    project: str
    #: Rank before age.
    priority: Priority
    #: Where it stands; never ``gone``.
    state: RunState
    #: Most slots to hold at a time.
    want: int
    #: How it ends or ended; empty before.
    outcome: str
    #: Why, in words; often empty.
    message: str
    #: Items offered; None before that.
    total: int | None
    #: `RunRequest.spec`, untouched.
    spec: str
    #: Labels that a worker must have.
    labels: tuple[str, ...]
    #: Seconds from the first begin to the deadline, 0 for none.
    timeout_s: float
    #: Failing reports after which nothing is started, 0 for no limit.
    maxfail: int
    #: When it was submitted, ms since 1970.
    submitted_ms: int
    #: When its first execution began, ms since 1970; None before.
    started_ms: int | None
    #: When it ended, ms since 1970; None before.
    ended_ms: int | None
    #: ``N-TIMES`` for each number of a slot: how often it was given out.
    attempts: tuple[str, ...]
    #: Its concurrency group, empty for none, and the most runs of it at a time.
    concurrency: str = ""
    concurrency_limit: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What a supervisor needs to know about its execution."""

    #: The execution.
    job: JobId
    #: The run it serves.
    run: RunId
    #: Number of the slot within the run, from 1; no two living executions share one.
    n: int
    #: How often that number has been given out, from 1.
    attempt: int
    #: Tenant.
    project: str
    #: `RunRequest.spec`, untouched.
    spec: str
    #: Most slots the run may hold.
    want: int
    #: Items offered; None before that.
    total: int | None
    #: `RunRequest.maxfail`.
    maxfail: int
    #: `RunRequest.timeout_s`.
    timeout_s: float
    #: When the run's first execution began, ms since 1970.
    started_ms: int
    #: When the run's time is up, ms since 1970; 0 for never.
    deadline_ms: int
    #: The dispatcher's clock now, ms since 1970.
    now_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Items to run, in this order."""

    #: Index and nodeid of each.
    items: tuple[tuple[int, str], ...]
    #: True for one item that has crashed before and runs in a child of its own.
    alone: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing has been offered yet: wait for mail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Finish what is running, give back the rest and leave."""

    #: `done`, `yield` or `stop`.
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recycle:
    """Only items for a fresh child are left: end this child and ask again from a new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """The execution holds its slot no longer: stop at once, report nothing."""


#: An answer to who asks for items.
Next: TypeAlias = Chunk | Wait | Leave | Recycle | Gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Crashed:
    """What becomes of the item that was running when a child died."""

    #: True when it will be tried once more; False when it has been reported.
    again: bool
    #: True when the execution holds its slot no longer, so nothing was taken.
    gone: bool
