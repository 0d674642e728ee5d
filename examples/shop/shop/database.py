"""The SQLite file: its schema, connections, transactions, and the goods that a new shop starts with."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

SCHEMA = """
CREATE TABLE users (
    id INTEGER PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    password TEXT NOT NULL,
    is_admin INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE sessions (
    token_hash TEXT PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES users,
    expires_at TEXT NOT NULL
);
CREATE TABLE failed_logins (email TEXT NOT NULL, at TEXT NOT NULL);
CREATE INDEX failed_logins_by_email ON failed_logins (email, at);
CREATE TABLE products (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    category TEXT NOT NULL,
    price_cents INTEGER NOT NULL CHECK (price_cents >= 0),
    stock INTEGER NOT NULL CHECK (stock >= 0)
);
CREATE INDEX products_by_category ON products (category, name);
CREATE TABLE coupons (
    code TEXT PRIMARY KEY,
    percent INTEGER NOT NULL DEFAULT 0 CHECK (percent BETWEEN 0 AND 100),
    amount_cents INTEGER NOT NULL DEFAULT 0 CHECK (amount_cents >= 0),
    least_cents INTEGER NOT NULL DEFAULT 0,
    uses_left INTEGER NOT NULL DEFAULT 1000000 CHECK (uses_left >= 0),
    expires_at TEXT NOT NULL DEFAULT '9999'
);
CREATE TABLE carts (user_id INTEGER PRIMARY KEY REFERENCES users, coupon TEXT REFERENCES coupons);
CREATE TABLE cart_lines (
    user_id INTEGER NOT NULL REFERENCES users,
    product_id INTEGER NOT NULL REFERENCES products,
    quantity INTEGER NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (user_id, product_id)
);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES users,
    request_key TEXT,
    state TEXT NOT NULL CHECK (state IN ('placed', 'shipped', 'cancelled')),
    placed_at TEXT NOT NULL,
    address TEXT NOT NULL,
    coupon TEXT,
    goods_cents INTEGER NOT NULL,
    discount_cents INTEGER NOT NULL,
    shipping_cents INTEGER NOT NULL,
    UNIQUE (user_id, request_key)
);
CREATE TABLE order_lines (
    order_id INTEGER NOT NULL REFERENCES orders,
    product_id INTEGER NOT NULL REFERENCES products,
    name TEXT NOT NULL,
    price_cents INTEGER NOT NULL,
    quantity INTEGER NOT NULL,
    PRIMARY KEY (order_id, product_id)
);
"""

#: Category, name, price in cents, stock.
GOODS = (
    ("coffee", "Espresso beans, dark", 1290, 80),
    ("coffee", "Espresso beans, medium", 1190, 60),
    ("coffee", "Filter beans, Ethiopia", 1450, 40),
    ("coffee", "Filter beans, Kenya", 1590, 35),
    ("coffee", "Decaf beans", 1350, 25),
    ("coffee", "Instant coffee", 690, 0),
    ("coffee", "Cold brew bags", 890, 50),
    ("tea", "Assam", 590, 70),
    ("tea", "Darjeeling first flush", 1890, 12),
    ("tea", "Earl Grey", 650, 90),
    ("tea", "Green tea, Sencha", 990, 45),
    ("tea", "Oolong", 1250, 20),
    ("tea", "Peppermint", 450, 110),
    ("tea", "Rooibos", 490, 0),
    ("mugs", "Mug, blue", 990, 30),
    ("mugs", "Mug, large", 1390, 22),
    ("mugs", "Mug, white", 890, 55),
    ("mugs", "Travel mug", 2490, 18),
    ("machines", "Burr grinder", 8990, 9),
    ("machines", "Electric kettle", 4990, 14),
    ("machines", "Espresso machine", 34900, 3),
    ("machines", "French press", 2990, 26),
    ("machines", "Hand grinder", 5990, 11),
    ("machines", "Milk frother", 1990, 33),
)

#: Code, percent, amount in cents, least value of the goods in cents, expiry.
COUPONS = (
    ("WELCOME10", 10, 0, 0, "9999"),
    ("FIVEOFF", 0, 500, 2000, "9999"),
    ("BIGSPENDER", 25, 0, 20000, "9999"),
    ("SUMMER2019", 50, 0, 0, "2019-09-01T00:00:00+00:00"),
)


def connect(path: Path) -> sqlite3.Connection:
    """Open the shop's database; every request has its own connection."""
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = OFF")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Everything inside happens, or nothing; writers take turns from the start, so that none sees stale figures."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def create(path: Path) -> None:
    """Make a new shop with its first goods and coupons."""
    connection = connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(SCHEMA)
    with transaction(connection):
        connection.executemany(
            "INSERT INTO products (category, name, price_cents, stock, description) VALUES (?, ?, ?, ?, ?)",
            [(*row, f"{row[1]} from our {row[0]} shelf.") for row in GOODS],
        )
        connection.executemany(
            "INSERT INTO coupons (code, percent, amount_cents, least_cents, expires_at) VALUES (?, ?, ?, ?, ?)", COUPONS
        )
    connection.close()


def now() -> str:
    """This moment as the database keeps it: UTC, comparable as text."""
    return stamp(datetime.now(timezone.utc))


def stamp(moment: datetime) -> str:
    """An aware moment as the database keeps it."""
    return moment.astimezone(timezone.utc).isoformat(timespec="microseconds")
