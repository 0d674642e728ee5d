"""
`supercheck worker`: a host of the pool, for as long as it is wanted.

An edge beside `cli`: joins settings, isolation, the host with its runners and the workers.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from pytest_supercheck.operators import IsolationSettings, PoolSettings, StoreSettings
from pytest_supercheck.options import check_labels, isolate_options, pool_settings, reports_errors, url_option

_STOPPING: Final = (
    b"supercheck worker: the current tests are finished, the rest is given back; once more stops at once\n"
)


@click.command()
@url_option
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(1),
    metavar="N",
    help="Executions at a time on this host. Default: $SUPERCHECK_MAX_CONCURRENT_TESTS, else the CPUs.",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="LABEL",
    callback=check_labels,
    help="What these workers have that not all have, such as gpu; may be repeated. Default: $SUPERCHECK_LABELS.",
)
@isolate_options
@reports_errors
def worker(
    url: str | None, concurrency: int | None, labels: tuple[str, ...], isolate: str | None, isolate_network: bool
) -> None:
    """
    Serve executions until told to stop.

    SIGTERM or Ctrl-C: the current tests are finished and the rest is given back. A second one: stop at once.
    """
    settings, address = pool_settings(url)
    walls = IsolationSettings.from_env()
    walls = replace(walls, wanted=isolate or walls.wanted, network=isolate_network or walls.network)
    _serve(settings, address, concurrency or settings.workers, labels or settings.labels, walls)


def _serve(settings: PoolSettings, url: str, workers: int, labels: tuple[str, ...], walls: IsolationSettings) -> None:
    from pytest_supercheck import isolation, valkey, worker
    from pytest_supercheck.boot import keep_descriptors
    from pytest_supercheck.discard import end_workspaces, make_workspaces, worker_cache
    from pytest_supercheck.dispatch import Dispatcher
    from pytest_supercheck.host import Host
    from pytest_supercheck.masking import masked
    from pytest_supercheck.pool import Pool
    from pytest_supercheck.redis_gateway import connect_redis
    from pytest_supercheck.runners import test_environment
    from pytest_supercheck.workplace import Workplace

    keep_descriptors()
    dispatcher = Dispatcher(connect_redis(url, password=settings.token))
    if settings.running_capacity is not None or settings.queued_capacity is not None:
        dispatcher.limits(running=settings.running_capacity, queued=settings.queued_capacity)
    directory = valkey.make_directory()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        store, cache = StoreSettings.from_env(), worker_cache()
        environ = test_environment(os.environ, store.credentials)
        cells, words = isolation.choose(walls, _private(url, store, directory, cache), environ)
        click.echo(f"supercheck worker: isolation {words}")
        workspaces = make_workspaces(cache)
        stack.callback(end_workspaces, workspaces)
        host = Host(directory, spare=True, withheld=store.credentials, workspaces=workspaces, isolation=cells)
        place = Workplace(
            url=url,
            token=settings.token,
            host_socket=host.socket_path,
            execution_timeout_s=settings.execution_timeout_s,
            store=store,
            workspaces=str(workspaces),
            cache=str(cache),
            confine=cells.confine,
        )
        pool = Pool(host, workers, functools.partial(worker.work, place), dispatcher, labels)
        stack.callback(pool.kill)
        stack.callback(host.close)

        def on_signal(_signum: int, _frame: object) -> None:
            pool.stop()
            os.write(1, _STOPPING)

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
        pool.start()
        where = socket.gethostname() + (f" ({', '.join(labels)})" if labels else "")
        click.echo(f"supercheck worker: {workers} at a time on {where} for {masked(url)}; Ctrl-C stops")
        pool.run()


def _private(url: str, store: StoreSettings, directory: Path, cache: Path) -> tuple[str, ...]:
    """What of the service is on this machine and no test may see: directories, and perhaps the pool's socket."""
    from pytest_supercheck.valkey import cache_dir

    found = [str(directory), str(cache_dir()), str(cache), os.environ.get("SUPERCHECK_DATA", "")]
    if store.url and "://" not in store.url:
        found.append(store.url)
    if url.startswith("unix://"):
        found.append(url.removeprefix("unix://").rpartition("@")[2].partition("?")[0])
    return tuple(os.path.abspath(path) for path in found if path)
