"""
A run once more: all of its tests, those that did not pass, or one.

Between the dispatcher and whoever asks for it, a person or the server.  Nobody waits for such a run: it is submitted
like any other, with what its first run was submitted with, and then left to the pool and its recorder.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pytest_supercheck.errors import CannotRetry
from pytest_supercheck.model import Offer, RunDetails, RunId, RunRequest, new_run_id
from pytest_supercheck.record import FAILING, read_origin
from pytest_supercheck.transcript import Submitted, Transcript, wire_nodeids

if TYPE_CHECKING:
    from pytest_supercheck.dispatch import Dispatcher


def retry(dispatcher: Dispatcher, run: RunId, *, failed: bool = False, nodeid: str = "") -> RunId:
    """
    Submit a run again, under an id of its own.

    Args:
        run: One that has ended, at most 7 days ago.
        failed: Only its tests that failed, or have no result.
        nodeid: Only this test.

    Returns:
        The new run's id.

    Raises:
        CannotRetry: The pool has not, or no longer, what it takes; or there is nothing to run.
        QueueFull: Refused.
    """
    details = dispatcher.details(run)
    if details is None:
        raise CannotRetry(f"The pool does not know run {run}, or no more: it keeps runs for 7 days. Start it anew.")
    if details.state != "ended":
        raise CannotRetry(f"Run {run} has not ended yet.")
    names = dispatcher.nodeids(run)
    wanted = _failed(dispatcher, details, names) if failed else range(len(names))
    if nodeid:
        nodeids = wire_nodeids(names)
        wanted = [index for index in wanted if nodeids[index] == nodeid]
    if not wanted:
        raise CannotRetry(f"Run {run} has no such tests: there is nothing to run.")
    request = _request(details)
    again, joined = _regroup(names, wanted)
    dispatcher.submit(request)
    offer = Offer(names=again, single=len(again) if request.maxfail else 0, joined=joined)
    dispatcher.offer(request.run_id, offer)
    dispatcher.detach(request.run_id)
    return request.run_id


def _failed(dispatcher: Dispatcher, details: RunDetails, names: Sequence[str]) -> list[int]:
    """The indexes of the tests that failed or have no result."""
    submitted = Submitted(id=details.run, project="", origin=read_origin("{}"), submitted_at=datetime.now(timezone.utc))
    transcript = Transcript(submitted, wire_nodeids(names))
    for batch in dispatcher.all_events(details.run):
        transcript.feed(batch)
    good = {item.index for item in transcript.finish().record.items if item.outcome not in FAILING}
    return [index for index in range(len(names)) if index not in good]


def _request(details: RunDetails) -> RunRequest:
    run = new_run_id()
    spec: dict[str, Any] = json.loads(details.spec)
    origin = dataclasses.replace(read_origin(details.spec), trigger="retry", url="")
    spec |= {"uid": run, "basetemp": "", "origin": dataclasses.asdict(origin)}
    for node in spec.get("nodes", ()):
        node["testrunuid"] = run
    return RunRequest(
        run_id=run,
        project=details.project,
        priority=details.priority,
        want=details.want,
        labels=details.labels,
        spec=json.dumps(spec),
        timeout_s=details.timeout_s,
        maxfail=details.maxfail,
        concurrency=details.concurrency,  # it takes its turn, and supersedes nothing newer
        concurrency_limit=details.concurrency_limit,
    )


def _regroup(names: Sequence[str], wanted: Sequence[int]) -> tuple[list[str], list[int]]:
    """
    Some of a run's names on the wire, and the indexes among them of those of the same group as the one before.

    A third part of an item's name says that it is of the same group as the one before, which may not be among them.
    """
    groups, again, joined = _groups(names), list[str](), list[int]()
    for place, index in enumerate(wanted):
        value = json.loads(names[index])
        nodeid, repetition = value[:2] if isinstance(value, list) else (value, 0)
        if place and groups[index] == groups[wanted[place - 1]]:
            joined.append(place)
            again.append(json.dumps([nodeid, repetition, 1]))
        else:
            again.append(json.dumps([nodeid, repetition] if repetition else nodeid))
    return again, joined


def _groups(names: Sequence[str]) -> list[int]:
    """Of each item, the number of its group."""
    groups: list[int] = []
    for name in names:
        value = json.loads(name)
        groups.append(groups[-1] + (len(value) < 3 if isinstance(value, list) else 1) if groups else 0)
    return groups
