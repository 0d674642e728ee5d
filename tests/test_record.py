"""
Records as JSON.
"""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_supercheck import record
from pytest_supercheck.plain import plain
from pytest_supercheck.record import (
    Artifact,
    ExecutionRecord,
    Failure,
    ItemRecord,
    Origin,
    PostMortem,
    RecordError,
    RunRecord,
    RunSummary,
    Text,
    WarningRecord,
)
from tests.records import START, make_item, make_record

#: Any time that is one.
times = st.timedeltas(timedelta(0), timedelta(days=30_000)).map(lambda since: START + since)
records = st.builds(
    RunRecord,
    summary=st.builds(RunSummary, version=st.just(1), submitted_at=times, ended_at=times),
    executions=st.lists(st.builds(ExecutionRecord, started_at=times), max_size=2).map(tuple),
    items=st.lists(
        st.builds(
            ItemRecord,
            phases_s=st.lists(st.floats(0, 1e9), max_size=3).map(tuple),
            failures=st.lists(st.builds(Failure, trace=st.builds(Text)), max_size=2).map(tuple),
            crash=st.none() | st.builds(PostMortem),
            artifacts=st.lists(st.builds(Artifact), max_size=2).map(tuple),
            started_at=st.none() | times,
        ),
        max_size=2,
    ).map(tuple),
    warnings=st.lists(st.builds(WarningRecord), max_size=2).map(tuple),
)


@given(records)
def test_a_record_survives_the_round_trip(written: RunRecord) -> None:
    """Whatever is in it."""
    assert record.decode(record.encode(written)) == written
    assert record.decode_summary(record.encode(written.summary)) == written.summary


def test_what_has_its_default_is_left_out() -> None:
    """A passing test of many takes little room."""
    raw = json.loads(record.encode(make_record([make_item()])))
    assert raw["items"] == [
        {
            "index": 0,
            "nodeid": "test_it.py::test_0",
            "outcome": "passed",
            "phases_s": [0.01, 0.02, 0.0],
            "n": 1,
            "host": "worker-1",
            "started_at": "2026-03-01T12:00:00.000000+00:00",
        }
    ]
    assert raw["summary"]["version"] == 1


def test_texts_that_are_no_unicode_survive() -> None:
    """Lone surrogates and NULs; the bytes are ASCII."""
    item = make_item(sections=(Text(title="Captured stdout call", text="a\x00b\ud800c\U0001f600"),))
    raw = record.encode(make_record([item]))
    assert raw.isascii()
    assert record.decode(raw).items == (item,)


def test_a_newer_version_is_refused_with_words() -> None:
    """They say what to do."""
    raw = record.encode(make_record()).replace(b'"version":1', b'"version":2')
    with pytest.raises(RecordError, match=r"version 2 of the format .* reads version 1: install a newer"):
        record.decode(raw)
    with pytest.raises(RecordError, match="version 2"):
        record.decode_summary(b'{"version": 2}')


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b'{"summary": {}}',
        b"[" * 100_000,
        record.encode(make_record([make_item()])).replace(b'"passed"', b'"odd"'),
        record.encode(make_record([make_item()])).replace(b'"index":0', b'"index":"0"'),
        record.encode(make_record([make_item()])).replace(b"2026-03-01", b"yesterday"),
        record.encode(make_record([make_item()])).replace(b"[0.01,", b'["0.01",'),
    ],
)
def test_damaged_records_are_refused(raw: bytes) -> None:
    """By one error, whatever is wrong."""
    with pytest.raises(RecordError):
        record.decode(raw)


def test_unknown_keys_are_ignored() -> None:
    """A later release of the same version may add some."""
    raw = json.loads(record.encode(make_record([make_item()])))
    raw["items"][0]["colour"] = "blue"
    raw["summary"]["flavour"] = {"sweet": True}
    assert record.decode(json.dumps(raw).encode()) == make_record([make_item()])


@pytest.mark.parametrize(
    ("outcome", "counts", "verdict"),
    [
        ("finished", {"passed": 3, "skipped": 1}, "passed"),
        ("finished", {"passed": 3, "failed": 1}, "failed"),
        ("finished", {"error": 1}, "failed"),
        ("maxfail", {"failed": 1}, "failed"),
        ("cancelled", {"failed": 1}, "cancelled"),
        ("timeout", {}, "timeout"),
        ("lost", {"passed": 1}, "lost"),
    ],
)
def test_verdicts(outcome: str, counts: dict[str, int], verdict: str) -> None:
    """A run that did not run as far as it was meant to has neither passed nor failed."""
    summary = make_record(outcome=outcome, counts=counts).summary
    assert (summary.verdict, summary.done) == (verdict, sum(counts.values()))


def test_durations() -> None:
    """From the first execution's start; a run that never started has waited all the time."""
    summary = make_record(ended_at=START + timedelta(seconds=5)).summary
    assert (summary.duration_s, summary.waited_s) == (5, 2)
    never = make_record(started_at=None, ended_at=START).summary
    assert (never.duration_s, never.waited_s) == (0, 2)


# -- origins of others


def test_an_origin_is_read_from_a_spec() -> None:
    """As the connector writes it."""
    origin = Origin(user="ada", branch="main", argv=("pytest", "-x"), pull_request=7)
    assert record.read_origin(json.dumps({"origin": plain(origin)})) == origin


@pytest.mark.parametrize(
    "spec",
    ["", "null", "[]", "{}", '{"origin": 1}', '{"origin": {"user": 1}}', '{"origin": {"argv": "x"}}', "[" * 100_000],
)
def test_an_origin_that_cannot_be_read_is_empty(spec: str) -> None:
    """Whoever submits a run may say what it likes."""
    assert record.read_origin(spec) == Origin()


def test_origins_are_bounded() -> None:
    """In each text and each list."""
    told = {"user": "x" * 10_000, "argv": ["y" * 10_000] * 1_000}
    origin = record.read_origin(json.dumps({"origin": told}))
    assert len(origin.user) == len(origin.argv[0]) == record.ORIGIN_TEXT
    assert len(origin.argv) == record.ORIGIN_LIST
