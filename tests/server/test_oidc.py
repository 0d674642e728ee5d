"""
Job tokens: who gets in with one, with what, and what becomes of it; against an issuer with its own keys.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pytest_supercheck.errors import Unreachable
from pytest_supercheck.http_gateway import HttpGateway
from pytest_supercheck.oidc import job_sign_in
from pytest_supercheck.operators import BadVariable
from supercheck_server.access import DAY_MS, LAPSED_DAYS, Access
from supercheck_server.configuration import read_configuration
from supercheck_server.database import Database
from supercheck_server.errors import IssuerTrouble, WrongJobToken
from supercheck_server.mirror import KEY
from supercheck_server.oidc import AGAIN_S, KEEP_S, LIMIT_BYTES, Issuers, OidcSection
from supercheck_server.settings import Settings
from supercheck_server.throttle import LIMIT
from tests.server.conftest import Served, serving, wait_for
from tests.server.issuer import Issuer, issuing
from tests.server.test_shipped import Far, far

__all__ = ["far"]  # a fixture

AUDIENCE: Final = "https://tests.example.org"
SHOP: Final = {"repository": "acme/shop", "ref": "refs/heads/main", "project": "shop"}
DISCOVERY: Final = "/.well-known/openid-configuration"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """An issuer."""
    with issuing() as made:
        yield made


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def make_issuers(issuer: Issuer, *rules: dict[str, Any], clock: Clock | None = None, **changes: Any) -> Issuers:
    """What a configuration with one section makes."""
    said = {"issuer": issuer.url, "audience": AUDIENCE, "rules": rules or [SHOP], **changes}
    return Issuers({"github": OidcSection.model_validate(said)}, now_s=clock or Clock())


def test_job_gets_what_the_first_rule_that_fits_says(issuer: Issuer) -> None:
    """Not the best one; later ones are not looked at."""
    issuers = make_issuers(
        issuer,
        {"repository": "acme/bank", "project": "bank", "scope": "admin"},
        {"repository": "acme/*", "ref": "refs/pull/*", "project": "strangers", "scope": "read"},
        {"repository": "acme/*", "claims": {"environment": "stag*"}, "project": "staging"},
        {"repository": "acme/shop", "project": "shop", "scope": "admin"},
        hours=2,
    )
    grant = issuers.grant(issuer.token())
    assert (grant.project, grant.scope, grant.hours) == ("staging", "submit", 2)
    assert grant.name == "oidc github acme/shop@refs/heads/main"
    assert issuers.grant(issuer.token(environment=None)).scope == "admin"
    assert issuers.grant(issuer.token(ref="refs/pull/12/merge")).project == "strangers"


def test_elliptic_keys_are_taken(issuer: Issuer) -> None:
    """Also where the set does not say for what algorithm a key is."""
    issuer.keys = {"curve": ec.generate_private_key(ec.SECP256R1())}
    assert make_issuers(issuer).grant(issuer.token()).project == "shop"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"aud": "https://elsewhere.example.org"}, f"another audience .* {AUDIENCE}", id="audience"),
        pytest.param({"aud": None}, 'missing the "aud"', id="no audience"),
        pytest.param({"iss": "https://elsewhere.example.org"}, "knows no issuer 'https://elsewhere", id="issuer"),
        pytest.param({"exp": int(time.time()) - 120}, "expired", id="expired"),
        pytest.param({"exp": None}, 'missing the "exp"', id="never expires"),
        pytest.param({"nbf": int(time.time()) + 86_400}, "not yet valid", id="not yet"),
        pytest.param({"iat": int(time.time()) + 86_400}, "not yet valid", id="made in the future"),
        pytest.param({"repository": "acme/bank"}, "No rule .* acme/bank@refs/heads/main", id="repository"),
        pytest.param({"repository": "acme/shop2"}, "No rule", id="longer repository"),
        pytest.param({"repository": "Acme/shop"}, "No rule", id="case"),
        pytest.param({"repository": None}, "No rule .* repo:acme/shop", id="no repository"),
        pytest.param({"ref": "refs/heads/other"}, "No rule .* acme/shop@refs/heads/other", id="ref"),
        pytest.param({"ref": "refs/heads/x\n\x1b[2J"}, r"No rule .* acme/shop@refs/heads/x\?\?\[2J", id="hostile ref"),
    ],
)
def test_wrong_claims_are_refused(issuer: Issuer, changes: dict[str, Any], words: str) -> None:
    """With words that say which."""
    with pytest.raises(WrongJobToken, match=words):
        make_issuers(issuer).grant(issuer.token(**changes))


def test_claims_are_of_the_types_that_rules_have(issuer: Issuer) -> None:
    """A truth value is no number and no text."""
    issuers = make_issuers(issuer, {**SHOP, "claims": {"protected": True, "number": 1}})
    issuers.grant(issuer.token(protected=True, number=1))
    for claims in ({"protected": 1, "number": 1}, {"protected": "true", "number": 1}, {"protected": True}):
        with pytest.raises(WrongJobToken, match="No rule"):
            issuers.grant(issuer.token(**claims))


def forge(issuer: Issuer, header: dict[str, Any], secret: bytes = b"", **changes: Any) -> str:
    """A token as no library makes it."""
    said = header, issuer.claims(**changes)
    parts = [base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=") for one in said]
    signature = hmac.digest(secret, b".".join(parts), hashlib.sha256) if secret else b""
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def test_signatures_that_prove_nothing_are_refused(issuer: Issuer) -> None:
    """None at all, one by the public key as if it were a secret, one by somebody else's key."""
    issuers = make_issuers(issuer)
    public = issuer.keys["first"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for forged in (
        forge(issuer, {"alg": "none", "kid": "first"}),
        forge(issuer, {"alg": "HS256", "kid": "first"}, public),
        forge(issuer, {"alg": "RS512", "kid": "first"}, b"x"),
        jwt.encode(issuer.claims(), rsa.generate_private_key(65537, 2048), "RS256", headers={"kid": "first"}),
    ):
        with pytest.raises(WrongJobToken, match="not accepted"):
            issuers.grant(forged)
    issuers.grant(issuer.token())


def test_keys_that_are_secrets_are_not_taken(issuer: Issuer) -> None:
    """An issuer that publishes one lets nobody in with it; nor with a key that is too short."""
    secret = {"kty": "oct", "kid": "first", "k": base64.urlsafe_b64encode(b"s" * 32).decode()}
    issuer.instead["/keys"] = (200, json.dumps({"keys": [secret]}).encode())
    with pytest.raises(IssuerTrouble, match="none of them can be used"):
        make_issuers(issuer).grant(forge(issuer, {"alg": "HS256", "kid": "first"}, b"s" * 32))
    del issuer.instead["/keys"]
    issuer.keys = {"short": rsa.generate_private_key(65537, 1024)}
    with pytest.raises(WrongJobToken, match="not accepted"), pytest.warns(UserWarning, match="1024"):
        make_issuers(issuer).grant(issuer.token())


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "e30.e30.", "." * 100, "é.é.é", f"{'[' * 8000}.e30.x"])
def test_what_is_no_token_is_refused(issuer: Issuer, text: str) -> None:
    """Nobody is asked for keys, whatever it is."""
    with pytest.raises(WrongJobToken):
        make_issuers(issuer).grant(text)
    for strange in (["x"], {"x": 1}, 1, None):
        with pytest.raises(WrongJobToken, match="knows no issuer"):
            make_issuers(issuer).grant(forge(issuer, {"alg": "RS256", "kid": "first"}, b"x", iss=strange))
    deep = base64.urlsafe_b64encode(b"[" * 10_000).decode().rstrip("=")
    with pytest.raises(WrongJobToken):
        make_issuers(issuer).grant(f"{deep}.{deep}.x")
    assert not issuer.asked


def test_keys_are_fetched_once_for_a_while(issuer: Issuer) -> None:
    """And anew afterwards: a key that was withdrawn is not believed for long."""
    clock = Clock()
    issuers = make_issuers(issuer, clock=clock)
    old = issuer.token()
    for _ in range(3):
        issuers.grant(old)
    assert issuer.asked == [DISCOVERY, "/keys"]
    issuer.rotate("second")
    issuers.grant(old)
    clock.now_s += KEEP_S + 1
    with pytest.raises(WrongJobToken, match="signed with a key that"):
        issuers.grant(old)


def test_rotated_key_is_followed(issuer: Issuer) -> None:
    """At once, but nobody can have the issuer asked again and again with keys that it has not."""
    clock = Clock()
    issuers = make_issuers(issuer, clock=clock, jwks=f"{issuer.url}/keys")
    issuers.grant(issuer.token())
    clock.now_s += AGAIN_S + 1
    issuer.rotate("second")
    issuers.grant(issuer.token())
    assert issuer.asked == ["/keys"] * 2
    issuer.rotate("third")
    for _ in range(5):
        with pytest.raises(WrongJobToken, match="signed with a key that"):
            issuers.grant(issuer.token())
    assert issuer.asked == ["/keys"] * 2
    clock.now_s += AGAIN_S + 1
    issuers.grant(issuer.token())


def test_nobody_waits_for_a_slow_issuer(issuer: Issuer) -> None:
    """But the one who asks it: others go on, or come again later."""
    clock = Clock()
    issuers = make_issuers(issuer, clock=clock)
    known = issuer.token()
    issuers.grant(known)
    clock.now_s += AGAIN_S + 1
    issuer.rotate("second")
    issuer.ready.clear()
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(issuers.grant, issuer.token())
        wait_for(lambda: issuer.asked.count("/keys") == 2, "the issuer is asked")
        issuers.grant(known)
        with pytest.raises(IssuerTrouble, match="just being fetched"):
            issuers.grant(issuer.token())
        issuer.ready.set()
        assert asking.result().project == "shop"
    issuers.grant(issuer.token())


@pytest.mark.parametrize(
    ("path", "answer", "words"),
    [
        pytest.param("/keys", (500, b""), "it answers 500", id="failing"),
        pytest.param("/keys", (302, b"http://127.0.0.1:1/"), "it answers 302", id="sends elsewhere"),
        pytest.param("/keys", (200, b'{"keys": []}'), "did not contain any keys", id="no keys"),
        pytest.param("/keys", (200, b'{"keys": {"a": 1}}'), "Invalid JWK Set", id="no list"),
        pytest.param("/keys", (200, b"[]"), "no object of JSON", id="no object"),
        pytest.param("/keys", (200, b"<html>"), "Expecting value", id="no JSON"),
        pytest.param("/keys", (200, b" " * (LIMIT_BYTES + 1)), "more than 524,288 bytes", id="huge"),
        pytest.param("/keys", (200, b'{"keys": [{"kty": "RSA", "alg": [1]}]}'), "unhashable", id="hostile"),
        pytest.param(DISCOVERY, (404, b""), "it answers 404", id="nothing to discover"),
        pytest.param(DISCOVERY, (200, b'{"issuer": "https://x.example.org"}'), "another issuer", id="another's"),
    ],
)
def test_issuer_that_fails_is_not_the_jobs_fault(
    issuer: Issuer, path: str, answer: tuple[int, bytes], words: str
) -> None:
    """It is said so, the issuer is left alone for a while, and then asked again."""
    clock = Clock()
    issuers = make_issuers(issuer, clock=clock)
    issuer.instead[path] = answer
    for _ in range(3):
        with pytest.raises(IssuerTrouble, match=words):
            issuers.grant(issuer.token())
    assert issuer.asked.count(path) == 1
    issuer.instead.clear()
    clock.now_s += AGAIN_S + 1
    issuers.grant(issuer.token())


def test_issuers_keys_are_not_fetched_from_where_it_should_not_lead(issuer: Issuer) -> None:
    """Addresses that others can read along, or that are no addresses of HTTP."""
    for place in ("http://keys.example.org/", "file:///etc/passwd", "https://127.0.0.1:1/keys"):
        document = {"issuer": issuer.url, "jwks_uri": place}
        issuer.instead[DISCOVERY] = (200, json.dumps(document).encode())
        with pytest.raises(IssuerTrouble, match=r"leads elsewhere|must begin with https"):
            make_issuers(issuer).grant(issuer.token())


def test_issuer_that_is_down_keeps_nobody_out_whose_key_is_known(issuer: Issuer) -> None:
    """As long as keys are remembered; a key that is not known then is the issuer's trouble."""
    clock = Clock()
    issuers = make_issuers(issuer, clock=clock)
    known = issuer.token()
    issuers.grant(known)
    issuer.rotate("second")
    issuer.shutdown()
    issuer.server_close()
    clock.now_s += AGAIN_S + 1
    with pytest.raises(IssuerTrouble, match="refused"):
        issuers.grant(issuer.token())
    issuers.grant(known)
    clock.now_s += KEEP_S
    with pytest.raises(IssuerTrouble, match="refused"):
        issuers.grant(known)


# -- the configuration


def configure(path: Path, issuer: str, *rules: str, more: str = "", name: str = "github", audience: str = "") -> Path:
    """Write a configuration file; rules are inline tables."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = f"[oidc.{name}]\nissuer = '{issuer}'\naudience = '{audience or AUDIENCE}'\nrules = [{', '.join(rules)}]\n"
    path.write_text(said + more)
    return path


RULE: Final = "{repository = 'acme/shop', ref = 'refs/heads/main', project = 'shop'}"


@pytest.mark.parametrize(
    ("issuer", "rule", "more", "words"),
    [
        ("http://issuer.example.org", RULE, "", "issuer: .* must begin with https://"),
        ("https://", RULE, "", "issuer: .* must begin with https://"),
        ("https://a.org", RULE, "hours = 24\n", "hours: .* less than or equal to 23"),
        ("https://a.org", RULE, "jwks = 'file:///etc/passwd'\n", "jwks: .* must begin with https://"),
        ("https://a.org", RULE, "secret = 'sesame'\n", "secret: Extra inputs"),
        ("https://a.org", "", "", "rules: List should have at least 1 item"),
        ("https://a.org", "{repository = 'acme/shop'}", "", "rules.0.project: Field required"),
        ("https://a.org", "{repository = 'acme/shop', project = ''}", "", "rules.0.project: .* at least 1"),
        ("https://a.org", "{repository = 'a/b', project = 'p', scope = 'all'}", "", "rules.0.scope"),
        ("https://a.org", "{project = 'p'}", "", "rules.0: .* whose the jobs are"),
        ("https://a.org", "{repository = '*', project = 'p'}", "", "whose the jobs are"),
        ("https://a.org", "{repository = 'acme*/shop', project = 'p'}", "", "whose the jobs are"),
        ("https://a.org", "{ref = 'refs/heads/main', project = 'p'}", "", "whose the jobs are"),
        ("https://a.org", "{claims = {run_attempt = '1'}, project = 'p'}", "", "whose the jobs are"),
        ("https://a.org", "{claims = {sub = 'repo:*'}, project = 'p'}", "", "whose the jobs are"),
        (
            "https://a.org",
            RULE,
            f"[oidc.b]\nissuer = 'https://a.org'\naudience = 'x'\nrules = [{RULE}]\n",
            "oidc: .* each issuer has one section",
        ),
    ],
)
def test_sections_that_make_no_sense_are_refused(tmp_path: Path, issuer: str, rule: str, more: str, words: str) -> None:
    """Above all rules that would let everybody in whose jobs GitHub runs."""
    path = configure(tmp_path / "server.toml", issuer, rule, more=more)
    with pytest.raises(BadVariable, match=words):
        read_configuration(path)


def test_guides_example_is_read(tmp_path: Path) -> None:
    """As it stands there."""
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "sign-in.md").read_text("utf-8")
    lines = guide.partition("## On the server")[2].partition("\n| key")[0].splitlines()
    example = tmp_path / "server.toml"
    example.write_text("\n".join(line[4:] for line in lines if line.startswith("    ")))
    section = read_configuration(example).oidc["github"]
    assert [rule.project for rule in section.rules] == ["shop", "pull-requests"]


def test_rules_may_name_owners_otherwise(tmp_path: Path) -> None:
    """By a number that nobody else gets, or by the subject; one server may have several addresses."""
    rules = [
        "{claims = {repository_owner_id = '123'}, project = 'p'}",
        "{claims = {sub = 'repo:acme/*'}, project = 'p'}",
        "{claims = {project_path = 'group/*'}, project = 'p'}",
    ]
    read = read_configuration(configure(tmp_path / "server.toml", "https://a.org", *rules))
    assert len(read.oidc["github"].rules) == 3


# -- the server


@pytest.fixture
def settings(settings: Settings, issuer: Issuer, unused_port: int, tmp_path: Path) -> Settings:
    """The settings of a server that takes the issuer's tokens, if they are made for its address."""
    issuer.audience = f"http://127.0.0.1:{unused_port}"
    return replace(settings, config=configure(tmp_path / "server.toml", issuer.url, RULE, audience=issuer.audience))


@pytest.fixture
def served(settings: Settings, unused_port: int) -> Iterator[Served]:
    """A server at that address."""
    with serving(settings, port=unused_port) as made:
        yield made


def exchange(client: httpx.Client, job_token: str, **changes: str) -> httpx.Response:
    """Ask for a token."""
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "subject_token": job_token,
        **changes,
    }
    return client.post("/api/v1/tokens/exchange", data=form)


def test_exchange_gives_an_ordinary_token(client: httpx.Client, served: Served, issuer: Issuer) -> None:
    """Of the rule's project and scope, for hours; the same job token may come again."""
    first, again = (exchange(client, issuer.token()) for _ in range(2))
    assert first.status_code == again.status_code == 200
    answer = first.json()
    assert answer | {"access_token": ""} == {
        "access_token": "",
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "token_type": "Bearer",
        "expires_in": 6 * 3600,
        "scope": "submit",
        "project": "shop",
    }
    assert answer["access_token"] != again.json()["access_token"]
    headers = {"Authorization": f"Bearer {answer['access_token']}"}
    assert client.get("/api/v1/queue", headers=headers).status_code == 200
    assert client.post("/api/v1/queue/pause", headers=headers).status_code == 403
    assert client.post("/api/v1/runs", json={"run_id": "a", "project": "bank"}, headers=headers).status_code == 403
    [one, other] = served.parts.access.list()
    assert one.name == other.name == "oidc github acme/shop@refs/heads/main"
    assert one.expires_ms == one.created_ms + 6 * 3_600_000
    assert (one.project, one.scope) == ("shop", "submit")


def test_refusals_are_in_words_and_counted(client: httpx.Client, issuer: Issuer) -> None:
    """Also replay after expiry; whoever sends too many has to wait, but not with a token that is right."""
    right = issuer.token()
    assert exchange(client, right).status_code == 200
    lapsed = issuer.token(exp=int(time.time()) - 60)
    for _ in range(LIMIT):
        refused = exchange(client, lapsed)
        assert (refused.status_code, "expired" in refused.json()["detail"]) == (401, True)
        assert lapsed not in refused.text
    assert exchange(client, lapsed).status_code == exchange(client, "x").status_code == 429
    assert exchange(client, right).status_code == 200


def test_requests_of_other_forms_are_refused(client: httpx.Client, issuer: Issuer) -> None:
    """And what they bring is not shown."""
    for changes in ({"grant_type": "password"}, {"subject_token_type": "saml"}, {"subject_token": "x" * 20_000}):
        answer = exchange(client, "secret-token", **changes)
        assert answer.status_code == 400
        assert "secret-token" not in answer.text
        assert "xxxx" not in answer.text
    assert client.post("/api/v1/tokens/exchange", json={}).status_code == 400


def test_issuer_that_is_down_is_503(client: httpx.Client, issuer: Issuer) -> None:
    """With words, and when to come again; that is no wrong token."""
    issuer.instead[DISCOVERY] = (500, b"")
    assert {exchange(client, issuer.token()).status_code for _ in range(LIMIT + 1)} == {503}
    answer = exchange(client, issuer.token())
    assert "cannot be had now: it answers 500" in answer.json()["detail"]
    assert answer.headers["Retry-After"]


def test_server_without_sections_takes_no_job_tokens(settings: Settings, issuer: Issuer) -> None:
    """And says what is missing."""
    with serving(replace(settings, config=None)) as served, httpx.Client(base_url=served.url) as client:
        refused = exchange(client, issuer.token())
    assert refused.status_code == 401
    assert "it needs a section [oidc.NAME]" in refused.json()["detail"]


def test_server_that_takes_job_tokens_is_never_open(client: httpx.Client) -> None:
    """Also before the first one, and when the last one has been forgotten."""
    assert client.get("/api/v1/queue").status_code == 401


def test_short_lived_tokens_go(database: Database) -> None:
    """Some days after they have lapsed; others stay, so that the server stays closed, and only these are mirrored."""
    now_ms = [1000]
    access = Access(database, now_ms=lambda: now_ms[0])
    token, _ = access.create("oidc", project="shop", days=23 / 24)
    cookie = access.sign_in(token)
    access.create("a day", days=1)
    access.create("ever")
    assert [row["name"] for row in access.dump()] == ["a day", "ever"] or {row["name"] for row in access.dump()} == {
        "a day",
        "ever",
    }
    now_ms[0] = 1000 + (LAPSED_DAYS + 1) * DAY_MS - 3_600_000
    assert access.forget_lapsed() == 0
    now_ms[0] += 1
    assert access.forget_lapsed() == 1
    assert access.by_cookie(cookie) is None
    assert {one.name for one in access.list()} == {"a day", "ever"}
    now_ms[0] += 1000 * DAY_MS
    assert access.forget_lapsed() == 0


def test_jobs_tokens_are_not_in_the_store(client: httpx.Client, served: Served, issuer: Issuer) -> None:
    """It keeps what it has for ever."""
    served.parts.access.create("ada")
    assert exchange(client, issuer.token()).status_code == 200
    file = Path(served.parts.settings.store, KEY)
    wait_for(file.exists, "tokens are mirrored")
    assert [row["name"] for row in json.loads(file.read_text())["tokens"]] == ["ada"]


# -- the client


@pytest.fixture
def job(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of GitHub Actions, which we are in."""
    for name, value in issuer.runner().items():
        monkeypatch.setenv(name, value)


def test_gateway_of_a_job_signs_in(job: None, served: Served, issuer: Issuer) -> None:
    """When it is asked to, once, and again when its token is not valid any more; each secret is masked."""
    masked: list[str] = []
    with closing(HttpGateway(f"{served.url}/", None, mask=masked.append)) as gateway:
        assert gateway.queue().runs == ()
        assert gateway.pool().workers == ()
        [token] = served.parts.access.list()
        assert issuer.asked.count("/runner") == 1
        served.parts.access.revoke(token.id)
        assert gateway.queue().runs == ()
        assert issuer.asked.count("/runner") == 2
    assert [one.startswith("sct_") for one in masked] == [False, True] * 2
    assert {jwt.decode(one, options={"verify_signature": False})["aud"] for one in masked[::2]} == {served.url}


def test_gateway_of_a_job_tells_why_it_is_refused(
    job: None, served: Served, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the server's rules, the issuer's keys, or GitHub itself."""
    monkeypatch.setattr("pytest_supercheck.oidc.AGAIN_S", ())
    monkeypatch.setattr("pytest_supercheck.http_gateway.AGAIN_S", ())

    def refusal() -> str:
        with closing(HttpGateway(served.url, None, mask=print)) as gateway, pytest.raises(Unreachable) as caught:
            gateway.queue()
        return str(caught.value)

    wrong = issuer.token(repository="acme/bank")
    issuer.instead[DISCOVERY] = (500, b"")
    assert "cannot serve just now: The keys of" in refusal()
    issuer.instead["/runner"] = (200, json.dumps({"value": wrong}).encode())
    assert "cannot serve just now: The keys of" in refusal()
    issuer.instead["/runner"] = (403, b"")
    assert refusal() == "GitHub makes no token for this job (status 403)."
    issuer.instead["/runner"] = (200, b'{"value": "a\\n::set-env"}')
    assert "GitHub answers the request for this job's token with something else" in refusal()


def test_gateway_of_a_job_that_no_rule_is_for(job: None, served: Served, issuer: Issuer) -> None:
    """The server's words come to the user, with where another token would come from."""
    wrong = issuer.token(repository="acme/bank")
    issuer.instead["/runner"] = (200, json.dumps({"value": wrong}).encode())
    words = r"No rule of \[oidc.github\] is for acme/bank@refs/heads/main. This was the job's own token"
    with closing(HttpGateway(served.url, None, mask=print)) as gateway, pytest.raises(Unreachable, match=words):
        gateway.queue()


def test_job_tokens_go_nowhere_else(issuer: Issuer) -> None:
    """Not where somebody could read along, not where the user has given a token, and not outside of such jobs."""
    variables = issuer.runner()
    assert job_sign_in("http://127.0.0.1:8000", variables, print)
    assert job_sign_in("https://tests.example.org", variables, print)
    for address in ("http://tests.example.org", "http://10.0.0.1:8000", "redis://127.0.0.1", "http://[", ""):
        assert job_sign_in(address, variables, print) is None
    assert job_sign_in("https://tests.example.org", {}, print) is None
    plain = {**variables, "ACTIONS_ID_TOKEN_REQUEST_URL": "http://runner.example.org/?api-version=2.0"}
    assert job_sign_in("https://tests.example.org", plain, print) is None
    assert not issuer.asked


def test_session_of_a_job_needs_no_stored_secret(far: Far, served: Served, issuer: Issuer) -> None:
    """The whole way: GitHub's token, the server's, the run; no test sees how to get one, and no output shows one."""
    far.write(
        test_it__py="""
        import os

        def test_variables():
            assert not [name for name in os.environ if name.startswith("ACTIONS_ID_TOKEN")]
        """
    )
    more = {"SUPERCHECK_PASS_ENV": "ACTIONS_ID_TOKEN_REQUEST_TOKEN,ACTIONS_*,PYTEST_DISABLE_PLUGIN_AUTOLOAD"}
    code, output = far.run("--supercheck-project=shop", **issuer.runner(), **more)
    assert code == 0, output
    assert "1 passed" in output
    secrets = re.findall(r"^::add-mask::(\S+)$", output, re.MULTILINE)
    assert [one.partition("_")[0] for one in secrets[1:]] == ["sct"]
    assert all(output.count(one) == 1 for one in secrets)
    [token] = served.parts.access.list()
    assert token.name == "oidc github acme/shop@refs/heads/main"
    code, output = far.run("--supercheck-project=bank", **issuer.runner(), **more)
    assert code == 69, output
    assert "This token is for the project 'shop'" in output
