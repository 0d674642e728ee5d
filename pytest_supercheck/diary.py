"""
What a connector keeps of a run that is to be recorded locally, and its writing down.

Between the events on their way to the session and the local archive.  Decodes nothing before the run is over: until
then the machine's processors belong to the tests.
"""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from pytest_supercheck.model import RunRequest

#: How the last event of a run begins; inside of another event these quotes would be escaped.
_END: Final = b'{"t":"end"'
#: What the event begins with that tells what there is to run.
_LISTING: Final = b'{"t":"collected"'


class Diary:
    """
    One run's.

    Args:
        request: The run as it was submitted.
        keep: How many runs may be recorded in its root directory afterwards.
    """

    def __init__(self, request: RunRequest, keep: int) -> None:
        self._request = request
        self._keep = keep
        self._submitted_at = datetime.now(timezone.utc)
        self._batches: list[bytes] = []
        self._writing = threading.Lock()
        self._written = False
        #: Its items' names on the wire; empty until they are offered.
        self.names: Sequence[str] = ()

    def hear(self, batches: Sequence[bytes]) -> bool:
        """Take note of events; whether they are the last ones."""
        self._batches += batches
        return any(_END in batch for batch in batches)

    def write(self, *, outcome: str, message: str) -> dict[str, Any]:
        """
        Write the record, once; a second caller waits for the first.

        Args:
            outcome: How the run ended, should its events not say so.
            message: More words about that.

        Returns:
            ``{"store": directory}``, or ``{"error": words}``; empty when there was nothing to write.
        """
        with self._writing:
            if self._written or not (self.names or any(_LISTING in batch for batch in self._batches)):
                return {}
            self._written = True
            gc.disable()  # this process ends after it
            try:
                return {"store": self._record(outcome, message)}
            except Exception as exc:  # noqa: BLE001 - whatever it is, it must not cost the session its end
                return {"error": str(exc) or type(exc).__name__}

    def _record(self, outcome: str, message: str) -> str:
        from pytest_supercheck.footprint import store_directory
        from pytest_supercheck.local_archive import record_locally
        from pytest_supercheck.record import read_origin
        from pytest_supercheck.transcript import Submitted, Transcript, wire_nodeids

        request = self._request
        submitted = Submitted(
            id=request.run_id,
            project=request.project,
            origin=read_origin(request.spec),
            submitted_at=self._submitted_at,
        )
        transcript = Transcript(submitted, wire_nodeids(self.names))
        for batch in self._batches:
            transcript.feed(batch)
        rootdir = Path(json.loads(request.spec)["rootdir"])
        record_locally(rootdir, transcript.finish(outcome=outcome, message=message), keep=self._keep)
        return str(store_directory(rootdir))
