"""
What of the server's state no run's record holds, kept in the store beside them: the tokens, as hashes.

With it a lost database can be made anew without making new tokens for everybody.
"""

from __future__ import annotations

import json
import logging
from typing import Any, Final

from pytest_supercheck.errors import NotStored, SupercheckError
from pytest_supercheck.store import Store
from supercheck_server.access import Access

logger = logging.getLogger(__name__)

#: The object, and the version of its form.
KEY: Final = "state/tokens.json"
VERSION: Final = 1


class Mirror:
    """
    The tokens of a database and of a store. In the store none is ever missing that has been there.

    Short-lived ones are not: when a database is lost they have lapsed, or their jobs get others.
    """

    def __init__(self, access: Access, store: Store) -> None:
        self._access = access
        self._store = store
        self._written: list[dict[str, Any]] | None = None

    def write(self) -> bool:
        """
        Write the tokens if they have changed since the last time; harmless to repeat.

        Those that only the store has stay there: a database that has been made anew has not got them back yet.

        Returns:
            Whether there was something to write.

        Raises:
            SupercheckError: The database or the store cannot be used.
        """
        rows = self._access.dump()
        if rows == (self._written or []):
            return False
        known = {row["id"] for row in rows}
        others = [row for row in self._read() if row.get("id") not in known]
        self._store.put(KEY, json.dumps({"version": VERSION, "tokens": others + rows}).encode())
        self._written = rows
        return True

    def restore(self) -> int:
        """
        Bring the store's tokens into the database; those that it knows stay as they are there.

        Returns:
            How many were new.

        Raises:
            SupercheckError: The database or the store cannot be used.
        """
        new = 0
        for row in self._read():
            try:
                new += self._access.restore(row)
            except (KeyError, TypeError, ValueError) as exc:
                logger.warning("token cannot be read", extra={"reason": repr(exc)})
        return new

    def sweep(self) -> int:
        """
        Remove from the database short-lived tokens that have lapsed.

        Returns:
            How many went.

        Raises:
            SupercheckError: The database cannot be used.
        """
        return self._access.forget_lapsed()

    def _read(self) -> list[dict[str, Any]]:
        try:
            with self._store.get(KEY) as stream:
                content = json.load(stream)
        except NotStored:
            return []
        except ValueError as exc:
            logger.warning("tokens in the store cannot be read", extra={"reason": str(exc)})
            return []
        content = content if isinstance(content, dict) else {}
        if content.get("version", VERSION) != VERSION:
            raise SupercheckError(f"{KEY} in the store is of another release, and is left alone.")
        rows = content.get("tokens")
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
