"""
A job from its file to the people who hear of it: synced, started by its schedule, recorded, told, seen in a browser.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page, expect

from supercheck_server.settings import Settings
from tests.server.conftest import GUARD_S, Pool, serving, wait_for
from tests.server.test_commands import COMMAND, ENVIRON, running, said
from tests.server.webhook import Webhook, webhook

#: What the job of the shop says, and what it is to say here: no browser is there for its tests, and no night passes.
NIGHTLY = 'schedule = {cron = "30 2 * * *", timezone = "Europe/Berlin"}'
SOON = 'schedule = {{cron = "{due:%M} {due:%H} * * *", timezone = "Asia/Tokyo"}}\nargs = ["-k", "catalogue"]'
TOLD = 'notify = [{to = "team", on = "first-failure"}, {to = "team", on = "recovery"}]'

TOKYO = timezone(timedelta(hours=9))


@pytest.fixture
def hook() -> Iterator[Webhook]:
    """A receiver of messages."""
    with webhook() as made:
        yield made


def next_minute() -> datetime:
    """A full minute that a job which is synced now does not miss."""
    return (datetime.now(TOKYO) + timedelta(seconds=70)).replace(second=0, microsecond=0)


def define(shop: Path, due: datetime) -> None:
    """Have a copy of the shop whose job starts at that minute, and tells of every run."""
    shutil.copytree("examples/shop", shop, ignore=shutil.ignore_patterns(".supercheck", "__pycache__"))
    text = (shop / "supercheck.toml").read_text()
    assert NIGHTLY in text
    assert TOLD in text
    text = text.replace(NIGHTLY, SOON.format(due=due)).replace(TOLD, TOLD.replace("first-failure", "always"))
    (shop / "supercheck.toml").write_text(text)


def jobs(shop: Path, address: str, *words: str) -> str:
    """What a command of `supercheck jobs` prints."""
    environ = {**ENVIRON, "SUPERCHECK_URL": address}
    command = [*COMMAND, "jobs", *words]
    done = subprocess.run(command, cwd=shop, env=environ, capture_output=True, text=True, timeout=GUARD_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def is_ours(process: psutil.Process) -> bool:
    """Whether it is one of our commands."""
    return "pytest_supercheck.cli" in process.cmdline()


def check_obstacles(page: Page) -> None:
    """Nothing keeps anybody from reading a page."""
    found = Axe().run(page).response["violations"]
    assert not [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]


@pytest.mark.slow
def test_job_of_the_shop_starts_at_its_minute_and_is_told(
    chromium: Browser, hook: Webhook, unused_port: int, tmp_path: Path
) -> None:
    """As a new user does it: `supercheck up`, `jobs sync`, and the rest comes by itself."""
    tmp_path.chmod(0o755)  # tests may be somebody else's processes
    address = f"http://127.0.0.1:{unused_port}"
    config = tmp_path / "server.toml"
    config.write_text(f'public-url = "{address}"\n[notify.team]\nurl-variable = "TEAM_CHANNEL"\n')
    environ = {"SUPERCHECK_CONFIG": str(config), "TEAM_CHANNEL": hook.url}
    words = ("up", "--port", str(unused_port), "-c", "2")
    with running(*words, directory=tmp_path, **environ) as (process, log):
        said(log, r"supercheck server: (http://\S+);")
        parts = {one.cmdline()[3]: one.environ() for one in psutil.Process(process.pid).children() if is_ours(one)}
        assert {name for name, known in parts.items() if "TEAM_CHANNEL" in known} == {"server"}, sorted(parts)
        shop, due = tmp_path / "shop", next_minute()
        define(shop, due)
        assert jobs(shop, address, "sync") == "added   shop/nightly\nadded   shop/catalogue\n"
        assert f"{due:%M} {due:%H} * * * (Asia/Tokyo), next " in jobs(shop, address, "list")
        wait_for(lambda: hook.messages, "the message comes", within_s=3 * GUARD_S)

        [history] = jobs(shop, address, "history", "nightly").splitlines()
        assert re.search(r" schedule +passed +[0-9a-f-]{36}$", history), history
        run = history.rpartition(" ")[2]
        assert hook.titles == ["shop/nightly: passed"]
        lines = hook.messages[0]["message"].splitlines()
        assert re.fullmatch(r"\d\d passed in [\d.]+ s", lines[0]), lines
        assert lines[1:] == ["schedule", f"{address}/runs/{run}"]

        page = chromium.new_page(base_url=address)
        page.goto("/")
        page.get_by_role("link", name="Jobs").click()
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name="nightly"))
        for when in (due, due + timedelta(days=1)):
            moment = f"{when.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}"
            expect(row.locator(f"time[datetime^='{moment}']")).to_be_visible()
        row.get_by_role("link", name="nightly").click()
        check_obstacles(page)
        page.get_by_role("link", name=run).click()
        expect(page.get_by_role("heading", name="shop")).to_be_visible()
        expect(page.get_by_text("team (always, sent)")).to_be_visible()
        check_obstacles(page)
        page.get_by_role("link", name="nightly").click()
        expect(page.get_by_role("heading", name="nightly")).to_be_visible()
        page.close()

        process.send_signal(signal.SIGINT)
        assert process.wait(GUARD_S) == 0, log.read_text()
        assert len(hook.messages) == 1


def test_page_of_a_run_says_who_was_told(
    chromium: Browser, settings: Settings, pool: Pool, hook: Webhook, tmp_path: Path
) -> None:
    """And who has not heard of it yet."""
    config = tmp_path / "server.toml"
    told = f'[notify.team]\nurl = "{hook.url}"\non = "first-failure"\n'
    config.write_text(f'{told}[notify.away]\nurl = "json://127.0.0.1:1/"\non = "failure"\n')
    pool.finish("r1", 3, missing=[1])
    with serving(replace(settings, config=config)) as served:
        wait_for(lambda: hook.messages, "the message comes")
        page = chromium.new_page(base_url=served.url)
        page.goto("/runs/r1")
        expect(page.get_by_text("away (failure, not yet sent")).to_be_visible()
        expect(page.get_by_text("team (first-failure, sent)")).to_be_visible()
        assert "sesame" not in page.content()
        check_obstacles(page)
        page.close()
