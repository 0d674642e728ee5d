"""
What pytest-cov has measured where a project was shipped to, with the session's paths.

Between the follower and the plugin's `pytest_testnodedown`.  pytest-cov sends the data of workers that do not share its
directory along with the directory's path, but combines them without looking at it (7.1, `engine.DistMaster.finish`).
"""

from __future__ import annotations

import contextlib
import inspect
from typing import Any


def bring_home(output: dict[str, Any], directory: str) -> None:
    """
    Put the session's paths into the data, if there are any and they can be read.

    Args:
        output: What plugins left in ``config.workeroutput``; changed in place.
        directory: Where the session was started.
    """
    there, measured = output.get("cov_worker_path"), output.get("cov_worker_data")
    if not isinstance(there, str) or not isinstance(measured, bytes) or there == directory:
        return
    with contextlib.suppress(Exception):  # another version of coverage: pytest-cov tells what it makes of it
        from coverage import CoverageData
        from coverage.files import PathAliases

        data, moved = CoverageData(no_disk=True), CoverageData(no_disk=True)
        data.loads(measured)
        aliases = PathAliases()
        aliases.add(there, directory)
        new = "map_path" in inspect.signature(moved.update).parameters
        moved.update(data, **({"map_path": aliases.map} if new else {"aliases": aliases}))
        output["cov_worker_data"], output["cov_worker_path"] = moved.dumps(), directory
