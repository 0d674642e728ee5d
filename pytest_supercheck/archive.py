"""
Records in a store: which key holds what, and how they are written, found and removed.

Between whoever records or shows runs and the store; knows records and keys, neither events nor HTML.

    projects/PROJECT/index.html                 the project's last runs; written by who renders reports
    projects/PROJECT/runs/RUN/summary.json      the run in a few lines; written last: with it the run is recorded
    projects/PROJECT/runs/RUN/run.json          the whole record
    projects/PROJECT/runs/RUN/events.ndjson.gz  its events as they came
    projects/PROJECT/runs/RUN/texts/I-K.txt     texts of item I that are too long for the record, as a whole
    projects/PROJECT/runs/RUN/artifacts/I/NAME  files that item I left behind; written while the run runs
    projects/PROJECT/runs/RUN/index.html        the rendered report, which links to all of these

PROJECT is the project's name as `project_segment` writes it, RUN the run's id.  Pages link within their folder and
below it only, so that any web server can show a bucket.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from typing import Final

from pytest_supercheck import record
from pytest_supercheck.errors import NotStored
from pytest_supercheck.record import RecordError, RunRecord, RunSummary
from pytest_supercheck.store import BadKey, Store
from pytest_supercheck.transcript import Recorded

#: The root of everything here.
PROJECTS: Final = "projects/"

#: The page that a web server shows for a folder.
PAGE: Final = "index.html"

#: Bytes of a name that are escaped: all but these, and a dot in front.
_ESCAPED: Final = re.compile(rb"^\.|[^A-Za-z0-9._-]")

#: Characters of a project's segment, at most; a longer one ends with a hash.
_SEGMENT: Final = 100

_RUN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


def project_segment(project: str) -> str:
    """
    A project's name as a segment of keys and addresses.

    Returns:
        Letters, digits, ``.``, ``_`` and ``-`` as they are, every other byte of its UTF-8, and a dot in front, as ``~``
        and two digits: different names have different segments, and none needs quoting.
    """
    raw = project.encode("utf-8", "surrogatepass")
    segment = escaped(raw) or "~"
    if len(segment) <= _SEGMENT:
        return segment
    return f"{segment[: _SEGMENT - 18]}~~{hashlib.sha256(raw).hexdigest()[:16]}"


def escaped(name: bytes) -> str:
    """A name in which all but letters, digits, ``.``, ``_``, ``-``, and a dot in front, are ``~`` and two digits."""
    return _ESCAPED.sub(lambda found: b"~%02x" % found[0][0], name).decode("ascii")


def project_folder(project: str) -> str:
    """Where a project's runs and its index are, with a slash at the end."""
    return f"{PROJECTS}{project_segment(project)}/"


def run_folder(project: str, run: str) -> str:
    """
    Where all of a run is, with a slash at the end.

    Raises:
        BadKey: No run has such an id: 1 to 128 letters, digits, ``_`` and ``-``.
    """
    if not _RUN.fullmatch(run):
        raise BadKey(f"{run[:200]!r} is not the id of a run")
    return f"{project_folder(project)}runs/{run}/"


class Archive:
    """
    The records of a store.

    A run is named by its folder, as `run_folder` and `find` have it. Every method raises `StoreTrouble` when the store
    cannot be used.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def save(self, recorded: Recorded) -> str:
        """
        Write a run's record; harmless to repeat, also after it was interrupted.

        Returns:
            Its folder.
        """
        summary = recorded.record.summary
        folder = run_folder(summary.project, summary.id)
        self._store.put(f"{folder}events.ndjson.gz", recorded.events)
        for name, text in recorded.texts.items():
            self._store.put(folder + name, text.encode("utf-8", "backslashreplace"))
        self._store.put(f"{folder}run.json", record.encode(recorded.record))
        self._store.put(f"{folder}summary.json", record.encode(summary))
        return folder

    def folders(self, project: str | None = None) -> list[str]:
        """
        The folders of runs, the newest first.

        Args:
            project: Of one project; None for all of them.
        """
        if project is not None:
            projects = [project_folder(project)]
        else:
            projects = [entry.key for entry in self._store.list(PROJECTS, deep=False) if entry.key.endswith("/")]
        found = [entry.key for folder in projects for entry in self._store.list(f"{folder}runs/", deep=False)]
        return sorted((key for key in found if key.endswith("/")), key=run_of, reverse=True)

    def find(self, run: str = "") -> str:
        """
        The folder of a run that is recorded.

        Args:
            run: Its id, or the beginning of one; of several the newest counts.

        Raises:
            NotStored: There is none.
        """
        for folder in self.folders():
            # Files of tests are there before their run is recorded.
            if run_of(folder).startswith(run) and self._store.head(f"{folder}summary.json"):
                return folder
        raise NotStored(
            f"no run {run!r} is recorded here: 'supercheck runs' lists those that are"
            if run
            else "no run is recorded here"
        )

    def summary(self, folder: str) -> RunSummary:
        """
        A run in a few lines.

        Raises:
            NotStored: It is not recorded, or not yet.
            RecordError: What is there cannot be read.
        """
        with self._store.get(f"{folder}summary.json") as stream:
            return record.decode_summary(stream.read())

    def summaries(self, project: str | None = None) -> Iterator[RunSummary]:
        """
        Runs in a few lines, the newest first, without those that cannot be read, or not yet.

        Args:
            project: Of one project; None for all of them.
        """
        for folder in self.folders(project):
            with contextlib.suppress(NotStored, RecordError):
                yield self.summary(folder)

    def load(self, folder: str) -> RunRecord:
        """
        A run's whole record.

        Raises:
            NotStored: It is not recorded, or not yet.
            RecordError: What is there cannot be read.
        """
        with self._store.get(f"{folder}run.json") as stream:
            return record.decode(stream.read())

    def remove(self, folder: str) -> None:
        """Remove all of a run; harmless to repeat."""
        self._store.delete([f"{folder}summary.json"])
        self._store.delete([entry.key for entry in self._store.list(folder)])


def run_of(folder: str) -> str:
    """The id of the run whose folder that is."""
    return folder.rstrip("/").rpartition("/")[2]
