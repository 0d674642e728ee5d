"""Starts the shop once per session and hands tests customers, an administrator and goods of their own."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

SHOP = Path(__file__).parents[1]
PASSWORD = "correct horse"
ADMIN = {"email": "admin@shop.example", "password": "admin-password"}


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shop keeps its data; parallel workers have a file each."""
    return tmp_path_factory.mktemp("shop") / "shop.db"


@pytest.fixture(scope="session")
def shop_url(database: Path) -> Iterator[str]:
    """The address of a shop that runs for this session."""
    command = [sys.executable, "-m", "shop", "--port", "0", "--database", str(database), "--until-eof"]
    environ = {**os.environ, "PYTHONPATH": str(SHOP)}
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.stdin.close()
        assert server.wait(10) == 0


@pytest.fixture(scope="session")
def base_url(shop_url: str) -> str:
    """Where addresses of browser tests begin."""
    return shop_url


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    """The system's Chromium, where there is one; else the one that `playwright install chromium` has fetched."""
    return {**browser_type_launch_args, "executable_path": shutil.which("chromium") or shutil.which("google-chrome")}


@pytest.fixture
def connect(shop_url: str) -> Iterator[Callable[[], httpx.Client]]:
    """Makes clients of the shop that know nobody."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(httpx.Client(base_url=shop_url, trust_env=False, verify=False))


@pytest.fixture
def guest(connect: Callable[[], httpx.Client]) -> httpx.Client:
    """Somebody who has not signed in."""
    return connect()


@pytest.fixture(scope="session")
def unique() -> Callable[[str], str]:
    """Makes words that occur once in this shop."""
    numbers = itertools.count(1)
    return lambda word: f"{word}{next(numbers)}"


@pytest.fixture
def sign_up(connect: Callable[[], httpx.Client], unique: Callable[[str], str]) -> Callable[[], httpx.Client]:
    """Makes customers, each with an account of their own, signed in."""

    def new_customer() -> httpx.Client:
        client = connect()
        email = f"{unique('customer')}@mail.example"
        account = {"email": email, "name": "Kim", "password": PASSWORD}
        client.post("/api/users", json=account).raise_for_status()
        return authorize(client, email, PASSWORD)

    return new_customer


@pytest.fixture
def customer(sign_up: Callable[[], httpx.Client]) -> httpx.Client:
    """A customer with an empty cart."""
    return sign_up()


@pytest.fixture
def admin(connect: Callable[[], httpx.Client]) -> httpx.Client:
    """The administrator."""
    return authorize(connect(), **ADMIN)


@pytest.fixture
def stock_up(admin: httpx.Client, unique: Callable[[str], str]) -> Callable[..., int]:
    """Puts a product on the shelf that no other test touches; answers with its id."""

    def new_product(**changes: object) -> int:
        product = {"name": unique("Thing "), "category": unique("things"), "price_cents": 1000, "stock": 10, **changes}
        added: dict[str, Any] = admin.post("/api/admin/products", json=product).raise_for_status().json()
        return int(added["id"])

    return new_product


def authorize(client: httpx.Client, email: str, password: str) -> httpx.Client:
    """Sign in."""
    answer = client.post("/api/sessions", json={"email": email, "password": password}).raise_for_status()
    client.headers["Authorization"] = f"Bearer {answer.json()['token']}"
    return client
