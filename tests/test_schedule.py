"""
When jobs are due, over changes of clocks in several zones, compared with a search through every minute.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_supercheck.schedule import MOST_CATCH_UP_S, BadSchedule, Schedule, parse_schedule

MINUTE_MS = 60_000

#: Zones with the two changes of a year, as UTC: in the north, in the south, at midnight, with winter as the exception,
#: and where the year's changes are a month apart.
CHANGES = {
    "Europe/Berlin": ("2026-03-29T01:00Z", "2026-10-25T01:00Z"),
    "America/New_York": ("2026-03-08T07:00Z", "2026-11-01T06:00Z"),
    "America/Sao_Paulo": ("2017-02-19T02:00Z", "2017-10-15T03:00Z"),
    "America/Havana": ("2026-03-08T05:00Z", "2026-11-01T05:00Z"),
    "Atlantic/Azores": ("2026-03-29T01:00Z", "2026-10-25T01:00Z"),
    "Europe/Dublin": ("2026-03-29T01:00Z", "2026-10-25T01:00Z"),
    "Africa/Casablanca": ("2026-02-15T02:00Z", "2026-03-22T02:00Z"),
    "Australia/Sydney": ("2026-04-04T16:00Z", "2026-10-03T16:00Z"),
}


def ms(text: str) -> int:
    """A moment, as ms since 1970."""
    return round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)


def starts(schedule: Schedule, after: str, count: int, zone: str) -> list[str]:
    """The next starts on the clocks of a zone."""
    found, last = [], ms(after)
    for _ in range(count):
        due = schedule.next_after(last)
        assert due is not None
        last = due
        found.append(f"{datetime.fromtimestamp(last / 1000, ZoneInfo(zone)):%m-%d %H:%M %z}")
    return found


def cron(line: str, zone: str) -> Schedule:
    """A schedule by cron."""
    return parse_schedule({"cron": line, "timezone": zone})


@pytest.mark.parametrize(("zone", "offsets"), [("Europe/Berlin", "+0100 +0200"), ("America/New_York", "-0500 -0400")])
def test_start_at_a_time_that_is_left_out_comes_right_after_it(zone: str, offsets: str) -> None:
    """Where 2:30 does not exist that night, the nightly run is at 3:00 and not left out."""
    change, (before, after) = CHANGES[zone][0], offsets.split()
    day = datetime.fromisoformat(change[:10])
    found = starts(cron("30 2 * * *", zone), f"{day - timedelta(days=1):%Y-%m-%d}T00:00Z", 3, zone)
    days = [f"{day + timedelta(days=more):%m-%d}" for more in (-1, 0, 1)]
    assert found == [f"{days[0]} 02:30 {before}", f"{days[1]} 03:00 {after}", f"{days[2]} 02:30 {after}"]


def test_start_at_a_time_that_comes_twice_is_at_the_first() -> None:
    """The nightly run is once, also when the question is asked between both."""
    nightly = cron("30 2 * * *", "Europe/Berlin")
    assert starts(nightly, "2026-10-24T12:00Z", 2, "Europe/Berlin") == ["10-25 02:30 +0200", "10-26 02:30 +0100"]
    assert starts(nightly, "2026-10-25T01:10Z", 1, "Europe/Berlin") == ["10-26 02:30 +0100"]


def test_what_follows_the_clock_keeps_its_distance() -> None:
    """Every half hour is every half hour, whatever the clocks do."""
    halves = cron("*/30 * * * *", "Europe/Berlin")
    assert starts(halves, "2026-03-29T00:30Z", 3, "Europe/Berlin") == [
        *("03-29 03:00 +0200", "03-29 03:30 +0200", "03-29 04:00 +0200"),
    ]
    assert starts(halves, "2026-10-24T23:30Z", 5, "Europe/Berlin") == [
        *("10-25 02:00 +0200", "10-25 02:30 +0200", "10-25 02:00 +0100", "10-25 02:30 +0100", "10-25 03:00 +0100"),
    ]


def test_clocks_that_change_at_midnight() -> None:
    """Where the day begins at one o'clock, the daily run of midnight is then."""
    assert starts(cron("0 0 * * *", "America/Sao_Paulo"), "2017-10-14T12:00Z", 2, "America/Sao_Paulo") == [
        "10-15 01:00 -0200",
        "10-16 00:00 -0200",
    ]


def by_minutes(line: str, zone: str, start: int, end: int) -> Iterator[int]:
    """The starts in a span, found by looking at every minute of it."""
    minutes, hours = (_values(field, most) for field, most in zip(line.split()[:2], (60, 24), strict=True))
    follows = line.startswith("*") or line.split()[1].startswith("*")
    clock, seen = ZoneInfo(zone), set[datetime]()
    previous = datetime.fromtimestamp(start / 1000 - 86_400, clock).replace(tzinfo=None)
    for moment in range(start - 86_400_000, end + 1, MINUTE_MS):
        local = datetime.fromtimestamp(moment / 1000, clock).replace(tzinfo=None)
        left_out = [previous + timedelta(minutes=more) for more in range(1, (local - previous) // timedelta(minutes=1))]
        carried = any(one.minute in minutes and one.hour in hours for one in left_out)
        wanted = local.minute in minutes and local.hour in hours
        due = wanted if follows else carried or (wanted and local not in seen)
        if moment > start and due:
            yield moment
        seen.add(local)
        previous = local


def _values(field: str, most: int) -> set[int]:
    if field.startswith("*"):
        return set(range(0, most, int(field.partition("/")[2] or 1)))
    return {int(one) for one in field.split(",")}


def _field(most: int) -> st.SearchStrategy[str]:
    numbers = st.lists(st.integers(0, most), min_size=1, max_size=3).map(lambda some: ",".join(map(str, some)))
    return numbers | st.sampled_from(["*", "*/2", "*/15" if most > 23 else "*/3"])


@settings(deadline=None, max_examples=60)
@given(
    zone=st.sampled_from(sorted(CHANGES)),
    autumn=st.booleans(),
    minute=_field(59),
    hour=_field(3) | _field(23),
    start_min=st.integers(-300, 200),
)
def test_both_changes_in_every_zone(zone: str, autumn: bool, minute: str, hour: str, start_min: int) -> None:
    """From any moment around a change, the starts are those that a look at every minute finds."""
    line = f"{minute} {hour} * * *"
    start = ms(CHANGES[zone][autumn]) + start_min * MINUTE_MS
    end = start + 30 * 60 * MINUTE_MS
    schedule, found = cron(line, zone), []
    due = schedule.next_after(start)
    while due is not None and due <= end:
        found.append(due)
        due = schedule.next_after(due)
    assert found == list(by_minutes(line, zone, start, end))


@given(every=st.integers(10, 100_000), now=st.integers(0, 4_000_000_000_000))
def test_interval_counts_from_1970(every: int, now: int) -> None:
    """So all servers know the same starts, whenever they begin to look."""
    due = parse_schedule({"every": every}).next_after(now)
    assert due is not None
    assert now < due <= now + every * 1000
    assert due % (every * 1000) == 0


def test_once() -> None:
    """A single start, and none after it."""
    schedule = parse_schedule({"at": "2026-12-01T08:00:00Z"})
    assert schedule.next_after(ms("2026-11-30T00:00Z")) == ms("2026-12-01T08:00Z")
    assert schedule.next_after(ms("2026-12-01T08:00Z")) is None
    assert parse_schedule({"at": "2026-12-01T09:00:00", "timezone": "Europe/Berlin"}) == schedule
    assert parse_schedule({"at": datetime(2026, 12, 1, 8, tzinfo=timezone.utc)}) == schedule


@pytest.mark.parametrize(
    ("text", "seconds"), [("90 s", 90), ("15 min", 900), ("15 minutes", 900), ("2h", 7200), ("1 day", 86_400), (30, 30)]
)
def test_intervals_in_words(text: object, seconds: int) -> None:
    """Seconds, or a number with its unit."""
    assert parse_schedule({"every": text}).every_s == seconds


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("0 2 * *", "cron: '0 2 * *' must have five fields: minute, hour, day, month, day of the week"),
        ("0 0 2 * * *", "cron: '0 0 2 * * *' must have five fields: minute, hour, day, month, day of the week"),
        ("61 2 * * *", "cron: '61 2 * * *': bad minute"),
        ("0 0 30 2 *", "cron: '0 0 30 2 *': bad day-of-month"),
        ("* * */20 * 1L", "cron: '* * */20 * 1L' never comes"),
        ("9" * 200, "cron: it must be a line of five fields, of 100 characters at most"),
        (7, 'it must be a line of cron, as "0 2 * * *", or a table'),
        ({}, "it must have one of cron, every and at"),
        ({"cron": "0 2 * * *", "every": 60}, "it must have one of cron, every and at"),
        ({"cron": "0 2 * * *", "zone": "UTC"}, "zone: schedules have no such key"),
        ({"cron": "0 2 * * *", "timezone": "Mars"}, "timezone: 'Mars' is no zone of the IANA database"),
        ({"cron": "0 2 * * *", "timezone": "../etc"}, "timezone: '../etc' is no zone of the IANA database"),
        ({"cron": "0 2 * * *", "timezone": "Europe"}, "timezone: 'Europe' is no zone of the IANA database"),
        ({"cron": "0 2 * * *", "timezone": 1}, "timezone: '1' is no zone of the IANA database"),
        ({"cron": "0 2 * * *", "overlap": "both"}, "overlap: it must be one of skip, queue, cancel"),
        ({"cron": "0 2 * * *", "overlap": ["skip"]}, "overlap: it must be one of skip, queue, cancel"),
        ({"cron": "0 2 * * *", "catch-up": "8 d"}, "catch-up: it must be from 0 seconds to 7 days"),
        ({"every": 5}, "every: it must be from 10 seconds to 366 days"),
        ({"every": "soon"}, 'every: it must be seconds, or as "30 s", "15 min", "2 h", "1 d"'),
        ({"every": True}, 'every: it must be seconds, or as "30 s", "15 min", "2 h", "1 d"'),
        ({"every": 60, "timezone": "UTC"}, "timezone: intervals have none"),
        ({"at": "9999-12-31T23:00:00-12:00"}, "at: its year must be from 1970 to 9998"),
        ({"at": "tomorrow"}, "at: it must be a time, as 2026-12-01T08:00:00Z"),
        ({"at": "2026-12-01\ud80008:00:00+00:00"}, "at: it must be a time, as 2026-12-01T08:00:00Z"),
        ({"at": datetime(2026, 12, 1)}, "at: it has no offset"),  # noqa: DTZ001
        ({"at": "2026-12-01T08:00:00Z", "timezone": "UTC"}, "timezone: the time has an offset already"),
    ],
)
def test_what_makes_no_sense_is_told(given: object, words: str) -> None:
    """With the key that is wrong."""
    with pytest.raises(BadSchedule) as caught:
        parse_schedule(given)
    assert str(caught.value).startswith(words)
    assert caught.value.key == (words.partition(":")[0] if re.match("[a-z-]+:", words) else "")


@given(
    st.dictionaries(
        st.sampled_from(["cron", "timezone", "every", "at", "overlap", "catch-up"]) | st.text(max_size=5),
        st.text(max_size=120) | st.integers() | st.none() | st.booleans() | st.lists(st.text(max_size=3), max_size=2),
        max_size=4,
    )
    | st.text(alphabet="*/-,#L0123456789 ", max_size=30)
)
def test_whatever_is_given_it_is_a_schedule_or_bad(given: object) -> None:
    """Hostile input raises nothing else."""
    with contextlib.suppress(BadSchedule):
        parse_schedule(given).next_after(0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cron": "0  2 * * MON-FRI", "timezone": "Asia/Tokyo", "overlap": "queue"}, "0 2 * * MON-FRI (Asia/Tokyo)"),
        ({"every": "90 min", "catch-up": "1 h"}, "every 90 min"),
        ({"every": 90, "overlap": "cancel"}, "every 90 s"),
        ({"at": "2026-12-01T08:00:00+01:00"}, "once at 2026-12-01 07:00:00 UTC"),
        ({"cron": "0 2 * * *", "catch-up": MOST_CATCH_UP_S}, "0 2 * * * (UTC)"),
    ],
)
def test_schedules_survive_json_and_have_words(given: dict[str, object], words: str) -> None:
    """What the database keeps makes the same schedule; people read it in one line."""
    schedule = parse_schedule(given)
    assert parse_schedule(json.loads(json.dumps(given))) == schedule
    assert str(schedule) == words
