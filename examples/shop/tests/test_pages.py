"""The pages for people, without a browser."""

from __future__ import annotations

import html
from collections.abc import Callable

import httpx
import pytest


@pytest.fixture
def visitor(guest: httpx.Client, unique: Callable[[str], str]) -> httpx.Client:
    """Somebody who registered on the page and is signed in by a cookie."""
    form = {"name": "Robin", "email": f"{unique('robin')}@mail.example", "password": "long enough"}
    assert guest.post("/register", data=form).headers["Location"] == "/"
    return guest


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "Page 1 of"),
        ("/?category=mugs", "Travel mug"),
        ("/?q=nothing+like+it", "Nothing found."),
        ("/?category=tea&per_page=2&page=2", 'rel="prev"'),
        ("/products/1", "Add to cart"),
        ("/products/6", "Sold out"),
        ("/sign-in", "Password"),
        ("/register", "Password"),
    ],
)
def test_guests_may_look_around(guest: httpx.Client, path: str, expected: str) -> None:
    """The catalogue is open to everybody."""
    page = guest.get(path)
    assert page.status_code == 200
    assert expected in page.text


@pytest.mark.parametrize("path", ["/cart", "/checkout", "/orders", "/orders/1"])
def test_guests_are_led_to_sign_in_and_back(guest: httpx.Client, path: str) -> None:
    """The page that was wanted is not forgotten."""
    answer = guest.get(path)
    assert answer.status_code == 303
    assert answer.headers["Location"] == str(httpx.URL("/sign-in", params={"way": path})).replace("%2F", "/")


def test_visitor_buys(visitor: httpx.Client, stock_up: Callable[..., int]) -> None:
    """From the product's page over cart and checkout to the order."""
    product = stock_up(name="Teapot <small>", price_cents=2500)
    assert html.escape("Teapot <small>") in visitor.get(f"/products/{product}").text
    added = visitor.post(f"/cart/items/{product}", data={"quantity": "1", "how": "add"}, follow_redirects=True)
    assert '<span id="pieces">1</span>' in added.text
    visitor.post(f"/cart/items/{product}", data={"quantity": "1", "how": "add"})
    assert "€50.00" in visitor.get("/checkout").text
    order = visitor.post("/checkout", data={"address": "1 Bean Street"}, follow_redirects=True)
    assert order.url.path.startswith("/orders/")
    assert '<strong id="state">placed</strong>' in order.text
    assert "2 &times; Teapot" in order.text
    cancelled = visitor.post(f"{order.url.path}/cancel", follow_redirects=True)
    assert '<strong id="state">cancelled</strong>' in cancelled.text
    assert "1 order" in visitor.get("/orders").text


def test_checkout_without_goods_leads_to_the_cart(visitor: httpx.Client) -> None:
    """There is nothing to check out."""
    assert visitor.get("/checkout").headers["Location"] == "/cart"
    assert "Your cart is empty." in visitor.get("/cart").text


def test_checkout_asks_for_the_address_again(visitor: httpx.Client, stock_up: Callable[..., int]) -> None:
    """What was typed wrong is told on the same page."""
    visitor.post(f"/cart/items/{stock_up()}", data={"quantity": "1"})
    page = visitor.post("/checkout", data={"address": " "})
    assert page.status_code == 422
    assert "An address is required." in page.text


def test_cart_page_tells_what_is_out_of_stock(visitor: httpx.Client, stock_up: Callable[..., int]) -> None:
    """A wish that cannot be met is explained where it was made."""
    page = visitor.post(f"/cart/items/{stock_up(stock=2)}", data={"quantity": "3"})
    assert page.status_code == 409
    assert "There are only 2 of" in page.text


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [("welcome10", 200, 'id="discount"'), ("NOPE", 404, "no such coupon"), ("", 200, "Total")],
)
def test_coupon_is_applied_on_the_cart_page(
    visitor: httpx.Client, stock_up: Callable[..., int], code: str, status: int, expected: str
) -> None:
    """Or refused there."""
    visitor.post(f"/cart/items/{stock_up()}", data={"quantity": "1"})
    page = visitor.post("/cart/coupon", data={"code": code}, follow_redirects=True)
    assert page.status_code == status
    assert expected in page.text


def test_sign_out_forgets_the_visitor(visitor: httpx.Client) -> None:
    """Cookie and session go."""
    assert "Hello, Robin" in visitor.get("/").text
    visitor.post("/sign-out")
    assert "Hello" not in visitor.get("/").text


def test_session_cookie_is_out_of_reach(guest: httpx.Client, unique: Callable[[str], str]) -> None:
    """Neither scripts nor other sites' forms get at it."""
    form = {"name": "Robin", "email": f"{unique('cookie')}@mail.example", "password": "long enough"}
    cookie = guest.post("/register", data=form).headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie


@pytest.mark.parametrize(
    ("way", "leads_to"),
    [("/cart", "/cart"), ("https://evil.example", "/"), ("//evil.example", "/"), ("/\\evil.example", "/")],
)
def test_signing_in_never_leads_to_another_site(
    guest: httpx.Client, unique: Callable[[str], str], way: str, leads_to: str
) -> None:
    """Only paths of our own are followed."""
    form = {"name": "Robin", "email": f"{unique('way')}@mail.example", "password": "long enough", "way": way}
    assert guest.post("/register", data=form).headers["Location"] == leads_to


def test_foreign_form_is_refused(visitor: httpx.Client, stock_up: Callable[..., int]) -> None:
    """Another site cannot fill a visitor's cart."""
    headers = {"Origin": "https://evil.example"}
    assert visitor.post(f"/cart/items/{stock_up()}", data={"quantity": "1"}, headers=headers).status_code == 403


@pytest.mark.parametrize(
    ("path", "form", "status", "expected"),
    [
        ("/sign-in", {"email": "nobody@mail.example", "password": "whatever"}, 401, "is wrong"),
        ("/sign-in", {"email": "", "password": "whatever"}, 422, "Email is required."),
        ("/register", {"name": "A", "email": "a@mail.example", "password": "short"}, 422, "Password must have 8"),
        ("/register", {"name": "A", "email": "admin@shop.example", "password": "long enough"}, 409, "already"),
    ],
)
def test_wrong_form_is_shown_again(
    guest: httpx.Client, path: str, form: dict[str, str], status: int, expected: str
) -> None:
    """With the reason."""
    page = guest.post(path, data=form)
    assert page.status_code == status
    assert expected in page.text


@pytest.mark.parametrize("path", ["/nothing", "/products/999999", "/products/99999999999999999999"])
def test_unknown_page_is_a_page(guest: httpx.Client, path: str) -> None:
    """People get words and a way back."""
    page = guest.get(path)
    assert page.status_code == 404
    assert "Back to the catalogue" in page.text
