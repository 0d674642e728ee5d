"""Puts the shop together."""

from __future__ import annotations

from pathlib import Path

from flask import Flask, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import IntegerConverter, Map
from werkzeug.wrappers import Response

from .api import api
from .errors import ShopError
from .pages import in_template, pages, show_error
from .web import close_database


class Id(IntegerConverter):
    """The number of something in an address, small enough for SQLite."""

    def __init__(self, url_map: Map) -> None:
        super().__init__(url_map, max=2**53)


def create_app(database: Path) -> Flask:
    """
    Make the WSGI application.

    Args:
        database: An SQLite file that `database.create` made.
    """
    app = Flask(__name__)
    app.config["DATABASE"] = str(database)
    app.url_map.converters["id"] = Id
    app.register_blueprint(api)
    app.register_blueprint(pages)
    app.context_processor(in_template)
    app.add_template_filter(money)
    app.teardown_appcontext(close_database)
    app.register_error_handler(ShopError, _show)
    app.register_error_handler(HTTPException, _show_http)
    return app


def money(cents: int) -> str:
    """Cents as a price."""
    return f"€{cents / 100:,.2f}"


def _show(error: ShopError) -> Response:
    if not request.path.startswith("/api/"):
        return show_error(error)
    answer = jsonify(error.to_json())
    answer.status_code = error.status
    return answer


def _show_http(error: HTTPException) -> Response:
    """What Flask itself refuses: unknown addresses, wrong methods."""
    status = error.code or 500
    return _show(ShopError(status, error.name.lower().replace(" ", "_"), error.description or error.name))
