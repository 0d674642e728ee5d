"""
The database from the store: every recorded run, the oldest first, and the tokens.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pytest_supercheck.archive import Archive
from pytest_supercheck.errors import NotStored
from pytest_supercheck.record import RecordError
from pytest_supercheck.stores import open_store
from supercheck_server.access import Access
from supercheck_server.bundles import Bundles
from supercheck_server.database import Database
from supercheck_server.ledger import Ledger
from supercheck_server.mirror import Mirror
from supercheck_server.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What there was in the store."""

    #: Runs that the database knew, that are new there, and that cannot be read.
    known: int
    written: int
    unreadable: int
    #: Tokens that are new there.
    tokens: int
    #: Bundles of projects' files that are new there.
    bundles: int


def rebuild(settings: Settings) -> Rebuilt:
    """
    Write the rows of every run in the store, the tokens, and where projects' files are; those that are there stay.

    Raises:
        DatabaseTrouble: The database cannot be used.
        StoreTrouble: The store cannot be used.
    """
    store = open_store(settings.store, endpoint=settings.s3_endpoint)
    archive = Archive(store)
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
        tokens = Mirror(Access(database), store).restore()
        bundles = Bundles(database, store, days=settings.bundle_days, needed=tuple).restore()
    finally:
        database.close()
    return Rebuilt(known=known, written=written, unreadable=unreadable, tokens=tokens, bundles=bundles)
