"""
Events → the record of a run.

Last step of the flow, fed with the same stream as replay; the first result of a test counts, later ones are dropped.
Knows events and records, not where events come from and where records go.  All that it reads is taken for hostile: what
cannot be read is counted and left out, and every text and list has a bound.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Final

from pytest_supercheck import __version__, events, verdicts
from pytest_supercheck.record import ExecutionRecord, ItemRecord, Origin, RunRecord, RunSummary, WarningRecord
from pytest_supercheck.verdicts import line

#: How long the lists of a run are at most, and the one of tests that a warning came from.
NOT_RUN_LIMIT: Final = 1_000
WARNINGS_LIMIT: Final = 500
WARNED_LIMIT: Final = 10
EXECUTIONS_LIMIT: Final = 10_000
#: How many words of workers are kept.
NOTES_LIMIT: Final = 100

#: What reading a hostile line can raise.
_UNREADABLE: Final = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, OSError, RecursionError),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A run as it was submitted: what its events do not say."""

    #: Its id.
    id: str
    #: Whose run it is.
    project: str
    #: Who and what started it.
    origin: Origin
    #: When.
    submitted_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """All that is to be written down of a run."""

    #: The record.
    record: RunRecord
    #: Its events that could be read, as NDJSON, packed with gzip.
    events: bytes
    #: By their names in the run's folder, the texts that are too long for the record.
    texts: dict[str, str]


def wire_nodeids(names: Sequence[str | bytes]) -> list[str]:
    """The nodeids of a run's items, from their names on the wire."""
    parsed = (json.loads(name) for name in names)
    return [name if isinstance(name, str) else str(name[0]) for name in parsed]


class Transcript:
    """
    The record of a run while it is being written.

    Args:
        submitted: What the events do not say.
        nodeids: The ids of its items in their order; empty when they were never offered.
    """

    def __init__(self, submitted: Submitted, nodeids: Sequence[str]) -> None:
        self._submitted = submitted
        self._nodeids = nodeids
        self._packer = zlib.compressobj(6, zlib.DEFLATED, 31)
        self._packed: list[bytes] = []
        self._executions: dict[str, ExecutionRecord] = {}
        self._current: dict[int, str] = {}
        self._items: dict[int, ItemRecord] = {}
        #: By item and execution: what is known of its files before its result comes.
        self._files: dict[tuple[int, int], dict[str, Any]] = {}
        #: By text, class, file and line: the first tests that it came from, and how often it came.
        self._warnings: dict[tuple[str, str, str, int], tuple[tuple[str, ...], int]] = {}
        self._more_warnings = 0
        #: What workers had to say.
        self._said: list[str] = []
        self._texts = verdicts.Texts()
        self._end: events.End | None = None
        self._unreadable = 0

    def feed(self, batch: bytes) -> None:
        """Read one entry of the run's stream: one or more lines."""
        readable: list[bytes] = []
        for raw in batch.split(b"\n"):
            if not raw:
                continue
            try:
                self._read(events.decode(raw))
                readable.append(raw)
            except _UNREADABLE:
                self._unreadable += 1
        self._packed.append(self._packer.compress(b"".join(raw + b"\n" for raw in readable)))

    def finish(self, *, outcome: str = "lost", message: str = "", ended_at: datetime | None = None) -> Recorded:
        """
        Nothing more will come.

        Args:
            outcome: How it ended, where no `end` event says so; the same for the others.
            message: More words about it.
            ended_at: When that was; by default now.
        """
        self._packed.append(self._packer.flush())
        if self._end is not None:
            outcome, message = self._end.outcome, self._end.message
            ended_at = _time(self._end.at_ms) if self._end.at_ms else ended_at
        executions = tuple(sorted(self._executions.values(), key=lambda execution: execution.started_at))
        items = tuple(self._items[index] for index in sorted(self._items))
        missing = (nodeid for index, nodeid in enumerate(self._nodeids) if index not in self._items)
        summary = RunSummary(
            id=self._submitted.id,
            project=self._submitted.project,
            outcome=outcome,
            message=message,
            origin=self._submitted.origin,
            submitted_at=self._submitted.submitted_at,
            started_at=executions[0].started_at if executions else None,
            ended_at=ended_at or datetime.now(timezone.utc),
            total=len(self._nodeids),
            counts=dict(Counter(item.outcome for item in items)),
            executions=len({execution.n for execution in executions}),
            supercheck=__version__,
            notes=tuple(self._notes()),
        )
        record = RunRecord(
            summary=summary,
            executions=executions,
            items=items,
            not_run=tuple(line(nodeid) for nodeid in itertools.islice(missing, NOT_RUN_LIMIT)),
            warnings=tuple(_warning(key, *seen) for key, seen in self._warnings.items()),
        )
        return Recorded(record=record, events=b"".join(self._packed), texts=self._texts.whole)

    def _note(self, note: events.Note) -> None:
        text = line(note.text)
        if not note.detail and text not in self._said and len(self._said) < NOTES_LIMIT:
            self._said.append(text)

    def _notes(self) -> Iterator[str]:
        yield from self._said
        if self._unreadable:
            yield f"{self._unreadable} events could not be read and were left out"
        if self._texts.cut:
            yield f"{self._texts.cut} texts were cut, there was too much output: events.ndjson.gz has all of it"
        if self._more_warnings:
            yield f"{self._more_warnings} warnings were left out: there were more than {WARNINGS_LIMIT} different ones"

    # -- one event

    def _read(self, event: events.Event) -> None:  # noqa: C901 - one for each kind
        match event:
            case events.Passed():
                self._keep(event, verdicts.passed)
            case events.Result():
                if self._keep(event, verdicts.result, self._texts):
                    self._warn(event)
            case events.Missing():
                self._keep(event, verdicts.missing, self._texts)
            case events.Crash():
                self._keep(event, verdicts.crashed, self._texts)
            case events.Files():
                self._note_files(event)
            case events.Begin():
                self._begin(event)
            case events.Ready():
                self._ready(event)
            case events.Left():
                self._update(event.job, ended_at=_time(event.at_ms))
            case events.End():
                self._end = self._end or _checked(event)
            case events.Collected():
                self._nodeids = self._nodeids or _listed(event)
            case events.Note():
                self._note(event)
            case events.Output() | events.Stop():
                pass

    def _keep(self, event: Any, read: Callable[..., ItemRecord | None], *more: object) -> bool:
        """Keep a test's result unless there is one; whether that was so."""
        self._check_index(event.index)
        if event.index in self._items:
            return False
        execution = self._executions.get(self._current.get(event.n, ""))
        host = execution.host if execution else ""
        item = read(event, line(self._nodeids[event.index]), host, *more)
        if item is not None:
            files = self._files.pop((event.index, event.n), {})
            self._items[event.index] = replace(item, **files) if files else item
        return True

    def _note_files(self, event: events.Files) -> None:
        self._check_index(event.index)
        if event.index not in self._items and event.n in self._current:
            self._files[event.index, event.n] = verdicts.files(event)

    def _check_index(self, index: Any) -> None:
        if type(index) is not int or not 0 <= index < len(self._nodeids):
            raise IndexError(f"the run has no item {index!r}")

    def _warn(self, event: events.Result) -> None:
        nodeid = line(self._nodeids[event.index])
        for kind, value in event.calls:
            if kind != "warning":
                continue
            told = value[0]
            key = (
                line(told["text"]),
                line(told["name"]),
                line(told["filename"]),
                verdicts.whole_number(told["lineno"]),
            )
            if key not in self._warnings and len(self._warnings) >= WARNINGS_LIMIT:
                self._more_warnings += 1
                continue
            nodeids, count = self._warnings.get(key, ((), 0))
            self._warnings[key] = (nodeids if len(nodeids) >= WARNED_LIMIT else (*nodeids, nodeid), count + 1)

    def _begin(self, event: events.Begin) -> None:
        job, n = line(event.job), verdicts.whole_number(event.n)
        if job not in self._executions and len(self._executions) < EXECUTIONS_LIMIT:
            began = ExecutionRecord(n=n, job=job, host=line(event.host), started_at=_time(event.at_ms))
            self._executions[job] = began
            self._current[n] = job

    def _ready(self, event: events.Ready) -> None:
        known = event.workerinfo
        version, platform = line(known.get("version", "")), line(known.get("platform", ""))
        self._update(self._current.get(event.n, ""), python=version, platform=platform, spawned=line(event.spawned))

    def _update(self, job: str, **changes: Any) -> None:
        if job in self._executions:
            self._executions[job] = replace(self._executions[job], **changes)


def _listed(collected: events.Collected) -> list[str]:
    """The ids of a run's items in their order."""
    nodeids = [str(item.nodeid) for item in collected.items]
    return [nodeids[place] for place in collected.places] if collected.places else nodeids


def _warning(key: tuple[str, str, str, int], nodeids: tuple[str, ...], count: int) -> WarningRecord:
    text, category, path, lineno = key
    return WarningRecord(text=text, category=category, path=path, line=lineno, nodeids=nodeids, count=count)


def _checked(end: events.End) -> events.End:
    """An `end` whose parts are of the types that they should have."""
    _time(end.at_ms)
    return events.End(line(end.outcome), events.cut(str(end.message), verdicts.SPARE_TEXT), end.at_ms)


def _time(at_ms: Any) -> datetime:
    return verdicts.moment(verdicts.whole_number(at_ms) / 1000)
