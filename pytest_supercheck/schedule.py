"""
When a job is due: by cron, every so often, or once.

Pure: from times to times. Must not know jobs, clocks or who starts anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

#: What becomes of a start while the run before it is not over: none, one after it, or one in its place.
Overlap = Literal["skip", "queue", "cancel"]

OVERLAPS: Final[tuple[Overlap, ...]] = ("skip", "queue", "cancel")

#: Bounds of an interval, in seconds.
LEAST_S: Final = 10
MOST_S: Final = 366 * 86_400

#: The longest window for a missed start, in seconds.
MOST_CATCH_UP_S: Final = 7 * 86_400

_LONGEST: Final = 100
_UNITS: Final = {"s": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "d": 86_400, "day": 86_400}
_DURATION: Final = re.compile(r"([0-9]{1,9}) *([a-z]+?)s?", re.ASCII)


class BadSchedule(ValueError):
    """A schedule makes no sense."""

    def __init__(self, key: str, words: str) -> None:
        super().__init__(f"{key}: {words}" if key else words)
        #: The key whose value is wrong; empty for the schedule as a whole.
        self.key = key


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """One of `cron`, `every_s` and `at_ms`, and what else a start depends on."""

    #: Five fields as in crontab; empty for none.
    cron: str = ""
    #: IANA name of the zone whose clocks `cron` means.
    timezone: str = "UTC"
    #: Seconds from start to start, counted from 1970; 0 for none.
    every_s: int = 0
    #: The only start, in ms since 1970; None for none.
    at_ms: int | None = None
    overlap: Overlap = "skip"
    #: Seconds after which a missed start is not made up for any more.
    catch_up_s: int = 0

    def next_after(self, ms: int) -> int | None:
        """
        Find the first start after a moment.

        Where clocks are put forward, a start at a time that is left out comes right after it; where they are put
        back, one at a time that comes twice is at the first. Cron lines whose minute or hour begins with `*` just
        follow the clock: what is left out does not happen, what comes twice happens twice.

        Args:
            ms: Since 1970; a start at this very moment is not after it.

        Returns:
            Ms since 1970; None when there is none, for cron within 50 years.

        Source: cronsim, which does as Debian's cron.
        """
        if self.at_ms is not None:
            return self.at_ms if self.at_ms > ms else None
        if self.every_s:
            step = self.every_s * 1000
            return (ms // step + 1) * step
        for moment in CronSim(self.cron, datetime.fromtimestamp(ms / 1000, ZoneInfo(self.timezone))):
            due = round(moment.timestamp()) * 1000
            # Within an hour that comes twice cronsim goes on from the first.
            if due > ms:
                return due
        return None

    def __str__(self) -> str:
        if self.at_ms is not None:
            return f"once at {datetime.fromtimestamp(self.at_ms / 1000, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
        if not self.every_s:
            return f"{self.cron} ({self.timezone})"
        size, unit = next((size, unit) for unit in ("d", "h", "min", "s") if self.every_s % (size := _UNITS[unit]) == 0)
        return f"every {self.every_s // size} {unit}"


def parse_schedule(value: object) -> Schedule:
    """
    Read what TOML or JSON have for a schedule.

    Args:
        value: A line of cron, or a table with one of `cron` (and `timezone`), `every` (seconds, or as "15 min") and
            `at` (a time with its offset, or a local one and `timezone`), and perhaps `overlap` and `catch-up`.

    Raises:
        BadSchedule: It makes no sense; `.key` says where.
    """
    if isinstance(value, str):
        value = {"cron": value}
    if not isinstance(value, dict):
        raise BadSchedule("", 'it must be a line of cron, as "0 2 * * *", or a table')
    for key in value:
        if key not in ("cron", "timezone", "every", "at", "overlap", "catch-up"):
            raise BadSchedule(str(key)[:_LONGEST], "schedules have no such key")
    if sum(key in value for key in ("cron", "every", "at")) != 1:
        raise BadSchedule("", "it must have one of cron, every and at")
    if "timezone" in value and "every" in value:
        raise BadSchedule("timezone", "intervals have none")
    zone = _zone(value.get("timezone", "UTC"))
    made = Schedule(
        cron=_cron(value["cron"]) if "cron" in value else "",
        timezone=zone if "cron" in value else "UTC",
        every_s=_seconds("every", value["every"], LEAST_S, MOST_S) if "every" in value else 0,
        at_ms=_at(value["at"], zone if "timezone" in value else None) if "at" in value else None,
        overlap=_overlap(value.get("overlap", "skip")),
        catch_up_s=_seconds("catch-up", value.get("catch-up", 0), 0, MOST_CATCH_UP_S),
    )
    if made.cron and made.next_after(0) is None:
        raise BadSchedule("cron", f"{made.cron!r} never comes")
    return made


def _cron(value: object) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST or not value.isascii():
        raise BadSchedule("cron", f"it must be a line of five fields, of {_LONGEST} characters at most")
    line = " ".join(value.split())
    if line.count(" ") != 4:
        raise BadSchedule("cron", f"{line!r} must have five fields: minute, hour, day, month, day of the week")
    try:
        CronSim(line, datetime(1970, 1, 1, tzinfo=timezone.utc))
    except CronSimError as exc:
        raise BadSchedule("cron", f"{line!r}: {str(exc).lower()}") from None
    return line


def _zone(value: object) -> str:
    if isinstance(value, str):
        try:
            return ZoneInfo(value).key
        # OSError: the name of a directory of zones.
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass
    raise BadSchedule("timezone", f'{str(value)[:_LONGEST]!r} is no zone of the IANA database such as "Europe/Berlin"')


def _seconds(key: str, value: object, least: int, most: int) -> int:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match and match[2] in _UNITS:
        value = int(match[1]) * _UNITS[match[2]]
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadSchedule(key, 'it must be seconds, or as "30 s", "15 min", "2 h", "1 d"')
    if not least <= value <= most:
        raise BadSchedule(key, f"it must be from {least} seconds to {most // 86_400} days")
    return value


def _at(value: object, zone: str | None) -> int:
    if isinstance(value, str) and value.isascii():
        try:
            # Python 3.10 knows no Z.
            value = datetime.fromisoformat(re.sub("[Zz]$", "+00:00", value))
        except ValueError:
            value = None
    if not isinstance(value, datetime):
        raise BadSchedule("at", "it must be a time, as 2026-12-01T08:00:00Z")
    if value.tzinfo is None and zone is None:
        raise BadSchedule("at", "it has no offset: write one, as 2026-12-01T08:00:00Z, or add timezone")
    if value.tzinfo is not None and zone is not None:
        raise BadSchedule("timezone", "the time has an offset already")
    if not 1970 <= value.year <= 9998:
        raise BadSchedule("at", "its year must be from 1970 to 9998")
    return round((value if zone is None else value.replace(tzinfo=ZoneInfo(zone))).timestamp() * 1000)


def _overlap(value: object) -> Overlap:
    if value in OVERLAPS:
        return value
    raise BadSchedule("overlap", f"it must be one of {', '.join(OVERLAPS)}")
