"""What the API and the pages share: the request's database, who asks, and how input is read."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from flask import current_app, g, request

from . import accounts
from .accounts import User
from .catalogue import ORDERS, Query
from .database import connect
from .errors import ShopError
from .fields import Fields

COOKIE = "shop_session"


def database() -> sqlite3.Connection:
    """This request's connection."""
    if "database" not in g:
        g.database = connect(Path(current_app.config["DATABASE"]))
    connection: sqlite3.Connection = g.database
    return connection


def close_database(_exc: BaseException | None = None) -> None:
    """Close the request's connection when the request is over."""
    connection = g.pop("database", None)
    if connection is not None:
        connection.close()


def token() -> str:
    """The session token: the API's callers send a header, browsers a cookie."""
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return bearer.strip()
    return request.cookies.get(COOKIE, "")


def visitor() -> User | None:
    """Who asks, None if nobody is signed in."""
    if "visitor" not in g:
        g.visitor = accounts.user_of(database(), token())
    user: User | None = g.visitor
    return user


def user() -> User:
    """
    Who asks.

    Raises:
        ShopError: 401, nobody is signed in.
    """
    signed_in = visitor()
    if signed_in is None:
        raise ShopError(401, "sign_in_required", "Sign in first.")
    return signed_in


def admin() -> User:
    """
    Who asks, an administrator.

    Raises:
        ShopError: 401, or 403 for anybody else.
    """
    signed_in = user()
    if not signed_in.is_admin:
        raise ShopError(403, "forbidden", "Only administrators may do this.")
    return signed_in


def body() -> Fields:
    """
    The fields of a JSON body.

    Raises:
        ShopError: 400, it is no JSON object.
    """
    given = request.get_json(silent=True)
    if not isinstance(given, dict):
        raise ShopError(400, "bad_request", "The body must be a JSON object.")
    return Fields(given)


def paging(fields: Fields, default_size: int = 10) -> tuple[int, int]:
    """The page asked for and its size."""
    page = fields.integer("page", least=1, most=10_000, default=1)
    return page, fields.integer("per_page", least=1, most=100, default=default_size)


def product_query(fields: Fields) -> Query:
    """What the query string looks for."""
    query = Query(
        words=fields.text("q", default=""),
        category=fields.text("category", default=""),
        least_cents=fields.integer("min_price", least=0, most=10**9, default=0),
        most_cents=fields.integer("max_price", least=0, most=10**9, default=10**9),
        only_available=fields.choice("available", ("yes", "no"), default="no") == "yes",
        order=fields.choice("sort", tuple(ORDERS), default="name"),
    )
    if query.least_cents > query.most_cents:
        fields.refuse("min_price", "must not be above max_price")
    return query


def new_account(fields: Fields) -> tuple[str, str, str]:
    """Address, name and password of somebody who signs up."""
    email = fields.email("email")
    name = fields.text("name", longest=80)
    password = fields.text("password")
    if len(password) < 8:
        fields.refuse("password", "must have 8 characters at least")
    fields.check()
    return email, name, password
