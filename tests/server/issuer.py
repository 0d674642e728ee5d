"""
An issuer of job tokens with keys of its own, and GitHub's runner, which hands them out: a real HTTP server.
"""

from __future__ import annotations

import functools
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

#: What the runner wants to see.
RUNNERS_TOKEN: Final = "runners-own-token"


class Issuer(http.server.ThreadingHTTPServer):
    """What it says can be changed while it runs."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        #: For whom tokens are made.
        self.audience = "https://tests.example.org"
        #: Its keys by id, private ones.
        self.keys: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = {}
        #: What it has been asked for.
        self.asked: list[str] = []
        #: Answers that are another's, by path: a status and a body.
        self.instead: dict[str, tuple[int, bytes]] = {}
        #: What it waits for before it tells its keys.
        self.ready = threading.Event()
        self.ready.set()
        self.rotate("first")

    def rotate(self, key_id: str) -> None:
        """Sign with another key from now on; the old ones are gone."""
        self.keys = {key_id: _key(key_id)}

    def jwks(self) -> dict[str, Any]:
        """Its public keys."""
        return {"keys": [_public(key_id, key) for key_id, key in self.keys.items()]}

    def claims(self, **changes: Any) -> dict[str, Any]:
        """What it says of a job, as GitHub does; None leaves something out."""
        now = int(time.time())
        said = {
            "iss": self.url,
            "aud": self.audience,
            "sub": "repo:acme/shop:ref:refs/heads/main",
            "repository": "acme/shop",
            "repository_owner": "acme",
            "ref": "refs/heads/main",
            "environment": "staging",
            "run_attempt": "1",
            "jti": "one",
            "iat": now,
            "nbf": now - 5,
            "exp": now + 300,
            **changes,
        }
        return {name: value for name, value in said.items() if value is not None}

    def token(self, **changes: Any) -> str:
        """A job's token."""
        [(key_id, key)] = self.keys.items()
        algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
        return jwt.encode(self.claims(**changes), key, algorithm, headers={"kid": key_id})

    def runner(self) -> dict[str, str]:
        """The variables of a job."""
        url = f"{self.url}/runner?api-version=2.0"
        return {"ACTIONS_ID_TOKEN_REQUEST_URL": url, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": RUNNERS_TOKEN}


@contextmanager
def issuing() -> Iterator[Issuer]:
    """An issuer that answers."""
    with Issuer() as issuer:
        thread = threading.Thread(target=issuer.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield issuer
        finally:
            issuer.shutdown()
            thread.join()


class _Answers(http.server.BaseHTTPRequestHandler):
    server: Issuer

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.server.asked.append(parts.path)
        issuer = self.server
        status, body = issuer.instead.get(parts.path, (0, b""))
        if not status:
            status, body = 200, json.dumps(self._answer(parts.path, parse_qs(parts.query))).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status in (HTTPStatus.FOUND, HTTPStatus.MOVED_PERMANENTLY):
            self.send_header("Location", body.decode())
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            pass  # it was too long for who asked

    def _answer(self, path: str, query: dict[str, list[str]]) -> object:
        issuer = self.server
        if path == "/.well-known/openid-configuration":
            return {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"}
        if path == "/runner":
            assert self.headers["Authorization"] == f"Bearer {RUNNERS_TOKEN}"
            assert query["api-version"] == ["2.0"]
            return {"value": issuer.token(aud=query["audience"][0])}
        issuer.ready.wait(30)
        return issuer.jwks()

    def log_message(self, *args: object) -> None:
        """Quietly."""


@functools.cache
def _key(key_id: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def _public(key_id: str, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        return {**RSAAlgorithm.to_jwk(public, as_dict=True), "kid": key_id, "use": "sig", "alg": "RS256"}
    return {**ECAlgorithm.to_jwk(public, as_dict=True), "kid": key_id, "use": "sig"}
