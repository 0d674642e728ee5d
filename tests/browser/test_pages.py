"""
The pages as people use them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, BrowserContext, Page, expect

from pytest_supercheck.jobs import Git, Job
from pytest_supercheck.model import RunId
from pytest_supercheck.record import Artifact, Failure, Origin, Text
from supercheck_server.ledger import Ledger
from supercheck_server.parts import Parts
from supercheck_server.settings import Settings
from supercheck_server.starts import Occasion, State
from tests.server.conftest import Pool, Served, make_item, make_record, serving, wait_for

#: Everything that has an address of its own; `{...}` is filled in.
ADDRESSES = [
    *("/", "/flaky", "/slow", "/failures", "/queue", "/workers", "/sign-in", "/nowhere"),
    *("/runs/{run}", "/runs/r1", "/tests/{test}", "/failures/{cause}", "/jobs", "/jobs/nightly"),
]


def add_jobs(parts: Parts) -> None:
    """A job with a schedule that has been changed, and one that is off; with starts of all kinds."""
    source = Git(git="https://example.org/shop", ref="main")
    nightly = Job(name="nightly", source=source, schedule="0 2 * * *", args=("-k", "x" * 200))
    parts.jobs.sync("shop", [(nightly, None), (Job(name="smoke", source=source), None)])
    rows = {row.name: row.no for row in parts.jobs.known()}
    parts.jobs.override(rows["nightly"], {"executions": 3})
    parts.jobs.enable(rows["smoke"], False)
    for number, state in enumerate(get_args(State)):
        occasion = Occasion(trigger="schedule", user="ada", run="0190-000004" if state == "started" else "")
        parts.starts.claim(rows["nightly"], number + 1, occasion, state=state, reason=f"why it is {state}")


def fill(parts: Parts) -> dict[str, str]:
    """Write some history; the addresses in it."""
    ledger = Ledger(parts.database)
    for number, outcomes in enumerate(["PPF", "FPP", "PPF", "FPFS"], 1):
        record = make_record(number, outcomes)
        ledger.write(record, f"projects/shop/runs/{record.summary.id}/", delivered=number != 3)
    add_jobs(parts)
    trends = parts.trends
    return {"run": "0190-000004", "test": trends.slow()[0].key, "cause": trends.causes(since_ms=0)[0].key}


@pytest.fixture
def busy(served: Served, pool: Pool) -> dict[str, str]:
    """A history, a run that runs, one that waits."""
    pool.submit("r1", nodeids=["a.py::a", "a.py::b"], project="shop")
    pool.dispatcher.next(pool.job("r1"), fresh=True)
    pool.submit("r2", project="bank")
    return fill(served.parts)


def test_run_is_watched_to_its_end(page: Page, pool: Pool) -> None:
    """Progress and the current test without loading the page again, then the results."""
    pool.submit("r1", nodeids=["a.py::first", "a.py::second"], project="shop")
    page.goto("/runs/r1")
    expect(page.get_by_text("0 of 2 tests")).to_be_visible()
    job = pool.job("r1")
    pool.dispatcher.next(job, fresh=True)
    expect(page.get_by_text("a.py::first")).to_be_visible()
    expect(page.get_by_text("execution 1 begins on w-1")).to_be_visible()
    expect(page.get_by_text("execution 1 takes 1 of the tests, from number 0")).to_be_visible()
    pool.dispatcher.append(job, b"[0,1,1772366400000000,1,2,3,4,5,1,2,1]\n", seq=1, done=[0])
    pool.dispatcher.next(job, fresh=False)
    expect(page.get_by_text("1 of 2 tests")).to_be_visible()
    expect(page.get_by_text("a.py::second")).to_be_visible()
    missing = json.dumps({"t": "missing", "i": 1, "n": 1, "reason": "not there"}).encode()
    pool.dispatcher.append(job, missing + b"\n", seq=2, done=[1])
    pool.dispatcher.leave(job)
    expect(page.get_by_role("heading", name="All tests")).to_be_visible(timeout=20_000)
    expect(page.get_by_role("heading", name="Failures")).to_be_visible()


def test_queue_changes_under_the_readers_eyes(page: Page, pool: Pool) -> None:
    """Runs come, are paused, ranked and cancelled; limits change."""
    page.goto("/queue")
    expect(page.get_by_text("Nothing runs and nobody waits.")).to_be_visible()
    pool.submit("r1", project="shop")
    pool.submit("r2", project="bank")
    expect(page.get_by_text("position 1")).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("The pool is paused")).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("The pool is paused")).to_be_hidden()
    page.get_by_label("Priority").select_option("high")
    page.get_by_role("button", name="Set").first.click()
    expect(page.locator("tr", has_text="r2").get_by_text("high", exact=True).first).to_be_visible()
    page.get_by_label("Executions at a time").fill("7")
    page.get_by_role("button", name="Set").last.click()
    expect(page.get_by_text("1/7")).to_be_visible()
    page.get_by_role("button", name="Cancel run r2").click()
    expect(page.get_by_text("r2")).to_be_hidden()
    assert page.url.endswith("/queue")


def test_what_cannot_be_done_is_said_with_its_reason(page: Page, pool: Pool) -> None:
    """In the page that there is."""
    page.goto("/queue")
    page.get_by_label("Executions at a time").fill("1000001")
    page.get_by_role("button", name="Set").click()
    expect(page.get_by_role("alert")).to_have_text("A limit is a whole number from 0 to 1000000, not '1000001'.")


def test_lost_connection_is_said_and_found_again(
    chromium: Browser, settings: Settings, pool: Pool, unused_port: int
) -> None:
    """What is shown may be old; when the server is back, it is not."""
    with serving(settings, port=unused_port) as served:
        page = chromium.new_page(base_url=served.url)
        page.goto("/queue")
        expect(page.get_by_text("0/50")).to_be_visible()
        expect(page.get_by_text("The connection is lost")).to_be_hidden()
    expect(page.get_by_text("The connection is lost")).to_be_visible(timeout=20_000)
    with serving(settings, port=unused_port):
        expect(page.get_by_text("The connection is lost")).to_be_hidden(timeout=30_000)
        pool.submit("r1", project="shop")
        expect(page.get_by_text("shop")).to_be_visible()
        page.close()


def test_failure_is_found_from_the_list_of_runs(page: Page, busy: dict[str, str]) -> None:
    """Run, failure, test, cause."""
    page.goto("/")
    page.get_by_label("State").select_option("failed")
    page.get_by_role("button", name="Show").click()
    page.locator(f"a[href='/runs/{busy['run']}']").click()
    expect(page.get_by_role("heading", name="New failures: 1")).to_be_visible()
    expect(page.get_by_role("heading", name="Still failing: 1")).to_be_visible()
    page.get_by_role("link", name="same cause").first.click()
    expect(page.get_by_role("heading", name="ValueError: no stock for …")).to_be_visible()
    page.get_by_role("link", name="test_a.py::test_0").first.click()
    expect(page.get_by_text("Fails since")).to_be_visible()


def test_attempts_of_a_job_lead_to_each_other(page: Page, served: Served) -> None:
    """The page of one says which it is, and how the others ended."""
    for number, outcomes in ((1, "PF"), (2, "PF"), (3, "PP")):
        origin = Origin(url=f"https://github.com/acme/shop/actions/runs/77/attempts/{number}")
        record = make_record(number, outcomes, origin=origin)
        Ledger(served.parts.database).write(record, f"projects/x/runs/{record.summary.id}/", delivered=True)
    page.goto("/runs/0190-000002")
    expect(page.get_by_text("2 of 3 · attempt 1: failed · attempt 3: passed")).to_be_visible()
    page.get_by_role("link", name="passed", exact=True).click()
    expect(page.get_by_text("3 of 3 · attempt 1: failed · attempt 2: failed")).to_be_visible()


def test_people_sign_in_and_out_and_are_refused(page: Page, served: Served, busy: dict[str, str]) -> None:
    """And come back to where they wanted to go."""
    secret = served.parts.access.create("ada")[1]
    page.goto("/flaky")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.get_by_role("link", name="Sign in").click()
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert").first).to_contain_text("unknown, revoked or has expired")
    page.get_by_label("Token").fill(secret)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Flaky tests")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    page.goto("/flaky")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_pages_work_without_scripts(chromium: Browser, served: Served, busy: dict[str, str], pool: Pool) -> None:
    """All but what is live: forms lead back to their page."""
    context = chromium.new_context(base_url=served.url, java_script_enabled=False)
    page = context.new_page()
    page.goto("/queue")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("The pool is paused")).to_be_visible()
    page.get_by_role("button", name="Cancel run r2").click()
    expect(page.get_by_role("heading", name="bank")).to_be_visible()
    assert pool.dispatcher.look(RunId("r2")).outcome == "cancelled"
    context.close()


def test_report_is_read_through_the_server(page: Page, served: Served, pool: Pool) -> None:
    """With its own style and script, and a way back."""
    pool.finish("r1", 3, missing=[1])
    wait_for(lambda: served.parts.dispatcher.pool().unrecorded == 0, "the run is recorded")
    page.goto("/runs/r1")
    page.get_by_role("link", name="Report", exact=True).click()
    expect(page.get_by_role("heading", name="Failures")).to_be_visible()
    expect(page.get_by_role("searchbox")).to_be_visible()  # its script has run
    page.locator(".crumb a").first.click()
    expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()


def test_a_run_is_run_once_more(page: Page, served: Served, pool: Pool) -> None:
    """What failed, and one test; each leads to the new run."""
    pool.finish("r1", 3, missing=[1])
    wait_for(lambda: served.parts.dispatcher.pool().unrecorded == 0, "the run is recorded")
    page.goto("/runs/r1")
    page.get_by_role("button", name="Retry failed").click()
    expect(page.get_by_text("0 of 1 tests")).to_be_visible()
    page.goto("/runs/r1")
    page.get_by_role("link", name="test_a.py::test_0").click()
    page.get_by_role("button", name="Run now").click()
    expect(page.get_by_text("0 of 1 tests")).to_be_visible()
    runs = [row.run for row in pool.dispatcher.queue().runs]
    assert [pool.dispatcher.nodeids(run) for run in runs] == [['"test_a.py::test_1"'], ['"test_a.py::test_0"']]


def test_keyboard_reaches_everything(page: Page, busy: dict[str, str]) -> None:
    """The first stop leads past the menu; what has the focus is visible."""
    page.goto("/queue")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(3):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Pause":
            break
    expect(page.get_by_role("button", name="Pause")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("The pool is paused")).to_be_visible()


@pytest.fixture(params=[("light", 1200), ("dark", 1200), ("light", 390)], ids=["light", "dark", "phone"])
def look(request: pytest.FixtureRequest, chromium: Browser, served: Served) -> Iterator[BrowserContext]:
    """A browser of each kind."""
    scheme, width = request.param
    made = chromium.new_context(
        base_url=served.url, color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce"
    )
    yield made
    made.close()


def test_pages_can_be_read_by_everybody(look: BrowserContext, busy: dict[str, str]) -> None:
    """By a tool that looks for obstacles; and no page is wider than its window."""
    page = look.new_page()
    for address in ADDRESSES:
        page.goto(address.format(**busy))
        found = Axe().run(page).response["violations"]
        serious = [
            (one["id"], [node["html"] for node in one["nodes"]][:2])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert not serious, address
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), address


def test_index_is_small(look: BrowserContext, busy: dict[str, str]) -> None:
    """150 kB at most come over the wire, with nothing in the cache."""
    page = look.new_page()
    session = look.new_cdp_session(page)
    session.send("Network.enable")
    sizes: list[float] = []
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    page.goto("/", wait_until="networkidle")
    assert len(sizes) >= 5
    assert sum(sizes) < 150_000


def test_hostile_texts_are_shown_as_they_are(page: Page, served: Served, pool: Pool) -> None:
    """Nothing that a test or a client has written becomes markup, runs, or widens the page."""
    nasty = '<script>window.owned=1</script><img src=x onerror="window.owned=1">\' {{ 7*7 }} \x1b[31m\0'
    long = nasty + "x" * 100_000
    trouble = Failure(phase=nasty, message=nasty, trace=Text(text=nasty))
    record = make_record(1, "P", project=nasty[:100], message=long)
    files = (Artifact(name=long, key=f"artifacts/0/trace{nasty}.zip", size_bytes=1),)
    record = replace(record, items=(make_item(0, "failed", nodeid=long, failures=(trouble,), artifacts=files),))
    Ledger(served.parts.database).write(record, "projects/x/runs/0190-000001/", delivered=True)
    pool.submit("r1", nodeids=[nasty], project=nasty[:100])
    pool.dispatcher.next(pool.job("r1"), fresh=True)
    test = served.parts.trends.slow()[0].key
    for address in ("/", "/runs/0190-000001", f"/tests/{test}", "/failures", "/slow", "/queue", "/workers", "/runs/r1"):
        page.goto(address)
        assert page.evaluate("window.owned") is None, address
        assert page.locator("main img, main script").count() == 0, address
        expect(page.locator("main")).to_contain_text("<script>window.owned=1</script>")


def test_record_that_waits_is_said(page: Page, busy: dict[str, str]) -> None:
    """In the list and on the run's page."""
    page.goto("/")
    expect(page.get_by_text("The store does not take 1 record just now")).to_be_visible()
    page.goto("/runs/0190-000003")
    expect(page.get_by_text("It waits on the server's own disk")).to_be_visible()


def test_live_pages_stop_when_nobody_looks(page: Page, served: Served, pool: Pool) -> None:
    """The server forgets a feed whose last viewer has gone."""
    page.goto("/queue")
    feeds = served.parts.feeds
    wait_for(lambda: any(feed.is_watched for feed in feeds._feeds.values()), "the page watches")
    page.goto("/flaky")
    wait_for(lambda: not any(feed.is_watched for feed in feeds._feeds.values()), "nobody watches")


def test_job_is_started_changed_and_disabled_by_hand(page: Page, served: Served, pool: Pool) -> None:
    """With the keyboard's and the screen reader's names; what became of it is in the history."""
    add_jobs(served.parts)
    page.goto("/")
    page.get_by_role("link", name="Jobs").click()
    page.get_by_role("button", name="Run nightly of shop now").click()
    expect(page.get_by_role("heading", name="nightly")).to_be_visible()
    # Its repository may not be fetched: that is found out after the answer.
    row = served.parts.jobs.find("nightly")[0]
    wait_for(lambda: served.parts.starts.of(row.no)[0].state == "failed", "the start is settled")
    page.reload()
    expect(page.get_by_text("This server does not fetch from 'https://example.org/shop'")).to_be_visible()
    page.get_by_label("Schedule").fill("30 4 * * 1")
    page.get_by_label("Time zone").fill("Asia/Tokyo")
    page.get_by_role("button", name="Change").click()
    expect(page.get_by_text("30 4 * * 1 (Asia/Tokyo)")).to_be_visible()
    page.get_by_role("button", name="As defined").click()
    expect(page.get_by_role("definition").filter(has_text="0 2 * * * (UTC)")).to_be_visible()
    page.get_by_role("button", name="Disable").click()
    expect(page.get_by_role("button", name="Enable")).to_be_visible()
