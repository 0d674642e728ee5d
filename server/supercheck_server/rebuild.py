"""
The history from the store: every recorded run, the oldest first.
"""

from __future__ import annotations

import logging

from pytest_supercheck.archive import Archive
from pytest_supercheck.errors import NotStored
from pytest_supercheck.record import RecordError
from pytest_supercheck.stores import open_store
from supercheck_server.database import Database
from supercheck_server.ledger import Ledger
from supercheck_server.settings import Settings

logger = logging.getLogger(__name__)


def rebuild(settings: Settings) -> tuple[int, int, int]:
    """
    Write the rows of every run in the store; those that are there stay.

    Returns:
        How many runs were known, were written, and cannot be read.

    Raises:
        DatabaseTrouble: The database cannot be used.
        StoreTrouble: The store cannot be used.
    """
    archive = Archive(open_store(settings.store, endpoint=settings.s3_endpoint))
    database = Database(settings.database_url)
    known = written = unreadable = 0
    try:
        database.migrate()
        ledger = Ledger(database)
        for folder in reversed(archive.folders()):
            try:
                new = ledger.write(archive.load(folder), folder, delivered=True)
            except (RecordError, NotStored) as exc:
                unreadable += 1
                logger.warning("run cannot be read", extra={"folder": folder, "reason": str(exc)})
                continue
            written, known = written + new, known + (not new)
    finally:
        database.close()
    return known, written, unreadable
