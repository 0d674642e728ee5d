"""Finding products over the API."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

CATEGORIES = {"coffee": 7, "machines": 6, "mugs": 4, "tea": 7}


def names(answer: httpx.Response) -> list[str]:
    """The names of the products in an answer."""
    return [product["name"] for product in answer.raise_for_status().json()["items"]]


@pytest.mark.parametrize(("category", "products"), CATEGORIES.items())
def test_category_lists_its_products(guest: httpx.Client, category: str, products: int) -> None:
    """A category's page has its products and no others."""
    answer = guest.get("/api/products", params={"category": category}).json()
    assert answer["total"] == products
    assert {product["category"] for product in answer["items"]} == {category}


def test_categories_are_counted(guest: httpx.Client) -> None:
    """The list of categories says how many products each has."""
    counted = {one["name"]: one["products"] for one in guest.get("/api/categories").json()["items"]}
    assert CATEGORIES.items() <= counted.items()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("espresso", ["Espresso beans, dark", "Espresso beans, medium", "Espresso machine"]),
        ("ESPRESSO machine", ["Espresso machine"]),
        ("grinder", ["Burr grinder", "Hand grinder"]),
        ("tea shelf sencha", ["Green tea, Sencha"]),
        ("cold   brew", ["Cold brew bags"]),
        ("100%", []),
        ("_ilter", []),
        ("'; DROP TABLE products; --", []),
        ("nothing like it", []),
    ],
)
def test_search_wants_every_word(guest: httpx.Client, words: str, found: list[str]) -> None:
    """All words must occur, in any order and case; wildcards and quotes are only characters."""
    assert names(guest.get("/api/products", params={"q": words, "per_page": 100})) == found


@pytest.mark.parametrize(
    ("order", "first", "last"),
    [
        ("name", "Mug, blue", "Travel mug"),
        ("-name", "Travel mug", "Mug, blue"),
        ("price", "Mug, white", "Travel mug"),
        ("-price", "Travel mug", "Mug, white"),
    ],
)
def test_products_are_sorted(guest: httpx.Client, order: str, first: str, last: str) -> None:
    """By name or price, up or down."""
    listed = names(guest.get("/api/products", params={"category": "mugs", "sort": order}))
    assert (listed[0], listed[-1]) == (first, last)


@pytest.mark.parametrize(
    ("bounds", "found"),
    [
        ({"min_price": 5000}, ["Burr grinder", "Espresso machine", "Hand grinder"]),
        ({"max_price": 2000}, ["Milk frother"]),
        ({"min_price": 4990, "max_price": 5990}, ["Electric kettle", "Hand grinder"]),
        ({"min_price": 40000}, []),
    ],
)
def test_prices_are_bounded(guest: httpx.Client, bounds: dict[str, int], found: list[str]) -> None:
    """Both bounds are included."""
    assert names(guest.get("/api/products", params={"category": "machines", **bounds})) == found


@pytest.mark.parametrize("category", ["coffee", "tea"])
def test_sold_out_products_can_be_hidden(guest: httpx.Client, category: str) -> None:
    """available=yes leaves out what nobody can buy."""
    every = guest.get("/api/products", params={"category": category}).json()
    available = guest.get("/api/products", params={"category": category, "available": "yes"}).json()
    assert every["total"] - available["total"] == 1
    assert all(product["available"] for product in available["items"])


@pytest.mark.parametrize("per_page", [1, 2, 3, 5, 7])
def test_pages_hold_everything_once(guest: httpx.Client, per_page: int) -> None:
    """Walking through all pages shows every product exactly once, whatever their size."""
    walked: list[str] = []
    page, pages = 1, 1
    while page <= pages:
        answer = guest.get("/api/products", params={"category": "tea", "per_page": per_page, "page": page})
        pages = answer.json()["pages"]
        walked += names(answer)
        page += 1
    assert walked == names(guest.get("/api/products", params={"category": "tea", "per_page": 100}))


def test_page_after_the_last_is_empty(guest: httpx.Client) -> None:
    """It is no error to look too far."""
    answer = guest.get("/api/products", params={"category": "mugs", "page": 9}).json()
    assert (answer["items"], answer["page"], answer["pages"], answer["total"]) == ([], 9, 1, 4)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"page": "0"}, "page"),
        ({"page": "two"}, "page"),
        ({"per_page": "101"}, "per_page"),
        ({"sort": "colour"}, "sort"),
        ({"min_price": "-1"}, "min_price"),
        ({"min_price": "2", "max_price": "1"}, "min_price"),
        ({"available": "maybe"}, "available"),
        ({"q": "x" * 201}, "q"),
    ],
)
def test_nonsense_is_refused_by_field(guest: httpx.Client, query: dict[str, str], field: str) -> None:
    """What cannot be meant is told, with the field's name."""
    answer = guest.get("/api/products", params=query)
    assert answer.status_code == 422
    assert list(answer.json()["error"]["fields"]) == [field]


def test_product_is_shown(guest: httpx.Client, stock_up: Callable[..., int]) -> None:
    """A product has all that a customer needs to decide."""
    number = stock_up(name="Teapot", price_cents=2990, stock=3, description="Holds a litre.")
    product = guest.get(f"/api/products/{number}").json()
    assert (product["name"], product["price_cents"], product["stock"]) == ("Teapot", 2990, 3)
    assert product["description"] == "Holds a litre."


@pytest.mark.parametrize("number", ["0", "999999", "9999999999999999999999", "teapot"])
def test_unknown_product_is_not_found(guest: httpx.Client, number: str) -> None:
    """Whatever stands in the address, the answer is 404 in JSON."""
    answer = guest.get(f"/api/products/{number}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
