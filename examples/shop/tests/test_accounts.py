"""Signing up, in and out."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest

GOOD = {"email": "new@mail.example", "name": "New", "password": "long enough"}


def test_new_user_can_sign_in(guest: httpx.Client, unique: Callable[[str], str]) -> None:
    """Registering, signing in and asking who one is belong together."""
    account = {**GOOD, "email": f"{unique('Ann')}@Mail.Example"}
    registered = guest.post("/api/users", json=account)
    assert registered.status_code == 201
    assert "password" not in registered.json()
    token = guest.post("/api/sessions", json=account).json()["token"]
    me = guest.get("/api/me", headers={"Authorization": f"Bearer {token}"}).json()
    assert me == registered.json()
    assert me["email"] == account["email"].lower()
    assert me["is_admin"] is False


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("email", ""),
        ("email", "nobody"),
        ("email", "no body@mail.example"),
        ("email", "@mail.example"),
        ("email", "nobody@localhost"),
        ("email", 7),
        ("name", "  "),
        ("name", "x" * 81),
        ("name", None),
        ("password", "short"),
        ("password", ["long enough"]),
    ],
)
def test_bad_account_is_refused(guest: httpx.Client, field: str, given: object) -> None:
    """Every field is checked, and named."""
    answer = guest.post("/api/users", json={**GOOD, field: given})
    assert answer.status_code == 422
    assert list(answer.json()["error"]["fields"]) == [field]


def test_all_faults_are_told_at_once(guest: httpx.Client) -> None:
    """Nobody has to try field by field."""
    answer = guest.post("/api/users", json={})
    assert set(answer.json()["error"]["fields"]) == {"email", "name", "password"}


def test_address_can_be_taken_once(guest: httpx.Client, unique: Callable[[str], str]) -> None:
    """Also when it is written with capitals."""
    email = f"{unique('bob')}@mail.example"
    assert guest.post("/api/users", json={**GOOD, "email": email}).status_code == 201
    answer = guest.post("/api/users", json={**GOOD, "email": email.upper()})
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "email_taken"


@pytest.mark.parametrize("known", [True, False])
def test_wrong_credentials_look_alike(guest: httpx.Client, unique: Callable[[str], str], known: bool) -> None:
    """The answer does not tell whether the address has an account."""
    email = f"{unique('eve')}@mail.example"
    if known:
        guest.post("/api/users", json={**GOOD, "email": email}).raise_for_status()
    answer = guest.post("/api/sessions", json={"email": email, "password": "wrong wrong"})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "wrong_credentials"


def test_guessing_is_stopped(guest: httpx.Client, unique: Callable[[str], str]) -> None:
    """After five wrong passwords even the right one has to wait."""
    account = {**GOOD, "email": f"{unique('mallory')}@mail.example"}
    guest.post("/api/users", json=account).raise_for_status()
    for _ in range(5):
        assert guest.post("/api/sessions", json={**account, "password": "guess guess"}).status_code == 401
    assert guest.post("/api/sessions", json=account).status_code == 429


def test_sign_out_ends_this_session_only(sign_up: Callable[[], httpx.Client]) -> None:
    """Others who are signed in stay so."""
    one, other = sign_up(), sign_up()
    assert one.delete("/api/sessions").status_code == 204
    assert one.get("/api/me").status_code == 401
    assert other.get("/api/me").status_code == 200


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer nonsense", "Basic YTpi", "nonsense"])
def test_nonsense_does_not_authorize(guest: httpx.Client, header: str) -> None:
    """Only a token of a session does."""
    assert guest.get("/api/me", headers={"Authorization": header}).status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/cart"),
        ("DELETE", "/api/cart"),
        ("PUT", "/api/cart/items/1"),
        ("PUT", "/api/cart/coupon"),
        ("POST", "/api/orders"),
        ("GET", "/api/orders"),
        ("GET", "/api/orders/1"),
        ("POST", "/api/orders/1/cancel"),
        ("POST", "/api/admin/products"),
        ("GET", "/api/admin/orders"),
    ],
)
def test_guests_must_sign_in(guest: httpx.Client, method: str, path: str) -> None:
    """Whatever belongs to somebody needs a session."""
    answer = guest.request(method, path)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "sign_in_required"


def test_secrets_are_stored_hashed(customer: httpx.Client, database: Path) -> None:
    """The database holds neither passwords nor session tokens."""
    token = customer.headers["Authorization"].removeprefix("Bearer ")
    with closing(sqlite3.connect(database)) as connection:
        dump = "\n".join(connection.iterdump())
    assert token not in dump
    assert "correct horse" not in dump
