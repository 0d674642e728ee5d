"""The pages for people: catalogue, product, cart, checkout, orders, and the way in."""

from __future__ import annotations

from urllib.parse import urlencode, urlsplit

from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from . import accounts, carts, catalogue, orders
from .errors import ShopError
from .fields import Fields
from .web import COOKIE, database, new_account, paging, product_query, token, user, visitor

pages = Blueprint("pages", __name__)


@pages.before_request
def refuse_foreign_forms() -> None:
    """A form on somebody else's site must not act for a visitor of ours."""
    origin = request.headers.get("Origin")
    if request.method == "POST" and origin is not None and urlsplit(origin).netloc != request.host:
        raise ShopError(403, "foreign_origin", "This form was sent from another site.")


@pages.get("/")
def show_catalogue() -> str:
    """Search and browse."""
    fields = Fields(request.args)
    query = product_query(fields)
    page, per_page = paging(fields, default_size=8)
    fields.check()
    found = catalogue.search(database(), query, page=page, per_page=per_page)
    return render_template(
        "catalogue.html", found=found, query=query, categories=catalogue.categories(database()), page_url=_page_url
    )


@pages.get("/products/<id:product_id>")
def show_product(product_id: int) -> str:
    """One product, with a button to buy it."""
    return render_template("product.html", product=catalogue.get(database(), product_id))


@pages.get("/cart")
def show_cart() -> str:
    """The cart, with a form per line."""
    return _cart_page()


@pages.post("/cart/items/<id:product_id>")
def change_cart(product_id: int) -> AnyResponse | tuple[str, int]:
    """Add to the cart (from a product's page) or set a quantity (from the cart); 0 takes it out."""
    buyer, fields = user(), Fields(request.form)
    quantity = fields.integer("quantity", least=0, most=carts.MOST)
    fields.check()
    change = carts.add if request.form.get("how") == "add" else carts.put
    try:
        change(database(), buyer.id, product_id, quantity)
    except ShopError as exc:
        if exc.status == 409:
            return _cart_page(exc.message), 409
        raise
    return redirect(url_for("pages.show_cart"), 303)


@pages.post("/cart/coupon")
def use_coupon() -> AnyResponse | tuple[str, int]:
    """Use a coupon; an empty code drops it."""
    buyer, code = user(), Fields(request.form).text("code", default="")
    try:
        if code:
            carts.apply_coupon(database(), buyer.id, code)
        else:
            carts.drop_coupon(database(), buyer.id)
    except ShopError as exc:
        return _cart_page(exc.message), exc.status
    return redirect(url_for("pages.show_cart"), 303)


@pages.get("/checkout")
def show_checkout() -> AnyResponse | str:
    """Where to, and a last look at what it costs."""
    cart = carts.get(database(), user().id)
    if not cart.lines:
        return redirect(url_for("pages.show_cart"), 303)
    return render_template("checkout.html", cart=cart, address="", error="")


@pages.post("/checkout")
def place_order() -> AnyResponse | tuple[str, int]:
    """Buy."""
    buyer, fields = user(), Fields(request.form)
    address = fields.text("address")
    try:
        fields.check()
        order = orders.place(database(), buyer.id, address)
    except ShopError as exc:
        said = "An address is required." if exc.fields else exc.message
        cart = carts.get(database(), buyer.id)
        return render_template("checkout.html", cart=cart, address=address, error=said), exc.status
    return redirect(url_for("pages.show_order", order_id=order.id), 303)


@pages.get("/orders")
def list_orders() -> str:
    """One's own orders."""
    fields = Fields(request.args)
    page, per_page = paging(fields)
    fields.check()
    found, total = orders.list_of(database(), user().id, page=page, per_page=per_page)
    return render_template("orders.html", orders=found, total=total)


@pages.get("/orders/<id:order_id>")
def show_order(order_id: int) -> str:
    """One of one's own orders."""
    return render_template("order.html", order=orders.get(database(), order_id, user().id))


@pages.post("/orders/<id:order_id>/cancel")
def cancel_order(order_id: int) -> AnyResponse:
    """Cancel one of one's own orders."""
    orders.cancel(database(), order_id, user().id)
    return redirect(url_for("pages.show_order", order_id=order_id), 303)


@pages.get("/sign-in")
def show_sign_in() -> str:
    """The way in."""
    return render_template("sign_in.html", error="", email="", way=_way())


@pages.post("/sign-in")
def sign_in() -> AnyResponse | tuple[str, int]:
    """Begin a session."""
    fields = Fields(request.form)
    email, password = fields.email("email"), fields.text("password")
    try:
        fields.check()
        begun = accounts.sign_in(database(), email, password)
    except ShopError as exc:
        return render_template("sign_in.html", error=_in_words(exc), email=email, way=_way()), exc.status
    return _enter(begun)


@pages.get("/register")
def show_register() -> str:
    """The way in for the first time."""
    return render_template("register.html", error="", way=_way())


@pages.post("/register")
def register() -> AnyResponse | tuple[str, int]:
    """Sign up and begin a session."""
    try:
        email, name, password = new_account(Fields(request.form))
        accounts.register(database(), email, name, password)
    except ShopError as exc:
        return render_template("register.html", error=_in_words(exc), way=_way()), exc.status
    return _enter(accounts.sign_in(database(), email, password))


@pages.post("/sign-out")
def sign_out() -> AnyResponse:
    """End the session."""
    accounts.sign_out(database(), token())
    away = redirect(url_for("pages.show_catalogue"), 303)
    away.delete_cookie(COOKIE)
    return away


def show_error(error: ShopError) -> AnyResponse:
    """An error as a page; who must sign in is led there and back again."""
    if error.status == 401:
        back = request.full_path.rstrip("?") if request.method == "GET" else "/"
        return redirect(url_for("pages.show_sign_in", way=back), 303)
    return make_response(render_template("error.html", error=error), error.status)


def _cart_page(error: str = "") -> str:
    return render_template("cart.html", cart=carts.get(database(), user().id), error=error)


def _page_url(number: int) -> str:
    return f"{request.path}?{urlencode({**request.args.to_dict(), 'page': number})}"


def _way() -> str:
    """Where to go after signing in; never to another site."""
    way = request.values.get("way", "/")
    return way if way.startswith("/") and not way.startswith(("//", "/\\")) else "/"


def _enter(begun: str) -> Response:
    response = make_response(redirect(_way(), 303))
    response.set_cookie(COOKIE, begun, httponly=True, samesite="Lax", max_age=7 * 24 * 3600)
    return response


def _in_words(error: ShopError) -> str:
    return " ".join(f"{name.capitalize()} {why}." for name, why in error.fields.items()) or error.message


def in_template() -> dict[str, object]:
    """What every page shows."""
    signed_in = visitor()
    pieces = sum(line.quantity for line in carts.get(database(), signed_in.id).lines) if signed_in else 0
    return {"visitor": signed_in, "pieces": pieces}
