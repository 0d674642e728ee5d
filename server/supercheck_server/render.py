"""
Pages from templates: everything that comes from outside is escaped, and browsers are told to run nothing but ours.

Between routes and Jinja; knows HTTP's headers and how people read times, not where values come from.
"""

from __future__ import annotations

import hashlib
import time
from datetime import datetime, timezone
from functools import cache
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from pytest_supercheck import words
from pytest_supercheck.model import PoolExecution, PoolWorker
from pytest_supercheck.report import is_trace
from supercheck_server.access import Visitor
from supercheck_server.charts import strip_paths
from supercheck_server.gate import keep_cookie, page_token, visitor_of
from supercheck_server.view import HIDDEN

#: Nothing but our own files, no inline script or style, in nobody's frame.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

#: Seconds without a renewal after which a lease is called stale; it lapses at 15.
STALE_S: Final = 8

_TONES: Final = {
    **dict.fromkeys(("passed", "idle", "on"), "good"),
    **dict.fromkeys(("failed", "missed", "refused", "error", "errors", "lost", "fatal", "crash", "stale"), "bad"),
    **dict.fromkeys(
        ("timeout", "abandoned", "stopped", "xpassed", "waiting", "suspect", "maxfail", "skipped", "queued"), "odd"
    ),
    **dict.fromkeys(("live", "running", "begun", "busy", "promoted", "stopping", "claimed"), "now"),
}


class Renderer:
    """The templates with all that they may use."""

    def __init__(self, *, has_viewer: bool) -> None:
        """
        Read nothing yet.

        Args:
            has_viewer: Whether this server shows Playwright's traces.
        """
        self._templates = Environment(
            loader=PackageLoader("supercheck_server"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(version=static_version(), has_viewer=has_viewer, hidden=HIDDEN)
        self._templates.filters.update(
            ago=_ago,
            iso=_iso,
            is_stale=_is_stale,
            is_trace=is_trace,
            plural=lambda count: "" if count == 1 else "s",
            removeprefix=str.removeprefix,
            seconds=seconds_text,
            share=_share,
            silent_s=_silent_text,
            strip_paths=strip_paths,
            tone=lambda word: _TONES.get(word, ""),
        )

    def text(self, template: str, visitor: Visitor, **context: Any) -> str:
        """Render a part of a page that is the same for all visitors of a kind: its forms have no token of their own."""
        return self._templates.get_template(template).render(form_token="", visitor=visitor, **context)

    def page(self, request: Request, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
        """
        Render a page for whoever asks.

        Args:
            status: Of HTTP.
        """
        asked = {"visitor": visitor_of(request), "form_token": page_token(request), "here": request.url.path}
        html = self._templates.get_template(template).render({**asked, "status": status, **context})
        response = HTMLResponse(html, status_code=status, headers={"Cache-Control": "no-store"})
        keep_cookie(request, response)
        return response


@cache
def static_version() -> str:
    """What the addresses of static files have in them, so that they can be cached for ever: a hash of them all."""
    digest = hashlib.sha256()
    folder = resources.files("supercheck_server") / "static"
    for place in (folder, folder / "vendor"):
        for file in sorted(place.iterdir(), key=lambda file: file.name):
            if file.is_file():
                digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def seconds_text(seconds: float | None) -> str:
    """A duration as people say it: `12 ms`, `3.4 s`, `5 min 3 s`, `2 h 5 min`, `3 days`; a dash for none."""
    if seconds is None:
        return "\N{EN DASH}"
    days = round(seconds) // 86400
    return words.seconds(seconds) if days < 2 else f"{days} days"


def _ago(ms: float) -> str:
    seconds = time.time() - ms / 1000
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if count := int(abs(seconds) // size):
            span = f"{count} {name}{'' if count == 1 else 's'}"
            return f"{span} ago" if seconds > 0 else f"in {span}"
    return "just now" if seconds >= 0 else "in a moment"


def _iso(ms: float) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "?"


def _share(value: float, most: float) -> str:
    return f"{max(0.0, min(100.0, 100 * value / most)):.1f}" if most else "0"


def _silent_s(row: PoolWorker | PoolExecution, now_ms: int) -> float | None:
    return None if row.renewed_ms is None else max(0, now_ms - row.renewed_ms) / 1000


def _silent_text(row: PoolWorker | PoolExecution, now_ms: int) -> str:
    silent = _silent_s(row, now_ms)
    return "never" if silent is None else "now" if silent < STALE_S else f"{silent:.0f} s ago"


def _is_stale(row: PoolWorker | PoolExecution, now_ms: int) -> bool:
    silent = _silent_s(row, now_ms)
    return silent is None or silent >= STALE_S
