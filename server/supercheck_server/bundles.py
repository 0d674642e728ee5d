"""
The files of projects that sessions ship: which bundles there are, where their pieces are, and when they go.

Between the routes and the store, with an index in the database that the store can make anew.  A pack's name is made
here and never used again, and a bundle is removed under the lock of its row: so nothing is removed that somebody has
just come to need.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import Connection, Table, and_, delete, exists, insert, select, update

from pytest_supercheck import packs as packing
from pytest_supercheck.archive import PROJECTS, project_folder
from pytest_supercheck.bundle import MANIFEST_BYTES, Difference, Manifest, decode_wish
from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.errors import NotStored, SourceTrouble
from pytest_supercheck.model import RunId
from pytest_supercheck.packs import HEAD_BYTES, Located, Place
from pytest_supercheck.store import Entry, Store
from supercheck_server.database import Database
from supercheck_server.tables import bundle_packs, bundles, packs, pieces

logger = logging.getLogger(__name__)

State = Literal["ready", "incomplete", "unknown"]

#: Pieces that one answer says are missing, at most: who sends them asks again.
MISSING: Final = 20_000
#: Bundles, and packs, that go in one sweep.
SWEEP: Final = 50
#: Values in one `IN (...)`.
BATCH: Final = 500


class _PacksGone(SourceTrouble):
    """A bundle's packs were removed while it was taken in; nothing of it was."""


class Bundles:
    """The bundles of all projects."""

    def __init__(self, database: Database, store: Store, *, days: int, needed: Callable[[], Collection[str]]) -> None:
        """
        Put them together.

        Args:
            days: How long one stays that nobody asks for.
            needed: The ids of those that live runs need, whose age does not count.
        """
        self._database = database
        self._store = store
        self._days = days
        self._needed = needed

    def ask(self, project: str, bundle: str, wish: bytes) -> tuple[State, list[str]]:
        """
        See whether a bundle is there, and take it in when all of its pieces are.

        Args:
            bundle: Its id.
            wish: What `bundle.decode_wish` reads; empty to ask by id alone.

        Returns:
            ``ready``, and it stays for some days; ``incomplete`` with pieces to bring first; or ``unknown``: what was
            said is not enough to know it.

        Raises:
            SourceTrouble: The wish is not of that bundle, or none that can be.
        """
        folder = project_folder(project)
        if self._use(folder, bundle):
            return "ready", []
        manifest = self._manifest(folder, wish) if wish else None
        if manifest is None:
            return "unknown", []
        if manifest.id != bundle:
            raise SourceTrouble("This is not the manifest of that bundle.")
        wanted = manifest.pieces
        with self._database.read() as connection:
            where = _locate(connection, folder, wanted)
        if missing := [piece for piece in wanted if piece not in where]:
            return "incomplete", missing[:MISSING]
        if any(where[piece][1].size != size for entry in manifest.entries for piece, size in entry.sized):
            raise SourceTrouble("This is no bundle: a piece in it has another length.")
        try:
            self._take_in(folder, Located(manifest, where))
        except _PacksGone:
            return self.ask(project, bundle, wish)  # what is missing now is told
        return "ready", []

    def keep(self, project: str, pack: bytes) -> int:
        """
        Keep a pack.

        Returns:
            How many pieces are new; harmless to repeat.

        Raises:
            SourceTrouble: It is damaged, or a piece is not what it is said to be; nothing of it is kept.
        """
        folder = project_folder(project)
        found = packing.check(pack)
        with self._database.read() as connection:
            known = _locate(connection, folder, [place.piece for place in found])
        new = [place for place in found if place.piece not in known]
        if new:
            # Its row first: one without pieces is removed one day, an object without a row would stay.
            name = f"{time.time_ns():016x}-{secrets.token_hex(8)}"
            with self._database.write() as connection:
                no = self._add_pack(connection, folder, name)
            self._store.put(packing.pack_key(folder, name), pack)
            with self._database.write() as connection:
                self._add_pieces(connection, folder, no, new)
        return len(new)

    def sweep(self, now_ms: float) -> int:
        """
        Remove bundles that nobody has asked for, and packs that no bundle needs, some at a time; harmless to repeat.

        Args:
            now_ms: The time, ms since 1970.

        Returns:
            How many went.

        Raises:
            SupercheckError: The store or the database cannot be used; what is left goes later.
        """
        before_ms = int(now_ms - self._days * 86_400_000)
        old = select(bundles).where(bundles.c.used_ms < before_ms).order_by(bundles.c.used_ms).limit(SWEEP)
        unused = ~exists().where(bundle_packs.c.pack_no == packs.c.no)
        left = select(packs).where(packs.c.made_ms < before_ms, unused).order_by(packs.c.made_ms).limit(SWEEP)
        gone = 0
        with self._database.read() as connection:
            rows = connection.execute(old).all()
        needed = self._needed() if rows else ()
        for row in rows:
            if row.id not in needed:
                condition = and_(bundles.c.no == row.no, bundles.c.used_ms < before_ms)
                gone += self._remove(bundles, condition, packing.bundle_key(row.folder, row.id))
        with self._database.read() as connection:
            rows = connection.execute(left).all()
        for row in rows:
            gone += self._remove(packs, and_(packs.c.no == row.no, unused), packing.pack_key(row.folder, row.name))
        if gone:
            logger.info("sources removed", extra={"objects": gone})
        return gone

    def restore(self) -> int:
        """
        Bring into the index what the store has and it does not know.

        Returns:
            How many bundles were new.

        Raises:
            SupercheckError: The store or the database cannot be used.
        """
        new = 0
        for project in list(self._store.list(PROJECTS, deep=False)):
            for what, restore in ((packing.pack_key, self._restore_pack), (packing.bundle_key, self._restore_bundle)):
                for entry in list(self._store.list(what(project.key))) if project.key.endswith("/") else ():
                    try:
                        new += restore(project.key, entry)
                    except (SourceTrouble, NotStored) as exc:
                        logger.warning("sources cannot be read", extra={"key": entry.key, "reason": str(exc)})
        return new

    # -- bundles

    def _use(self, folder: str, bundle: str) -> bool:
        with self._database.write() as connection:
            statement = update(bundles).where(bundles.c.folder == folder, bundles.c.id == bundle)
            return connection.execute(statement.values(used_ms=_now_ms())).rowcount > 0

    def _manifest(self, folder: str, wish: bytes) -> Manifest | None:
        """What is asked for; None when it differs from something that is not here."""
        asked = decode_wish(wish)
        if not isinstance(asked, Difference):
            return asked
        try:
            with self._store.get(packing.bundle_key(folder, asked.base)) as stream:
                base = packing.decode_located(stream.read(2 * MANIFEST_BYTES), asked.base)
        except (NotStored, SourceTrouble):
            return None
        return asked.apply(base.manifest)

    def _take_in(self, folder: str, located: Located) -> None:
        bundle = located.manifest.id
        # No lock is held while the store takes its time. Whoever removes a bundle holds that of its row, for which
        # `_use` has waited; there was no row any more, so nobody removes this one.
        self._store.put(packing.bundle_key(folder, bundle), located.encode())
        with self._database.write() as connection:
            self._add_bundle(connection, folder, bundle, {name for name, _ in located.where.values()})

    def _add_bundle(self, connection: Connection, folder: str, bundle: str, names: Iterable[str]) -> None:
        now_ms = _now_ms()
        statement = self._database.insert(bundles).values(folder=folder, id=bundle, used_ms=now_ms)
        connection.execute(
            statement.on_conflict_do_update(index_elements=["folder", "id"], set_={"used_ms": now_ms})
        )  # fmt: skip
        no = connection.execute(
            select(bundles.c.no).where(bundles.c.folder == folder, bundles.c.id == bundle)
        ).scalar_one()
        wanted = sorted(names)
        numbers = _numbers(connection, folder, wanted)
        if len(numbers) < len(wanted):
            raise _PacksGone("packs that it needs are not there")
        if rows := [{"bundle_no": no, "pack_no": number} for number in numbers]:
            connection.execute(self._database.insert(bundle_packs).on_conflict_do_nothing(), rows)

    def _remove(self, table: Table, condition: Any, key: str) -> int:
        # A store that is away is not waited for under the lock, which of SQLite is everybody's.
        self._store.head(key)
        with self._database.write() as connection:
            if not connection.execute(delete(table).where(condition)).rowcount:
                return 0
            self._store.delete([key])
            return 1

    # -- packs

    def _add_pack(self, connection: Connection, folder: str, name: str, made_at: datetime | None = None) -> int:
        made_ms = round(made_at.timestamp() * 1000) if made_at else _now_ms()
        made = connection.execute(insert(packs).values(folder=folder, name=name, made_ms=made_ms))
        assert made.inserted_primary_key is not None
        return int(made.inserted_primary_key[0])

    def _add_pieces(self, connection: Connection, folder: str, no: int, found: Sequence[Place]) -> None:
        # In one order, whoever writes: two that bring the same do not wait for each other in a circle.
        rows = [
            {"folder": folder, "piece": piece, "pack_no": no, "offset": offset, "stored": stored, "size": size}
            for piece, size, offset, stored in sorted(found)
        ]
        connection.execute(self._database.insert(pieces).on_conflict_do_nothing(), rows)

    # -- from the store

    def _restore_pack(self, folder: str, entry: Entry) -> int:
        name = entry.key.rpartition("/")[2]
        with self._database.read() as connection:
            if _numbers(connection, folder, [name]):
                return 0
        with self._store.get(entry.key, length=HEAD_BYTES) as stream:
            length = packing.index_bytes(stream.read())
        with self._store.get(entry.key, start=HEAD_BYTES, length=max(1, length)) as stream:
            found = packing.places(stream.read())
        with self._database.write() as connection:
            self._add_pieces(connection, folder, self._add_pack(connection, folder, name, entry.written_at), found)
        return 0

    def _restore_bundle(self, folder: str, entry: Entry) -> int:
        bundle = entry.key.rpartition("/")[2]
        with self._store.get(entry.key) as stream:
            located = packing.decode_located(stream.read(2 * MANIFEST_BYTES), bundle)
        names = {name for name, _ in located.where.values()}
        with self._database.write() as connection:
            if connection.execute(
                select(bundles.c.no).where(bundles.c.folder == folder, bundles.c.id == bundle)
            ).first():
                return 0
            self._add_bundle(connection, folder, bundle, names)
        return 1


def live_bundles(dispatcher: Dispatcher) -> set[str]:
    """The bundles that runs need which wait or run."""
    found: set[str] = set()
    for run in dispatcher.queue().runs:
        details = dispatcher.details(RunId(run.run))
        try:
            found.add(str(json.loads(details.spec)["source"]["bundle"]) if details else "")
        except (ValueError, KeyError, TypeError):
            continue  # it runs in place
    return found


def _locate(connection: Connection, folder: str, wanted: Iterable[str]) -> dict[str, tuple[str, Place]]:
    """Where pieces of a project are: their packs' names, and the places there; without those that are not there."""
    found: dict[str, tuple[str, Place]] = {}
    names = list(wanted)
    query = select(packs.c.name, pieces.c.piece, pieces.c.size, pieces.c.offset, pieces.c.stored)
    query = query.join(packs, packs.c.no == pieces.c.pack_no).where(pieces.c.folder == folder)
    for start in range(0, len(names), BATCH):
        for name, *place in connection.execute(query.where(pieces.c.piece.in_(names[start : start + BATCH]))):
            found[place[0]] = (name, Place(*place))
    return found


def _numbers(connection: Connection, folder: str, names: Sequence[str]) -> list[int]:
    """The numbers of those packs of a project that are known."""
    found: list[int] = []
    for start in range(0, len(names), BATCH):
        query = select(packs.c.no).where(packs.c.folder == folder, packs.c.name.in_(names[start : start + BATCH]))
        found += connection.execute(query).scalars()
    return found


def _now_ms() -> int:
    return round(time.time() * 1000)
