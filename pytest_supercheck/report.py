"""
Records → pages that need nothing: a run's report, and a project's list of its last runs.

An edge, imported by who renders only, since it needs Jinja2 and pygments.  A page is one file with its style in it,
reads well without its few lines of script, and links to what is beside it in the store (see `archive`) and nowhere
else, but for the addresses of the repository and the CI job.

All that a test or a client has said is hostile text: templates escape everything, `markup` makes it visible, and a
policy in each page allows no script and no style but its own.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from pytest_supercheck import events, markup
from pytest_supercheck.record import FAILING, Artifact, ItemRecord, Outcome, RunRecord, RunSummary, Text
from pytest_supercheck.store import headers
from pytest_supercheck.timeline import WIDTH, timeline
from pytest_supercheck.words import ordered, plural, seconds

#: How many runs a project's list has, at most.
INDEX_LIMIT: Final = 200

#: Characters of one text in a page: of a test that failed, and of any other.
FAILING_TEXT: Final = 20_000
OTHER_TEXT: Final = 4_000

#: Characters of HTML that all texts of either kind may come to.
FAILING_TEXTS: Final = 800_000
OTHER_TEXTS: Final = 250_000

#: Characters of tracebacks whose source is coloured: colouring takes a millisecond for a few thousand.
SYNTAX: Final = 200_000

#: How many failures are told with their texts, and how many of them are unfolded.
TOLD: Final = 500
UNFOLDED: Final = 5

#: How many tests are listed, and up to how many the list is unfolded.
LISTED: Final = 12_000
UNFOLDED_TESTS: Final = 40

#: Characters of a test's id.
NAME: Final = 240

#: How many of the slowest tests are named.
SLOWEST: Final = 10

#: How many files of a test are named, characters of HTML that one takes, and bytes of a picture that is shown there.
FILES: Final = 50
FILE_HTML: Final = 500
PICTURE_BYTES: Final = 5_000_000


def render_run(record: RunRecord, *, beside: bool = True) -> bytes:
    """
    A run's report.

    Args:
        beside: Whether it will be in the store beside the record, so that it can link to it.

    Returns:
        HTML in UTF-8, under 3 MB.
    """
    return _render("run.html", page=RunPage(record, beside=beside), summary=record.summary)


def render_index(project: str, runs: Sequence[RunSummary]) -> bytes:
    """
    A project's list of runs.

    Args:
        runs: The newest first; the first `INDEX_LIMIT` of them are listed.

    Returns:
        HTML in UTF-8.
    """
    return _render("project.html", project=project, runs=runs[:INDEX_LIMIT])


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """The tests of one file."""

    #: The first part of their nodeids.
    path: str
    #: Those that are listed.
    items: tuple[ItemRecord, ...]
    #: How many of all of them ended how.
    counts: Counter[Outcome]
    #: Seconds that all of them took.
    duration_s: float


class RunPage:
    """
    What a run's template asks for.

    It hands out texts as long as the page has room for them, so the template asks for those of failing tests first.
    """

    def __init__(self, record: RunRecord, *, beside: bool) -> None:
        self.record = record
        self.beside = beside
        self.timeline = timeline(record)
        self.failing = [item for item in record.items if item.outcome in FAILING]
        self.slowest = sorted(record.items, key=lambda item: item.duration_s, reverse=True)[:SLOWEST]
        self.tests_s = sum(item.duration_s for item in record.items)
        self.ran = Counter(item.n for item in record.items)
        self._room = {True: FAILING_TEXTS, False: OTHER_TEXTS}
        self._syntax = SYNTAX

    @property
    def modules(self) -> Iterator[Module]:
        """All tests by file, in the order in which the files come first."""
        by_path: defaultdict[str, list[ItemRecord]] = defaultdict(list)
        for item in self.record.items:
            by_path[item.nodeid.partition("::")[0]].append(item)
        left = LISTED
        for path, items in by_path.items():
            counts = Counter(item.outcome for item in items)
            spent_s = sum(item.duration_s for item in items)
            yield Module(path=path, items=tuple(items[:left]), counts=counts, duration_s=spent_s)
            left -= min(left, len(items))

    def has_room(self, item: ItemRecord) -> bool:
        """Whether there is room for texts of a test."""
        return self._room[item.outcome in FAILING] > 0

    def traceback(self, trace: Text, item: ItemRecord) -> Markup:
        """A traceback of a test."""
        text = self._cut(trace, item)
        syntax = len(text) <= self._syntax
        self._syntax -= len(text) if syntax else 0
        return self._taken(markup.traceback(text, syntax=syntax), item)

    def output(self, section: Text, item: ItemRecord) -> Markup:
        """What a test printed."""
        return self._taken(markup.output(self._cut(section, item)), item)

    def files(self, item: ItemRecord) -> Sequence[Artifact]:
        """The files of a test that are named."""
        named = item.artifacts[:FILES]
        self._room[item.outcome in FAILING] -= len(named) * FILE_HTML
        return named

    def kind(self, artifact: Artifact) -> str:
        """How a file is shown in the page: as an ``image`` or a ``video``; empty for not at all."""
        kind = headers(artifact.key).content_type.partition("/")[0] if self.beside else ""
        return kind if kind == "video" or (kind == "image" and artifact.size_bytes <= PICTURE_BYTES) else ""

    def _cut(self, text: Text, item: ItemRecord) -> str:
        limit = FAILING_TEXT if item.outcome in FAILING else OTHER_TEXT
        return events.cut(text.text, limit if self.has_room(item) else 200)

    def _taken(self, shown: Markup, item: ItemRecord) -> Markup:
        self._room[item.outcome in FAILING] -= len(shown)
        return shown


# -- filters


def moment(value: datetime) -> Markup:
    """A time in UTC, which the page's script turns into the reader's own."""
    utc = value.astimezone(timezone.utc)
    return Markup('<time datetime="{}">{} UTC</time>').format(
        utc.isoformat(timespec="seconds"), f"{utc:%Y-%m-%d %H:%M}"
    )


def link(address: str) -> str:
    """The address if it is one of the web, else nothing: not every address is one to follow."""
    return address if re.fullmatch(r"https?://[^\s\"'<>\\]+", address) else ""


def path(key: str) -> str:
    """A name in the run's folder as an address in it."""
    return quote(key, safe="/", errors="backslashreplace")


def tone(outcome: str) -> str:
    """How an outcome or a verdict looks: ``good``, ``bad`` or ``odd``."""
    if outcome in ("passed", "xfailed"):
        return "good"
    return "bad" if outcome in FAILING else "odd"


def name(nodeid: str, path: str = "") -> str:
    """A test's id as it is shown: of bounded length, and without the file where that has been said."""
    shown = nodeid.removeprefix(f"{path}::") if path else nodeid
    return shown if len(shown) <= NAME else f"{shown[: NAME - 20]}...{shown[-17:]}"


def is_trace(key: str) -> bool:
    """Whether a file is one that Playwright's trace viewer opens, by the name that pytest-playwright gives it."""
    return re.fullmatch(r"(.*/)?trace[^/]*\.zip", key) is not None


def _finalized(value: object) -> object:
    return markup.visible(value) if type(value) is str else value


def script_source() -> str:
    """What a policy calls the one script that pages of this release have, such as ``'sha256-...'``."""
    return _source(str(_environment().globals["script"]))


def _render(template: str, **names: Any) -> bytes:
    page = _environment().get_template(template).render(names)
    return page.encode("utf-8", "backslashreplace")


@functools.cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("pytest_supercheck")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalized,
    )
    style, script = (loader.get_source(environment, name)[0] for name in ("report.css", "report.js"))
    environment.globals |= {
        "style": Markup(style),
        "script": Markup(script),
        "policy": (
            f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; "
            "img-src 'self' data:; media-src 'self'; base-uri 'none'; form-action 'none'"
        ),
        "FAILING": FAILING,
        "FILES": FILES,
        "TOLD": TOLD,
        "UNFOLDED": UNFOLDED,
        "UNFOLDED_TESTS": UNFOLDED_TESTS,
        "WIDTH": WIDTH,
    }
    filters: Iterable[Any] = (seconds, moment, link, path, tone, name, plural, ordered, is_trace)
    environment.filters |= {function.__name__: function for function in filters}
    return environment


def _source(text: str) -> str:
    """What a policy calls the style or the script of that text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
