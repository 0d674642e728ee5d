"""The JSON API under /api."""

from __future__ import annotations

from datetime import datetime, timezone

from flask import Blueprint, request

from . import accounts, carts, catalogue, orders
from .database import stamp
from .fields import Fields
from .web import admin, body, database, new_account, paging, product_query, token, user

api = Blueprint("api", __name__, url_prefix="/api")

Answer = dict[str, object]

MOST_CENTS = 10_000_000


@api.get("/products")
def list_products() -> Answer:
    """Search, filter, sort, a page at a time."""
    fields = Fields(request.args)
    query = product_query(fields)
    page, per_page = paging(fields)
    fields.check()
    return catalogue.search(database(), query, page=page, per_page=per_page).to_json()


@api.get("/products/<id:product_id>")
def show_product(product_id: int) -> Answer:
    """One product."""
    return catalogue.get(database(), product_id).to_json()


@api.get("/categories")
def list_categories() -> Answer:
    """All categories."""
    return {"items": catalogue.categories(database())}


@api.post("/users")
def register() -> tuple[Answer, int]:
    """Sign up."""
    email, name, password = new_account(body())
    return accounts.register(database(), email, name, password).to_json(), 201


@api.post("/sessions")
def sign_in() -> tuple[Answer, int]:
    """Sign in; the token goes into the Authorization header of later requests."""
    fields = body()
    email, password = fields.email("email"), fields.text("password")
    fields.check()
    return {"token": accounts.sign_in(database(), email, password)}, 201


@api.delete("/sessions")
def sign_out() -> tuple[str, int]:
    """Sign out."""
    user()
    accounts.sign_out(database(), token())
    return "", 204


@api.get("/me")
def show_me() -> Answer:
    """Who is signed in."""
    return user().to_json()


@api.get("/cart")
def show_cart() -> Answer:
    """The cart."""
    return carts.get(database(), user().id).to_json()


@api.delete("/cart")
def clear_cart() -> tuple[str, int]:
    """Empty the cart."""
    carts.clear(database(), user().id)
    return "", 204


@api.put("/cart/items/<id:product_id>")
def put_item(product_id: int) -> Answer:
    """Set a quantity."""
    buyer, fields = user(), body()
    quantity = fields.integer("quantity", least=0, most=carts.MOST)
    fields.check()
    return carts.put(database(), buyer.id, product_id, quantity).to_json()


@api.delete("/cart/items/<id:product_id>")
def remove_item(product_id: int) -> Answer:
    """Take a product out."""
    return carts.remove(database(), user().id, product_id).to_json()


@api.put("/cart/coupon")
def apply_coupon() -> Answer:
    """Use a coupon."""
    buyer, fields = user(), body()
    code = fields.text("code", longest=40)
    fields.check()
    return carts.apply_coupon(database(), buyer.id, code).to_json()


@api.delete("/cart/coupon")
def drop_coupon() -> Answer:
    """Use none."""
    return carts.drop_coupon(database(), user().id).to_json()


@api.post("/orders")
def place_order() -> tuple[Answer, int]:
    """Buy what is in the cart."""
    buyer, fields = user(), body()
    address = fields.text("address")
    fields.check()
    order = orders.place(database(), buyer.id, address, request.headers.get("Idempotency-Key"))
    return order.to_json(), 201


@api.get("/orders")
def list_orders() -> Answer:
    """One's own orders."""
    return _orders(user().id)


@api.get("/orders/<id:order_id>")
def show_order(order_id: int) -> Answer:
    """One of one's own orders."""
    return orders.get(database(), order_id, user().id).to_json()


@api.post("/orders/<id:order_id>/cancel")
def cancel_order(order_id: int) -> Answer:
    """Cancel one of one's own orders."""
    return orders.cancel(database(), order_id, user().id).to_json()


@api.post("/admin/products")
def add_product() -> tuple[Answer, int]:
    """Put something new on the shelf."""
    admin()
    fields = body()
    name, category = fields.text("name", longest=80), fields.text("category", longest=40)
    description = fields.text("description", longest=2000, default="")
    price_cents = fields.integer("price_cents", least=0, most=MOST_CENTS)
    stock = fields.integer("stock", least=0, most=100_000, default=0)
    fields.check()
    product = catalogue.add(
        database(), name=name, description=description, category=category, price_cents=price_cents, stock=stock
    )
    return product.to_json(), 201


@api.patch("/admin/products/<id:product_id>")
def change_price(product_id: int) -> Answer:
    """Set a price."""
    admin()
    fields = body()
    price_cents = fields.integer("price_cents", least=0, most=MOST_CENTS)
    fields.check()
    return catalogue.change_price(database(), product_id, price_cents).to_json()


@api.post("/admin/products/<id:product_id>/stock")
def change_stock(product_id: int) -> Answer:
    """Add to the stock or take from it."""
    admin()
    fields = body()
    change = fields.integer("change", least=-100_000, most=100_000)
    fields.check()
    return catalogue.change_stock(database(), product_id, change).to_json()


@api.post("/admin/coupons")
def add_coupon() -> tuple[Answer, int]:
    """Issue a coupon."""
    admin()
    fields = body()
    coupon = carts.Coupon(
        code=fields.text("code", longest=40).upper(),
        percent=fields.integer("percent", least=0, most=100, default=0),
        amount_cents=fields.integer("amount_cents", least=0, most=MOST_CENTS, default=0),
        least_cents=fields.integer("least_cents", least=0, most=MOST_CENTS, default=0),
        uses_left=fields.integer("uses", least=1, most=1_000_000, default=1_000_000),
        expires_at=_expiry(fields),
    )
    if not coupon.percent and not coupon.amount_cents:
        fields.refuse("percent", "or amount_cents must be above 0")
    fields.check()
    carts.add_coupon(database(), coupon)
    return {"code": coupon.code}, 201


@api.get("/admin/orders")
def list_all_orders() -> Answer:
    """Everybody's orders."""
    admin()
    return _orders(None)


@api.post("/admin/orders/<id:order_id>/ship")
def ship_order(order_id: int) -> Answer:
    """Send an order off."""
    admin()
    return orders.ship(database(), order_id).to_json()


def _orders(user_id: int | None) -> Answer:
    fields = Fields(request.args)
    page, per_page = paging(fields)
    fields.check()
    found, total = orders.list_of(database(), user_id, page=page, per_page=per_page)
    return {"items": [order.to_json() for order in found], "page": page, "per_page": per_page, "total": total}


def _expiry(fields: Fields) -> str:
    given = fields.text("expires_at", default="9999-01-01T00:00:00+00:00")
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        fields.refuse("expires_at", "must be a time in ISO 8601")
        return ""
    return stamp(moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc))
