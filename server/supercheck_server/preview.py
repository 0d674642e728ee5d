"""
A target tried out by hand: a sample sent to it, or what it is told of a run, shown.
"""

from __future__ import annotations

import os

from pytest_supercheck.operators import BadVariable
from supercheck_server.configuration import Configuration, read_configuration
from supercheck_server.database import Database
from supercheck_server.history import History
from supercheck_server.messages import SAMPLE, SAMPLE_FAILURE, TEMPLATE_ERRORS, Message, Wording
from supercheck_server.messenger import write_message
from supercheck_server.notifications import WRONG
from supercheck_server.notifier import Notifiers
from supercheck_server.rows import Reason
from supercheck_server.settings import Settings
from supercheck_server.targets import NotifySection, read_targets


def send_sample(settings: Settings, name: str) -> None:
    """
    Send a sample to a target.

    Raises:
        BadVariable: There is no configuration or no such target, or its section makes no sense.
        NotifierMissing: apprise is not installed.
        NotSent: The service has not taken it.
    """
    section = _section(_configuration(settings), name)
    notifier = Notifiers()
    target = read_targets({name: section}, notifier, os.environ)[name]
    notifier.send(target.url, target.wording.write(SAMPLE, [SAMPLE_FAILURE], reason="failure", link=""))


def preview(settings: Settings, name: str, run: str) -> Message:
    """
    What a target is told of a recorded run, or would be.

    Raises:
        BadVariable: There is no configuration, no such target or run, or the target's section makes no sense, or a
            template does not fit that run: then the usual words are sent.
        DatabaseTrouble: The database cannot be used.
    """
    configuration = _configuration(settings)
    section = _section(configuration, name)
    database = Database(settings.database_url)
    try:
        database.check()
        history = History(database)
        row = history.run(run)
        if row is None or not row.folder:
            raise BadVariable(f"there is no recorded run {run!r}")
        reason: Reason = "failure" if row.verdict in WRONG else "always"
        reason = next((letter.reason for letter in history.letters(run) if letter.target == name), reason)
        wording = Wording(section.title, section.body)
        try:
            return write_message(history, row, wording, reason, configuration.public_url)
        except TEMPLATE_ERRORS as exc:
            raise BadVariable(f"notify.{name}: a template does not fit it, the usual words are sent: {exc}") from exc
    finally:
        database.close()


def _configuration(settings: Settings) -> Configuration:
    if settings.config is None:
        raise BadVariable("SUPERCHECK_CONFIG is not set: it names the server's file in which the targets are")
    return read_configuration(settings.config)


def _section(configuration: Configuration, name: str) -> NotifySection:
    if name not in configuration.notify:
        known = ", ".join(sorted(configuration.notify)) or "none"
        raise BadVariable(f"SUPERCHECK_CONFIG has no target {name!r}; there are: {known}")
    return configuration.notify[name]
