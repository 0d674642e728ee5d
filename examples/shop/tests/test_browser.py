"""The pages for people, in a browser."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


@pytest.fixture
def visitor(page: Page, unique: Callable[[str], str]) -> Page:
    """The window of somebody who has just registered."""
    page.goto("/register")
    page.get_by_label("Name").fill("Robin")
    page.get_by_label("E-mail").fill(f"{unique('robin')}@mail.example")
    page.get_by_label("Password").fill("long enough")
    page.get_by_role("button", name="Register").click()
    expect(page.get_by_text("Hello, Robin")).to_be_visible()
    return page


def test_search_finds_what_is_looked_for(page: Page) -> None:
    """The words stay in the field, and the product is one click away."""
    page.goto("/")
    page.get_by_label("Search").fill("travel")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_label("Search")).to_have_value("travel")
    page.get_by_role("link", name="Travel mug").click()
    expect(page.get_by_role("heading")).to_have_text("Travel mug")


def test_visitor_buys(visitor: Page, stock_up: Callable[..., int]) -> None:
    """From the product over cart and checkout to the order, and to a change of mind."""
    visitor.goto(f"/products/{stock_up(name='Teapot', price_cents=2500)}")
    visitor.get_by_label("Quantity").fill("2")
    visitor.get_by_role("button", name="Add to cart").click()
    expect(visitor.locator("#pieces")).to_have_text("2")
    visitor.get_by_role("link", name="Checkout").click()
    visitor.get_by_label("Address").fill("1 Bean Street")
    visitor.get_by_role("button", name="Place order").click()
    expect(visitor.locator("#state")).to_have_text("placed")
    visitor.get_by_role("button", name="Cancel order").click()
    expect(visitor.locator("#state")).to_have_text("cancelled")


def test_cart_cannot_have_more_than_there_is(visitor: Page, stock_up: Callable[..., int]) -> None:
    """The browser itself refuses, and nothing is sent."""
    visitor.goto(f"/products/{stock_up(stock=3)}")
    quantity = visitor.get_by_label("Quantity")
    quantity.fill("4")
    visitor.get_by_role("button", name="Add to cart").click()
    expect(visitor.locator("#pieces")).to_have_text("0")
    assert quantity.evaluate("field => field.validity.rangeOverflow")


def test_cart_forgets_what_is_removed(visitor: Page, stock_up: Callable[..., int]) -> None:
    """The button of a line empties it."""
    visitor.goto(f"/products/{stock_up(name='Whisk')}")
    visitor.get_by_role("button", name="Add to cart").click()
    visitor.goto("/cart")
    visitor.get_by_role("button", name="Remove Whisk").click()
    expect(visitor.get_by_text("Your cart is empty.")).to_be_visible()
