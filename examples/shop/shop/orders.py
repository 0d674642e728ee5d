"""Orders: placing one takes the stock and empties the cart in one step, or changes nothing."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from . import carts
from .carts import Cart
from .database import now, transaction
from .errors import ShopError, not_found


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a customer bought."""

    id: int
    user_id: int
    state: str
    placed_at: str
    address: str
    coupon: str | None
    goods_cents: int
    discount_cents: int
    shipping_cents: int
    lines: list[dict[str, object]]

    @property
    def total_cents(self) -> int:
        """What was charged."""
        return self.goods_cents - self.discount_cents + self.shipping_cents

    def to_json(self) -> dict[str, object]:
        """What its owner may see."""
        return {
            "id": self.id,
            "state": self.state,
            "placed_at": self.placed_at,
            "address": self.address,
            "coupon": self.coupon,
            "lines": self.lines,
            "goods_cents": self.goods_cents,
            "discount_cents": self.discount_cents,
            "shipping_cents": self.shipping_cents,
            "total_cents": self.total_cents,
        }


def place(database: sqlite3.Connection, user_id: int, address: str, request_key: str | None = None) -> Order:
    """
    Buy what is in the cart.

    Args:
        request_key: Chosen by the client; the same key never buys twice, it answers with the first order.

    Raises:
        ShopError: 422, the cart is empty; 409, something is out of stock, or the coupon was used up meanwhile.
    """
    with transaction(database):
        known = _with_key(database, user_id, request_key)
        if known is not None:
            return get(database, known, user_id)
        cart = carts.get(database, user_id)
        if not cart.lines:
            raise ShopError(422, "cart_empty", "There is nothing in the cart.")
        _take_stock(database, cart)
        order_id = _write(database, user_id, cart, address, request_key)
        if cart.coupon is not None:
            database.execute("UPDATE coupons SET uses_left = uses_left - 1 WHERE code = ?", (cart.coupon.code,))
        carts.clear(database, user_id)
    return get(database, order_id, user_id)


def get(database: sqlite3.Connection, order_id: int, user_id: int | None = None) -> Order:
    """
    One order.

    Args:
        user_id: Its owner; None for an administrator, who sees all.

    Raises:
        ShopError: 404, there is none, or it is somebody else's.
    """
    row = database.execute("SELECT * FROM orders WHERE id = ?", (order_id,)).fetchone()
    if row is None or user_id not in (None, row["user_id"]):
        raise not_found("order")
    return _order(database, row)


def list_of(
    database: sqlite3.Connection, user_id: int | None, *, page: int = 1, per_page: int = 10
) -> tuple[list[Order], int]:
    """A page of a customer's orders, or of all orders, newest first, and how many there are."""
    where, values = ("WHERE user_id = ?", [user_id]) if user_id is not None else ("", [])
    total = database.execute(f"SELECT count(*) FROM orders {where}", values).fetchone()[0]
    rows = database.execute(
        f"SELECT * FROM orders {where} ORDER BY id DESC LIMIT ? OFFSET ?", [*values, per_page, (page - 1) * per_page]
    ).fetchall()
    return [_order(database, row) for row in rows], total


def cancel(database: sqlite3.Connection, order_id: int, user_id: int) -> Order:
    """
    Cancel an order that has not been shipped; its goods go back on the shelf and its coupon may be used again.

    Raises:
        ShopError: 404; 409, it is too late.
    """
    with transaction(database):
        order = get(database, order_id, user_id)
        _expect_placed(order)
        for line in order.lines:
            database.execute(
                "UPDATE products SET stock = stock + ? WHERE id = ?", (line["quantity"], line["product_id"])
            )
        database.execute("UPDATE coupons SET uses_left = uses_left + 1 WHERE code = ?", (order.coupon,))
        database.execute("UPDATE orders SET state = 'cancelled' WHERE id = ?", (order_id,))
    return get(database, order_id, user_id)


def ship(database: sqlite3.Connection, order_id: int) -> Order:
    """
    Send an order off.

    Raises:
        ShopError: 404; 409, it was cancelled or has been shipped.
    """
    with transaction(database):
        _expect_placed(get(database, order_id))
        database.execute("UPDATE orders SET state = 'shipped' WHERE id = ?", (order_id,))
    return get(database, order_id)


def _expect_placed(order: Order) -> None:
    if order.state != "placed":
        raise ShopError(409, "wrong_state", f"The order is {order.state}.")


def _with_key(database: sqlite3.Connection, user_id: int, request_key: str | None) -> int | None:
    if request_key is None:
        return None
    row = database.execute(
        "SELECT id FROM orders WHERE user_id = ? AND request_key = ?", (user_id, request_key)
    ).fetchone()
    return None if row is None else int(row["id"])


def _take_stock(database: sqlite3.Connection, cart: Cart) -> None:
    for line in cart.lines:
        if line.quantity > line.stock:
            raise ShopError(409, "out_of_stock", f"There are only {line.stock} of {line.name}.")
        database.execute("UPDATE products SET stock = stock - ? WHERE id = ?", (line.quantity, line.product_id))


def _write(database: sqlite3.Connection, user_id: int, cart: Cart, address: str, request_key: str | None) -> int:
    coupon = cart.coupon.code if cart.coupon else None
    added = database.execute(
        "INSERT INTO orders (user_id, request_key, state, placed_at, address, coupon, goods_cents, discount_cents,"
        " shipping_cents) VALUES (?, ?, 'placed', ?, ?, ?, ?, ?, ?) RETURNING id",
        (user_id, request_key, now(), address, coupon, cart.goods_cents, cart.discount_cents, cart.shipping_cents),
    ).fetchone()
    database.executemany(
        "INSERT INTO order_lines VALUES (?, ?, ?, ?, ?)",
        [(added["id"], line.product_id, line.name, line.price_cents, line.quantity) for line in cart.lines],
    )
    return int(added["id"])


def _order(database: sqlite3.Connection, row: sqlite3.Row) -> Order:
    lines = database.execute(
        "SELECT product_id, name, price_cents, quantity FROM order_lines WHERE order_id = ? ORDER BY name, product_id",
        (row["id"],),
    )
    fields = {name: row[name] for name in row.keys() if name != "request_key"}  # noqa: SIM118 (a row iterates its values)
    return Order(**fields, lines=[dict(line) for line in lines])
