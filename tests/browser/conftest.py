"""
Fixtures for tests with a real browser: Chromium, driven by Playwright, in front of a real server.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright

from tests.server.conftest import Served, pool, served, settings, unused_port

__all__ = ["pool", "served", "settings", "unused_port"]

#: What a browser without a desktop, a sandbox or the internet needs.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def system_browser() -> str | None:
    """The system's Chromium; None where it has none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def launch(playwright: Playwright) -> Browser:
    """The system's Chromium, else the one that `playwright install chromium` has fetched."""
    system = system_browser()
    if system is None and not Path(playwright.chromium.executable_path).exists():
        pytest.fail("no Chromium: apt-get install chromium, or .venv/bin/playwright install chromium", pytrace=False)
    return playwright.chromium.launch(executable_path=system, args=FLAGS)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A browser."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: Browser, served: Served) -> Iterator[BrowserContext]:
    """Somebody's browser with nothing in it yet."""
    made = chromium.new_context(base_url=served.url)
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """
    A page on which nothing may go wrong.

    Errors of scripts, and what our own policy forbids, fail the test.
    """
    made = context.new_page()
    wrong: list[str] = []
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    yield made
    assert not wrong
