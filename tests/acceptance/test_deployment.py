"""
The pool of `server/compose.yaml`, with nothing shared: server, PostgreSQL, S3, Valkey, two workers, and a client.

Each is another user, with a network and directories of its own. Workers reach Valkey, S3 and the package index; the
client reaches the server's `http://` address. What the client runs is its own checkout of the shop, browser tests too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.composition import OUTSIDE, composed
from tests.containers import Container, Machine
from tests.pool.walls import cannot_be_tried

ROOT = Path(__file__).parents[2]

#: A test that its author has written just now, and that fails.
WRONG = """
import pytest
from playwright.sync_api import Page

@pytest.mark.browser
def test_coffee_is_free(page: Page) -> None:
    page.goto("/products/1")
    assert page.locator("#price").text_content() == "€0.00"
"""

#: Fetches what the page of a run links to, and tells digests by the last parts of addresses, and its hosts.
LOOK = """
import hashlib, json, os, re, sys, time
import httpx
headers = {"Authorization": f"Bearer {os.environ['SUPERCHECK_TOKEN']}"}
with httpx.Client(base_url=os.environ["SUPERCHECK_URL"], headers=headers, timeout=60) as client:
    look = lambda: client.get(f"/api/v1/runs/{sys.argv[1]}").raise_for_status()
    # A run that has been seen alive has a row before it is recorded.
    while not (look().json()["record"] or {}).get("folder"):
        time.sleep(0.1)
    page = client.get(f"/runs/{sys.argv[1]}").raise_for_status().text
    links = re.findall(r'href="(/runs/[^"]+/files/[^"]+)"', page)
    contents = {link.rpartition("/")[2]: client.get(link).raise_for_status().content for link in links}
digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
print(json.dumps({"digests": digests, "hosts": sorted({*re.findall(r"worker-\\d", page)})}))
"""


@dataclass(frozen=True)
class Deployment:
    """A pool, and somebody outside."""

    #: Where all of them are.
    machine: Machine
    #: What works for the pool.
    workers: list[Container]
    #: Somebody with a home, in which is a checkout of the shop.
    client: Container
    #: That checkout.
    shop: Path


@pytest.fixture(scope="module", params=[pytest.param(None, id="networks, users and directories apart")])
def deployment() -> Iterator[Deployment]:
    """Everything that the compose file has, started as it says."""
    if os.geteuid() != 0 or not shutil.which("bwrap") or not shutil.which("ip"):
        cannot_be_tried("a network for each", "it takes root, bubblewrap and iproute2")
    values = {name: value for name, value in os.environ.items() if name.startswith("UV_") or name == "SSL_CERT_FILE"}
    with tempfile.TemporaryDirectory(prefix="scd", dir="/tmp") as made:
        place = Path(made)
        place.chmod(0o755)
        compose = ROOT / "server" / "compose.yaml"
        with composed(compose, place, {**values, "ISOLATE": "auto"}, way_out="workers") as (composition, machine):
            token = composition.once("server", "token", "create", "ada", "--project", "shop").split()[0]
            composition.up("server")
            workers = composition.up("worker")
            if weak := [
                said for worker in workers if "isolation bwrap, no network" not in (said := worker.log.read_text())
            ]:
                cannot_be_tried("bubblewrap in a container", weak[0])
            home = place / "ada"
            shop = home / "shop"
            ignored = shutil.ignore_patterns(".*", "__pycache__")
            shutil.copytree(ROOT / "examples" / "shop", shop, ignore=ignored)
            environ = {"SUPERCHECK_URL": "http://server:8000", "SUPERCHECK_TOKEN": token}
            client = machine.container("client", [OUTSIDE], {"/home/ada": home}, environ)
            yield Deployment(machine, workers, client, shop)


def test_each_reaches_what_it_has_to(deployment: Deployment) -> None:
    """By addresses, too: names alone would be no walls."""
    addresses = {name: container.addresses for name, container in deployment.machine.containers.items()}
    ports = {"server": 8000, "valkey": 6379, "s3": 9000, "postgres": 5432}

    def reached(container: Container) -> set[str]:
        return {name for name, port in ports.items() if any(container.reaches(one, port) for one in addresses[name])}

    assert [reached(worker) for worker in deployment.workers] == [{"valkey", "s3"}] * 2
    assert reached(deployment.client) == {"server"}


def seen(deployment: Deployment, output: str) -> dict[str, Any]:
    """What a session's run looks like from outside."""
    [run] = set(re.findall(r"supercheck: run ([0-9a-f-]{36})", output))
    found: dict[str, Any] = json.loads(deployment.client.python(LOOK, run))
    return found


def test_browser_tests_run_on_workers_and_their_files_come_back(deployment: Deployment) -> None:
    """What a failing test leaves is where it would have been, and behind the page of the run."""
    (deployment.shop / "tests" / "test_wrong.py").write_text(WRONG)
    options = ["-p", "no:cacheprovider", "--tracing=retain-on-failure", "--screenshot=only-on-failure"]
    command = 'cd shop && git init -q && git add . && pytest --supercheck --supercheck-executions=4 "$@"'
    status, output = deployment.client.run(["sh", "-c", command, "sh", *options])
    assert status == 1, output + "".join(worker.log.read_text() for worker in deployment.workers)
    assert re.search(r"\b1 failed, \d+ passed in", output), output
    assert "FAILED tests/test_wrong.py::test_coffee_is_free[chromium]" in output
    folder = deployment.shop / "test-results" / "tests-test-wrong-py-test-coffee-is-free-chromium"
    here = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert here["trace.zip"].startswith(b"PK")
    assert here["test-failed-1.png"].startswith(b"\x89PNG")
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in here.items()}
    assert digests.items() <= seen(deployment, output)["digests"].items()


def test_workers_share_a_run_whose_client_loads_nothing_of_the_project(deployment: Deployment) -> None:
    """They have the environment already, so that both are there from the beginning."""
    command = "cd shop && supercheck run -- -p no:cacheprovider -m 'not browser' --supercheck-executions=4"
    status, output = deployment.client.run(["sh", "-c", command])
    assert status == 0, output
    assert seen(deployment, output)["hosts"] == ["worker-1", "worker-2"]
