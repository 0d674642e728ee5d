"""Serves the shop: python -m shop --database shop.db --port 8080."""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from . import accounts, database
from .app import create_app

ADMIN = "admin@shop.example"


class Handler(WSGIRequestHandler):
    """Keeps connections open between requests, and the terminal quiet."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing about requests that were answered."""


def main() -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="shop")
    parser.add_argument("--database", type=Path, default=Path("shop.db"), help="SQLite file, made if missing")
    parser.add_argument("--port", type=int, default=8080, help="0 for any free one")
    parser.add_argument("--admin-password", default="admin-password", help=f"for {ADMIN}, in a new database")
    parser.add_argument("--until-eof", action="store_true", help="stop when standard input ends")
    options = parser.parse_args()
    if not options.database.exists():
        database.create(options.database)
        connection = database.connect(options.database)
        accounts.register(connection, ADMIN, "Admin", options.admin_password, is_admin=True)
        connection.close()
    server = make_server(
        "127.0.0.1", options.port, create_app(options.database), threaded=True, request_handler=Handler
    )
    print(f"http://127.0.0.1:{server.server_port}", flush=True)  # noqa: T201 (whoever started us reads the address)
    if options.until_eof:
        threading.Thread(target=_stop_at_eof, args=[server], daemon=True).start()
    try:
        server.serve_forever(poll_interval=0.02)
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
    return 0


def _stop_at_eof(server: BaseWSGIServer) -> None:
    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    sys.exit(main())
