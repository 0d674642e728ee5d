"""
The wire format, version 1: what flows from a test's process back to everybody who wants to know.

Second to last step of the flow (run → events → replay/record).  Knows JSON and nothing else: the runner imports this
module inside the user's environment, so it is stdlib only.

One event is one line of JSON.  A passing test without output is a bare array, because there are many of them::

    [index, n, started_us, setup_end, call_start, call_end, teardown_start, teardown_end, setup, call, teardown]

``index`` is the test's place in the run's list of items, ``n`` the execution's number, ``started_us`` microseconds
since the epoch; the five that follow are microseconds after it, the last three the measured durations in microseconds.
All other events are objects whose ``t`` names their kind; see `decode`.
"""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

VERSION: Final = 1

#: Text of one captured section beyond which its middle is cut, in characters.
SECTION_LIMIT: Final = 20_000_000

#: Files of one test that are kept, at most.
FILES_LIMIT: Final = 1_000

#: Characters of a word from a worker.
NOTE_LIMIT: Final = 2_000

#: The key that marks an encoded value which JSON has no type for.
_TAG: Final = "\x00"

#: pytest's phases, in the order in which a test goes through them.
PHASES: Final = ("setup", "call", "teardown")


class WireError(ValueError):
    """The event cannot be read: it is not of a version or kind that this release knows."""


@dataclass(frozen=True)
class Passed:
    """A test that passed and had nothing to say."""

    #: Place in the run's list of items.
    index: int
    #: Number of the execution that ran it.
    n: int
    #: Seconds since the epoch, per phase: start and end.
    spans: tuple[tuple[float, float], ...]
    #: Seconds per phase, measured by a steady clock.
    durations: tuple[float, ...]


@dataclass(frozen=True)
class Result:
    """All that one attempt of a test reported."""

    #: Place in the run's list of items.
    index: int
    #: Number of the execution that ran it.
    n: int
    #: What to replay, in order: ``("report", data)`` as `pytest_report_to_serializable` has it, ``("warning", data)``,
    #: ``("text", str)`` that plugins wrote to the terminal, such as ``--setup-show``, and ``("junit", (where, name,
    #: value))`` for an attribute of the ``test`` or a property of the ``suite`` in the junit file; at the end perhaps
    #: ``("aborted", None)``: the test ended the session before it had finished. A report's data may have three
    #: keys more: ``$longrepr``, a representation without traceback as written to a terminal, plain and coloured,
    #: ``$failed_subtests``, how many of the test's subtests have failed, and ``$captured``, that it came while output
    #: was captured: what the terminal said of it is among the test's sections.
    calls: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Missing:
    """A test that the worker did not collect."""

    #: Place in the run's list of items.
    index: int
    #: Number of the execution that looked for it.
    n: int
    #: Why, in words for the user.
    reason: str


@dataclass(frozen=True)
class Crash:
    """A test that was running when its process died, more often than is forgiven."""

    #: Place in the run's list of items.
    index: int
    #: Number of the execution it was running on last.
    n: int
    #: What is known: ``reason``, ``signal``, ``exit_code``, ``phase``, ``output``, ``host``, ``max_rss_kb``, ``oom``;
    #: each may be absent.
    post_mortem: dict[str, Any]
    #: Milliseconds since the epoch, by the dispatcher's clock; 0 when it does not say.
    at_ms: int = 0


@dataclass(frozen=True)
class Files:
    """What a test left behind, told by its supervisor; comes before the test's result."""

    #: Place in the run's list of items.
    index: int
    #: Number of the execution that ran it.
    n: int
    #: Of each file that is kept: its name, its key in the run's folder of the store, and its length in bytes.
    kept: tuple[tuple[str, str, int], ...]
    #: Of each other: its name, empty for several of them, and why it is not kept.
    left: tuple[tuple[str, str], ...]
    #: Of each file that is kept, what its name is relative to, a directory relative to the run's root; none of a run in
    #: place, whose files are where they belong.
    places: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listed:
    """A test as collection has found it."""

    #: Its id.
    nodeid: str
    #: pytest's location: file, line from 0 or None, name.
    location: tuple[str, int | None, str]
    #: Its keywords.
    keywords: tuple[str, ...]


@dataclass(frozen=True)
class Collected:
    """What a run consists of, for those that have not collected it themselves."""

    #: In collection order.
    items: tuple[Listed, ...]
    #: Of each item, by its index in the run, its place in that list; None when it is the same.
    places: tuple[int, ...] | None
    #: The ids of those that were deselected.
    deselected: tuple[str, ...]
    #: Collectors' reports that did not pass, as `pytest_report_to_serializable` has them.
    reports: tuple[dict[str, Any], ...]
    #: Warnings that were given meanwhile, as in `Result`.
    warnings: tuple[Any, ...]
    #: Whether none of it runs, because of what could not be collected.
    trouble: bool = False


@dataclass(frozen=True)
class Note:
    """A word from the worker to whoever follows the run."""

    #: Number of the execution.
    n: int
    #: One line or more.
    text: str
    #: Whether only those want to know it who ask for details.
    detail: bool


@dataclass(frozen=True)
class Begin:
    """An execution started on a worker."""

    #: Its number.
    n: int
    #: Its RQ job.
    job: str
    #: Where it runs.
    host: str
    #: Milliseconds since the epoch, by the dispatcher's clock.
    at_ms: int


@dataclass(frozen=True)
class Ready:
    """An execution's test process is there."""

    #: Its number.
    n: int
    #: As xdist's ``workerinfo``: version, version_info, sysplatform, platform, executable, cwd.
    workerinfo: dict[str, Any]
    #: Why it is not a fork of a process that had collected, or empty.
    spawned: str


@dataclass(frozen=True)
class Output:
    """An execution's pytest session ended by itself."""

    #: Its number.
    n: int
    #: What plugins left in ``config.workeroutput``.
    workeroutput: dict[str, Any]


@dataclass(frozen=True)
class Stop:
    """User code asked for the end of the whole session."""

    #: Number of the execution it happened on.
    n: int
    #: ``shouldstop``, ``shouldfail``, ``exit``, ``interrupt`` or ``internalerror``.
    how: str
    #: The reason given.
    message: str
    #: For ``exit``: the exit code asked for.
    code: int | None = None


@dataclass(frozen=True)
class Left:
    """An execution gave its slot back."""

    #: Its number.
    n: int
    #: Its RQ job.
    job: str
    #: Milliseconds since the epoch, by the dispatcher's clock.
    at_ms: int


@dataclass(frozen=True)
class End:
    """The run is over; nothing follows."""

    #: ``finished``, ``maxfail``, ``stopped``, ``cancelled``, ``interrupted``, ``timeout``, ``lost``, ``fatal``,
    #: ``abandoned`` or ``withdrawn``.
    outcome: str
    #: More words about it, or empty.
    message: str = field(default="")
    #: Milliseconds since the epoch, by the dispatcher's clock; 0 when it does not say.
    at_ms: int = 0


Event: TypeAlias = (
    "Passed | Result | Missing | Crash | Files | Collected | Note | Begin | Ready | Output | Stop | Left | End"
)


def pack(value: Any) -> Any:
    """
    Turn a Python value into what JSON can carry, so that `unpack` gives an equal value back.

    Args:
        value: Anything. Tuples, bytes, sets, odd keys and non-finite floats keep their type; what has no plain form
            becomes its ``repr``: a report is never lost because of an unusual property.
    """
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is list:
        return [pack(v) for v in value]
    if kind is tuple:
        return {_TAG: "tuple", "v": [pack(v) for v in value]}
    if kind is dict:
        if all(type(k) is str and k != _TAG for k in value):
            return {k: pack(v) for k, v in value.items()}
        return {_TAG: "dict", "v": [[pack(k), pack(v)] for k, v in value.items()]}
    if kind is float:
        return value if math.isfinite(value) else {_TAG: "float", "v": repr(value)}
    return _pack_unusual(value)


def _pack_unusual(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray)):
        return {_TAG: "bytes", "v": base64.b64encode(value).decode("ascii")}
    if isinstance(value, (set, frozenset)):
        return {_TAG: "frozenset" if isinstance(value, frozenset) else "set", "v": [pack(v) for v in value]}
    for base in (bool, int, float, str):
        if isinstance(value, base):  # subclasses, such as an IntEnum or a str enum
            return pack(base(value))
    if isinstance(value, dict):
        return pack(dict(value))
    if isinstance(value, (list, tuple)):
        return pack(list(value) if isinstance(value, list) else tuple(value))
    try:
        return repr(value)
    except Exception as exc:  # noqa: BLE001 - a broken __repr__ must not cost the report
        return f"<{kind_name(value)}: repr() raised {type(exc).__name__}>"


def kind_name(value: object) -> str:
    """The qualified name of a value's class."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


_UNPACK: Final[dict[str, Any]] = {
    "tuple": lambda v: tuple(unpack(x) for x in v),
    "dict": lambda v: {unpack(k): unpack(x) for k, x in v},
    "float": float,
    "bytes": base64.b64decode,
    "set": lambda v: {unpack(x) for x in v},
    "frozenset": lambda v: frozenset(unpack(x) for x in v),
}


def unpack(value: Any) -> Any:
    """The value that `pack` was given."""
    if type(value) is dict:
        if _TAG in value:
            return _UNPACK[value[_TAG]](value["v"])
        return {k: unpack(v) for k, v in value.items()}
    if type(value) is list:
        return [unpack(v) for v in value]
    return value


def cut(text: str, limit: int = SECTION_LIMIT) -> str:
    """The text, with its middle replaced by a line that says so when it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters cut by pytest-supercheck ...]\n{text[-half:]}"


def line(event: object) -> bytes:
    """One event as the bytes of one line, without its newline. ASCII, so that lone surrogates and NULs survive."""
    return json.dumps(event, separators=(",", ":"), check_circular=False).encode("ascii")


def encode_passed(index: int, n: int, phases: list[tuple[float, float, float]]) -> bytes:
    """
    The line of a passing test.

    Args:
        phases: Start and end in seconds since the epoch, and the duration in seconds, of setup, call and teardown.
    """
    started_us = round(phases[0][0] * 1e6)
    marks = [round(t * 1e6) - started_us for start, end, _ in phases for t in (start, end)][1:]
    return line([index, n, started_us, *marks, *(round(duration * 1e6) for _, _, duration in phases)])


def encode_result(index: int, n: int, calls: list[tuple[str, Any]]) -> bytes:
    """The line of any other finished test; `calls` as in `Result`."""
    return line({"t": "result", "i": index, "n": n, "c": [[name, pack(data)] for name, data in calls]})


def encode_files(
    index: int, n: int, kept: list[tuple[str, str, int]], left: list[tuple[str, str]], places: list[str]
) -> bytes:
    """The line that tells of a test's files; as in `Files`."""
    return line({"t": "files", "i": index, "n": n, "kept": kept, "left": left, "places": places})


def encode_collected(collected: Collected) -> bytes:
    """The line that tells what a run consists of."""
    words: dict[str, int] = {}  # most tests have many in common
    items = [
        [item.nodeid, *item.location, [words.setdefault(word, len(words)) for word in item.keywords]]
        for item in collected.items
    ]
    told = {"t": "collected", "v": VERSION, "items": items, "words": list(words), "places": collected.places}
    told |= {"deselected": collected.deselected, "reports": pack(list(collected.reports))}
    return line({**told, "warnings": pack(list(collected.warnings)), "trouble": collected.trouble})


def encode_note(n: int, text: str, *, detail: bool = False) -> bytes:
    """The line that carries a word."""
    return line({"t": "note", "n": n, "text": cut(text, NOTE_LIMIT), "detail": detail})


def _passed(row: list[int]) -> Passed:
    index, n, started_us, *numbers = row
    marks, durations = [0, *numbers[:5]], numbers[5:]
    seconds = [(started_us + mark) / 1e6 for mark in marks]
    return Passed(
        index, n, tuple(zip(seconds[::2], seconds[1::2], strict=True)), tuple(duration / 1e6 for duration in durations)
    )


def decode(raw: bytes) -> Event:
    """
    Read one line.

    Raises:
        WireError: It is not JSON, or of an unknown kind or version.
    """
    try:
        value = json.loads(raw)
        if type(value) is list:
            return _passed(value)
        return _decode_object(value)
    except (ValueError, KeyError, TypeError) as exc:
        raise WireError(f"unreadable event ({exc}): {raw[:200]!r}") from exc


def _decode_object(value: dict[str, Any]) -> Event:  # noqa: C901, PLR0911 - one for each kind
    match value["t"]:
        case "result":
            calls = tuple((name, unpack(data)) for name, data in value["c"])
            return Result(value["i"], value["n"], calls)
        case "missing":
            return Missing(value["i"], value["n"], value["reason"])
        case "crash":
            return Crash(value["i"], value["n"], value["pm"] or {}, value.get("at", 0))
        case "files":
            kept = tuple((name, key, size) for name, key, size in value["kept"])
            left = tuple((name, why) for name, why in value["left"])
            return Files(value["i"], value["n"], kept, left, tuple(map(str, value.get("places", ()))))
        case "collected":
            _check_version(value["v"])
            words = value["words"]
            items = tuple(
                Listed(nodeid, (path, lineno, name), tuple(words[number] for number in numbers))
                for nodeid, path, lineno, name, numbers in value["items"]
            )
            places = None if value["places"] is None else tuple(value["places"])
            reports, given = tuple(unpack(value["reports"])), tuple(unpack(value["warnings"]))
            return Collected(items, places, tuple(value["deselected"]), reports, given, bool(value["trouble"]))
        case "note":
            return Note(value["n"], str(value["text"]), bool(value["detail"]))
        case "begin":
            _check_version(value["v"])
            return Begin(value["n"], value["job"], value["host"], value["at"])
        case "ready":
            return Ready(value["n"], unpack(value["info"]), value["spawn"])
        case "output":
            return Output(value["n"], unpack(value["output"]))
        case "stop":
            return Stop(value["n"], value["how"], value["message"], value.get("code"))
        case "left":
            return Left(value["n"], value["job"], value["at"])
        case "end":
            return End(value["outcome"], value.get("message", ""), value.get("at", 0))
        case kind:
            raise WireError(f"unknown kind {kind!r}")


def _check_version(version: int) -> None:
    if version != VERSION:
        raise WireError(f"events of version {version}, this release reads version {VERSION}")
