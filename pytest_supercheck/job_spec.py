"""
How a job becomes a run: the spec that workers get, made without starting pytest, and completed at each start.

Used where the job's files are: on the client that ships a checkout, and on the server that has cloned a repository.
Of the files it reads what says how they are to be tested, and runs nothing.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from pytest_supercheck.jobs import Job
from pytest_supercheck.origin import find_origin
from pytest_supercheck.settings import Settings
from pytest_supercheck.wish import wish_for

#: Columns of what the run prints.
WIDTH: Final = 100


def job_spec(job: Job, rootdir: Path, settings: Settings, source: Mapping[str, str]) -> dict[str, Any]:
    """
    What every run of a job has in common.

    Args:
        rootdir: Where the job's command line holds, and pytest's root directory.
        settings: As the project's ini file has them.
        source: ``bundle`` and ``root``, as `Shipment.source` has it.
    """
    wish = wish_for(
        rootdir,
        kind=job.env,
        python=job.python,
        sources=settings.env_sources,
        extras=settings.env_extras,
        groups=settings.env_groups,
    )
    spec = {
        "host": socket.gethostname(),
        "cwd": str(rootdir),
        "interpreter": sys.executable,
        "rootdir": str(rootdir),
        "path": [],
        "argv": ["pytest", *job.args],
        "pytest": version("pytest"),
        "plugins": [],
        "args": list(job.args),
        "start": settings.start,
        "collect": "remote",
        "group": settings.group,
        "artifacts": {"of": settings.artifacts, "globs": list(settings.artifact)},
        "markup": False,
        "width": WIDTH,
        "basetemp": "",
        "env": wish.encode(),
        "environ": {},
        "strict_env": False,
        "source": dict(source),
    }
    return {**spec, "origin": find_origin(spec, {})}


def complete(spec: Mapping[str, Any], *, run: str, count: int, origin: Mapping[str, str]) -> dict[str, Any]:
    """
    The spec of one run of a job.

    Args:
        spec: As `job_spec` made it.
        count: How many executions it wishes for.
        origin: What is to be said of this start in place of what is said of the job.
    """
    node = {"workerid": "gw0", "workercount": count, "testrunuid": run, "mainargv": spec["argv"]}
    return {**spec, "uid": run, "count": count, "nodes": [node], "origin": {**spec["origin"], **origin}}
