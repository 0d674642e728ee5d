"""
Where a worker process works: what its supervisors need to know of their host and the service.

Between whoever starts workers and the supervisors of their work-horses.  Knows addresses, paths and limits; no run.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_supercheck.operators import StoreSettings
from pytest_supercheck.redis_gateway import CONNECT_TIMEOUT_S, open_redis

if TYPE_CHECKING:
    import redis

    from pytest_supercheck.isolation import Confine


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """What worker processes of a host know, and their work-horses need."""

    #: The pool's Redis. May hold a password: not in the repr.
    url: str = field(repr=False)
    #: Its password, where the URL has none.
    token: str | None = field(repr=False)
    #: Path of the host's socket, where test processes come from.
    host_socket: str
    #: Seconds that a run may take that has no limit of its own; 0 for any.
    execution_timeout_s: float
    #: Where files go that tests leave behind, and come from that are shipped.
    store: StoreSettings
    #: Directory of the workspaces of this host's runs, and of what runs share; empty where all runs are in place.
    workspaces: str = ""
    cache: str = ""
    #: How builds of environments are shut in, which run the code of projects; None where that is trusted.
    confine: Confine | None = None
    #: A worker process's own: a descriptor that ends when the host has gone. Then its supervisors go too, and their
    #: leases lapse.
    host_leash: int = -1

    def connect(self) -> redis.Redis:
        """A client of the pool's Redis, which the host has checked."""
        return open_redis(self.url, password=self.token, socket_timeout=CONNECT_TIMEOUT_S)


def misplaced(spec: dict[str, Any]) -> str:
    """
    Why this worker cannot run a project in place, or an empty string.

    Args:
        spec: The run's, with ``host``, ``cwd``, ``rootdir`` and ``interpreter``.
    """
    here = socket.gethostname()
    if spec["host"] != here:
        return f"the project is on host {spec['host']!r} and this worker on {here!r}: it cannot run it in place"
    for key in ("cwd", "rootdir", "interpreter"):
        if not os.path.exists(spec[key]):
            return f"this worker does not see the project's {key} {spec[key]!r}: it cannot run it in place"
    return ""
