"""
The script's replies → the nouns of `model`.

Between `dispatch.lua`, whose tables come as JSON objects without what is nil, and the dispatcher.
"""

from __future__ import annotations

from typing import Any

from pytest_supercheck.model import (
    PRIORITIES,
    Admission,
    Begun,
    Chunk,
    Figures,
    Gone,
    JobId,
    Leave,
    Next,
    PoolExecution,
    PoolStatus,
    PoolWorker,
    ProjectFigures,
    QueuedRun,
    QueueStatus,
    Recycle,
    RunDetails,
    RunId,
    RunStatus,
    Wait,
)

Reply = dict[str, Any]


def admission(reply: Reply) -> Admission:
    """What a run that was taken is told."""
    return Admission(
        state=reply["state"],
        held=reply["held"],
        position=reply["position"],
        eta_s=reply.get("eta_s"),
        waits_for=reply["waits_for"],
        fitting=reply["fitting"],
        figures=figures(reply["figures"]),
    )


def figures(row: Reply) -> Figures:
    """The pool's figures."""
    project = row.pop("project", None)
    paused = bool(row.pop("paused"))
    return Figures(paused=paused, project=_project_figures(project) if project else None, **row)


def _project_figures(row: Reply) -> ProjectFigures:
    return ProjectFigures(
        running_capacity=row.pop("running_capacity", None), queued_capacity=row.pop("queued_capacity", None), **row
    )


def run_status(run: RunId, reply: Reply) -> RunStatus:
    """Where a run stands."""
    return RunStatus(
        run=run,
        state=reply["state"],
        outcome=reply.get("outcome", ""),
        message=reply.get("message", ""),
        held=reply.get("held", 0),
        position=reply.get("position", 0),
        eta_s=reply.get("eta_s"),
        waits_for=reply.get("waits_for", ""),
        done=reply.get("done", 0),
        total=reply.get("total"),
        figures=figures(reply["figures"]),
    )


def queue_status(reply: Reply) -> QueueStatus:
    """The live queue."""
    return QueueStatus(figures=figures(reply["figures"]), runs=tuple(_queued_run(row) for row in reply["runs"]))


def _queued_run(row: Reply) -> QueuedRun:
    priority = PRIORITIES[row.pop("priority")]
    optional = {name: row.pop(name, None) for name in ("total", "eta_s", "started_ms")}
    return QueuedRun(priority=priority, **optional, **row)


def pool_status(reply: Reply) -> PoolStatus:
    """Who works on what, in order."""
    workers, executions = map(_pool_worker, reply["workers"]), map(_pool_execution, reply["executions"])
    return PoolStatus(
        now_ms=reply["now_ms"],
        workers=tuple(sorted(workers, key=lambda worker: (worker.host, worker.pid, worker.worker))),
        executions=tuple(sorted(executions, key=lambda execution: (execution.run, execution.n))),
        unrecorded=reply["unrecorded"],
        refused=reply["refused"],
    )


def _pool_worker(row: Reply) -> PoolWorker:
    labels = _labels(row.pop("labels"))
    suspect, renewed_ms = bool(row.pop("suspect")), row.pop("renewed_ms", None)
    return PoolWorker(labels=labels, suspect=suspect, renewed_ms=renewed_ms, **row)


def _pool_execution(row: Reply) -> PoolExecution:
    leaving, optional = bool(row.pop("leaving")), {name: row.pop(name, None) for name in ("item", "renewed_ms")}
    return PoolExecution(leaving=leaving, **optional, **row)


def run_details(row: Reply) -> RunDetails:
    """What is known of a run."""
    priority = PRIORITIES[row.pop("priority")]
    optional = {name: row.pop(name, None) for name in ("total", "started_ms", "ended_ms")}
    attempts = tuple(row.pop("attempts"))  # an empty list comes as an empty object
    return RunDetails(
        priority=priority,
        attempts=attempts,
        labels=_labels(row.pop("labels")),
        timeout_s=row.pop("timeout_ms") / 1000,
        **optional,
        **row,
    )


def _labels(text: str) -> tuple[str, ...]:
    return tuple(label for label in text.split(",") if label)


def begun(job: JobId, reply: Reply) -> Begun:
    """What an execution serves."""
    timeout_s = reply.pop("timeout_ms") / 1000
    return Begun(job=job, timeout_s=timeout_s, total=reply.pop("total", None), **reply)


def next_items(reply: Reply) -> Next:
    """Items to run, or what to do instead."""
    if "items" in reply:
        items = tuple((index, nodeid) for index, nodeid in reply["items"])
        return Chunk(items=items, alone=bool(reply["alone"]))
    if "wait" in reply:
        return Wait()
    if "recycle" in reply:
        return Recycle()
    return Leave(reason=reply["leave"]) if "leave" in reply else Gone()
