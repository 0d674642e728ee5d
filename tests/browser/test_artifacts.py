"""
What a browser test has left behind, from its failure to the trace viewer: everything real.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from pytest_supercheck import report
from pytest_supercheck.archive import Archive
from pytest_supercheck.directory_store import DirectoryStore
from pytest_supercheck.record import RunRecord
from supercheck_server.settings import Settings
from tests.browser.conftest import FLAGS, system_browser
from tests.conftest import Valkey
from tests.server.conftest import GUARD_S, Served, wait_for

SUITE = """
    def test_buys(page):
        page.set_content("<h1>Cart</h1><button>Buy</button>")
        page.get_by_role("button", name="Buy").click()
        assert page.locator("h1").inner_text() == "Paid"

    def test_looks(page):
        page.set_content("<h1>Shop</h1>")
"""

CONFTEST = """
import pytest

@pytest.fixture(scope="session")
def browser_type_launch_args():
    return {arguments!r}
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose browser tests have run, embedded."""
    root = tmp_path_factory.mktemp("shop")
    lines = (line.removeprefix("    ") for line in SUITE.splitlines())
    (root / "test_shop.py").write_text("\n".join(lines))
    (root / "conftest.py").write_text(CONFTEST.format(arguments={"executable_path": system_browser(), "args": FLAGS}))
    (root / "pytest.ini").write_text("[pytest]\n")
    plugins = ["-p", "supercheck", "-p", "pytest_playwright.pytest_playwright", "-p", "no:cacheprovider"]
    options = ["--supercheck", "--tracing=retain-on-failure", "--screenshot=only-on-failure"]
    foreign = ("PYTEST_", "SUPERCHECK_URL", "SUPERCHECK_STORE")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, *options],
        cwd=root,
        env={**environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=GUARD_S * 2,
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    return root


@pytest.fixture
def archive(shop: Path) -> Archive:
    """What it has recorded."""
    return Archive(DirectoryStore(shop / ".supercheck" / "store"))


@pytest.fixture
def run(archive: Archive) -> RunRecord:
    """Its only run."""
    return archive.load(archive.find())


@pytest.fixture
def settings(shop: Path, valkey: object, valkey_server: Valkey, tmp_path: Path) -> Settings:
    """A server that shows the project's own store."""
    environ = {"SUPERCHECK_REDIS_URL": valkey_server.url, "SUPERCHECK_STORE": str(shop / ".supercheck" / "store")}
    return Settings.from_env(environ, data=tmp_path / "data")


def test_trace_and_screenshot_of_the_failure_are_in_the_record(shop: Path, archive: Archive, run: RunRecord) -> None:
    """Of the test that failed; whole, whatever becomes of the project's own directory."""
    failed, passed = sorted(run.items, key=lambda item: item.outcome)
    assert (failed.outcome, passed.outcome) == ("failed", "passed")
    assert sorted(artifact.name for artifact in failed.artifacts) == ["test-failed-1.png", "trace.zip"]
    assert (passed.artifacts, failed.not_kept) == ((), ())
    store = shop / ".supercheck" / "store" / archive.find()
    by_name = {artifact.name: store / artifact.key for artifact in failed.artifacts}
    assert by_name["test-failed-1.png"].read_bytes().startswith(b"\x89PNG")
    with zipfile.ZipFile(BytesIO(by_name["trace.zip"].read_bytes())) as trace:
        assert "trace.trace" in trace.namelist()


def test_report_shows_the_screenshot_and_names_the_trace(
    chromium: Browser, shop: Path, archive: Archive, run: RunRecord
) -> None:
    """As a file, without a server."""
    place = shop / ".supercheck" / "store" / archive.find() / "index.html"
    place.write_bytes(report.render_run(run))
    page = chromium.new_page()
    forbidden: list[str] = []
    page.on("console", lambda said: forbidden.append(said.text))
    page.goto(place.as_uri())
    picture = page.get_by_role("img", name="test-failed-1.png").first
    picture.scroll_into_view_if_needed()
    wait = "image => image.complete && image.naturalWidth"
    page.wait_for_function(f"() => [...document.querySelectorAll('.files img')].every({wait})")
    expect(page.get_by_role("link", name="trace.zip").first).to_be_visible()
    expect(page.get_by_text("playwright show-trace").first).to_be_visible()
    assert not forbidden
    page.close()


def test_trace_opens_in_the_viewer_through_the_server(page: Page, served: Served, run: RunRecord) -> None:
    """From the run's page and the test's; with what the test did, and what it saw."""
    wait_for(lambda: served.parts.history.run(run.summary.id), "the run is adopted")
    page.goto(f"/runs/{run.summary.id}")
    expect(page.get_by_role("link", name="test-failed-1.png").first).to_be_visible()
    page.get_by_role("link", name=re.compile("test_buys")).first.click()
    expect(page.get_by_role("link", name="trace.zip")).to_be_visible()
    page.get_by_role("link", name="Open trace").first.click()
    expect(page).to_have_url(re.compile("/trace/index.html"))
    expect(page.get_by_text("Set content").first).to_be_visible(timeout=30_000)
    page.get_by_text("Click", exact=True).first.click()
    snapshot = page.frame_locator("iframe.snapshot-visible").locator("h1")
    expect(snapshot).to_have_text("Cart", timeout=30_000)


def test_viewer_loads_traces_from_its_own_server_only(context: BrowserContext, served: Served) -> None:
    """A link can say otherwise: the policy does not."""
    page = context.new_page()
    forbidden: list[str] = []
    page.on("console", lambda said: forbidden.append(said.text) if "Content Security Policy" in said.text else None)
    elsewhere = served.url.replace("127.0.0.1", "localhost")
    page.goto(f"/trace/index.html?trace={elsewhere}/trace.zip")
    expect(page.get_by_text("Could not load trace").first).to_be_visible(timeout=30_000)
    assert [said for said in forbidden if f"{elsewhere}/trace.zip" in said]


def test_policy_of_other_pages_is_as_it_was(page: Page, served: Served) -> None:
    """The viewer's is its own."""
    policies = {path: page.request.get(path).headers["content-security-policy"] for path in ("/", "/trace/index.html")}
    assert "worker-src" not in policies["/"]
    assert "unsafe" not in policies["/"]
    assert "worker-src 'self'" in policies["/trace/index.html"]
    assert "script-src 'self' 'sha256-" in policies["/trace/index.html"]


def test_without_playwright_the_trace_is_a_download(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, run: RunRecord
) -> None:
    """And the page says what opens it."""
    monkeypatch.setattr("supercheck_server.app.find_viewer", lambda: None)
    page: Page = request.getfixturevalue("page")
    served: Served = request.getfixturevalue("served")
    wait_for(lambda: served.parts.history.run(run.summary.id), "the run is adopted")
    page.goto(f"/runs/{run.summary.id}")
    expect(page.get_by_text("npx playwright show-trace").first).to_be_visible()
    assert page.get_by_role("link", name="Open trace").count() == 0
    assert page.request.get("/trace/index.html").status == 404
    with page.expect_download() as download:
        page.get_by_role("link", name="trace.zip").first.click()
    assert zipfile.is_zipfile(download.value.path())
