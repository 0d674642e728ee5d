"""
Reports: what they say, that they are harmless, and that they stay small.
"""

from __future__ import annotations

import gc
import re
import time
from collections import Counter
from dataclasses import asdict, replace
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from pytest_supercheck import report
from pytest_supercheck.record import (
    Artifact,
    Failure,
    ItemRecord,
    Origin,
    PostMortem,
    RunRecord,
    Text,
    WarningRecord,
)
from pytest_supercheck.words import seconds
from tests.records import START, make_failure, make_item, make_record


class Page(HTMLParser):
    """A page as a browser sees it: its tags, links, ids and texts."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.raw = raw.decode("utf-8")
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.events: list[str] = []
        self.texts: list[str] = []
        self.feed(self.raw)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One more tag."""
        self.tags[tag] += 1
        for name, value in attrs:
            if name in ("href", "src") or "url" in name:
                self.links.append(value or "")
            elif name == "id":
                self.ids.append(value or "")
            elif name.startswith("on") or name == "style":
                self.events.append(f"{name}={value}")

    def handle_data(self, data: str) -> None:
        """One more text."""
        self.texts.append(data)

    @property
    def text(self) -> str:
        """All of them, spaces aside."""
        return re.sub(r"\s+", " ", " ".join(self.texts))


def page_of(items: list[ItemRecord], **fields: Any) -> Page:
    """The report of a run with those tests."""
    return Page(report.render_run(make_record(items, **fields)))


# -- what they say


def test_a_report_tells_what_happened() -> None:
    """To whom, from what, how many, and in which time."""
    origin = Origin(
        user="ada",
        host="laptop",
        trigger="pull_request",
        repository="https://github.com/acme/shop",
        branch="cart",
        commit="0123456789abcdef",
        pull_request=12,
        url="https://github.com/acme/shop/actions/runs/7",
        argv=("pytest", "-x"),
        python="3.12.1",
        pytest="9.2.0",
    )
    items = [make_item(0), make_item(1, "failed"), make_item(2, "skipped", reason="no network")]
    page = page_of(items, origin=origin, ended_at=START + timedelta(seconds=90))
    for said in (
        "1 test failed",
        "failed",
        "cart",
        "#12",
        "ada on laptop",
        "1 min 30 s",
        "no network",
        "pytest -x",
        "3.12.1",
    ):
        assert said in page.text, said
    assert "https://github.com/acme/shop/commit/0123456789abcdef" in page.links
    assert "https://github.com/acme/shop/pull/12" in page.links
    assert "https://github.com/acme/shop/actions/runs/7" in page.links


def test_failures_come_first_with_all_they_have() -> None:
    """Traceback, output, post-mortem, subtests, earlier attempts, properties and files."""
    failed = make_item(
        3,
        "failed",
        attempt=2,
        failures=(
            replace(make_failure("first try"), attempt=1),
            Failure(phase="call", attempt=2, subtest="[stock] (i=1)", message="no", trace=Text(text="second try")),
            Failure(phase="teardown", attempt=2, message="torn", trace=Text(text="E   torn")),
        ),
        sections=(Text(title="Captured stdout call", text="\x1b[31mred\x1b[0m", whole="texts/3-0.txt"),),
        crash=PostMortem(words="died", signal=9, oom=True, max_rss_kb=2048),
        properties=(("build", "7"),),
        artifacts=(Artifact(name="a shot.png", key="artifacts/3/a shot.png", size_bytes=10),),
    )
    page = page_of([make_item(0), failed])
    assert page.text.index("first try") < page.text.index("test_0")
    for said in (
        "subtest [stock] (i=1)",
        "attempt 1",
        "teardown",
        "Captured stdout call",
        "signal 9",
        "out of memory",
        "2 MiB",
    ):
        assert said in page.text, said
    assert '<span class="t-1">red</span>' in page.raw
    assert {"texts/3-0.txt", "artifacts/3/a%20shot.png", "#t3"} <= set(page.links)
    assert "t3" in page.ids


def test_pictures_and_videos_are_shown_where_they_are_beside_the_page() -> None:
    """Other files are named, large pictures too; and what is not kept is said."""
    sizes = {"a.png": 10, "b.webm": 10, "trace.zip": 10, "big.png": report.PICTURE_BYTES + 1, "x.svg": 1, "x.html": 1}
    files = tuple(Artifact(name=name, key=f"artifacts/0/{name}", size_bytes=size) for name, size in sizes.items())
    record = make_record([make_item(0, "failed", artifacts=files, not_kept=("core: it is larger than 200 MB",))])
    page = Page(report.render_run(record))
    assert {artifact.key for artifact in files} <= set(page.links)
    assert re.findall(r'<(img|video) src="([^"]+)"', page.raw) == [
        ("img", "artifacts/0/a.png"),
        ("video", "artifacts/0/b.webm"),
    ]
    assert page.text.count("playwright show-trace") == 1
    assert "not kept: core: it is larger than 200 MB" in page.text
    alone = Page(report.render_run(record, beside=False))
    assert "trace.zip" in alone.text
    assert not re.findall(r"<(?:img|video)|artifacts/0", alone.raw)


def test_many_files_of_a_test_are_counted() -> None:
    """And those of many tests do not make the page large."""
    files = tuple(Artifact(name=f"{n}.png", key=f"artifacts/0/{n}.png", size_bytes=1) for n in range(1000))
    page = page_of([make_item(n, "failed", artifacts=files) for n in range(100)])
    assert "950 more files" in page.text
    assert len(page.raw) < 3_000_000


@pytest.mark.parametrize("outcome", ["cancelled", "timeout", "lost", "interrupted"])
def test_a_partial_report_says_so(outcome: str) -> None:
    """With why, and what did not run."""
    record = make_record([make_item(0)], outcome=outcome, message="somebody asked", total=3)
    page = Page(report.render_run(replace(record, not_run=("test_it.py::test_1", "test_it.py::test_2"))))
    assert f"The run was not completed: {outcome} . somebody asked" in page.text
    assert "2 tests did not run" in page.text
    assert "test_it.py::test_2" in page.text


def test_a_run_of_which_nothing_ran() -> None:
    """Has a report, too."""
    page = page_of([], started_at=None, outcome="cancelled", total=0, executions=0)
    assert "No test ran" in page.text


def test_notes_and_warnings_are_told() -> None:
    """What was left out, and what tests warned of."""
    warning = WarningRecord(text="old", category="DeprecationWarning", path="/a.py", line=4, nodeids=("t::a",), count=3)
    record = replace(make_record([make_item(0)], notes=("2 events could not be read",)), warnings=(warning,))
    page = Page(report.render_run(record))
    assert "2 events could not be read" in page.text
    assert "DeprecationWarning : old" in page.text


def test_every_test_is_listed_by_file() -> None:
    """Also when the tests of a file did not come together; what passed with output shows it."""
    items = [make_item(number, nodeid=f"test_{'ab'[number % 2]}.py::test_{number}") for number in range(6)]
    items[0] = replace(items[0], sections=(Text(title="Captured stdout call", text="printed by the way"),))
    page = page_of(items)
    assert page.raw.count('class="module"') == 2
    assert "printed by the way" in page.text
    for number in range(6):
        assert f"test_{number}" in page.text


def test_the_slowest_tests_are_named() -> None:
    """Ten of them, the slowest first."""
    items = [make_item(number, phases_s=(0.0, float(number), 0.0)) for number in range(30)]
    slowest = report.RunPage(make_record(items), beside=True).slowest
    assert [item.index for item in slowest] == list(range(29, 19, -1))


def test_a_page_that_stands_alone_links_to_nothing_beside_it() -> None:
    """It is sent to somebody."""
    item = make_item(0, "failed", sections=(Text(title="out", text="x", whole="texts/0-0.txt"),))
    page = Page(report.render_run(make_record([item]), beside=False))
    assert [link for link in page.links if not link.startswith(("#", "data:"))] == []


def test_an_index_lists_the_last_runs() -> None:
    """Each links to its report; an empty one says so."""
    runs = [
        make_record([make_item(0, "failed" if number % 2 else "passed")], id=f"run-{number}").summary
        for number in range(300)
    ]
    page = Page(report.render_index("shop", runs))
    linked = [link for link in page.links if link.startswith("runs/")]
    assert linked[-report.INDEX_LIMIT :] == [f"runs/run-{number}/index.html" for number in range(report.INDEX_LIMIT)]
    assert "No run is recorded yet" in Page(report.render_index("shop", [])).text


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 ms"), (0.0123, "12 ms"), (1, "1.0 s"), (59.96, "1 min 0 s"), (75.4, "1 min 15 s"), (7260, "2 h 1 min")],
)
def test_durations_are_told_in_their_unit(value: float, shown: str) -> None:
    """As they are read."""
    assert seconds(value) == shown


# -- that they are harmless

HOSTILE = "</pre></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'{{ 7*7 }}\x00\x1b[31m\u202e\ud800"


def hostile_record() -> RunRecord:
    """Everything that somebody could put a text into has one."""
    text = Text(text=HOSTILE, whole=HOSTILE)
    item = make_item(
        0,
        "failed",
        nodeid=f"{HOSTILE}.py::{HOSTILE}",
        host=HOSTILE,
        reason=HOSTILE,
        failures=(Failure(phase=HOSTILE, subtest=HOSTILE, message=HOSTILE, path=HOSTILE, trace=text),),
        sections=(Text(title=HOSTILE, text=HOSTILE, whole="javascript:alert(1)"),),
        crash=PostMortem(words=HOSTILE, reason=HOSTILE),
        properties=((HOSTILE, HOSTILE),),
        artifacts=(Artifact(name=HOSTILE, key="javascript:alert(1)", size_bytes=1),),
    )
    said: dict[str, Any] = {name: HOSTILE for name, value in asdict(Origin()).items() if isinstance(value, str)}
    origin = Origin(**said, argv=(HOSTILE,), plugins=(HOSTILE,))
    record = make_record(
        [item, replace(item, index=1, outcome="passed")],
        project=HOSTILE,
        outcome=HOSTILE,
        message=HOSTILE,
        origin=origin,
        supercheck=HOSTILE,
        notes=(HOSTILE,),
    )
    warning = WarningRecord(text=HOSTILE, category=HOSTILE, path=HOSTILE, line=1, nodeids=(HOSTILE,))
    executions = tuple(
        replace(one, host=HOSTILE, python=HOSTILE, platform=HOSTILE, spawned=HOSTILE, job=HOSTILE)
        for one in record.executions
    )
    return replace(record, executions=executions, not_run=(HOSTILE,), warnings=(warning,))


@pytest.mark.parametrize("which", ["run", "alone", "index"])
def test_hostile_texts_do_nothing(which: str) -> None:
    """No tag, no address, no handler and no style of theirs; the one script is ours."""
    record = hostile_record()
    if which == "index":
        page = Page(report.render_index(HOSTILE, [record.summary]))
    else:
        page = Page(report.render_run(record, beside=which == "run"))
    assert page.tags["script"] == 1
    assert page.tags["img"] == 0
    assert page.events == []
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", page.raw)
    allowed = re.compile(r"#t0|#[a-z-]+|data:,|\.\./\.\./index\.html|run\.json|events\.ndjson\.gz|runs/.*/index\.html|")
    for link in page.links:
        path = link.partition(":")[0]
        assert allowed.fullmatch(link) or "%3A" in link or "%3C" in path, link
    assert "49" not in re.findall(r"\b49\b", page.raw)


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "data:text/html,x", "//evil.example", 'https://a" onclick=x', "ftp://x"]
)
def test_only_addresses_of_the_web_are_links(address: str) -> None:
    """The rest is shown as text."""
    page = page_of([make_item(0)], origin=Origin(repository=address, url=address, commit="a" * 40, pull_request=1))
    assert not [link for link in page.links if address in link or link.startswith(("javascript", "//"))]


def test_the_policy_allows_nothing_but_what_is_in_the_page() -> None:
    """And the browser is told so before anything else."""
    raw = report.render_run(make_record([make_item(0)])).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', raw)
    assert policy is not None
    assert "default-src &#39;none&#39;" in policy[1]
    assert "unsafe" not in policy[1]
    assert raw.index("Content-Security-Policy") < raw.index("<style>")


# -- that they stay small


def many_items(count: int, failing: float, output: str = "") -> list[ItemRecord]:
    """A large suite, of which a part failed."""
    step = max(1, round(1 / failing)) if failing else count + 1
    trace = "\n".join(["    def test_total(cart):", "        total = cart.total()", ">       assert total == 12"] * 8)
    return [
        make_item(
            number,
            "failed" if number % step == 0 and failing else "passed",
            nodeid=f"tests/unit/test_module_{number // 100:03}.py::TestCart::test_total_is_right[{number % 100}-eur]",
            n=number % 8 + 1,
            started_at=START + timedelta(seconds=number // 8 / 10),
            sections=(Text(title="Captured stdout call", text=output),) if output else (),
            **({"failures": (make_failure(trace),)} if number % step == 0 and failing else {}),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("failing", "output"),
    [(0, ""), (0.01, ""), (1, ""), (0.01, "some output <of> a test\n" * 100), (1, '"<&>"' * 10_000)],
)
def test_ten_thousand_tests_stay_under_three_megabytes(failing: float, output: str) -> None:
    """However many of them fail, and however much they print."""
    record = make_record(many_items(10_000, failing, output))
    report.render_run(make_record())  # templates are compiled once
    gc.collect()
    started = time.process_time()
    raw = report.render_run(record)
    assert time.process_time() - started < 10  # a guard: the figure is in the benchmarks
    assert len(raw) < 3_000_000
    assert raw.count(b"test_total_is_right[99-eur]") >= 100


def test_texts_of_a_megabyte_are_cut() -> None:
    """The page says so and leads to the whole."""
    text = Text(title="Captured stdout call", text="x" * 1_000_000, whole="texts/0-0.txt")
    items = [
        make_item(number, "failed", sections=(text,), failures=(make_failure("y" * 1_000_000),)) for number in range(50)
    ]
    raw = report.render_run(make_record(items))
    assert len(raw) < 1_500_000
    assert b"characters cut by pytest-supercheck" in raw
    assert b'href="texts/0-0.txt"' in raw


def test_names_of_a_megabyte_are_cut() -> None:
    """They are parameters that were not given ids."""
    items = [make_item(number, "failed", nodeid=f"test_it.py::test[{'x' * 1_000_000}]") for number in range(3)]
    assert len(report.render_run(make_record(items))) < 100_000


def test_more_tests_than_a_page_can_list() -> None:
    """They are counted, and those that failed are told all the same."""
    items = many_items(report.LISTED + 1_000, 0)
    items[-1] = make_item(report.LISTED + 999, "failed", nodeid="tests/last.py::test_it")
    page = Page(report.render_run(make_record(items)))
    assert "tests/last.py::test_it" in page.text
    assert "100 more tests" in page.text
    assert len(page.raw) < 3_500_000
