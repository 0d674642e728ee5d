"""
Who may come in, and what they may see and do: tokens, sessions of browsers, protection against other sites' forms.

Between the database and the routes; knows rows and secrets, nothing of HTTP but what a cookie holds.

As long as no token has been made, a server on a loopback address lets in whoever reaches it under a local name, as
Redis there does; on any other address it does not start. With the first token everybody has to sign in.
"""

from __future__ import annotations

import builtins
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, delete, insert, select, update

from supercheck_server.database import Database
from supercheck_server.tables import sessions, tokens

#: What every token begins with, so that scanners for secrets can find one.
PREFIX: Final = "sct_"
#: Seconds that a browser stays signed in.
SESSION_S: Final = 14 * 24 * 3600

#: Tokens that live for less than a day in ms are short-lived: jobs get them, and get new ones.
DAY_MS: Final = 86_400_000
#: Days for which a short-lived one that has lapsed still tells whose it was.
LAPSED_DAYS: Final = 3

#: What a token is good for: to see; also to submit, keep, stop, cancel and retry runs; to do everything.
Scope = Literal["read", "submit", "admin"]
#: All of them; each includes those before it.
SCOPES: Final[tuple[Scope, ...]] = ("read", "submit", "admin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token without its secret."""

    #: Its public id.
    id: str
    #: What whoever made it calls it.
    name: str
    #: The one project that it is good for; empty for all.
    project: str
    #: What it may do there.
    scope: Scope
    #: When it was made, ms since 1970.
    created_ms: int
    #: When it lapses, ms since 1970; None for never.
    expires_ms: int | None
    #: When it was revoked, ms since 1970; None while it is not.
    revoked_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Whoever asks."""

    #: The token's name.
    name: str
    #: The only project that there is for them; empty for all.
    project: str
    #: What they may do.
    scope: Scope
    #: Whether they have a token, or a session that one has begun.
    signed_in: bool

    @classmethod
    def of(cls, token: Token) -> Visitor:
        """Whoever comes with a token."""
        return cls(name=token.name, project=token.project, scope=token.scope, signed_in=True)

    def may(self, scope: Scope, *, everywhere: bool = False) -> bool:
        """
        Whether they may do what needs a scope.

        Args:
            everywhere: It concerns all projects.
        """
        return SCOPES.index(self.scope) >= SCOPES.index(scope) and not (everywhere and self.project)

    def narrow(self, project: str) -> str:
        """The project that a list has for them, whichever they ask for; empty for all."""
        return self.project or project


#: Before anybody has been let in.
NOBODY: Final = Visitor(name="", project="", scope="read", signed_in=False)
#: Whoever reaches a server that has no token yet.
LOCAL: Final = Visitor(name="local", project="", scope="admin", signed_in=False)


class Access:
    """The tokens and sessions of a database."""

    def __init__(
        self,
        database: Database,
        *,
        closed: bool = False,
        now_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        """
        Make it.

        Args:
            closed: Whether nobody comes in without a token, also while there is none: an issuer's jobs get some.
        """
        self._database = database
        self._closed = closed
        self._now_ms = now_ms

    def create(
        self, name: str, *, project: str = "", scope: Scope | None = None, days: float | None = None
    ) -> tuple[Token, str]:
        """
        Make a token.

        Args:
            project: The only one that it is good for, of 200 characters at most; empty for all.
            scope: `submit` for one project, else `admin`, when None.
            days: Until it lapses; None for never.

        Returns:
            The token, and its secret of 256 random bits, which is nowhere else.
        """
        secret = PREFIX + secrets.token_urlsafe(32)
        now_ms = self._now_ms()
        token = Token(
            id=secrets.token_hex(4),
            name=name,
            project=project,
            scope=scope or ("submit" if project else "admin"),
            created_ms=now_ms,
            expires_ms=now_ms + round(days * DAY_MS) if days else None,
            revoked_ms=None,
        )
        with self._database.write() as connection:
            connection.execute(insert(tokens).values({**asdict(token), "hash": _hash(secret)}))
        return token, secret

    def list(self) -> list[Token]:
        """All tokens, the oldest first."""
        columns = [tokens.c[name] for name in Token.__slots__]
        with self._database.read() as connection:
            rows = connection.execute(select(*columns).order_by(tokens.c.created_ms, tokens.c.id)).mappings()
            return [Token(**row) for row in rows]

    def dump(self) -> builtins.list[dict[str, Any]]:
        """
        All tokens but short-lived ones with their hashes, the oldest first, as `restore` takes them.

        A hash opens nothing.
        """
        lasting = select(tokens).where(~_short_lived())
        with self._database.read() as connection:
            rows = connection.execute(lasting.order_by(tokens.c.created_ms, tokens.c.id)).mappings()
            return [dict(row) for row in rows]

    def restore(self, row: Mapping[str, Any]) -> bool:
        """
        Bring a token back.

        Returns:
            False when it is there already.

        Raises:
            KeyError: Something of it is missing.
            ValueError: It is no token.
        """
        values = {column.name: row[column.name] for column in tokens.c}
        texts = [values[name] for name in ("id", "name", "project", "scope", "hash")]
        times = [values[name] for name in ("created_ms", "expires_ms", "revoked_ms") if values[name] is not None]
        if not (all(isinstance(text, str) for text in texts) and all(type(ms) is int for ms in times)):
            raise ValueError("a token's fields are of other types")
        if values["scope"] not in SCOPES:
            raise ValueError(f"there is no scope {values['scope']!r}")
        with self._database.write() as connection:
            known = select(tokens.c.id).where((tokens.c.id == values["id"]) | (tokens.c.hash == values["hash"]))
            if connection.execute(known).first() is not None:
                return False
            connection.execute(insert(tokens).values(values))
        return True

    def revoke(self, token_id: str) -> bool:
        """
        Let nobody in with a token any more, nor with a session that it began.

        Returns:
            False when there is no such token.
        """
        with self._database.write() as connection:
            connection.execute(delete(sessions).where(sessions.c.token_id == token_id))
            revoked = update(tokens).where(tokens.c.id == token_id, tokens.c.revoked_ms.is_(None))
            connection.execute(revoked.values(revoked_ms=self._now_ms()))
            return connection.execute(select(tokens.c.id).where(tokens.c.id == token_id)).first() is not None

    def forget_lapsed(self) -> int:
        """
        Remove short-lived tokens that lapsed some days ago; the others stay, and with them that there has been a token.

        Returns:
            How many went.
        """
        lapsed = tokens.c.expires_ms < self._now_ms() - LAPSED_DAYS * DAY_MS
        with self._database.write() as connection:
            return connection.execute(delete(tokens).where(_short_lived(), lapsed)).rowcount

    def is_open(self) -> bool:
        """Whether no token has ever been made, and nobody gets one by itself."""
        if self._closed:
            return False
        with self._database.read() as connection:
            return connection.execute(select(tokens.c.id).limit(1)).first() is None

    def by_secret(self, secret: str) -> Token | None:
        """The token with that secret; None when there is none, or it has lapsed or was revoked."""
        wanted = _hash(secret)
        with self._database.read() as connection:
            row = connection.execute(select(tokens).where(tokens.c.hash == wanted)).mappings().first()
        # The index has compared hashes, which tell nobody anything; this comparison takes the same time for all.
        if row is None or not hmac.compare_digest(row["hash"], wanted):
            return None
        return self._valid(Token(**{name: row[name] for name in Token.__slots__}))

    def sign_in(self, token: Token) -> str:
        """Begin a browser's session with a valid token; returns what its cookie holds."""
        cookie = secrets.token_urlsafe(32)
        row = {"hash": _hash(cookie), "token_id": token.id, "expires_ms": self._now_ms() + SESSION_S * 1000}
        with self._database.write() as connection:
            connection.execute(delete(sessions).where(sessions.c.expires_ms <= self._now_ms()))
            connection.execute(insert(sessions).values(row))
        return cookie

    def by_cookie(self, cookie: str) -> Token | None:
        """The token with which a browser has signed in; None when its session or its token is over."""
        columns = [tokens.c[name] for name in Token.__slots__]
        joined = select(*columns).join(sessions, sessions.c.token_id == tokens.c.id)
        valid = joined.where(sessions.c.hash == _hash(cookie), sessions.c.expires_ms > self._now_ms())
        with self._database.read() as connection:
            row = connection.execute(valid).mappings().first()
        return self._valid(Token(**row)) if row else None

    def sign_out(self, cookie: str) -> None:
        """End a browser's session."""
        with self._database.write() as connection:
            connection.execute(delete(sessions).where(sessions.c.hash == _hash(cookie)))

    def _valid(self, token: Token) -> Token | None:
        lapsed = token.expires_ms is not None and token.expires_ms <= self._now_ms()
        return None if lapsed or token.revoked_ms is not None else token


def _short_lived() -> ColumnElement[bool]:
    return tokens.c.expires_ms.is_not(None) & (tokens.c.expires_ms - tokens.c.created_ms < DAY_MS)


def form_token(cookie: str) -> str:
    """
    What a form has to bring, so that it is one of our pages: nobody without the cookie can make it.

    Returns:
        Another one each time, so that compression tells nothing about it.
    """
    nonce = secrets.token_urlsafe(9)
    return f"{nonce}.{_sign(cookie, nonce)}"


def is_form_token(cookie: str, given: str) -> bool:
    """Whether a form's token was made for that cookie."""
    nonce, _, signature = given.partition(".")
    return hmac.compare_digest(_sign(cookie, nonce).encode(), signature.encode("utf-8", "replace"))


def _sign(cookie: str, nonce: str) -> str:
    key = cookie.encode("utf-8", "replace")
    return hmac.new(key, f"form {nonce}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
