"""The door: 5,000 trivial tests on a pool through the server's HTTP; wall time against the same over Redis."""

from __future__ import annotations

import re
import sys
from functools import partial

from benchmarks import pool, suites
from benchmarks.bench import bench
from benchmarks.table import Row, Scale, alone, alternate, ratio_row

TARGET = 1.10

_SERVER = "from pytest_supercheck.cli import main; main()"


def measure(scale: Scale) -> list[Row]:
    """Measure it."""
    tests, files = scale.pick(5000, 500), scale.pick(50, 5)
    with bench() as place, pool.server() as url, pool.workers(place, url, 2):
        folder = place.folder("suite")
        suites.write_trivial(folder, tests, files)
        command = [sys.executable, "-c", _SERVER, "server", "--url", url, "--port", "0"]
        server = place.start(command, place.folder("server"))  # its data are below
        try:
            server.wait_for("Ctrl-C stops")
            found = re.search(r"http://\S+?:\d+", server.output)
            assert found is not None
            pairs = alternate(
                partial(
                    place.run,
                    [*suites.supercheck(2, found[0]), "--supercheck-source=place"],
                    folder,
                    expect=suites.passed(tests),
                ),
                partial(
                    place.run,
                    suites.supercheck(2, url),
                    folder,
                    expect=suites.passed(tests),
                ),
                scale.pairs(5),
            )
        finally:
            server.close()
    name = f"through HTTP, {tests:,} tests: wall / over Redis"
    return [ratio_row(name, TARGET, [(ours.wall_s, peer.wall_s) for ours, peer in pairs])]


if __name__ == "__main__":
    sys.exit(alone(measure))
