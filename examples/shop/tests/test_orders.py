"""Checkout and what follows."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

HOME = {"address": "1 Bean Street, Leafton"}


def fill(customer: httpx.Client, product: int, quantity: int = 1) -> None:
    """Put something into the cart."""
    customer.put(f"/api/cart/items/{product}", json={"quantity": quantity}).raise_for_status()


def buy(customer: httpx.Client, product: int, quantity: int = 1) -> int:
    """Order something; the order's id."""
    fill(customer, product, quantity)
    return int(customer.post("/api/orders", json=HOME).raise_for_status().json()["id"])


def stock_of(guest: httpx.Client, product: int) -> int:
    """How many there are on the shelf."""
    return int(guest.get(f"/api/products/{product}").json()["stock"])


def test_order_takes_stock_and_empties_the_cart(customer: httpx.Client, stock_up: Callable[..., int]) -> None:
    """Everything happens in one step."""
    product = stock_up(price_cents=1500, stock=5)
    fill(customer, product, 2)
    answer = customer.post("/api/orders", json=HOME)
    assert answer.status_code == 201
    order = answer.json()
    assert (order["state"], order["address"]) == ("placed", HOME["address"])
    assert (order["goods_cents"], order["shipping_cents"], order["total_cents"]) == (3000, 490, 3490)
    assert stock_of(customer, product) == 3
    assert customer.get("/api/cart").json()["lines"] == []


def test_empty_cart_cannot_be_ordered(customer: httpx.Client) -> None:
    """There would be nothing to send."""
    answer = customer.post("/api/orders", json=HOME)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "cart_empty")


@pytest.mark.parametrize("address", [None, "", "   ", 5, "x" * 201])
def test_order_needs_an_address(customer: httpx.Client, stock_up: Callable[..., int], address: object) -> None:
    """Without one nothing is taken."""
    product = stock_up(stock=1)
    fill(customer, product)
    answer = customer.post("/api/orders", json={"address": address})
    assert answer.status_code == 422
    assert stock_of(customer, product) == 1


def test_nothing_is_taken_when_one_line_is_out_of_stock(
    customer: httpx.Client, admin: httpx.Client, stock_up: Callable[..., int]
) -> None:
    """All lines or none."""
    plenty, scarce = stock_up(name="A plenty", stock=5), stock_up(name="B scarce", stock=1)
    fill(customer, plenty)
    fill(customer, scarce)
    admin.post(f"/api/admin/products/{scarce}/stock", json={"change": -1}).raise_for_status()
    answer = customer.post("/api/orders", json=HOME)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "out_of_stock")
    assert stock_of(customer, plenty) == 5
    assert len(customer.get("/api/cart").json()["lines"]) == 2


@pytest.mark.parametrize("buyers", [2, 4, 8])
def test_last_piece_is_sold_once(
    sign_up: Callable[[], httpx.Client], stock_up: Callable[..., int], buyers: int
) -> None:
    """However many want it at the same moment."""
    product = stock_up(stock=1)
    customers = [sign_up() for _ in range(buyers)]
    for customer in customers:
        fill(customer, product)
    with ThreadPoolExecutor(buyers) as pool:
        answers = list(pool.map(lambda customer: customer.post("/api/orders", json=HOME).status_code, customers))
    assert sorted(answers) == [201] + [409] * (buyers - 1)
    assert stock_of(customers[0], product) == 0


def test_same_key_never_buys_twice(customer: httpx.Client, stock_up: Callable[..., int]) -> None:
    """A client that has not seen the answer may ask again."""
    product = stock_up(stock=5)
    fill(customer, product)
    headers = {"Idempotency-Key": "k1"}
    first = customer.post("/api/orders", json=HOME, headers=headers).json()
    fill(customer, product)
    again = customer.post("/api/orders", json=HOME, headers=headers).json()
    assert again == first
    assert stock_of(customer, product) == 4


def test_keys_belong_to_their_customer(sign_up: Callable[[], httpx.Client], stock_up: Callable[..., int]) -> None:
    """Two customers may choose the same one."""
    product = stock_up(stock=5)
    numbers = set()
    for customer in (sign_up(), sign_up()):
        fill(customer, product)
        numbers.add(customer.post("/api/orders", json=HOME, headers={"Idempotency-Key": "k"}).json()["id"])
    assert len(numbers) == 2


def test_order_keeps_its_price(customer: httpx.Client, admin: httpx.Client, stock_up: Callable[..., int]) -> None:
    """A later price is for later orders."""
    product = stock_up(price_cents=1000)
    number = buy(customer, product)
    admin.patch(f"/api/admin/products/{product}", json={"price_cents": 9000}).raise_for_status()
    assert customer.get(f"/api/orders/{number}").json()["goods_cents"] == 1000


@pytest.mark.parametrize("action", ["show", "cancel"])
def test_orders_are_private(sign_up: Callable[[], httpx.Client], stock_up: Callable[..., int], action: str) -> None:
    """Somebody else's order looks like none."""
    number = buy(sign_up(), stock_up())
    stranger = sign_up()
    answer = (
        stranger.get(f"/api/orders/{number}") if action == "show" else stranger.post(f"/api/orders/{number}/cancel")
    )
    assert answer.status_code == 404


@pytest.mark.parametrize(("page", "shown"), [(1, [6, 5, 4]), (2, [3, 2, 1]), (3, [0]), (4, [])])
def test_orders_are_listed_newest_first(
    customer: httpx.Client, stock_up: Callable[..., int], page: int, shown: list[int]
) -> None:
    """In pages, like the catalogue."""
    product = stock_up(stock=50)
    placed = [buy(customer, product) for _ in range(7)]
    answer = customer.get("/api/orders", params={"page": page, "per_page": 3}).json()
    assert [order["id"] for order in answer["items"]] == [placed[index] for index in shown]
    assert answer["total"] == 7


def test_cancelled_order_gives_back_the_goods(customer: httpx.Client, stock_up: Callable[..., int]) -> None:
    """They are on the shelf again."""
    product = stock_up(stock=5)
    number = buy(customer, product, 4)
    assert customer.post(f"/api/orders/{number}/cancel").json()["state"] == "cancelled"
    assert stock_of(customer, product) == 5


@pytest.mark.parametrize("before", ["cancel", "ship"])
def test_order_is_cancelled_in_time_or_not_at_all(
    customer: httpx.Client, admin: httpx.Client, stock_up: Callable[..., int], before: str
) -> None:
    """Not twice, and not once it is on its way."""
    product = stock_up(stock=5)
    number = buy(customer, product)
    done = (
        customer.post(f"/api/orders/{number}/cancel")
        if before == "cancel"
        else admin.post(f"/api/admin/orders/{number}/ship")
    )
    left = stock_of(customer, product)
    assert done.status_code == 200
    answer = customer.post(f"/api/orders/{number}/cancel")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "wrong_state")
    assert stock_of(customer, product) == left


def test_coupon_counts_once_per_customer(customer: httpx.Client, stock_up: Callable[..., int]) -> None:
    """Until its order is cancelled."""
    product = stock_up(stock=9)
    fill(customer, product)
    customer.put("/api/cart/coupon", json={"code": "WELCOME10"}).raise_for_status()
    order = customer.post("/api/orders", json=HOME).json()
    assert (order["coupon"], order["discount_cents"]) == ("WELCOME10", 100)
    fill(customer, product)
    assert customer.put("/api/cart/coupon", json={"code": "WELCOME10"}).json()["error"]["code"] == "coupon_used"
    customer.post(f"/api/orders/{order['id']}/cancel").raise_for_status()
    assert customer.put("/api/cart/coupon", json={"code": "WELCOME10"}).status_code == 200


def test_limited_coupon_runs_out(
    sign_up: Callable[[], httpx.Client], admin: httpx.Client, stock_up: Callable[..., int], unique: Callable[[str], str]
) -> None:
    """Who applied it in time but ordered late pays the full price."""
    code, product = unique("ONCE"), stock_up(stock=9)
    admin.post("/api/admin/coupons", json={"code": code, "percent": 50, "uses": 1}).raise_for_status()
    quick, slow, late = sign_up(), sign_up(), sign_up()
    for customer in (quick, slow):
        fill(customer, product)
        customer.put("/api/cart/coupon", json={"code": code}).raise_for_status()
    assert quick.post("/api/orders", json=HOME).json()["discount_cents"] == 500
    assert slow.post("/api/orders", json=HOME).json()["discount_cents"] == 0
    fill(late, product)
    assert late.put("/api/cart/coupon", json={"code": code}).json()["error"]["code"] == "coupon_used_up"
