"""
A real receiver of messages: a web server that keeps what it is sent.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Webhook:
    """What has come in, and how it is answered."""

    def __init__(self) -> None:
        #: The messages, as apprise's `json://` sends them.
        self.messages: list[dict[str, Any]] = []
        #: Status of the next answers; 200 when there are no more.
        self.answers: list[int] = []
        #: apprise's address of it, with a password and a token that nobody may see.
        self.url = ""

    @property
    def titles(self) -> list[str]:
        """The titles that were taken, in order."""
        return [message["title"] for message in self.messages]


@contextmanager
def webhook() -> Iterator[Webhook]:
    """A receiver on a port of its own."""
    made = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Keep what comes, or refuse it."""
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = made.answers.pop(0) if made.answers else 200
            if status == 200:
                made.messages.append(content)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            """Not to the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"json://ada:sesame@127.0.0.1:{server.server_port}/hooks/t0k3n"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="webhook")
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
