"""
What each token may see and do: every route, every scope, the token's project and another one.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from click.testing import CliRunner
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Mount, Route

from pytest_supercheck.archive import run_folder
from pytest_supercheck.cli import main
from pytest_supercheck.errors import Unreachable
from pytest_supercheck.http_gateway import HttpGateway
from pytest_supercheck.jobs import Git, Job
from pytest_supercheck.model import Offer, RunId, RunRequest
from supercheck_server.access import SCOPES, Access, Scope, form_token
from supercheck_server.app import create_app
from supercheck_server.database import Database
from supercheck_server.gate import COOKIE, HEADER
from supercheck_server.ledger import Ledger
from supercheck_server.render import static_version
from supercheck_server.settings import Settings
from supercheck_server.throttle import LIMIT, MEMORY, WINDOW_S, Throttle
from supercheck_server.viewer import find_viewer
from tests.server.conftest import GUARD_S, Pool, Served, make_record, wait_for


@dataclass(frozen=True)
class Rule:
    """What a route needs, and what it answers to whoever has it."""

    #: None for routes before which no gate stands.
    scope: Scope | None
    #: The answer's status.
    status: int
    #: The body of the request, as JSON for the API and as a form for pages.
    body: dict[str, Any] | None = None
    #: Whether what it shows or changes is of one project, so that others get this status; 0 when they get the same.
    others: int = 404
    #: Whether a token for one project is not enough.
    everywhere: bool = False


SUBMISSION: Final = {"run_id": "new", "project": "shop"}
START: Final = {"run_id": "new"}

#: Every route. `{run_id}` and `{key}` are filled in from `SHOP`.
RULES: Final = {
    **dict.fromkeys(["GET /healthz", "GET /readyz", "GET /metrics", "GET /openapi.json"], Rule(None, 200)),
    "GET /sign-in": Rule(None, 200),
    "POST /sign-in": Rule(None, 401, {"secret": ""}),
    "POST /api/v1/tokens/exchange": Rule(None, 400),
    "GET /api/v1/queue": Rule("read", 200, others=0),
    "GET /api/v1/queue/events": Rule("read", 200, others=0),
    "GET /api/v1/workers": Rule("read", 200, others=0),
    "GET /api/v1/runs": Rule("read", 200, others=0),
    "POST /api/v1/queue/pause": Rule("admin", 200, everywhere=True),
    "POST /api/v1/queue/resume": Rule("admin", 200, everywhere=True),
    "POST /api/v1/queue/limits": Rule("admin", 200, {"running": 9}, everywhere=True),
    "POST /api/v1/runs": Rule("submit", 201, SUBMISSION, others=403),
    "GET /api/v1/runs/{run_id}": Rule("read", 200),
    "GET /api/v1/runs/{run_id}/events": Rule("read", 200),
    "GET /api/v1/runs/{run_id}/status": Rule("read", 200),
    "GET /api/v1/runs/{run_id}/files/{key:path}": Rule("read", 200),
    "POST /api/v1/runs/{run_id}/items": Rule("submit", 200, {"names": []}),
    "POST /api/v1/runs/{run_id}/keep": Rule("submit", 200),
    "POST /api/v1/runs/{run_id}/stop": Rule("submit", 200, {"outcome": "cancelled", "how": "leave"}),
    "POST /api/v1/runs/{run_id}/cancel": Rule("submit", 200),
    "POST /api/v1/runs/{run_id}/retry": Rule("submit", 201),
    "POST /api/v1/runs/{run_id}/judge": Rule("read", 200, {"nodeids": []}),
    "POST /api/v1/bundles/{bundle_id}": Rule("submit", 200, others=403),
    "POST /api/v1/packs": Rule("submit", 400, others=403),
    "POST /api/v1/runs/{run_id}/priority": Rule("admin", 200, {"priority": "high"}),
    "GET /api/v1/jobs": Rule("read", 200, others=0),
    "PUT /api/v1/jobs": Rule("submit", 200, {"jobs": []}, others=403),
    "GET /api/v1/jobs/{name}": Rule("read", 200),
    "PATCH /api/v1/jobs/{name}": Rule("submit", 200, {}),
    "GET /api/v1/jobs/{name}/starts": Rule("read", 200),
    "POST /api/v1/jobs/{name}/starts": Rule("submit", 201, START),
    "GET /jobs": Rule("read", 200, others=0),
    "GET /jobs/{name}": Rule("read", 200),
    "POST /jobs/{name}/starts": Rule("submit", 303, START),
    "POST /jobs/{name}/enabled": Rule("submit", 303, {"on": "false"}),
    "POST /jobs/{name}/overrides": Rule("submit", 303, {}),
    **dict.fromkeys(["GET /", "GET /flaky", "GET /slow", "GET /failures"], Rule("read", 200, others=0)),
    **dict.fromkeys(
        ["GET /queue", "GET /queue/live", "GET /workers", "GET /workers/live"], Rule("read", 200, others=0)
    ),
    "GET /runs/index.html": Rule("read", 307, others=0),
    "GET /runs/{run_id}": Rule("read", 200),
    "GET /runs/{run_id}/live": Rule("read", 200),
    "GET /runs/{run_id}/files/{path:path}": Rule("read", 200),
    "GET /tests/{key}": Rule("read", 200),
    "GET /failures/{key}": Rule("read", 200),
    "POST /queue/pause": Rule("admin", 303, {}, everywhere=True),
    "POST /queue/resume": Rule("admin", 303, {}, everywhere=True),
    "POST /queue/limits": Rule("admin", 303, {"running": "9"}, everywhere=True),
    "POST /runs/{run_id}/cancel": Rule("submit", 303, {}),
    "POST /runs/{run_id}/retry": Rule("submit", 303, {}),
    "POST /runs/{run_id}/priority": Rule("admin", 303, {"priority": "high"}),
    # The last one: it ends the session.
    "POST /sign-out": Rule(None, 303, {}),
}

#: Routes of runs that have ended; those of runs that wait; those of live ones are the others.
ENDED: Final = ("/retry", "/files/{path:path}", "/files/{key:path}", "/runs/{run_id}")


@dataclass(frozen=True, kw_only=True)
class Key:
    """One way to come."""

    #: For the test's report.
    name: str
    #: None when it lets nobody in.
    scope: Scope | None
    #: Empty for all.
    project: str
    #: Of programs and of browsers.
    secret: str
    cookie: str


def make_keys(access: Access) -> list[Key]:
    """None, wrong, expired and revoked ones, and every scope for every project."""
    old = Access(access._database, now_ms=lambda: 1000)
    made: list[Key] = [Key(name=one, scope=None, project="", secret=secret, cookie=cookie)
                       for one, secret, cookie in (("none", "", ""), ("wrong", "sct_wrong", "wrong"))]  # fmt: skip
    for name, maker in (("expired", old), ("revoked", access)):
        token, secret = maker.create(name, days=1)
        cookie = maker.sign_in(token)
        if maker is access:
            access.revoke(token.id)
        made.append(Key(name=name, scope=None, project="", secret=secret, cookie=cookie))
    for project in ("shop", "bank", ""):
        for scope in SCOPES:
            name = f"{scope} of {project or 'all'}"
            token, secret = access.create(name, project=project, scope=scope)
            made.append(Key(name=name, scope=scope, project=project, secret=secret, cookie=access.sign_in(token)))
    return made


@dataclass(frozen=True, kw_only=True)
class World:
    """A server with two projects."""

    #: The server.
    served: Served
    #: All ways to come.
    keys: list[Key]
    #: Of the project `shop`: a test and a cause.
    test: str
    cause: str

    def key(self, name: str) -> Key:
        """The one of that name."""
        return next(key for key in self.keys if key.name == name)

    def fill(self, path: str, run: str = "") -> str:
        """An address of the project `shop`."""
        found = run or ("shop-done" if path.endswith(ENDED) else "shop-live")
        key = self.test if path.startswith("/tests") else self.cause
        path = path.replace("{run_id}", found).replace("{key}", key)
        if path.startswith(("/api/v1/bundles", "/api/v1/packs")):
            return path.replace("{bundle_id}", "0" * 64) + "?project=shop"
        if "/jobs" in path:
            return path.replace("{name}", "nightly") + "?project=shop"
        return path.replace("{path:path}", "index.html").replace("{key:path}", "artifacts/0/log")


@pytest.fixture
def world(served: Served, pool: Pool) -> World:
    """In each project a run that runs, one that has ended, and one with failures in the history."""
    ledger = Ledger(served.parts.database)
    for number, project in enumerate(("shop", "bank"), 1):
        pool.submit(f"{project}-done", nodeids=[f"{project}.py::done"], project=project)
        job = pool.job(f"{project}-done")
        pool.dispatcher.next(job, fresh=True)
        pool.dispatcher.append(job, b"[0,1,1772366400000000,1,2,3,4,5,1,2,1]\n", seq=1, done=[0])
        pool.dispatcher.leave(job)
        record = make_record(number, "PF", project=project)
        ledger.write(record, f"projects/{project}/runs/{record.summary.id}/", delivered=True)
        left = Path(served.parts.settings.store, run_folder(project, f"{project}-done"), "artifacts/0/log")
        left.parent.mkdir(parents=True)
        left.write_text(project)
    wait_for(lambda: served.parts.dispatcher.pool().unrecorded == 0, "the runs are recorded")
    for project in ("shop", "bank"):
        pool.dispatcher.join(f"w-{project}", host="h", pid=2)
        pool.submit(f"{project}-live", nodeids=[f"{project}.py::live"], project=project)
        pool.dispatcher.next(pool.job(f"{project}-live"), fresh=True)
        served.parts.jobs.sync(project, [(Job(name="nightly", source=Git(git="https://x/y", ref="main")), None)])
    trends = served.parts.trends
    return World(
        served=served,
        keys=make_keys(served.parts.access),
        test=trends.slow("shop")[0].key,
        cause=trends.causes("shop", since_ms=0)[0].key,
    )


#: Addresses of this machine from which nobody has come yet.
ADDRESSES: Final = (f"127.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in count(70_000))


def client_from(served: Served, address: str) -> httpx.Client:
    """A program on one of this machine's addresses."""
    return httpx.Client(base_url=served.url, timeout=GUARD_S, transport=httpx.HTTPTransport(local_address=address))


def ask(client: httpx.Client, key: Key, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, str]:
    """The status, and the body if it ends."""
    content: dict[str, Any]
    if path.startswith("/api/"):
        headers, content = {"Authorization": f"Bearer {key.secret}"} if key.secret else {}, {"json": body}
    else:
        cookie = key.cookie or "nobody"
        headers, content = {"Cookie": f"{COOKIE}={cookie}", HEADER: form_token(cookie)}, {"data": body}
    with client.stream(method, path, headers=headers, **content) as answer:
        endless = answer.headers.get("content-type", "").startswith("text/event-stream")
        return answer.status_code, "" if endless else answer.read().decode("utf-8", "replace")


def first_event(stream: httpx.Response) -> str:
    """The first picture of a feed."""
    text = ""
    for chunk in stream.iter_text():
        text += chunk
        if "\n\n" in text:
            break
    return text


def expected(rule: Rule, key: Key) -> int:
    """What the rules say."""
    if rule.scope is None:
        return rule.status
    if key.scope is None:
        return 401
    if SCOPES.index(key.scope) < SCOPES.index(rule.scope) or (rule.everywhere and key.project):
        return 403
    return rule.others if key.project == "bank" and rule.others else rule.status


def names_of(routes: Iterable[BaseRoute]) -> Iterator[str]:
    """Every route, also of routers that are included."""
    for route in routes:
        if isinstance(route, (APIRoute, Route)):
            yield from (f"{method} {route.path}" for method in (route.methods or set()) - {"HEAD"})
        elif isinstance(route, Mount):
            yield f"GET {route.path}/"
        else:
            yield from names_of(route.original_router.routes)  # type: ignore[attr-defined]


def test_every_route_has_its_rule(served: Served) -> None:
    """A new one fails here until somebody has decided who may use it."""
    files = {f"GET /static/{static_version()}/", *(["GET /trace/"] if find_viewer() else [])}
    assert set(names_of(create_app(served.parts).routes)) == RULES.keys() | files


def test_every_route_keeps_its_rule(world: World) -> None:
    """For every token; and a refusal changes nothing and says what is missing."""
    wrong = []
    for number, key in enumerate(world.keys):
        for start in range(0, len(RULES), LIMIT):
            # From an address of their own: more wrong tokens from one would have to wait.
            with client_from(world.served, next(ADDRESSES)) as client:
                for name in list(RULES)[start : start + LIMIT]:
                    rule, (method, path) = RULES[name], name.split()
                    body = rule.body
                    if body is SUBMISSION or body is START:
                        body = {**body, "run_id": f"new-{number}-{list(RULES).index(name)}"}
                    status, text = ask(client, key, method, world.fill(path), body)
                    if status != expected(rule, key):
                        wrong.append((key.name, name, status, expected(rule, key)))
                    if status == 403 and rule.others != 403:
                        assert f"the scope '{rule.scope}'" in json.loads(text)["detail"]
    assert not wrong


def test_runs_of_others_are_as_if_there_were_none(world: World) -> None:
    """Every route that names a run answers with the same words, and with the same type."""
    key = world.key("admin of bank")
    with client_from(world.served, next(ADDRESSES)) as client:
        for name, rule in RULES.items():
            method, path = name.split()
            if "{run_id}" in path:
                others, nobody, impossible = (
                    ask(client, key, method, world.fill(path, run), rule.body)
                    for run in ("shop-live", "nobody", "no%00body")
                )
                assert others == nobody == impossible == (404, '{"detail":"There is no such run."}'), name
            elif "{key}" in path:
                unknown = path.replace("{key}", "nothing")
                assert ask(client, key, method, world.fill(path), None) == ask(client, key, method, unknown, None)


def test_lists_are_of_the_tokens_project(world: World) -> None:
    """Whatever the query says; and so are the choices of their forms."""
    mine, everything = world.key("read of bank"), world.key("read of all")
    with client_from(world.served, next(ADDRESSES)) as client:
        for path in ("/", "/flaky", "/slow", "/failures", "/jobs"):
            for query in ("", "?project=shop", "?project=bank"):
                assert "shop" not in ask(client, mine, "GET", path + query, None)[1].replace("?project=shop", ""), path
            assert path == "/flaky" or "test_a.py" in ask(client, mine, "GET", "/slow", None)[1]
        assert "<option>shop</option>" in ask(client, everything, "GET", "/", None)[1]
        for query in ("", "?project=shop", "?search=shop"):
            rows = json.loads(ask(client, mine, "GET", f"/api/v1/runs{query}", None)[1])["runs"]
            assert {row["project"] for row in rows} == ({"bank"} if "search" not in query else set())


def test_queue_and_workers_hide_what_others_do(world: World) -> None:
    """The pool's figures, the own runs, and of others only that they are there."""
    with client_from(world.served, next(ADDRESSES)) as client:
        for path in ("/queue", "/workers", "/api/v1/queue", "/api/v1/workers", "/runs/bank-live"):
            text = ask(client, world.key("admin of bank"), "GET", path, None)[1]
            assert "bank-live" in text, path
            assert "shop" not in text.replace("w-shop", ""), path
        queue = json.loads(ask(client, world.key("read of bank"), "GET", "/api/v1/queue", None)[1])
        everything = json.loads(ask(client, world.key("read of all"), "GET", "/api/v1/queue", None)[1])
    assert [(run["run"], run["project"], run["state"], run["held"], run["total"]) for run in queue["runs"]] == [
        ("?", "?", "running", 1, None),
        ("bank-live", "bank", "running", 1, 1),
    ]
    assert {(one["run"], one["nodeid"]) for one in queue["executions"]} == {("?", ""), ("bank-live", "bank.py::live")}
    assert {one["run"] for one in everything["executions"]} == {"shop-live", "bank-live"}
    figures = everything.keys() - {"runs", "executions"}
    assert {name: queue[name] for name in figures} == {name: everything[name] for name in figures}


@pytest.mark.parametrize("path", ["/queue/live", "/workers/live", "/api/v1/queue/events"])
def test_feeds_are_not_shared_between_projects(world: World, path: str) -> None:
    """Though all of them are watched at the same time, the first viewer's picture is nobody else's."""
    with contextlib.ExitStack() as stack:
        streams = []
        for project in ("all", "shop", "bank"):
            client = stack.enter_context(client_from(world.served, next(ADDRESSES)))
            headers = {"Authorization": f"Bearer {world.key(f'submit of {project}').secret}"}
            streams.append(stack.enter_context(client.stream("GET", path, headers=headers)))
        pictures = [set(re.findall(r"(?:shop|bank)-live", first_event(stream))) for stream in streams]
    assert pictures == [{"shop-live", "bank-live"}, {"shop-live"}, {"bank-live"}]


#: What a button or a form of a page sends its request to.
ACTIONS: Final = re.compile(r'<form [^>]*method="post" action="(?:/runs/[^/]+)?(/[^"]+)"')


@pytest.mark.parametrize(
    ("token", "actions"),
    [
        ("read of shop", set()),
        ("submit of shop", {"/cancel", "/retry"}),
        ("admin of shop", {"/cancel", "/retry", "/priority"}),
        ("admin of all", {"/cancel", "/retry", "/priority", "/queue/pause", "/queue/resume", "/queue/limits"}),
    ],
)
def test_buttons_that_would_be_refused_are_not_shown(world: World, pool: Pool, token: str, actions: set[str]) -> None:
    """On all pages that have some, also where they change under the reader's eyes."""
    pool.dispatcher.pause(on=True)
    pool.submit("shop-waits", project="shop")
    found: set[str] = set()
    key = world.key(token)
    with client_from(world.served, next(ADDRESSES)) as client:
        for path in ("/queue", "/runs/shop-live", "/runs/shop-done", f"/tests/{world.test}"):
            found |= set(ACTIONS.findall(ask(client, key, "GET", path, None)[1]))
        assert found == actions | {"/sign-out"}
        headers = {"Authorization": f"Bearer {key.secret}"}
        with client.stream("GET", "/queue/live", headers=headers) as stream:
            text = first_event(stream)
    assert set(ACTIONS.findall(text)) == actions & {"/cancel", "/priority"}


def test_refusal_is_a_page_in_a_browser(world: World) -> None:
    """With words that name the scope."""
    cookie = world.key("read of shop").cookie
    headers = {"Cookie": f"{COOKIE}={cookie}", HEADER: form_token(cookie), "Accept": "text/html"}
    answer = httpx.post(f"{world.served.url}/runs/shop-live/cancel", headers=headers)
    assert answer.status_code == 403
    assert "<h1>Not allowed</h1>" in answer.text
    assert "a token with the scope &#39;submit&#39;; yours has &#39;read&#39;" in answer.text


def test_submission_is_for_the_tokens_project(world: World, pool: Pool) -> None:
    """Another project's is refused in words, and so is the id of another project's run, of the pool or the history."""
    key = world.key("submit of bank")
    with client_from(world.served, next(ADDRESSES)) as client:

        def submit(run: str, project: str) -> tuple[int, str]:
            return ask(client, key, "POST", "/api/v1/runs", {"run_id": run, "project": project})

        status, text = submit("new", "shop")
        assert (status, "the project 'bank'" in text, "--supercheck-project" in text) == (403, True, True)
        assert submit("shop-live", "bank")[0] == 409
        assert submit("0190-000001", "bank")[0] == 409
        assert submit("new", "bank")[0] == 201
        assert submit("new", "bank")[0] == 201  # again: the answer was lost
    assert pool.dispatcher.project(RunId("shop-live")) == "shop"
    assert pool.dispatcher.project(RunId("new")) == "bank"
    assert pool.dispatcher.project(RunId("0190-000001")) is None


def test_id_of_two_projects_is_nobodys(world: World, pool: Pool) -> None:
    """Whoever reaches Redis may take the id of another's recorded run; nobody sees that through it."""
    pool.submit("0190-000001", project="bank")
    with client_from(world.served, next(ADDRESSES)) as client:
        for name in ("admin of bank", "admin of shop"):
            for path in ("/runs/0190-000001", "/api/v1/runs/0190-000001", "/runs/0190-000001/files/index.html"):
                assert ask(client, world.key(name), "GET", path, None)[0] == 404


def test_gateway_of_a_project_works(world: World) -> None:
    """Also where the run is unknown or another's, and with words where the project is."""
    gateway = HttpGateway(world.served.url, world.key("submit of bank").secret)
    assert gateway.submit(RunRequest(run_id=RunId("mine"), project="bank")).state in ("admitted", "queued")
    assert gateway.offer(RunId("mine"), Offer(names=['"a"']))
    assert gateway.keep(RunId("mine")).total == 1
    assert [run.run for run in gateway.queue().runs] == ["?", "bank-live", "mine"]
    assert gateway.cancel(RunId("mine"), outcome="withdrawn", how="kill").state in ("gone", "ended", "stopping")
    for run in (RunId("nobody"), RunId("shop-live")):
        assert not gateway.offer(run, Offer(names=['"a"']))
        assert gateway.keep(run).state == "gone"
        assert gateway.cancel(run, outcome="cancelled", how="kill").state == "gone"
    with pytest.raises(Unreachable, match="the project 'bank'"):
        gateway.submit(RunRequest(run_id=RunId("theirs"), project="shop"))
    gateway.close()
    assert world.served.parts.dispatcher.look(RunId("shop-live")).state == "running"


def test_wrong_tokens_have_to_wait(world: World) -> None:
    """Those of one address, in the API and at the sign-in page alike; not those of others, nor what has been right."""
    right, fresh = world.key("read of shop").secret, world.key("read of bank").secret
    bad = {"Authorization": "Bearer sct_wrong"}
    with client_from(world.served, next(ADDRESSES)) as client, client_from(world.served, next(ADDRESSES)) as other:

        def sign_in(secret: str, accept: str = "application/json") -> httpx.Response:
            headers = {"Cookie": f"{COOKIE}=x", HEADER: form_token("x"), "Accept": accept}
            return client.post("/sign-in", data={"secret": secret}, headers=headers)

        assert client.get("/api/v1/runs", headers={"Authorization": f"Bearer {right}"}).status_code == 200
        for number in range(LIMIT):
            answer = sign_in("wrong") if number % 2 else client.get("/api/v1/queue", headers=bad)
            assert answer.status_code == 401
        for answer in (client.get("/api/v1/queue", headers=bad), client.get("/queue", headers=bad), sign_in(fresh)):
            assert answer.status_code == 429
            assert 0 < int(answer.headers["retry-after"]) <= WINDOW_S
            assert "Too many wrong tokens" in answer.json()["detail"]
        assert "<h1>Wait a little</h1>" in sign_in("wrong", accept="text/html").text
        assert other.get("/api/v1/queue", headers={"Authorization": f"Bearer {fresh}"}).status_code == 200
        assert other.get("/api/v1/queue", headers=bad).status_code == 401
        assert client.get("/api/v1/queue", headers={"Authorization": f"Bearer {right}"}).status_code == 200
        assert client.get("/sign-in").status_code == 200


def test_wait_ends_with_the_window() -> None:
    """And each try that was let through counts."""
    now_s = [0.0]
    throttle = Throttle(now_s=lambda: now_s[0])
    for _ in range(LIMIT):
        assert throttle.wait_s("a", "x") == 0
        throttle.note("a", "x", right=False)
        now_s[0] += 1
    assert throttle.wait_s("a", "y") == WINDOW_S - LIMIT
    assert throttle.wait_s("b", "y") == 0
    now_s[0] = WINDOW_S
    assert throttle.wait_s("a", "y") == 0
    throttle.note("a", "y", right=False)
    assert throttle.wait_s("a", "y") == 1


def test_memory_of_wrong_tokens_is_bounded() -> None:
    """Whoever has many addresses makes the server forget the oldest, no more."""
    throttle = Throttle()
    for number in range(MEMORY + 10):
        throttle.note(str(number), "x", right=False)
        throttle.note(str(number), str(number), right=True)
    assert len(throttle._wrong) == len(throttle._right) == MEMORY
    assert "0" not in throttle._wrong


def test_scope_follows_from_the_project(database: Database) -> None:
    """Of one project to submit, of all to do everything; what is said counts."""
    access = Access(database)
    made = [access.create("a"), access.create("b", project="shop"), access.create("c", project="shop", scope="read")]
    assert [(token.scope, token.project) for token, _ in made] == [("admin", ""), ("submit", "shop"), ("read", "shop")]
    assert [access.by_secret(secret) for _, secret in made] == [token for token, _ in made]
    assert sorted(access.list(), key=lambda token: token.name) == [token for token, _ in made]


def test_commands_give_tokens_a_project_and_a_scope(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list shows both; an empty project is no way to get all of them."""
    monkeypatch.setenv("SUPERCHECK_DATA", str(settings.data))
    run = CliRunner()
    for args in (["ops"], ["ci", "--project", "shop"], ["eyes", "--project", "shop", "--scope", "read", "--days", "2"]):
        assert run.invoke(main, ["token", "create", *args]).output.startswith("sct_")
    listed = [line.split()[2:] for line in run.invoke(main, ["token", "list"]).output.splitlines()]
    lapses = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 2 * 86400))
    assert sorted(listed) == [
        ["lapses", lapses, "read", "shop", "eyes"],
        ["valid", "admin", "(all", "projects)", "ops"],
        ["valid", "submit", "shop", "ci"],
    ]
    for args in (["--project", ""], ["--project", "x" * 201], ["--scope", "everything"]):
        assert run.invoke(main, ["token", "create", "x", *args]).exit_code == 2
