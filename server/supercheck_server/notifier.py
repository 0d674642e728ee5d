"""
The port to whatever brings messages to people, and apprise and plugins behind it.

Knows addresses and messages; not whom a run concerns, nor when something is sent again.
"""

from __future__ import annotations

import functools
import logging
import re
from typing import Any, Final, Protocol
from urllib.parse import unquote

from pytest_supercheck.extensions import first
from pytest_supercheck.hookspecs import Send, hookimpl
from supercheck_server.errors import NotifierMissing, NotSent
from supercheck_server.messages import Message

#: Seconds that a service has to take a message.
SEND_S: Final = 20

_TONES: Final = {"good": "success", "bad": "failure", "neither": "warning"}


class Notifier(Protocol):
    """Brings a message to an address."""

    def knows(self, url: str) -> bool:
        """Whether the address is one that it can send to; nothing is sent."""

    def send(self, url: str, message: Message) -> None:
        """
        Send a message; returns when the service has taken it.

        Raises:
            NotSent: It was not taken; the words have nothing of the address in them.
        """


class Notifiers:
    """Whoever knows an address: apprise, else a plugin."""

    def __init__(self) -> None:
        """
        Import apprise.

        Raises:
            NotifierMissing: It is not installed.
        """
        self._own = AppriseNotifier()

    def knows(self, url: str) -> bool:
        """Whether anybody does."""
        return self._sender(url) is not None

    def send(self, url: str, message: Message) -> None:
        """By whoever does; a plugin may raise what it likes."""
        send = self._sender(url)
        if send is None:
            raise NotSent("nothing here knows such an address")
        send(message.title, message.body, message.tone)

    def _sender(self, url: str) -> Send | None:
        found: Send | None = first("supercheck_notifier", self._own, url=url)
        return found


class AppriseNotifier:
    """Everything that apprise knows: e-mail, Slack, Teams, webhooks, ..."""

    def __init__(self) -> None:
        """
        Import apprise.

        Raises:
            NotifierMissing: It is not installed.
        """
        try:
            import apprise
        except ImportError as exc:
            raise NotifierMissing from exc
        self._apprise: Final = apprise
        # What it says goes with the result; elsewhere it would name hosts and receivers.
        logging.getLogger("apprise").propagate = False

    @hookimpl
    def supercheck_notifier(self, url: str) -> Send | None:
        """Our own: for addresses that apprise can read."""
        service = self._service(url)
        return None if service is None else functools.partial(self._send, service, url)

    def _send(self, service: Any, url: str, title: str, body: str, tone: str) -> None:
        """As plain text, which apprise escapes as the service needs it."""
        sender = self._apprise.Apprise(asset=service.asset)
        sender.add(service)
        result = sender.notify(
            title=title,
            body=body,
            body_format="text",
            notify_type=_TONES[tone],
            timeout=SEND_S,
        )
        if not result:
            words = " ".join(str(entry.message) for entry in result.logs()) or result.status.name.lower()
            raise NotSent(without_address(words, url)[:500])

    def _service(self, url: str) -> Any:
        asset = self._apprise.AppriseAsset(async_mode=False, app_id="supercheck", app_desc="pytest-supercheck")
        return self._apprise.Apprise.instantiate(url, asset=asset)


def without_address(words: str, url: str) -> str:
    """Words of a service without anything that was in its address: hosts, names, passwords, tokens."""
    parts = re.split(r"[/:@?&=#,;\s]+", url.partition("://")[2])
    for part in sorted({*parts, *map(unquote, parts)}, key=len, reverse=True):
        if len(part) > 2:
            words = words.replace(part, "***")
    return " ".join(words.split())
