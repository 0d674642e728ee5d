"""
Structured logs: one JSON object a line, with what the record carries in `extra`.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Final

#: What every record has; all else came by `extra`.
_ORDINARY: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"})


class JsonFormatter(logging.Formatter):
    """Writes `at` (UTC), `level`, `logger`, `event`, whatever came by `extra`, and `error` with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of ASCII: whatever a client has sent cannot forge a second one."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "at": f"{at}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update((name, value) for name, value in vars(record).items() if name not in _ORDINARY)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=repr)


def configure_logs() -> None:
    """Send everything from INFO up to the standard error, one JSON object a line; for commands only."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # Its sentence per request has the query in it; `access` says what is worth saying.
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("alembic").setLevel(logging.WARNING)
