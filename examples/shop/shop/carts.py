"""A customer's cart: lines, a coupon, and what all of it costs."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from . import catalogue
from .database import now, transaction
from .errors import ShopError, not_found

#: Shipping costs this much, and nothing from this value of goods on.
SHIPPING_CENTS = 490
FREE_SHIPPING_CENTS = 5000

#: Most pieces of one product in a cart.
MOST = 99


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Some pieces of one product."""

    product_id: int
    name: str
    price_cents: int
    quantity: int
    stock: int

    @property
    def total_cents(self) -> int:
        """What they cost together."""
        return self.price_cents * self.quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class Coupon:
    """A promise to charge less."""

    code: str
    percent: int
    amount_cents: int
    least_cents: int
    uses_left: int
    expires_at: str

    def discount_cents(self, goods_cents: int) -> int:
        """What it is worth; half a cent is rounded in the customer's favour."""
        if goods_cents < self.least_cents:
            return 0
        return min(goods_cents, self.amount_cents + (goods_cents * self.percent + 50) // 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cart:
    """What a customer is about to buy."""

    lines: list[Line]
    coupon: Coupon | None

    @property
    def goods_cents(self) -> int:
        """The goods alone."""
        return sum(line.total_cents for line in self.lines)

    @property
    def discount_cents(self) -> int:
        """What the coupon is worth."""
        return self.coupon.discount_cents(self.goods_cents) if self.coupon else 0

    @property
    def shipping_cents(self) -> int:
        """What bringing it costs."""
        after_discount = self.goods_cents - self.discount_cents
        return SHIPPING_CENTS if self.lines and after_discount < FREE_SHIPPING_CENTS else 0

    @property
    def total_cents(self) -> int:
        """What will be charged."""
        return self.goods_cents - self.discount_cents + self.shipping_cents

    def to_json(self) -> dict[str, object]:
        """What its owner may see."""
        return {
            "lines": [
                {
                    "product_id": line.product_id,
                    "name": line.name,
                    "price_cents": line.price_cents,
                    "quantity": line.quantity,
                    "total_cents": line.total_cents,
                    "available": line.quantity <= line.stock,
                }
                for line in self.lines
            ],
            "coupon": self.coupon.code if self.coupon else None,
            "goods_cents": self.goods_cents,
            "discount_cents": self.discount_cents,
            "shipping_cents": self.shipping_cents,
            "total_cents": self.total_cents,
        }


def get(database: sqlite3.Connection, user_id: int) -> Cart:
    """The cart of a user; a coupon that has run out meanwhile is left aside."""
    rows = database.execute(
        "SELECT product_id, name, price_cents, quantity, stock FROM cart_lines"
        " JOIN products ON products.id = product_id WHERE user_id = ? ORDER BY name, product_id",
        (user_id,),
    )
    lines = [Line(**row) for row in rows]
    coupon = database.execute(
        "SELECT coupons.* FROM carts JOIN coupons ON code = coupon"
        " WHERE user_id = ? AND expires_at > ? AND uses_left > 0",
        (user_id, now()),
    ).fetchone()
    return Cart(lines=lines, coupon=Coupon(**coupon) if coupon else None)


def put(database: sqlite3.Connection, user_id: int, product_id: int, quantity: int) -> Cart:
    """
    Set how many pieces of a product are in the cart; 0 takes it out.

    Raises:
        ShopError: 404, no such product; 409, there are not so many.
    """
    with transaction(database):
        product = catalogue.get(database, product_id)
        if quantity > product.stock:
            raise ShopError(409, "out_of_stock", f"There are only {product.stock} of {product.name}.")
        if quantity == 0:
            database.execute("DELETE FROM cart_lines WHERE user_id = ? AND product_id = ?", (user_id, product_id))
        else:
            database.execute(
                "INSERT INTO cart_lines VALUES (?, ?, ?)"
                " ON CONFLICT (user_id, product_id) DO UPDATE SET quantity = excluded.quantity",
                (user_id, product_id, quantity),
            )
    return get(database, user_id)


def add(database: sqlite3.Connection, user_id: int, product_id: int, quantity: int) -> Cart:
    """Put more pieces of a product into the cart, up to the most that one may have."""
    held = next((line.quantity for line in get(database, user_id).lines if line.product_id == product_id), 0)
    return put(database, user_id, product_id, min(MOST, held + quantity))


def remove(database: sqlite3.Connection, user_id: int, product_id: int) -> Cart:
    """
    Take a product out.

    Raises:
        ShopError: 404, it is not in the cart.
    """
    removed = database.execute("DELETE FROM cart_lines WHERE user_id = ? AND product_id = ?", (user_id, product_id))
    if removed.rowcount == 0:
        raise not_found("line in the cart")
    return get(database, user_id)


def clear(database: sqlite3.Connection, user_id: int) -> None:
    """Take everything out, the coupon too."""
    database.execute("DELETE FROM cart_lines WHERE user_id = ?", (user_id,))
    database.execute("DELETE FROM carts WHERE user_id = ?", (user_id,))


def apply_coupon(database: sqlite3.Connection, user_id: int, code: str) -> Cart:
    """
    Use a coupon for this cart; capitals do not matter.

    Raises:
        ShopError: 404, no such coupon; 409, it has expired, is used up, was used by this customer, or the cart is too
            small.
    """
    row = database.execute("SELECT * FROM coupons WHERE code = ?", (code.upper(),)).fetchone()
    if row is None:
        raise not_found("coupon")
    coupon = Coupon(**row)
    if coupon.expires_at <= now():
        raise ShopError(409, "coupon_expired", f"{coupon.code} has expired.")
    if coupon.uses_left == 0:
        raise ShopError(409, "coupon_used_up", f"{coupon.code} has been used up.")
    if _has_used(database, user_id, coupon.code):
        raise ShopError(409, "coupon_used", f"You have used {coupon.code} already.")
    if get(database, user_id).goods_cents < coupon.least_cents:
        raise ShopError(409, "coupon_minimum", f"{coupon.code} needs goods for {coupon.least_cents / 100:.2f} or more.")
    database.execute(
        "INSERT INTO carts VALUES (?, ?) ON CONFLICT (user_id) DO UPDATE SET coupon = excluded.coupon",
        (user_id, coupon.code),
    )
    return get(database, user_id)


def drop_coupon(database: sqlite3.Connection, user_id: int) -> Cart:
    """Use no coupon."""
    database.execute("DELETE FROM carts WHERE user_id = ?", (user_id,))
    return get(database, user_id)


def add_coupon(database: sqlite3.Connection, coupon: Coupon) -> None:
    """
    Issue a coupon.

    Raises:
        ShopError: 409, the code is taken.
    """
    values = (
        *(coupon.code, coupon.percent, coupon.amount_cents),
        *(coupon.least_cents, coupon.uses_left, coupon.expires_at),
    )
    try:
        database.execute("INSERT INTO coupons VALUES (?, ?, ?, ?, ?, ?)", values)
    except sqlite3.IntegrityError:
        raise ShopError(409, "code_taken", f"There is a coupon {coupon.code} already.") from None


def _has_used(database: sqlite3.Connection, user_id: int, code: str) -> bool:
    row = database.execute(
        "SELECT 1 FROM orders WHERE user_id = ? AND coupon = ? AND state != 'cancelled'", (user_id, code)
    ).fetchone()
    return row is not None
