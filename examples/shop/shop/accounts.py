"""Users, their passwords and their sessions."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from .database import now, stamp, transaction
from .errors import ShopError

SESSION_LIFE = timedelta(days=7)

#: After so many wrong passwords within so many seconds an account must wait.
PATIENCE = 5
PATIENCE_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Somebody who is signed in."""

    id: int
    email: str
    name: str
    is_admin: bool

    def to_json(self) -> dict[str, object]:
        """What the user may see."""
        return {"id": self.id, "email": self.email, "name": self.name, "is_admin": self.is_admin}


def register(database: sqlite3.Connection, email: str, name: str, password: str, *, is_admin: bool = False) -> User:
    """
    Add a user.

    Raises:
        ShopError: 409, the address is taken.
    """
    hashed = hash_password(password)
    try:
        with transaction(database):
            added = database.execute(
                "INSERT INTO users (email, name, password, is_admin) VALUES (?, ?, ?, ?) RETURNING id",
                (email, name, hashed, is_admin),
            ).fetchone()
    except sqlite3.IntegrityError:
        raise ShopError(409, "email_taken", "There is an account with this address already.") from None
    return User(id=added["id"], email=email, name=name, is_admin=is_admin)


def sign_in(database: sqlite3.Connection, email: str, password: str) -> str:
    """
    Begin a session.

    Returns:
        Its token; the database keeps only a hash of it.

    Raises:
        ShopError: 401, unknown address or wrong password; 429, too many attempts.
    """
    since = stamp(datetime.now(timezone.utc) - timedelta(seconds=PATIENCE_S))
    failures = database.execute(
        "SELECT count(*) FROM failed_logins WHERE email = ? AND at > ?", (email, since)
    ).fetchone()[0]
    if failures >= PATIENCE:
        raise ShopError(429, "too_many_attempts", f"Too many attempts. Try again in {PATIENCE_S} seconds.")
    user = database.execute("SELECT id, password FROM users WHERE email = ?", (email,)).fetchone()
    # An unknown address takes as long as a wrong password.
    if not check_password(password, user["password"] if user else _NOBODY) or user is None:
        database.execute("INSERT INTO failed_logins (email, at) VALUES (?, ?)", (email, now()))
        raise ShopError(401, "wrong_credentials", "The address or the password is wrong.")
    token = secrets.token_urlsafe(32)
    expires_at = stamp(datetime.now(timezone.utc) + SESSION_LIFE)
    database.execute("INSERT INTO sessions VALUES (?, ?, ?)", (_hash_token(token), user["id"], expires_at))
    return token


def sign_out(database: sqlite3.Connection, token: str) -> None:
    """End a session."""
    database.execute("DELETE FROM sessions WHERE token_hash = ?", (_hash_token(token),))


def user_of(database: sqlite3.Connection, token: str) -> User | None:
    """Whose session a token is, if it is one that has not expired."""
    row = database.execute(
        "SELECT users.* FROM sessions JOIN users ON users.id = user_id WHERE token_hash = ? AND expires_at > ?",
        (_hash_token(token), now()),
    ).fetchone()
    if row is None:
        return None
    return User(id=row["id"], email=row["email"], name=row["name"], is_admin=bool(row["is_admin"]))


def hash_password(password: str) -> str:
    """A salted hash that is slow to guess from."""
    salt = secrets.token_bytes(16)
    return f"{salt.hex()}${_scrypt(password, salt).hex()}"


def check_password(password: str, hashed: str) -> bool:
    """Whether a password is the one that was hashed."""
    salt, _, digest = hashed.partition("$")
    return hmac.compare_digest(_scrypt(password, bytes.fromhex(salt)), bytes.fromhex(digest))


def _scrypt(password: str, salt: bytes) -> bytes:
    # Cheap for a shop of which tests make hundreds of customers; a real one takes 2**14 or more.
    return hashlib.scrypt(password.encode(), salt=salt, n=2**12, r=8, p=1)


def _hash_token(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


#: The hash of a password that nobody has.
_NOBODY = f"{'00' * 16}${'00' * 64}"
