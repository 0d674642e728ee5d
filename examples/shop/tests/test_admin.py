"""What only administrators may do."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

TEAPOT = {"name": "Teapot", "category": "pots", "price_cents": 2990, "stock": 4}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/admin/products"),
        ("PATCH", "/api/admin/products/1"),
        ("POST", "/api/admin/products/1/stock"),
        ("POST", "/api/admin/coupons"),
        ("GET", "/api/admin/orders"),
        ("POST", "/api/admin/orders/1/ship"),
    ],
)
def test_customers_are_kept_out(customer: httpx.Client, method: str, path: str) -> None:
    """Being signed in is not enough."""
    answer = customer.request(method, path, json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("name", ""),
        ("category", "x" * 41),
        ("price_cents", -1),
        ("price_cents", "cheap"),
        ("price_cents", None),
        ("stock", -5),
        ("stock", 100_001),
        ("description", "x" * 2001),
    ],
)
def test_bad_product_is_refused(admin: httpx.Client, field: str, given: object) -> None:
    """Every field is checked, and named."""
    answer = admin.post("/api/admin/products", json={**TEAPOT, field: given})
    assert answer.status_code == 422
    assert list(answer.json()["error"]["fields"]) == [field]


@pytest.mark.parametrize(("change", "left"), [(5, 15), (-10, 0), (0, 10)])
def test_stock_changes(admin: httpx.Client, stock_up: Callable[..., int], change: int, left: int) -> None:
    """Up and down, to nothing at least."""
    product = stock_up(stock=10)
    answer = admin.post(f"/api/admin/products/{product}/stock", json={"change": change}).json()
    assert (answer["stock"], answer["available"]) == (left, left > 0)


def test_stock_never_becomes_negative(admin: httpx.Client, stock_up: Callable[..., int]) -> None:
    """The change is refused as a whole."""
    product = stock_up(stock=10)
    assert admin.post(f"/api/admin/products/{product}/stock", json={"change": -11}).status_code == 409
    assert admin.get(f"/api/products/{product}").json()["stock"] == 10


def test_no_stock_change_is_lost(admin: httpx.Client, stock_up: Callable[..., int]) -> None:
    """Thirty changes at the same time add up."""
    product = stock_up(stock=0)

    def deliver(pieces: int) -> int:
        return admin.post(f"/api/admin/products/{product}/stock", json={"change": pieces}).status_code

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(deliver, range(30))) == {200}
    assert admin.get(f"/api/products/{product}").json()["stock"] == sum(range(30))


@pytest.mark.parametrize(
    ("coupon", "field"),
    [
        ({"code": ""}, "code"),
        ({"percent": 101}, "percent"),
        ({"percent": 0}, "percent"),
        ({"uses": 0}, "uses"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"amount_cents": -1}, "amount_cents"),
    ],
)
def test_bad_coupon_is_refused(admin: httpx.Client, coupon: dict[str, object], field: str) -> None:
    """Every field is checked, and named."""
    answer = admin.post("/api/admin/coupons", json={"code": "GOOD", "percent": 5, **coupon})
    assert answer.status_code == 422
    assert field in answer.json()["error"]["fields"]


def test_code_can_be_taken_once(admin: httpx.Client, unique: Callable[[str], str]) -> None:
    """Also when it is written in small letters."""
    code = unique("TWICE")
    assert admin.post("/api/admin/coupons", json={"code": code, "percent": 5}).status_code == 201
    assert admin.post("/api/admin/coupons", json={"code": code.lower(), "percent": 9}).status_code == 409


def test_coupon_expires(
    admin: httpx.Client, customer: httpx.Client, stock_up: Callable[..., int], unique: Callable[[str], str]
) -> None:
    """At the moment that was said, in whatever time zone."""
    code = unique("OLD")
    coupon = {"code": code, "percent": 5, "expires_at": "2020-02-29T23:59:59+09:00"}
    admin.post("/api/admin/coupons", json=coupon).raise_for_status()
    customer.put(f"/api/cart/items/{stock_up()}", json={"quantity": 1}).raise_for_status()
    answer = customer.put("/api/cart/coupon", json={"code": code})
    assert answer.json()["error"]["code"] == "coupon_expired"


def test_order_is_shipped_once(admin: httpx.Client, customer: httpx.Client, stock_up: Callable[..., int]) -> None:
    """And its customer sees it."""
    customer.put(f"/api/cart/items/{stock_up()}", json={"quantity": 1}).raise_for_status()
    number = customer.post("/api/orders", json={"address": "here"}).json()["id"]
    assert number in [order["id"] for order in admin.get("/api/admin/orders").json()["items"]]
    assert admin.post(f"/api/admin/orders/{number}/ship").json()["state"] == "shipped"
    assert customer.get(f"/api/orders/{number}").json()["state"] == "shipped"
    assert admin.post(f"/api/admin/orders/{number}/ship").status_code == 409


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b"null"])
def test_body_must_be_an_object(admin: httpx.Client, content: bytes) -> None:
    """Anything else is told apart from an object with wrong fields."""
    headers = {"Content-Type": "application/json"}
    answer = admin.post("/api/admin/products", content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/api/nothing", 404), ("DELETE", "/api/products", 405)])
def test_api_always_answers_in_json(guest: httpx.Client, method: str, path: str, status: int) -> None:
    """Programs never get a page."""
    answer = guest.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
