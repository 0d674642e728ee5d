"""
The last event of a test → what is recorded of it.

The part of the transcript that knows pytest's reports.  What it cannot make sense of raises: the transcript then leaves
that event out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any, Final

from pytest_supercheck import events, postmortem
from pytest_supercheck.longrepr import longrepr_text
from pytest_supercheck.record import Artifact, Failure, ItemRecord, Outcome, PostMortem, Text

#: Characters of a text in the record; a longer one is an object of its own beside it.
TEXT_LIMIT: Final = 1_000_000

#: How many texts are objects of their own; more are cut.
WHOLE_TEXTS_LIMIT: Final = 500

#: Characters of such a text that the record has.
EXCERPT: Final = 20_000

#: Characters of all texts of a record, and what is left of each text past them.
TEXTS_LIMIT: Final = 32_000_000
SPARE_TEXT: Final = 2_000

#: Characters of names, messages and other lines.
LINE_LIMIT: Final = 2_000

#: Failures, sections and properties of one test.
PART_LIMIT: Final = 100

#: Seconds beyond which a number is no duration.
_LONGEST_S: Final = 1e9

#: Keys of a test's files in the run's folder, and how long they are at most.
_FILE_KEY: Final = re.compile(r"artifacts/[0-9]+(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
_KEY_LIMIT: Final = 800

_SKIPPED: Final = "Skipped: "


class Texts:
    """The texts of one record, within their bounds."""

    def __init__(self) -> None:
        self._room = TEXTS_LIMIT
        #: By name in the run's folder: those that are too long for the record.
        self.whole: dict[str, str] = {}
        #: How many are nowhere as a whole.
        self.cut = 0

    def keep(self, index: int, text: object, title: object = "") -> Text:
        """
        Keep a text.

        Args:
            index: Of the test that it is of.
            title: What it is.
        """
        text = events.cut(str(text))
        whole = ""
        if len(text) > TEXT_LIMIT and len(self.whole) < WHOLE_TEXTS_LIMIT:
            whole = f"texts/{index}-{len(self.whole)}.txt"
            self.whole[whole] = text
        limit = EXCERPT if whole else TEXT_LIMIT
        if self._room < min(len(text), limit):
            limit = SPARE_TEXT
        self.cut += len(text) > limit and not whole
        shown = events.cut(text, limit)
        self._room -= len(shown)
        return Text(title=line(title), text=shown, whole=whole)


def passed(event: events.Passed, nodeid: str, host: str) -> ItemRecord:
    """A test that passed and had nothing to say."""
    return ItemRecord(
        index=event.index,
        nodeid=nodeid,
        outcome="passed",
        phases_s=tuple(seconds(duration) for duration in event.durations),
        n=whole_number(event.n),
        host=host,
        started_at=moment(event.spans[0][0]),
    )


def missing(event: events.Missing, nodeid: str, host: str, texts: Texts) -> ItemRecord:
    """A test that the worker did not collect."""
    trace = texts.keep(event.index, f"{event.reason}\n\n(the test {nodeid} was collected here but not on the worker)")
    failure = Failure(phase="setup", message=first_line(event.reason), trace=trace)
    n = whole_number(event.n)
    return ItemRecord(index=event.index, nodeid=nodeid, outcome="error", n=n, host=host, failures=(failure,))


def crashed(event: events.Crash, nodeid: str, host: str, texts: Texts) -> ItemRecord:
    """A test that killed its process."""
    known = event.post_mortem
    phase = events.PHASES[min(known.get("phase", 1), 2)]
    words = postmortem.summary(event)
    output = list(known.get("output", {}).items())[:PART_LIMIT]
    failure = Failure(phase=phase, message=first_line(words), trace=texts.keep(event.index, words))
    return ItemRecord(
        index=event.index,
        nodeid=nodeid,
        outcome="failed" if phase == "call" else "error",
        attempt=whole_number(known.get("losses", 2)),
        n=whole_number(event.n),
        host=line(known.get("host") or host),
        failures=(failure,),
        sections=tuple(texts.keep(event.index, text, f"last output ({name})") for name, text in output),
        crash=PostMortem(
            words=line(words),
            reason=line(known.get("reason", "")),
            signal=_optional(known.get("signal")),
            exit_code=_optional(known.get("exit_code")),
            oom=bool(known.get("oom", False)),
            max_rss_kb=_optional(known.get("max_rss_kb")),
        ),
    )


def result(event: events.Result, nodeid: str, host: str, texts: Texts) -> ItemRecord | None:
    """Any other test; None when it ended the session before it had finished: pytest does not count it then."""
    reports = [value for kind, value in event.calls if kind == "report"]
    printed = [value for kind, value in event.calls if kind == "text"]
    outcome = _outcome(reports)
    if ("aborted", None) in event.calls and outcome == "passed":
        return None
    starts = [report["start"] for report in reports if report.get("start")]
    return ItemRecord(
        index=event.index,
        nodeid=nodeid,
        outcome=outcome,
        phases_s=tuple(_spent(reports, phase) for phase in events.PHASES),
        attempt=1 + sum(report["outcome"] == "rerun" for report in reports),
        n=whole_number(event.n),
        host=host,
        started_at=moment(min(starts)) if starts else None,
        reason=_reason(reports),
        failures=_failures(reports, event.index, texts),
        sections=_sections(reports, printed, event.index, texts),
        properties=_properties(reports),
    )


def files(event: events.Files) -> dict[str, Any]:
    """
    A test's files, as fields of its record.

    Raises:
        ValueError: A key leads elsewhere than to files of this test.
    """
    for _, key, _ in event.kept:
        if len(key) > _KEY_LIMIT or not _FILE_KEY.fullmatch(key) or not key.startswith(f"artifacts/{event.index}/"):
            raise ValueError(f"{key[:200]!r} is not the key of a file of test {event.index}")
    kept = event.kept[: events.FILES_LIMIT]
    left = event.left[:PART_LIMIT]
    return {
        "artifacts": tuple(
            Artifact(name=line(name), key=key, size_bytes=whole_number(size)) for name, key, size in kept
        ),
        "not_kept": tuple(line(f"{name}: {why}" if name else why) for name, why in left),
    }


def _is_subtest(report: dict[str, Any]) -> bool:
    return "_subtest.context" in report


def _failed(report: dict[str, Any]) -> bool:
    return bool(report["outcome"] == "failed")


def _outcome(reports: Sequence[dict[str, Any]]) -> Outcome:
    """As pytest's `pytest_report_teststatus` counts, but each test once: what went wrong before what did not."""
    failed = {report["when"] for report in reports if _failed(report)}
    if failed - {"setup", "teardown"}:
        return "failed"
    if failed:
        return "error"
    for report in reports:
        if _is_subtest(report):
            continue
        expected = "wasxfail" in report
        if report["outcome"] == "skipped":
            return "xfailed" if expected else "skipped"
        if expected and report["when"] == "call":
            return "xpassed"
    return "passed"


def _spent(reports: Iterable[dict[str, Any]], phase: str) -> float:
    return sum(seconds(report["duration"]) for report in reports if report["when"] == phase and not _is_subtest(report))


def _reason(reports: Iterable[dict[str, Any]]) -> str:
    for report in reports:
        if _is_subtest(report):
            continue
        if report.get("wasxfail"):
            return line(report["wasxfail"])
        if report["outcome"] == "skipped":
            return line(longrepr_text(report["longrepr"]).removeprefix(_SKIPPED))
    return ""


def _failures(reports: Iterable[dict[str, Any]], index: int, texts: Texts) -> tuple[Failure, ...]:
    failures: list[Failure] = []
    attempt = 1
    for report in reports:
        again = report["outcome"] == "rerun"
        if (again or _failed(report)) and len(failures) < PART_LIMIT:
            failures.append(_failure(report, attempt, index, texts))
        attempt += again
    return tuple(failures)


def _failure(report: dict[str, Any], attempt: int, index: int, texts: Texts) -> Failure:
    longrepr = report["longrepr"]
    if "$longrepr" in report:
        text = str(report["$longrepr"][0])
        message = text.strip().rpartition("\n")[2]
    else:
        text = longrepr_text(longrepr)
        message = text
    crash: dict[str, Any] = {}
    if isinstance(longrepr, dict):
        crash = longrepr.get("reprcrash") or {}
        message = crash.get("message", text)
    return Failure(
        phase=line(report["when"]),
        attempt=attempt,
        subtest=_subtest(report),
        message=first_line(message),
        path=line(crash.get("path", "")),
        line=whole_number(crash.get("lineno", 0)),
        trace=texts.keep(index, text),
    )


def _subtest(report: dict[str, Any]) -> str:
    """As pytest writes it (`SubtestReport._sub_test_description`)."""
    if not _is_subtest(report):
        return ""
    context = report["_subtest.context"]
    parts = [f"[{context['msg']}]"] if context.get("msg") is not None else []
    if context["kwargs"]:
        parts.append("(" + ", ".join(f"{name}={value}" for name, value in context["kwargs"].items()) + ")")
    return line(" ".join(parts) or "(<subtest>)")


def _sections(reports: Iterable[dict[str, Any]], printed: Iterable[str], index: int, texts: Texts) -> tuple[Text, ...]:
    """Each once: a later report repeats the sections of the earlier ones."""
    found = dict.fromkeys((str(title), str(text)) for report in reports for title, text in report["sections"])
    found.update(dict.fromkeys(("Printed past the capture", str(text)) for text in printed if text.strip()))
    return tuple(texts.keep(index, text, title) for title, text in list(found)[:PART_LIMIT])


def _properties(reports: Sequence[dict[str, Any]]) -> tuple[tuple[str, str], ...]:
    found = dict.fromkeys((line(name), line(value)) for report in reports for name, value in report["user_properties"])
    return tuple(found)[:PART_LIMIT]


# -- plain values, which are taken for hostile


def line(value: object) -> str:
    """A value as a text of bounded length."""
    return events.cut(str(value), LINE_LIMIT)


def first_line(text: object) -> str:
    """The first line of a text that is not blank, bounded."""
    return line(str(text).strip().partition("\n")[0])


def seconds(value: Any) -> float:
    """A duration, at least 0. Raises: ValueError: It is none."""
    duration = float(value)
    if not math.isfinite(duration) or duration > _LONGEST_S:
        raise ValueError(f"{duration} s is no duration")
    return max(0.0, round(duration, 6))


def whole_number(value: Any) -> int:
    """A number. Raises: TypeError: It is none."""
    if type(value) is not int or not -(2**53) < value < 2**53:
        raise TypeError(f"{value!r} is not a number")
    return value


def moment(seconds_since_1970: float) -> datetime:
    """A time. Raises: ValueError, OverflowError, OSError: It is none."""
    return datetime.fromtimestamp(seconds_since_1970, timezone.utc)


def _optional(value: Any) -> int | None:
    return None if value is None else whole_number(value)
