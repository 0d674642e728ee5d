"""
Events → records.
"""

from __future__ import annotations

import gzip
import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_supercheck import events, record, verdicts
from pytest_supercheck.record import Artifact, ItemRecord, RunRecord
from pytest_supercheck.transcript import Recorded, Transcript, wire_nodeids
from tests.records import START, begin, end, left, make_submitted, passed, report, result


def write(*lines: bytes, nodeids: int = 3, **ending: Any) -> Recorded:
    """What is recorded of a run with those events."""
    transcript = Transcript(make_submitted(), [f"test_it.py::test_{number}" for number in range(nodeids)])
    transcript.feed(b"\n".join(lines))
    return transcript.finish(**ending)


def one_item(*reports: dict[str, Any], more: Any = ()) -> ItemRecord:
    """What is recorded of a test with those reports."""
    [item] = write(begin(), result(0, *reports, more=more)).record.items
    return item


# -- runs


def test_a_run_is_recorded() -> None:
    """Who ran what, when, and how it ended."""
    lines = [begin(1), begin(2, at_s=0.5, host="worker-2"), passed(1, n=2), passed(0), left(1), left(2), end()]
    written = write(*lines, nodeids=2).record
    summary = written.summary
    assert (summary.id, summary.project, summary.origin.user) == ("0195-run", "shop", "ada")
    assert (summary.outcome, summary.verdict, summary.counts) == ("finished", "passed", {"passed": 2})
    assert (summary.submitted_at, summary.started_at) == (START - timedelta(seconds=2), START)
    assert summary.ended_at == START + timedelta(seconds=10)
    assert (summary.total, summary.executions, summary.notes) == (2, 2, ())
    assert [(item.index, item.n, item.host) for item in written.items] == [(0, 1, "worker-1"), (1, 2, "worker-2")]
    assert [(one.n, one.host) for one in written.executions] == [(1, "worker-1"), (2, "worker-2")]
    assert {one.ended_at for one in written.executions} == {START + timedelta(seconds=9)}


def test_the_first_result_of_a_test_wins() -> None:
    """A late result of a test that was given to somebody else does not count, whatever it says."""
    [item] = write(
        begin(1), begin(2), passed(0, n=2), result(0, report(outcome="failed", longrepr="late"))
    ).record.items
    assert (item.outcome, item.n) == ("passed", 2)


def test_an_execution_that_was_lost_has_no_end() -> None:
    """The one that takes over has the same number and may be elsewhere."""
    lines = [begin(1), passed(0), begin(1, attempt=2, at_s=5, host="worker-9"), passed(1, at_s=6), left(1, attempt=2)]
    written = write(*lines, end()).record
    assert [(one.host, one.ended_at is None) for one in written.executions] == [("worker-1", True), ("worker-9", False)]
    assert [item.host for item in written.items] == ["worker-1", "worker-9"]
    assert written.summary.executions == 1


def test_what_an_execution_is_made_of() -> None:
    """As its test process says."""
    info = {"version": "3.12.1 (main)", "platform": "Linux-6", "version_info": (3, 12)}
    ready = events.line({"t": "ready", "pid": 5, "info": events.pack(info), "spawn": "threads are left", "n": 1})
    [execution] = write(begin(), ready).record.executions
    assert (execution.python, execution.platform, execution.spawned) == ("3.12.1 (main)", "Linux-6", "threads are left")


@pytest.mark.parametrize("outcome", ["cancelled", "timeout", "lost", "fatal", "interrupted"])
def test_a_run_that_ended_early_has_a_partial_record(outcome: str) -> None:
    """With what was done, and what was not."""
    written = write(begin(), passed(1), end(outcome, "why")).record
    assert (written.summary.verdict, written.summary.message) == (outcome, "why")
    assert (written.summary.total, written.summary.done) == (3, 1)
    assert written.not_run == ("test_it.py::test_0", "test_it.py::test_2")


def test_a_run_without_an_end_is_given_one() -> None:
    """By whoever closes it; where there is one, that counts."""
    ending: dict[str, Any] = {
        "outcome": "lost",
        "message": "everything died",
        "ended_at": START + timedelta(seconds=99),
    }
    summary = write(begin(), passed(0), **ending).record.summary
    assert (summary.outcome, summary.message, summary.ended_at) == tuple(ending.values())
    assert write(begin(), passed(0), end("cancelled"), **ending).record.summary.outcome == "cancelled"


def test_what_a_worker_tells_is_among_the_events() -> None:
    """A detail is nowhere else: the log of a build is long. One line of it is not."""
    told = events.encode_note(1, "x" * 1_000_000, detail=True)
    assert len(told) < 3_000
    decoded = events.decode(told)
    assert isinstance(decoded, events.Note)
    assert (decoded.n, decoded.detail) == (1, True)
    written = write(begin(), told, passed(0), end())
    assert written.record == write(begin(), passed(0), end()).record
    assert told in gzip.decompress(written.events)


def test_what_a_worker_has_to_say_is_recorded_once() -> None:
    """Several executions of a host may say it."""
    said = [events.encode_note(n, "another \N{SNOWMAN} Python") for n in (1, 2)]
    assert write(begin(), *said, passed(0), end()).record.summary.notes == ("another \N{SNOWMAN} Python",)


def test_a_run_that_never_began() -> None:
    """It was cancelled while it waited."""
    written = write(end("cancelled"), nodeids=0).record
    assert (written.summary.started_at, written.executions, written.items) == (None, (), ())
    assert record.decode(record.encode(written)) == written


def test_events_are_kept_as_they_came() -> None:
    """But for those that cannot be read, which are counted."""
    lines = [begin(), passed(0), b"garbage", b'{"t": "from the future"}', passed(0), end()]
    written = write(*lines)
    assert gzip.decompress(written.events).split(b"\n") == [begin(), passed(0), passed(0), end(), b""]
    assert written.record.summary.notes == ("2 events could not be read and were left out",)


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"[]",
        b"[1]",
        b"[0,1,NaN,1,1,1,1,1,1,1,1]",
        b"[0,1,1e300,1,1,1,1,1,1,1,1]",
        b"[0,1,0,1,1,1,1,1,1e300,1,1]",
        b'["0",1,0,1,1,1,1,1,1,1,1]',
        b"[-1,1,0,1,1,1,1,1,1,1,1]",
        b"[3,1,0,1,1,1,1,1,1,1,1]",
        b"[0,{},0,1,1,1,1,1,1,1,1]",
        b'{"t":"begin","v":2,"at":0,"n":1,"job":"j","host":"h"}',
        b'{"t":"begin","v":1,"at":1e99,"n":1,"job":"j","host":"h"}',
        b'{"t":"crash","i":0,"n":1,"pm":{"signal":"nine"}}',
        b'{"t":"crash","i":0,"n":1,"pm":[1]}',
        b'{"t":"result","i":0,"n":1,"c":[["report",{"outcome":"failed"}]]}',
        b'{"t":"result","i":0,"n":1,"c":[["report",5]]}',
        b'{"t":"result","i":0,"n":1,"c":7}',
        b'{"t":"end","at":"later","outcome":"finished"}',
        b"[" * 100_000,
    ],
)
def test_hostile_lines_are_left_out(line: bytes) -> None:
    """They change nothing of the rest."""
    written = write(begin(), line, passed(1), end()).record
    assert [item.index for item in written.items] == [1]
    assert (written.summary.outcome, len(written.summary.notes), len(written.executions)) == ("finished", 1, 1)


#: Values that somebody could put anywhere.
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["\x00", "tuple", "v"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.just("\x00"), inner, max_size=3)
    ),
    max_leaves=6,
)

_FULL = [
    begin(),
    passed(0),
    result(1, report("setup"), report(outcome="failed", longrepr="text", sections=[("Captured stdout call", "x")])),
    events.line({"t": "crash", "i": 2, "n": 1, "at": 5, "pm": {"signal": 9, "phase": 1, "output": {"stdout": "last"}}}),
    events.line({"t": "missing", "i": 2, "n": 1, "reason": "gone"}),
    events.line({"t": "ready", "info": {"version": "3"}, "spawn": "", "n": 1}),
    left(),
    end(),
]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a value with every key of it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in inner for place in [(value, key), *_places(part)]]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(range(len(_FULL))), st.data())
def test_any_value_anywhere_is_survived(number: int, data: st.DataObject) -> None:
    """Either the line is left out, or what was made of it can be written and read."""
    line = json.loads(_FULL[number])
    container, key = data.draw(st.sampled_from(_places(line)))
    container[key] = data.draw(_values)
    written = write(*[json.dumps(line).encode() if at == number else one for at, one in enumerate(_FULL)])
    assert record.decode(record.encode(written.record)) == written.record


def test_names_on_the_wire() -> None:
    """A nodeid, or one with a number where several items share it."""
    assert wire_nodeids(['"a.py::b"', b'["a.py::b", 1]', '"\\ud800"']) == ["a.py::b", "a.py::b", "\ud800"]


# -- tests


def phases(**outcomes: str) -> list[dict[str, Any]]:
    """Reports with those outcomes; those that failed say so."""
    return [
        report(when, outcome, longrepr=f"{when} went wrong" if outcome == "failed" else None)
        for when, outcome in outcomes.items()
    ]


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ({"setup": "passed", "call": "passed", "teardown": "passed"}, "passed"),
        ({"setup": "passed", "call": "failed", "teardown": "passed"}, "failed"),
        ({"setup": "failed", "teardown": "passed"}, "error"),
        ({"setup": "passed", "call": "passed", "teardown": "failed"}, "error"),
        ({"setup": "passed", "call": "failed", "teardown": "failed"}, "failed"),
        ({"setup": "passed", "call": "skipped", "teardown": "failed"}, "error"),
    ],
)
def test_outcomes(outcomes: dict[str, str], expected: str) -> None:
    """In pytest's words; each test has one."""
    item = one_item(*phases(**outcomes))
    assert item.outcome == expected
    assert [failure.phase for failure in item.failures] == [when for when, how in outcomes.items() if how == "failed"]


def test_skips_and_expected_failures() -> None:
    """With their reasons."""
    skipped = one_item(report("setup", "skipped", longrepr=("a.py", 3, "Skipped: no network")), report("teardown"))
    xfailed = one_item(report("setup"), report(outcome="skipped", wasxfail="known", longrepr="x"), report("teardown"))
    xpassed = one_item(report("setup"), report(wasxfail="known"), report("teardown"))
    strict = one_item(report("setup"), report(outcome="failed", longrepr="[XPASS(strict)] known"), report("teardown"))
    assert [(item.outcome, item.reason) for item in (skipped, xfailed, xpassed, strict)] == [
        ("skipped", "no network"),
        ("xfailed", "known"),
        ("xpassed", "known"),
        ("failed", ""),
    ]


def test_a_failure_says_what_and_where() -> None:
    """The message's first line, and the place that pytest's traceback ends at."""
    crash = {"path": "/shop/cart.py", "lineno": 12, "message": "ValueError: no stock\nat all"}
    entry = {"type": "ReprEntryNative", "data": {"lines": ["Traceback: ValueError\n"], "style": "native"}}
    longrepr = {"reprcrash": crash, "reprtraceback": {"reprentries": [entry], "extraline": None}, "sections": []}
    [failure] = one_item(report("setup"), report(outcome="failed", longrepr=longrepr)).failures
    assert (failure.message, failure.path, failure.line) == ("ValueError: no stock", "/shop/cart.py", 12)
    assert failure.trace.text == "Traceback: ValueError"


def test_subtests_fail_their_test() -> None:
    """Each is told by its name; those that pass are not."""
    context = {"msg": "stock", "kwargs": {"i": "1"}}
    bad = {**report(outcome="failed", longrepr="no"), "_subtest.context": context}
    good = {**report(), "_subtest.context": {"msg": None, "kwargs": {}}}
    item = one_item(report("setup"), good, bad, report(), report("teardown"))
    assert (item.outcome, [failure.subtest for failure in item.failures]) == ("failed", ["[stock] (i=1)"])
    assert item.phases_s == (0.5, 0.5, 0.5)


def test_repeated_attempts_are_counted() -> None:
    """As pytest-rerunfailures reports them; their failures are kept, and do not count."""
    again = report(outcome="rerun", longrepr="flaky")
    item = one_item(report("setup"), again, report("teardown"), report("setup"), report(), report("teardown"))
    assert (item.outcome, item.attempt) == ("passed", 2)
    assert [(failure.attempt, failure.message) for failure in item.failures] == [(1, "flaky")]
    assert item.phases_s == (1.0, 1.0, 1.0)


def test_sections_are_kept_once() -> None:
    """A later report of a test repeats those of the earlier ones."""
    first, second = ("Captured stdout setup", "a"), ("Captured stdout call", "b")
    item = one_item(
        report("setup", sections=[first]),
        report(sections=[first, second]),
        report("teardown", sections=[first, second], user_properties=[("build", 7), ("build", 7)]),
        more=[("text", "shown at once\n")],
    )
    assert [(section.title, section.text) for section in item.sections] == [
        first,
        second,
        ("Printed past the capture", "shown at once\n"),
    ]
    assert item.properties == (("build", "7"),)


def test_a_test_that_ended_the_session_does_not_count() -> None:
    """As with pytest: it is not finished."""
    lines = [begin(), result(0, report("setup"), more=[("aborted", None)]), end("stopped")]
    written = write(*lines, nodeids=1).record
    assert (written.items, written.not_run) == ((), ("test_it.py::test_0",))


def test_a_test_that_the_worker_did_not_collect() -> None:
    """It is an error of that test."""
    [item] = write(begin(), events.line({"t": "missing", "i": 0, "n": 1, "reason": "its id differs"})).record.items
    assert (item.outcome, item.failures[0].message) == ("error", "its id differs")


def test_a_crash_has_its_post_mortem() -> None:
    """In words, in figures, and with the last output."""
    known = {"signal": 11, "phase": 1, "host": "worker-7", "max_rss_kb": 2048, "output": {"stderr": "last words"}}
    line = events.line({"t": "crash", "i": 0, "n": 1, "at": 5, "job": "j", "pm": known})
    [item] = write(begin(), line).record.items
    assert (item.outcome, item.host, item.attempt) == ("failed", "worker-7", 2)
    assert item.crash is not None
    assert (item.crash.signal, item.crash.exit_code, item.crash.max_rss_kb) == (11, None, 2048)
    assert "killed by signal 11 (SIGSEGV)" in item.crash.words
    assert item.failures[0].trace.text == item.crash.words
    assert [(section.title, section.text) for section in item.sections] == [("last output (stderr)", "last words")]


@pytest.mark.parametrize(("phase", "outcome"), [(0, "error"), (1, "failed"), (2, "error"), (9, "error")])
def test_where_it_crashed(phase: int, outcome: str) -> None:
    """A fixture that kills the process is an error."""
    line = events.line({"t": "crash", "i": 0, "n": 1, "pm": {"exit_code": 3, "phase": phase}})
    [item] = write(begin(), line).record.items
    assert item.outcome == outcome


def test_warnings_are_told_once() -> None:
    """With the first tests that they came from."""
    told = {"text": "old", "name": "DeprecationWarning", "filename": "/a.py", "lineno": 4}
    lines = [result(number, *phases(call="passed"), more=[("warning", (told, "x", None))]) for number in range(20)]
    [warning] = write(begin(), *lines, nodeids=20).record.warnings
    assert (warning.text, warning.category, warning.line, warning.count) == ("old", "DeprecationWarning", 4, 20)
    assert warning.nodeids == tuple(f"test_it.py::test_{number}" for number in range(10))


# -- bounds


def test_long_texts_are_objects_of_their_own() -> None:
    """The record has their beginning and end, and says where all of it is."""
    text = "a" * verdicts.TEXT_LIMIT + "b"
    written = write(begin(), result(0, report(sections=[("Captured stdout call", text)])))
    [section] = written.record.items[0].sections
    assert written.texts == {"texts/0-0.txt": text}
    assert section.whole == "texts/0-0.txt"
    assert len(section.text) < verdicts.EXCERPT + 100
    assert "characters cut by pytest-supercheck" in section.text


def test_longer_texts_lose_their_middle() -> None:
    """Above 20 million characters."""
    text = "a" * 10_000_000 + "MIDDLE" + "b" * 10_000_001
    written = write(begin(), result(0, report(sections=[("Captured stdout call", text)])))
    [whole] = written.texts.values()
    assert len(whole) < 20_000_100
    assert "MIDDLE" not in whole
    assert whole.startswith("aaa")
    assert whole.endswith("bbb")


def test_all_texts_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then each has its ends only, and the record says so; the events have all."""
    monkeypatch.setattr(verdicts, "TEXTS_LIMIT", 10_000)
    lines = [result(number, report(sections=[("Captured stdout call", "x" * 4_000)])) for number in range(5)]
    written = write(begin(), *lines, nodeids=5)
    assert [len(item.sections[0].text) for item in written.record.items[:2]] == [4_000, 4_000]
    assert all(len(item.sections[0].text) < 2_100 for item in written.record.items[2:])
    assert written.record.summary.notes[0].startswith("3 texts were cut")


def test_every_list_is_bounded() -> None:
    """However much a test reports."""
    many = report(
        outcome="failed",
        longrepr="x",
        sections=[(f"title {number}", "x") for number in range(500)],
        user_properties=[(f"name {number}", 1) for number in range(500)],
    )
    warned = [
        ("warning", ({"text": f"w{number}", "name": "W", "filename": "f", "lineno": 1}, "", None))
        for number in range(999)
    ]
    written = write(begin(), result(0, *[many] * 300, more=warned), nodeids=5_000).record
    [item] = written.items
    assert {len(item.sections), len(item.properties), len(item.failures)} == {verdicts.PART_LIMIT}
    assert (len(written.warnings), len(written.not_run)) == (500, 1_000)
    assert written.summary.notes == ("499 warnings were left out: there were more than 500 different ones",)


def test_every_line_is_bounded() -> None:
    """Names, messages and reasons of a megabyte."""
    huge = "x" * 1_000_000
    transcript = Transcript(make_submitted(), [huge])
    transcript.feed(begin(host=huge))
    transcript.feed(result(0, report("setup", "skipped", longrepr=("f", 1, huge), user_properties=[(huge, huge)])))
    transcript.feed(end(huge, huge))
    written: RunRecord = transcript.finish().record
    assert len(record.encode(written)) < 20_000


# -- files


def files(index: int = 0, n: int = 1, key: str = "", left: Any = ()) -> bytes:
    """A test has left a file behind."""
    kept = [("trace.zip", key or f"artifacts/{index}/trace.zip", 5)]
    return events.encode_files(index, n, kept, list(left), [])


def test_files_are_told_with_their_test() -> None:
    """And those that are not kept, with the reason."""
    told = files(1, left=[("core", "it is larger than 200 MB"), ("", "3 more files")])
    written = write(begin(), passed(0), told, result(1, report(outcome="failed", longrepr="no")))
    plain, item = written.record.items
    assert (plain.artifacts, plain.not_kept) == ((), ())
    assert item.artifacts == (Artifact(name="trace.zip", key="artifacts/1/trace.zip", size_bytes=5),)
    assert item.not_kept == ("core: it is larger than 200 MB", "3 more files")
    assert record.decode(record.encode(written.record)) == written.record


def test_files_belong_to_the_result_of_their_execution() -> None:
    """The first result counts: neither those of a later one nor those of one that has none."""
    lines = [begin(1), begin(2), files(0, n=2), passed(0, n=1), files(0, n=1), passed(0, n=2), files(1, n=1)]
    written = write(*lines)
    assert [item.artifacts for item in written.record.items] == [()]


@pytest.mark.parametrize(
    "key",
    [
        *("run.json", "artifacts/1/x", "artifacts/0/../../x", "artifacts/0/", "artifacts/0//x", "artifacts/0/.x"),
        *("artifacts/0/x/..", "/artifacts/0/x", "artifacts/0/a b", "artifacts/0/<x>", "artifacts/0/" + "x" * 900),
    ],
)
def test_keys_that_lead_elsewhere_are_not_believed(key: str) -> None:
    """A test can write this event, too: it would be linked to."""
    written = write(begin(), files(0, key=key), passed(0))
    assert [item.artifacts for item in written.record.items] == [()]
    assert written.record.summary.notes == ("1 events could not be read and were left out",)


@pytest.mark.parametrize(
    "line",
    [
        {"i": 9, "n": 1, "kept": [], "left": []},
        {"i": 0, "n": 1, "kept": [["a", "artifacts/0/a", "5"]], "left": []},
        {"i": 0, "n": 1, "kept": [["a", 5, 5]], "left": []},
        {"i": 0, "n": 1, "kept": [["a"]], "left": []},
        {"i": 0, "n": [], "kept": [], "left": []},
    ],
)
def test_malformed_files_are_left_out(line: dict[str, Any]) -> None:
    """And counted."""
    written = write(begin(), events.line({"t": "files", **line}), passed(0))
    assert [item.artifacts for item in written.record.items] == [()]
    assert written.record.summary.notes == ("1 events could not be read and were left out",)
