"""
What the server says of itself to those who read its logs.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime

from supercheck_server.logs import JsonFormatter


def test_a_line_is_one_object_with_what_came_along() -> None:
    """Whatever is in a text, no second line comes of it."""
    nasty = 'nightly\n{"level": "info", "event": "all is well"}\u2028\udce9'
    record = logging.makeLogRecord({"name": "a.b", "levelname": "WARNING", "msg": "start %s", "args": ("failed",)})
    record.job = nasty
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert len(line.splitlines()) == 1
    row = json.loads(line)
    assert datetime.fromisoformat(row.pop("at").replace("Z", "+00:00")).tzinfo is not None
    assert row == {"level": "warning", "logger": "a.b", "event": "start failed", "job": nasty}


def test_a_traceback_is_in_the_line_of_its_error() -> None:
    """As one text."""
    try:
        raise ValueError("no stock")
    except ValueError:
        record = logging.makeLogRecord({"msg": "it failed", "exc_info": sys.exc_info()})
    line = JsonFormatter().format(record)
    assert len(line.splitlines()) == 1
    assert json.loads(line)["error"].endswith("ValueError: no stock")
