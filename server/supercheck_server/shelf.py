"""
Where the server's records are: the store, and a directory of its own for what the store does not take just now.

Between the recorder, pages that show files, and two stores. Knows folders of runs, not what is in them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from pytest_supercheck import report
from pytest_supercheck.archive import PAGE, Archive, project_folder, run_folder, run_of
from pytest_supercheck.errors import NotStored, StoreTrouble
from pytest_supercheck.record import RunSummary
from pytest_supercheck.store import Store
from pytest_supercheck.transcript import Recorded

logger = logging.getLogger(__name__)

#: Seconds for which a file can be asked of the store by an address; reading it may take longer.
ADDRESS_S: Final = 300
#: Bytes of a file that are read at once.
CHUNK_BYTES: Final = 1 << 18


class Shelf:
    """A store with a waiting room."""

    def __init__(self, store: Store, waiting: Store, public: Store | None = None) -> None:
        """
        Put them together.

        Args:
            store: Where everything goes.
            waiting: A directory of this server, for what the store does not take just now.
            public: The store as clients reach it; None where they do not.
        """
        self._store = store
        self._public = public
        self._waiting = waiting
        #: The records of the store.
        self.archive = Archive(store)
        self._waiting_archive = Archive(waiting)
        self._refused = ""

    def check(self) -> None:
        """
        Check that the store answers, and took what it was last given.

        Raises:
            StoreTrouble: It does not, or has not.
        """
        self._store.head("projects/.ready")
        if self._refused:
            raise StoreTrouble(self._refused)

    def save(self, recorded: Recorded) -> tuple[str, bool]:
        """
        Write a run's record and report; harmless to repeat.

        Returns:
            Its folder, and whether the store has it; if not, it waits here.
        """
        page = report.render_run(recorded.record)
        try:
            with self._noted():
                return self._save(self._store, self.archive, recorded, page), True
        except StoreTrouble as exc:
            run = recorded.record.summary.id
            logger.warning("record waits for the store", extra={"run_id": run, "reason": str(exc)})
            return self._save(self._waiting, self._waiting_archive, recorded, page), False

    def deliver(self, on_delivered: Callable[[str], None]) -> int:
        """
        Bring to the store what waits; harmless to repeat.

        Args:
            on_delivered: Called with a run's id when the store has all of it, before it is removed here.

        Returns:
            How many runs were delivered.

        Raises:
            StoreTrouble: The store still does not take them.
        """
        folders = list(reversed(self._waiting_archive.folders()))
        for folder in folders:
            entries = [entry.key for entry in self._waiting.list(folder)]
            # As when it was written: with the summary the run is recorded, so it goes last.
            for key in sorted(entries, key=lambda key: (key.endswith("/summary.json"), key)):
                with self._noted(), self._waiting.get(key) as stream:
                    self._store.put(key, stream)
            on_delivered(run_of(folder))
            self._waiting_archive.remove(folder)
        return len(folders)

    def write_index(self, project: str, runs: list[RunSummary]) -> None:
        """
        Write the page of a project's last runs, which needs no server.

        Args:
            runs: The newest first.

        Raises:
            StoreTrouble: The store cannot be used.
        """
        self._store.put(project_folder(project) + PAGE, report.render_index(project, runs))

    def open(self, key: str, *, start: int = 0, length: int | None = None) -> BinaryIO:
        """
        Open a file, or a part of it as `Store.get` has it, wherever it is.

        Raises:
            NotStored: It is nowhere.
            StoreTrouble: It does not wait here, and the store cannot be used.
        """
        try:
            return self._waiting.get(key, start=start, length=length)
        except NotStored:
            return self._store.get(key, start=start, length=length)

    def address(self, key: str) -> str | None:
        """
        Where whoever may have a file gets it from the store itself, for a short while; None when it comes through here.

        Raises:
            NotStored: It is nowhere.
            StoreTrouble: The store cannot be used.
        """
        if self._public is None or self._waiting.head(key) is not None:
            return None
        self.size(key)
        return self._public.url(key, ttl_s=ADDRESS_S, download=True)

    def size(self, key: str) -> int:
        """
        How long a file of the store is, in bytes.

        Raises:
            NotStored: The store has none.
            StoreTrouble: The store cannot be used.
        """
        entry = self._store.head(key)
        if entry is None:
            raise NotStored(f"the store has no {key}")
        return entry.size_bytes

    def remove(self, folder: str) -> None:
        """
        Remove all of a run; harmless to repeat.

        Raises:
            StoreTrouble: The store cannot be used.
        """
        self._waiting_archive.remove(folder)
        self.archive.remove(folder)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Whether the store takes what it is given: answering is not enough."""
        try:
            yield
        except StoreTrouble as exc:
            self._refused = str(exc)
            raise
        self._refused = ""

    def _save(self, store: Store, archive: Archive, recorded: Recorded, page: bytes) -> str:
        # The report first: with the summary, which `Archive.save` writes last, all of the run is there.
        summary = recorded.record.summary
        store.put(run_folder(summary.project, summary.id) + PAGE, page)
        return archive.save(recorded)


def chunks(stream: BinaryIO) -> Iterator[bytes]:
    """All of an open file, a part at a time; closes it."""
    with stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
