"""
Job tokens of GitHub Actions, or of another issuer that the configuration names, and what they are good for here.

    job token ── keys of its issuer ── claims ── first rule that fits ── project and scope

Between the configuration and issuers' servers.  Nothing of a token is believed before its signature has been checked,
but for the name of its issuer, which only chooses between the configuration's.  No job token is remembered, not even
its `jti`: until it lapses its job may exchange it again, as after a lost answer, and a thief could be the first anyway.
"""

from __future__ import annotations

import fnmatch
import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import httpx
import jwt
from jwt.exceptions import InvalidAudienceError, PyJWTError
from pydantic import AfterValidator, Field, StringConstraints, model_validator

from pytest_supercheck import __version__
from pytest_supercheck.addresses import is_private
from supercheck_server.access import Scope
from supercheck_server.errors import IssuerTrouble, WrongJobToken
from supercheck_server.section import Section

#: Signatures that anybody can check and only the issuer can make.
ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
#: Seconds by which an issuer's clock may differ from ours.
LEEWAY_S: Final = 30
#: Seconds after which an issuer's keys are fetched anew, so that one that was withdrawn is not believed any more.
KEEP_S: Final = 600.0
#: Seconds between two attempts to fetch them: nobody can have us ask an issuer more often, with keys that it has not.
AGAIN_S: Final = 10.0
#: How long an issuer may take for an answer, and how long that may be.
ANSWER_S: Final = 10.0
LIMIT_BYTES: Final = 512 * 1024

#: Claims of GitHub and GitLab that say whose a job is; `sub` does at every issuer.
_WHOSE: Final = frozenset(
    {
        *("sub", "repository", "repository_id", "repository_owner", "repository_owner_id"),
        *("enterprise", "enterprise_id", "project_path", "project_id", "namespace_path", "namespace_id"),
    }
)


def _check_address(url: str) -> str:
    if not is_private(url):
        raise ValueError("it must begin with https://, or be on this machine")
    return url


_Address = Annotated[str, AfterValidator(_check_address)]
_Text = Annotated[str, StringConstraints(min_length=1)]


class Rule(Section):
    """Which jobs a rule is for, and what they may do."""

    #: Shell patterns of claims, case-sensitive; `*` also stands for slashes.
    repository: _Text | None = None
    ref: _Text | None = None
    #: Of other claims: patterns of texts, and numbers and truth values as they are.
    claims: dict[str, bool | int | str] = Field(default_factory=dict)
    #: What the jobs' tokens are good for.
    project: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    scope: Scope = "submit"

    @model_validator(mode="after")
    def _check(self) -> Rule:
        """GitHub's issuer is everybody's: a rule that says nobody's name lets everybody in."""
        if not any(name in _WHOSE and _names_owner(wanted) for name, wanted in self._wanted().items()):
            raise ValueError(
                "it must say whose the jobs are, as repository = 'org/*' does: the owner without a wildcard"
            )
        return self

    def fits(self, claims: Mapping[str, Any]) -> bool:
        """Whether it is for a job with these claims."""
        return all(_matches(claims.get(name), wanted) for name, wanted in self._wanted().items())

    def _wanted(self) -> dict[str, bool | int | str]:
        named = {"repository": self.repository, "ref": self.ref}
        return {**self.claims, **{name: wanted for name, wanted in named.items() if wanted is not None}}


class OidcSection(Section):
    """`[oidc.NAME]`: an issuer, and the rules for its tokens."""

    #: As its tokens have it, to the letter.
    issuer: _Address
    #: For whom tokens have to be made: this server's address, one or several.
    audience: _Text | list[_Text]
    #: Where its keys are; found by its discovery document when None.
    jwks: _Address | None = None
    #: For how long a job may use what it gets; it can get another one. Less than a day, which makes it short-lived.
    hours: Annotated[int, Field(ge=1, le=23)] = 6
    #: The first that fits decides.
    rules: Annotated[list[Rule], Field(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a job is to get."""

    #: Of the token: section, repository and ref.
    name: str
    #: The one that it is good for.
    project: str
    #: What it may do there.
    scope: Scope
    #: For how long.
    hours: int


class Issuers:
    """The issuers of the configuration; safe to share between threads."""

    def __init__(self, sections: Mapping[str, OidcSection], *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._issuers = {section.issuer: (name, section, _Keys(section, now_s)) for name, section in sections.items()}

    def grant(self, job_token: str) -> Grant:
        """
        Check a job token.

        Raises:
            WrongJobToken: It is none of a known issuer, has lapsed, is for somebody else, or no rule fits.
            IssuerTrouble: Its issuer's keys cannot be had now.
        """
        try:
            unchecked = jwt.decode_complete(job_token, options={"verify_signature": False})
        except (PyJWTError, RecursionError) as exc:
            raise WrongJobToken("This is no token of a job.") from exc
        issuer, key_id = unchecked["payload"].get("iss"), unchecked["header"].get("kid")
        if not isinstance(issuer, str) or issuer not in self._issuers:
            raise WrongJobToken(f"This server knows no issuer {str(issuer)[:200]!r}: it needs a section [oidc.NAME].")
        name, section, keys = self._issuers[issuer]
        claims = _check(job_token, keys.find(str(key_id)), name, section)
        job = _job(claims)
        for rule in section.rules:
            if rule.fits(claims):
                return Grant(name=f"oidc {name} {job}", project=rule.project, scope=rule.scope, hours=section.hours)
        raise WrongJobToken(f"No rule of [oidc.{name}] is for {job}.")


def _check(job_token: str, key: jwt.PyJWK, name: str, section: OidcSection) -> dict[str, Any]:
    """The claims of a token whose signature, times, issuer and audience are right."""
    try:
        return jwt.decode(
            job_token,
            key,
            # The key's own alone, whatever the token says.
            algorithms=[key.algorithm_name],
            issuer=section.issuer,
            audience=section.audience,
            leeway=LEEWAY_S,
            options={"require": ["iss", "aud", "iat", "exp"], "enforce_minimum_key_length": True},
        )
    except InvalidAudienceError as exc:
        wanted = section.audience if isinstance(section.audience, str) else " or ".join(section.audience)
        raise WrongJobToken(f"The job's token is for another audience than [oidc.{name}] has: {wanted}") from exc
    except (PyJWTError, ValueError, OverflowError) as exc:
        raise WrongJobToken(f"The job's token is not accepted: {exc}.") from exc


def _job(claims: Mapping[str, Any]) -> str:
    """A job's name; claims are its issuer's, but a branch is named by anybody."""
    found = f"{claims['repository']}@{claims.get('ref')}" if "repository" in claims else str(claims.get("sub"))
    return "".join(one if one.isprintable() else "?" for one in found[:200])


def _names_owner(wanted: str | int) -> bool:
    """Whether a pattern has no wildcard, or a slash before it."""
    fixed = re.split(r"[*?[]", str(wanted), maxsplit=1)[0]
    return fixed == str(wanted) or "/" in fixed


def _matches(value: object, wanted: str | int) -> bool:
    if isinstance(wanted, str):
        return isinstance(value, str) and fnmatch.fnmatchcase(value, wanted)
    return type(value) is type(wanted) and value == wanted


class _Keys:
    """An issuer's public keys, fetched when one is asked for that is not known, and remembered for a while."""

    def __init__(self, section: OidcSection, now_s: Callable[[], float]) -> None:
        self._section = section
        self._now_s = now_s
        self._lock = threading.Lock()
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")
        #: Why the keys may not be all; empty when the last attempt went well.
        self._trouble = ""

    def find(self, key_id: str) -> jwt.PyJWK:
        """
        The key with an id.

        Raises:
            WrongJobToken: The issuer has none such, or had none a moment ago.
            IssuerTrouble: It cannot be asked.
        """
        if self._is_due(key_id):
            self._fetch()
        with self._lock:
            found, trouble = self._keys.get(key_id), self._trouble
        if found is not None:
            return found
        if trouble:
            raise IssuerTrouble(f"The keys of {self._section.issuer} cannot be had now: {trouble}")
        raise WrongJobToken(f"The job's token is signed with a key that {self._section.issuer} does not have.")

    def _is_due(self, key_id: str) -> bool:
        """Whether the caller is to fetch the keys; others do not wait for it, or a slow issuer would keep all of us."""
        with self._lock:
            now_s = self._now_s()
            if now_s - self._fetched_at > KEEP_S:
                self._keys = {}
            if key_id in self._keys or now_s - self._tried_at <= AGAIN_S:
                return False
            self._tried_at, self._trouble = now_s, "they are just being fetched"
            return True

    def _fetch(self) -> None:
        try:
            keys, trouble = _keys_at(self._section.jwks or _discover(self._section.issuer)), ""
        except (httpx.HTTPError, httpx.InvalidURL, PyJWTError, ValueError, TypeError, RecursionError) as exc:
            keys, trouble = {}, str(exc) or type(exc).__name__
        with self._lock:
            self._trouble = trouble
            if keys:
                self._keys, self._fetched_at = keys, self._now_s()


def _discover(issuer: str) -> str:
    """Where an issuer's keys are. Source: OpenID Connect Discovery 1.0, section 4."""
    found = _get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    place = found.get("jwks_uri")
    if found.get("issuer") != issuer or not isinstance(place, str):
        raise ValueError("its discovery document is of another issuer, or names no keys")
    if urlsplit(place).scheme != urlsplit(issuer).scheme:
        raise ValueError("its discovery document leads elsewhere")
    return _check_address(place)


def _keys_at(url: str) -> dict[str, jwt.PyJWK]:
    """The keys of a set that are for signatures, by id. Source: RFC 7517, section 5."""
    found: Sequence[jwt.PyJWK] = jwt.PyJWKSet.from_dict(_get(url)).keys
    usable = [key for key in found if key.algorithm_name in ALGORITHMS and key.public_key_use in (None, "sig")]
    keys = {key.key_id: key for key in usable if isinstance(key.key_id, str)}
    if not keys:
        raise ValueError("none of them can be used")
    return keys


def _get(url: str) -> dict[str, Any]:
    """An object of JSON, bounded in time and size; nobody is sent elsewhere."""
    give_up_at = time.monotonic() + ANSWER_S
    # Not compressed: what is small on its way may be large here.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"pytest-supercheck/{__version__}"}
    body = b""
    with httpx.stream("GET", url, headers=headers, timeout=ANSWER_S / 2, follow_redirects=False) as response:
        if response.status_code != 200:
            raise ValueError(f"it answers {response.status_code}")
        for part in response.iter_raw():
            body += part
            if len(body) > LIMIT_BYTES or time.monotonic() > give_up_at:
                raise ValueError(f"its answer has more than {LIMIT_BYTES:,} bytes, or takes more than {ANSWER_S:.0f} s")
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError("its answer is no object of JSON")
    return found
