"""The goods: search, single products, and what administrators change."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from .database import transaction
from .errors import ShopError, not_found

ORDERS = {
    "name": "name, id",
    "-name": "name DESC, id DESC",
    "price": "price_cents, id",
    "-price": "price_cents DESC, id DESC",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """Something to buy."""

    id: int
    name: str
    description: str
    category: str
    price_cents: int
    stock: int

    def to_json(self) -> dict[str, object]:
        """What everybody may see."""
        return {
            "id": self.id,
            "name": self.name,
            "description": self.description,
            "category": self.category,
            "price_cents": self.price_cents,
            "stock": self.stock,
            "available": self.stock > 0,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a customer looks for."""

    words: str = ""
    category: str = ""
    least_cents: int = 0
    most_cents: int = 10**9
    only_available: bool = False
    order: str = "name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of what was found."""

    products: list[Product]
    number: int
    size: int
    total: int

    @property
    def count(self) -> int:
        """How many pages there are, at least one."""
        return max(1, -(-self.total // self.size))

    def to_json(self) -> dict[str, object]:
        """The body of the answer."""
        return {
            "items": [product.to_json() for product in self.products],
            "page": self.number,
            "per_page": self.size,
            "pages": self.count,
            "total": self.total,
        }


def search(database: sqlite3.Connection, query: Query, *, page: int = 1, per_page: int = 10) -> Page:
    """Find products; every word must occur in the name or the description."""
    conditions = ["price_cents BETWEEN ? AND ?"]
    values: list[object] = [query.least_cents, query.most_cents]
    for word in query.words.split():
        pattern = "%" + word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        conditions.append("(name LIKE ? ESCAPE '\\' OR description LIKE ? ESCAPE '\\')")
        values += [pattern, pattern]
    if query.category:
        conditions.append("category = ?")
        values.append(query.category)
    if query.only_available:
        conditions.append("stock > 0")
    where = " AND ".join(conditions)
    total = database.execute(f"SELECT count(*) FROM products WHERE {where}", values).fetchone()[0]
    rows = database.execute(
        f"SELECT * FROM products WHERE {where} ORDER BY {ORDERS[query.order]} LIMIT ? OFFSET ?",
        [*values, per_page, (page - 1) * per_page],
    )
    return Page(products=[Product(**row) for row in rows], number=page, size=per_page, total=total)


def categories(database: sqlite3.Connection) -> list[dict[str, object]]:
    """All categories with their number of products."""
    rows = database.execute("SELECT category AS name, count(*) AS products FROM products GROUP BY category ORDER BY 1")
    return [dict(row) for row in rows]


def get(database: sqlite3.Connection, product_id: int) -> Product:
    """
    One product.

    Raises:
        ShopError: 404.
    """
    row = database.execute("SELECT * FROM products WHERE id = ?", (product_id,)).fetchone()
    if row is None:
        raise not_found("product")
    return Product(**row)


def add(
    database: sqlite3.Connection, *, name: str, description: str, category: str, price_cents: int, stock: int
) -> Product:
    """Put something new on the shelf."""
    row = database.execute(
        "INSERT INTO products (name, description, category, price_cents, stock) VALUES (?, ?, ?, ?, ?) RETURNING *",
        (name, description, category, price_cents, stock),
    ).fetchone()
    return Product(**row)


def change_price(database: sqlite3.Connection, product_id: int, price_cents: int) -> Product:
    """Set a price; orders keep the one that they were placed at."""
    get(database, product_id)
    database.execute("UPDATE products SET price_cents = ? WHERE id = ?", (price_cents, product_id))
    return get(database, product_id)


def change_stock(database: sqlite3.Connection, product_id: int, change: int) -> Product:
    """
    Add to the stock, or take from it.

    Raises:
        ShopError: 409, there are not so many.
    """
    with transaction(database):
        product = get(database, product_id)
        if product.stock + change < 0:
            raise ShopError(409, "out_of_stock", f"There are only {product.stock} of {product.name}.")
        database.execute("UPDATE products SET stock = stock + ? WHERE id = ?", (change, product_id))
    return get(database, product_id)
