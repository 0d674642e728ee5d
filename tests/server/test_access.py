"""
Who may come in: tokens, sessions, other sites' pages, and a server without any token.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import text

from pytest_supercheck.addresses import is_local
from pytest_supercheck.cli import main
from supercheck_server.access import Access, form_token, is_form_token
from supercheck_server.database import Database
from supercheck_server.serve import NoToken, serve
from supercheck_server.settings import Settings
from tests.server.conftest import GUARD_S, Served

CHANGES = ["/queue/pause", "/queue/resume", "/queue/limits", "/runs/r1/cancel", "/runs/r1/priority", "/sign-out"]
API_CHANGES = [f"/api/v1{path}" for path in CHANGES if path != "/sign-out"]


def test_token_is_kept_as_a_hash_only(database: Database) -> None:
    """Nothing in the database lets anybody in."""
    access = Access(database)
    token, secret = access.create("ci")
    found = access.by_secret(secret)
    assert found == token
    with database.read() as connection:
        rows = str(connection.execute(text("SELECT * FROM tokens")).all())
    assert secret not in rows
    assert secret[4:] not in rows
    assert len(secret) > 43


def test_token_ends_with_its_time_or_when_it_is_revoked(database: Database) -> None:
    """And with it the sessions that it began."""
    now_ms = [1000]
    access = Access(database, now_ms=lambda: now_ms[0])
    short_token, short = access.create("short", days=1)
    token, secret = access.create("long")
    cookie, short_cookie = access.sign_in(token), access.sign_in(short_token)
    now_ms[0] += 86_400_000
    assert access.by_secret(short) is None
    assert access.by_cookie(short_cookie) is None
    assert access.by_cookie(cookie) == token
    assert access.revoke(token.id)
    assert access.by_secret(secret) is None
    assert access.by_cookie(cookie) is None
    assert not access.revoke("nonsense")
    assert {one.name: one.revoked_ms for one in access.list()} == {"short": None, "long": now_ms[0]}
    assert not access.is_open()


def test_session_ends_with_its_time_or_by_signing_out(database: Database) -> None:
    """The cookie is worth nothing afterwards."""
    now_ms = [1000]
    access = Access(database, now_ms=lambda: now_ms[0])
    token, _ = access.create("me")
    first, second = access.sign_in(token), access.sign_in(token)
    access.sign_out(first)
    assert access.by_cookie(first) is None
    assert access.by_cookie(second) is not None
    now_ms[0] += 15 * 86_400_000
    assert access.by_cookie(second) is None


def test_form_token_belongs_to_its_cookie() -> None:
    """And differs each time."""
    one, other = form_token("cookie"), form_token("cookie")
    assert one != other
    assert is_form_token("cookie", one)
    assert not is_form_token("another", one)
    assert not is_form_token("cookie", "")
    assert not is_form_token("cookie", "é.é")


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True), ("app.localhost", True), ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True),
        ("[::1]", True), ("0.0.0.0", False), ("10.0.0.1", False), ("evil.com", False), ("localhost.evil.com", False),
        ("", False), ("127.0.0.1.evil.com", False),
    ],
)  # fmt: skip
def test_local_names_are_known_without_asking(host: str, local: bool) -> None:
    """A name server may say what it likes."""
    assert is_local(host) == local


def test_open_server_answers_under_a_local_name_only(client: httpx.Client) -> None:
    """A page whose name points at this machine is refused."""
    assert client.get("/api/v1/queue").status_code == 200
    answer = client.get("/api/v1/queue", headers={"Host": "evil.com"})
    assert answer.status_code == 403
    assert "supercheck token create" in answer.json()["detail"]


def test_open_server_does_not_listen_to_others(settings: Settings) -> None:
    """Without a token it does not even start there."""
    with pytest.raises(NoToken, match="supercheck token create"):
        serve(settings, host="0.0.0.0", port=0)


@pytest.mark.parametrize("path", API_CHANGES)
def test_foreign_pages_change_nothing_through_the_api(client: httpx.Client, path: str) -> None:
    """Browsers say where a request comes from."""
    for headers in ({"Origin": "http://evil.com"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        answer = client.post(path, headers=headers, json={"priority": "high"})
        assert answer.status_code == 403, headers


@pytest.mark.parametrize("path", CHANGES)
def test_forms_need_their_token(client: httpx.Client, path: str) -> None:
    """Even on a server that is open."""
    client.get("/queue")
    assert client.post(path, data={"priority": "high"}).status_code == 403
    assert client.post(path, data={"priority": "high", "form_token": "x.y"}).status_code == 403


@pytest.fixture
def secret(served: Served) -> str:
    """A token of the server, which is not open any more."""
    return served.parts.access.create("ada")[1]


@pytest.fixture
def browser(served: Served, secret: str) -> Iterator[httpx.Client]:
    """Somebody's browser, not signed in."""
    with httpx.Client(
        base_url=served.url, timeout=GUARD_S, follow_redirects=True, headers={"Accept": "text/html"}
    ) as made:
        yield made


def hidden(html: str) -> str:
    """The form token of a page."""
    found = re.search(r'name="form_token" value="([^"]+)"', html)
    assert found
    return found[1]


def sign_in(browser: httpx.Client, secret: str) -> httpx.Response:
    """Fill in the form."""
    page = browser.get("/sign-in")
    return browser.post("/sign-in", data={"secret": secret, "form_token": hidden(page.text)})


@pytest.mark.parametrize(
    "path", ["/api/v1/queue", "/api/v1/queue/events", "/api/v1/runs", "/api/v1/runs/r1", "/api/v1/workers"]
)
def test_programs_need_a_token(client: httpx.Client, secret: str, path: str) -> None:
    """401 in JSON without one, or with a wrong one."""
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {secret}"},
        {"Authorization": "é"},
    ):
        answer = client.get(path, headers=[(k.encode(), v.encode()) for k, v in headers.items()])
        assert answer.status_code == 401
        assert answer.json()["detail"]
        assert answer.headers["www-authenticate"] == "Bearer"


def test_word_without_a_token_is_no_token(client: httpx.Client) -> None:
    """As it comes from a shell whose variable is empty, to a server that needs none."""
    assert client.get("/api/v1/queue", headers={"Authorization": "Bearer"}).status_code == 200
    assert client.get("/api/v1/queue", headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_program_with_a_token_may(client: httpx.Client, secret: str) -> None:
    """Wherever the server is reached, and to change things."""
    headers = {"Authorization": f"Bearer {secret}", "Host": "pool.example"}
    assert client.get("/api/v1/queue", headers=headers).status_code == 200
    assert client.post("/api/v1/queue/pause", headers=headers).json()["paused"] is True


@pytest.mark.parametrize("path", ["/", "/queue", "/workers", "/flaky", "/slow", "/failures", "/runs/r1", "/tests/x"])
def test_people_are_sent_to_sign_in(browser: httpx.Client, path: str) -> None:
    """A page that says so and leads back."""
    answer = browser.get(path)
    assert answer.status_code == 401
    assert f'href="/sign-in?next={path}"' in answer.text


def test_signing_in_and_out(browser: httpx.Client, secret: str) -> None:
    """With a cookie that scripts cannot read and other sites' forms do not send."""
    page = browser.get("/sign-in")
    answer = browser.post(
        "/sign-in",
        data={"secret": f" {secret} ", "next": "/queue", "form_token": hidden(page.text)},
        follow_redirects=False,
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "/queue")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    page = browser.get("/queue")
    assert page.status_code == 200
    assert "Signed in as ada" in page.text
    form = {"form_token": hidden(page.text)}
    assert browser.post("/queue/pause", data=form).status_code == 200
    assert "The pool is paused" in browser.get("/queue").text
    assert browser.get("/api/v1/queue").json()["paused"] is True
    assert browser.post("/api/v1/queue/resume").status_code == 403
    token = re.search(r'name="form-token" content="([^"]+)"', page.text)
    assert token
    assert browser.post("/api/v1/queue/resume", headers={"X-Form-Token": token[1]}).status_code == 200
    assert browser.post("/sign-out", data=form).url.path == "/sign-in"
    assert browser.get("/queue").status_code == 401


def test_wrong_token_is_refused_with_the_form_again(browser: httpx.Client) -> None:
    """And no cookie that lets anybody in."""
    answer = sign_in(browser, "wrong")
    assert answer.status_code == 401
    assert "unknown, revoked or has expired" in answer.text
    assert browser.get("/queue").status_code == 401


@pytest.mark.parametrize(
    "place", ["//evil.com", "https://evil.com", "/\\evil.com", "javascript:alert(1)", "/\n/evil.com"]
)
def test_signing_in_leads_nowhere_else(browser: httpx.Client, secret: str, place: str) -> None:
    """An address of another site is no place to come back to."""
    page = browser.get("/sign-in")
    form = {"secret": secret, "next": place, "form_token": hidden(page.text)}
    assert browser.post("/sign-in", data=form, follow_redirects=False).headers["location"] == "/"


def test_commands_make_list_and_revoke_tokens(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The secret is shown once."""
    monkeypatch.setenv("SUPERCHECK_DATA", str(settings.data))
    run = CliRunner()
    secret = run.invoke(main, ["token", "create", "ci", "--days", "3"]).stdout.strip()
    listed = run.invoke(main, ["token", "list"]).output
    assert secret not in listed
    assert f"lapses {time.strftime('%Y-%m-%d', time.gmtime(time.time() + 3 * 86400))}" in listed
    token_id = listed.split()[0]
    assert run.invoke(main, ["token", "revoke", token_id]).exit_code == 0
    assert "revoked" in run.invoke(main, ["token", "list"]).output
    assert run.invoke(main, ["token", "revoke", "x"]).exit_code == 2
    database = Database(settings.database_url)
    assert Access(database).by_secret(secret) is None
    database.close()
