"""The cart, its coupon and its costs."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest


def put(customer: httpx.Client, product: int, quantity: object) -> httpx.Response:
    """Set how many pieces are in the cart."""
    return customer.put(f"/api/cart/items/{product}", json={"quantity": quantity})


def test_new_cart_is_empty(customer: httpx.Client) -> None:
    """And costs nothing, not even shipping."""
    cart = customer.get("/api/cart").json()
    assert cart["lines"] == []
    assert cart["total_cents"] == 0


def test_quantity_is_set_not_added(customer: httpx.Client, stock_up: Callable[..., int]) -> None:
    """Saying the same twice changes nothing."""
    product = stock_up(price_cents=700)
    put(customer, product, 2)
    put(customer, product, 3)
    cart = put(customer, product, 3).json()
    assert [(line["quantity"], line["total_cents"]) for line in cart["lines"]] == [(3, 2100)]


def test_zero_takes_the_line_out(customer: httpx.Client, stock_up: Callable[..., int]) -> None:
    """A quantity of 0 is no line."""
    kept, dropped = stock_up(), stock_up()
    for product in (kept, dropped):
        put(customer, product, 1)
    cart = put(customer, dropped, 0).json()
    assert [line["product_id"] for line in cart["lines"]] == [kept]


def test_line_can_be_removed_once(customer: httpx.Client, stock_up: Callable[..., int]) -> None:
    """The second time it is not there."""
    product = stock_up()
    put(customer, product, 1)
    assert customer.delete(f"/api/cart/items/{product}").json()["lines"] == []
    assert customer.delete(f"/api/cart/items/{product}").status_code == 404


def test_cart_can_be_emptied(customer: httpx.Client, stock_up: Callable[..., int]) -> None:
    """Lines and coupon go."""
    put(customer, stock_up(), 1)
    customer.put("/api/cart/coupon", json={"code": "WELCOME10"}).raise_for_status()
    assert customer.delete("/api/cart").status_code == 204
    cart = customer.get("/api/cart").json()
    assert (cart["lines"], cart["coupon"]) == ([], None)


def test_carts_are_private(sign_up: Callable[[], httpx.Client], stock_up: Callable[..., int]) -> None:
    """What one customer takes does not show in another's cart."""
    one, other = sign_up(), sign_up()
    put(one, stock_up(), 1)
    assert other.get("/api/cart").json()["lines"] == []


@pytest.mark.parametrize("quantity", [-1, 100, 1.5, "many", None, True, [1]])
def test_impossible_quantity_is_refused(customer: httpx.Client, stock_up: Callable[..., int], quantity: object) -> None:
    """0 to 99 whole pieces."""
    answer = put(customer, stock_up(stock=500), quantity)
    assert answer.status_code == 422
    assert "quantity" in answer.json()["error"]["fields"]


def test_more_than_the_stock_is_refused(customer: httpx.Client, stock_up: Callable[..., int]) -> None:
    """The message says how many there are."""
    answer = put(customer, stock_up(stock=3), 4)
    assert answer.status_code == 409
    assert "only 3" in answer.json()["error"]["message"]


def test_unknown_product_cannot_be_taken(customer: httpx.Client) -> None:
    """There is nothing to put into the cart."""
    assert put(customer, 999_999, 1).status_code == 404


def test_line_that_went_out_of_stock_is_marked(
    customer: httpx.Client, admin: httpx.Client, stock_up: Callable[..., int]
) -> None:
    """The cart keeps it, and says that it cannot be bought now."""
    product = stock_up(stock=5)
    put(customer, product, 5)
    admin.post(f"/api/admin/products/{product}/stock", json={"change": -1}).raise_for_status()
    (line,) = customer.get("/api/cart").json()["lines"]
    assert line["available"] is False


@pytest.mark.parametrize(
    ("price", "quantity", "shipping"),
    [(1000, 1, 490), (1000, 4, 490), (4999, 1, 490), (5000, 1, 0), (2500, 2, 0), (0, 1, 490)],
)
def test_shipping_is_free_from_fifty(
    customer: httpx.Client, stock_up: Callable[..., int], price: int, quantity: int, shipping: int
) -> None:
    """The value of the goods decides."""
    cart = put(customer, stock_up(price_cents=price), quantity).json()
    assert cart["shipping_cents"] == shipping
    assert cart["total_cents"] == price * quantity + shipping


@pytest.mark.parametrize(
    ("code", "price", "discount"),
    [
        ("WELCOME10", 1000, 100),
        ("welcome10", 995, 100),
        ("WELCOME10", 994, 99),
        ("FIVEOFF", 2000, 500),
        ("FIVEOFF", 30000, 500),
        ("BIGSPENDER", 20000, 5000),
    ],
)
def test_coupon_is_worth_what_it_says(
    customer: httpx.Client, stock_up: Callable[..., int], code: str, price: int, discount: int
) -> None:
    """Percentages are rounded to whole cents."""
    put(customer, stock_up(price_cents=price), 1)
    cart = customer.put("/api/cart/coupon", json={"code": code}).json()
    assert cart["coupon"] == code.upper()
    assert cart["discount_cents"] == discount
    assert cart["total_cents"] == price - discount + cart["shipping_cents"]


@pytest.mark.parametrize(
    ("code", "status", "why"),
    [
        ("NOSUCHCODE", 404, "not_found"),
        ("SUMMER2019", 409, "coupon_expired"),
        ("BIGSPENDER", 409, "coupon_minimum"),
        ("", 422, "invalid"),
        (12, 422, "invalid"),
    ],
)
def test_coupon_that_does_not_count_is_refused(
    customer: httpx.Client, stock_up: Callable[..., int], code: object, status: int, why: str
) -> None:
    """Each with its own reason."""
    put(customer, stock_up(price_cents=1000), 1)
    answer = customer.put("/api/cart/coupon", json={"code": code})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, why)


def test_coupon_stops_counting_below_its_minimum(customer: httpx.Client, stock_up: Callable[..., int]) -> None:
    """Taking goods out after applying it does not keep the discount."""
    product = stock_up(price_cents=1000)
    put(customer, product, 2)
    assert customer.put("/api/cart/coupon", json={"code": "FIVEOFF"}).json()["discount_cents"] == 500
    assert put(customer, product, 1).json()["discount_cents"] == 0


def test_coupon_can_be_dropped(customer: httpx.Client, stock_up: Callable[..., int]) -> None:
    """The cart is as before."""
    before = put(customer, stock_up(), 1).json()
    customer.put("/api/cart/coupon", json={"code": "WELCOME10"}).raise_for_status()
    assert customer.delete("/api/cart/coupon").json() == before


def test_discount_never_exceeds_the_goods(
    customer: httpx.Client, admin: httpx.Client, stock_up: Callable[..., int], unique: Callable[[str], str]
) -> None:
    """Nobody is paid for buying."""
    code = unique("GIFT")
    admin.post("/api/admin/coupons", json={"code": code, "amount_cents": 5000}).raise_for_status()
    put(customer, stock_up(price_cents=1200), 1)
    cart = customer.put("/api/cart/coupon", json={"code": code}).json()
    assert (cart["discount_cents"], cart["total_cents"]) == (1200, 490)
