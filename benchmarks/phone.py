"""The index of runs on a phone: what comes over the wire to a browser with nothing in its cache."""

from __future__ import annotations

import shutil
import sys
from typing import Final

from playwright.sync_api import ViewportSize, sync_playwright

from benchmarks import pool, web
from benchmarks.bench import BenchError, bench
from benchmarks.history import fill
from benchmarks.table import Row, Scale, alone, value_row
from supercheck_server.database import Database

TARGET_KB: Final = 150.0

#: The page, its style, its three scripts.
FILES: Final = 5

#: CSS pixels.
VIEWPORT: Final[ViewportSize] = {"width": 390, "height": 800}

#: What a browser without a desktop and a sandbox needs.
_FLAGS: Final = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")


def measure(scale: Scale) -> list[Row]:
    """Measure the first page, which has 50 runs."""
    with bench() as place, pool.server() as url:
        data = place.folder("data")
        address = f"sqlite:///{data / 'history.sqlite'}"
        database = Database(address)
        database.migrate()
        fill(database, 100, 10)
        database.close()
        with web.served(place, url, data=data, database_url=address) as server:
            sizes = [_transferred_kb(server.address) for _ in range(scale.pairs(3))]
    return [value_row("index of runs on a phone, nothing cached: transferred", TARGET_KB, sizes, "kB")]


def _transferred_kb(address: str) -> float:
    """All that a browser receives until nothing more comes, with headers."""
    system = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=system, args=_FLAGS)
        page = browser.new_context(viewport=VIEWPORT, has_touch=True, is_mobile=True).new_page()
        session = page.context.new_cdp_session(page)
        session.send("Network.enable")
        sizes: list[float] = []
        session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
        page.goto(address, wait_until="networkidle")
        browser.close()
    if len(sizes) < FILES:
        raise BenchError(f"the browser has loaded {len(sizes)} files")
    return sum(sizes) / 1000


if __name__ == "__main__":
    sys.exit(alone(measure))
