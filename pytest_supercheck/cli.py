"""
The ``supercheck`` command: workers for a pool, and a look at its queue.

An edge: it joins settings, dispatcher and host, and turns errors into exit codes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from pytest_supercheck import __version__
from pytest_supercheck.errors import SupercheckError, Unreachable
from pytest_supercheck.operators import (
    ISOLATIONS,
    BadVariable,
    IsolationSettings,
    PoolSettings,
    StoreSettings,
    masked,
)
from pytest_supercheck.record import RecordError

if TYPE_CHECKING:
    from pytest_supercheck.dispatch import Dispatcher
    from pytest_supercheck.model import Figures, ProjectFigures, QueuedRun
    from pytest_supercheck.record import RunSummary
    from pytest_supercheck.store import Store

_F = TypeVar("_F", bound=Callable[..., Any])

#: Group of entry points, each of which is a command.
COMMANDS: Final = "supercheck.commands"

_DEFAULT_URL = "Default: $SUPERCHECK_REDIS_URL, then $SUPERCHECK_URL."


def url_option(command: _F, *, what: str = "The pool's Redis: redis://, rediss:// or unix://.") -> _F:
    """Add --url to a command."""
    return click.option("--url", metavar="URL", help=f"{what} {_DEFAULT_URL}", callback=_out_of_sight)(command)


def _out_of_sight(_context: click.Context, _option: click.Parameter, url: str | None) -> str | None:
    """
    Start anew without an address that may hold a password: everybody on this machine can read command lines.

    Nobody else can read the environment, where the address is then.
    """
    words = sys.orig_argv
    places = [place for place, word in enumerate(words) if url and word in (url, f"--url={url}")]
    if url and places and ("@" in url or "password=" in url):
        first, last = places[-1] - (words[places[-1]] == url), places[-1]
        os.environ["SUPERCHECK_REDIS_URL"] = url
        os.execv(sys.executable, [*words[:first], *words[last + 1 :]])
    return url


def pool_command(command: _F) -> _F:
    """A subcommand of `queue`, which takes the pool's address as that does, behind its name or in front."""

    @functools.wraps(command)
    def wrapped(before: str | None, url: str | None, **given: Any) -> Any:
        return command(url or before, **given)

    return url_option(click.pass_obj(reports_errors(wrapped)))  # type: ignore[arg-type, return-value]


def isolate_options(command: _F) -> _F:
    """Add what says how workers shut runs in."""
    how = click.option(
        "--isolate",
        type=click.Choice(ISOLATIONS),
        help="What tests are shut in by; auto takes the strongest that works here. Default: $SUPERCHECK_ISOLATE.",
    )
    network = click.option(
        "--isolate-network",
        is_flag=True,
        help="With bwrap: tests reach the network. Default: $SUPERCHECK_ISOLATE_NETWORK.",
    )
    return how(network(command))


def reports_errors(command: _F) -> _F:
    """Errors of ours end the command with their message and their exit code."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except BadVariable as exc:
            raise click.UsageError(str(exc)) from exc
        except (SupercheckError, RecordError) as exc:
            click.echo(f"supercheck: {exc}", err=True)
            sys.exit(getattr(exc, "exit_code", SupercheckError.exit_code))

    return wrapped  # type: ignore[return-value]


def _settings(url: str | None) -> tuple[PoolSettings, str]:
    settings = PoolSettings.from_env()
    address = url or settings.url
    if address is None:
        raise click.UsageError("no pool given: use --url redis://HOST:6379/0, or set SUPERCHECK_REDIS_URL")
    if address.startswith(("http://", "https://")):
        raise click.UsageError(
            f"{masked(address)} is a server, and this needs the pool's Redis itself: redis://, rediss:// or unix://. "
            "The server's pages show its queue."
        )
    return settings, address


def _dispatcher(url: str | None) -> Dispatcher:
    from pytest_supercheck.dispatch import Dispatcher
    from pytest_supercheck.redis_gateway import connect_redis

    settings, address = _settings(url)
    return Dispatcher(connect_redis(address, password=settings.token))


class _Commands(click.Group):
    """Our commands, and those that other parts of the distribution declare by an entry point of `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *entry_points(group=COMMANDS).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        for entry in entry_points(group=COMMANDS, name=cmd_name) if command is None else ():
            command = entry.load()
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="supercheck")
def main() -> None:
    """
    Run pytest suites on a shared pool of workers.

    \b
    supercheck worker --url redis://localhost:6379/0      on each machine of the pool
    pytest --supercheck --supercheck-url redis://...      in a project
    supercheck queue --url redis://localhost:6379/0       who runs, who waits
    supercheck report --open                              what became of the last run
    """


def _labels(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    from pytest_supercheck.model import is_label

    if bad := [label for label in given if not is_label(label)]:
        raise click.BadParameter(f"{bad[0]!r} is not 1 to 100 letters, digits or any of ._-:")
    return given


@main.command()
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
    callback=_labels,
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
    settings, address = _settings(url)
    walls = IsolationSettings.from_env()
    walls = replace(walls, wanted=isolate or walls.wanted, network=isolate_network or walls.network)
    _serve(settings, address, concurrency or settings.workers, labels or settings.labels, walls)


def _serve(settings: PoolSettings, url: str, workers: int, labels: tuple[str, ...], walls: IsolationSettings) -> None:
    from pytest_supercheck import isolation, valkey, worker
    from pytest_supercheck.boot import keep_descriptors
    from pytest_supercheck.discard import end_workspaces, make_workspaces, worker_cache
    from pytest_supercheck.dispatch import Dispatcher
    from pytest_supercheck.host import Host
    from pytest_supercheck.pool import Pool
    from pytest_supercheck.redis_gateway import connect_redis
    from pytest_supercheck.runners import test_environment

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
        limit_s = settings.execution_timeout_s
        kept = (str(workspaces), str(cache), cells.confine)
        place = worker.Place(url, settings.token, host.socket_path, limit_s, store, *kept)
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


_STOPPING: Final = (
    b"supercheck worker: the current tests are finished, the rest is given back; once more stops at once\n"
)


def _private(url: str, store: StoreSettings, directory: Path, cache: Path) -> tuple[str, ...]:
    """What of the service is on this machine and no test may see: directories, and perhaps the pool's socket."""
    from pytest_supercheck.valkey import cache_dir

    found = [str(directory), str(cache_dir()), str(cache), os.environ.get("SUPERCHECK_DATA", "")]
    if store.url and "://" not in store.url:
        found.append(store.url)
    if url.startswith("unix://"):
        found.append(url.removeprefix("unix://").rpartition("@")[2].partition("?")[0])
    return tuple(os.path.abspath(path) for path in found if path)


_STORE_HELP = (
    "Where runs are recorded: a directory, or s3://BUCKET/PREFIX. "
    "Default: $SUPERCHECK_STORE, then .supercheck/store of this directory or the nearest one above."
)


def _store_option(command: _F) -> _F:
    return click.option("--store", metavar="STORE", help=_STORE_HELP)(command)


def _open_store(address: str | None) -> Store:
    from pytest_supercheck.local_archive import find_local_store
    from pytest_supercheck.stores import open_store

    settings = StoreSettings.from_env()
    address = address or settings.url or str(find_local_store(Path.cwd()) or "")
    if not address:
        raise click.UsageError(
            "no runs are recorded here or above: give --store, or run 'pytest --supercheck' without a pool first"
        )
    return open_store(address, endpoint=settings.s3_endpoint)


@main.command()
@_store_option
@click.option("--project", metavar="NAME", help="Only those of one project.")
@click.option("--limit", type=click.IntRange(1), default=20, metavar="N", help="How many, at most.  [default: 20]")
@click.option("--json", "as_json", is_flag=True, help="As JSON, one object a line.")
@reports_errors
def runs(store: str | None, project: str | None, limit: int, as_json: bool) -> None:
    """
    List the last recorded runs, the newest first.

    Embedded runs are recorded in .supercheck of the project's root directory.
    """
    from itertools import islice

    from pytest_supercheck import record
    from pytest_supercheck.archive import Archive

    summary = None
    for summary in islice(Archive(_open_store(store)).summaries(project), limit):
        click.echo(record.encode(summary).decode() if as_json else _summary_text(summary))
    if summary is None:
        click.echo(f"supercheck: no run{f' of {project}' if project else ''} is recorded there", err=True)


def _summary_text(summary: RunSummary) -> str:
    from pytest_supercheck.words import ordered, seconds

    origin = summary.origin
    counts = ", ".join(f"{count} {outcome}" for outcome, count in ordered(summary.counts)) or "nothing ran"
    sources = " ".join(part for part in (origin.branch, origin.commit[:10]) if part)
    by = f", by {origin.user}" if origin.user else ""
    text = (
        f"{summary.id}  {summary.submitted_at.astimezone():%Y-%m-%d %H:%M}  {summary.verdict:<9}  {summary.project}: "
        f"{counts} in {seconds(summary.duration_s)}{by}{f' from {sources}' if sources else ''}"
    )
    return "".join(letter if letter.isprintable() else "?" for letter in text)  # a terminal obeys what it is shown


@main.command()
@click.argument("run", default="")
@_store_option
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write the page there.")
@click.option("--open", "show", is_flag=True, help="Open it in a browser.")
@reports_errors
def report(run: str, store: str | None, output: Path | None, show: bool) -> None:
    """
    Make a page of a recorded run, and say where it is.

    RUN is the run's id or the beginning of it; without one it is the last run. The page is one file that needs
    nothing else. It is kept beside the run's record, to which it links; with --output it stands alone.

    \b
    supercheck report --open                     the last run, in a browser
    supercheck report 0193a2 --output run.html   another one, to send to somebody
    """
    from itertools import islice

    from pytest_supercheck.archive import PAGE, Archive, project_folder, run_folder

    try:
        from pytest_supercheck.report import INDEX_LIMIT, render_index, render_run
    except ImportError as exc:
        raise click.UsageError(f"a page needs {exc.name}: pip install 'pytest-supercheck[report]'") from exc
    kept = _open_store(store)
    archive = Archive(kept)
    folder = archive.find(run)
    record = archive.load(folder)
    if output is not None:
        try:
            output.write_bytes(render_run(record, beside=False))
        except OSError as exc:
            raise click.UsageError(f"{output} cannot be written: {exc.strerror}") from exc
        address = output.absolute().as_uri()
    else:
        project = record.summary.project
        kept.put(folder + PAGE, render_run(record))
        last = islice(archive.summaries(project), INDEX_LIMIT)
        listed = [summary for summary in last if kept.head(run_folder(project, summary.id) + PAGE)]
        kept.put(project_folder(project) + PAGE, render_index(project, listed))
        address = kept.url(folder + PAGE)
    click.echo(address)
    if show:
        click.launch(address)


@main.command()
@functools.partial(url_option, what="The pool's Redis, or a server's http(s)://.")
@click.option("--label", "labels", multiple=True, metavar="LABEL", callback=_labels, help="What runs will ask for.")
@reports_errors
def doctor(url: str | None, labels: tuple[str, ...]) -> None:
    """
    Look at everything that a run needs, and say what is wrong and what to do.

    The pool or server is that of --url, else $SUPERCHECK_REDIS_URL or $SUPERCHECK_URL; without any, embedded runs are
    looked at. The store is $SUPERCHECK_STORE. Ends with 69 when something is wrong.
    """
    from pytest_supercheck.doctor import examine

    settings = PoolSettings.from_env()
    good = True
    for finding in examine(url or settings.url, settings.token, labels, StoreSettings.from_env()):
        click.echo(f"{'ok   ' if finding.good else 'WRONG'}  {finding.subject:<8}  {finding.words}")
        good = good and finding.good
    if not good:
        sys.exit(Unreachable.exit_code)


@main.group(invoke_without_command=True)
@url_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_context
@reports_errors
def queue(context: click.Context, url: str | None, as_json: bool) -> None:
    """Show who runs and who waits; change it with a subcommand."""
    context.obj = url
    if context.invoked_subcommand is not None:
        return
    status = _dispatcher(url).queue()
    if as_json:
        figures = asdict(status.figures)
        click.echo(json.dumps({**figures, "runs": [asdict(run) for run in status.runs]}, indent=2))
        return
    click.echo(_figures_text(status.figures))
    now_ms = time.time() * 1000
    for run in status.runs:
        click.echo(_run_text(run, now_ms))


def _figures_text(figures: Figures) -> str:
    text = (
        f"running {figures.running} of {figures.running_capacity}, "
        f"queued {figures.queued} of {figures.queued_capacity}, "
        f"workers {figures.workers} ({figures.idle} idle)"
    )
    return text + (", PAUSED" if figures.paused else "")


def _project_text(name: str, figures: ProjectFigures | None) -> str:
    if figures is None:
        return f"project {name}: no limits of its own"
    running, queued = (
        f"{count}" if most is None else f"{count} of {most}"
        for count, most in ((figures.running, figures.running_capacity), (figures.queued, figures.queued_capacity))
    )
    return f"project {name}: running {running}, queued {queued}"


def _run_text(run: QueuedRun, now_ms: float) -> str:
    total = "?" if run.total is None else run.total
    if run.position:
        why = f"waits for its group {run.waits_for}, " if run.waits_for else ""
        eta = f", starts in about {run.eta_s:.0f} s" if run.eta_s is not None else ""
        what = f"{why}position {run.position}{eta}, submitted {(now_ms - run.submitted_ms) / 1000:.0f} s ago"
    else:
        since = run.started_ms or run.submitted_ms
        what = f"{run.held} of {run.want} executions, {run.done} of {total} tests, for {(now_ms - since) / 1000:.0f} s"
    return f"  {run.run}  {run.state:<8}  {run.priority:<6}  {run.project}: {what}"


@queue.command()
@pool_command
def pause(url: str | None) -> None:
    """Start nothing new; what runs goes on, and runs may still be submitted."""
    click.echo(_figures_text(_dispatcher(url).pause(on=True)))


@queue.command()
@pool_command
def resume(url: str | None) -> None:
    """Start runs again."""
    click.echo(_figures_text(_dispatcher(url).pause(on=False)))


@queue.command()
@click.option("--unrecorded", is_flag=True, help="Also runs that no server has recorded: nothing is left of them then.")
@pool_command
def clear(url: str | None, unrecorded: bool) -> None:
    """
    Forget runs that ended more than a minute ago.

    They take Redis's memory, for 7 days at most. What servers have recorded of them stays; here they can neither be
    followed nor run once more.
    """
    from pytest_supercheck.words import plural

    dispatcher = _dispatcher(url)
    click.echo(f"{plural(dispatcher.clear(unrecorded=unrecorded), 'run')} forgotten")
    if not unrecorded and (left := dispatcher.pool().unrecorded):
        click.echo(f"{plural(left, 'run')} that no server has recorded yet: --unrecorded forgets them, too")


@queue.command()
@click.argument("run")
@click.option("--now", is_flag=True, help="Kill the tests that run instead of letting them finish.")
@pool_command
def cancel(url: str | None, run: str, now: bool) -> None:
    """Cancel a run; what it has reported is kept."""
    from pytest_supercheck.model import RunId

    who = "cancelled with 'supercheck queue cancel'"
    status = _dispatcher(url).cancel(RunId(run), outcome="cancelled", how="kill" if now else "leave", message=who)
    _known(status.state, run)
    click.echo(f"{run}: {status.state}")


@queue.command()
@click.argument("run")
@click.option("--failed", is_flag=True, help="Only its tests that failed, or have no result.")
@pool_command
def retry(url: str | None, run: str, failed: bool) -> None:
    """
    Run a run once more that has ended in the last 7 days; prints the new run's id.

    Nobody waits for it: a server records it like any other run. Its tests run in the directory in which they ran.
    """
    from pytest_supercheck.model import RunId
    from pytest_supercheck.retry import retry as again

    click.echo(again(_dispatcher(url), RunId(run), failed=failed))


@queue.command()
@click.argument("run")
@click.argument("rank", type=click.Choice(["high", "normal", "low"]))
@pool_command
def priority(url: str | None, run: str, rank: Any) -> None:
    """Change the rank of a run that waits."""
    from pytest_supercheck.model import RunId

    status = _dispatcher(url).priority(RunId(run), priority=rank)
    _known(status.state, run)
    click.echo(f"{run}: {status.state}" + (f", position {status.position}" if status.position else ""))


def _known(state: str, run: str) -> None:
    if state == "gone":
        raise click.UsageError(f"the pool knows no run {run!r}: 'supercheck queue' lists the ones that run and wait")


@queue.command()
@click.option("--running", type=click.IntRange(0), metavar="N", help="Executions at a time.")
@click.option("--queued", type=click.IntRange(0), metavar="M", help="Runs that may wait.")
@click.option("--project", metavar="NAME", help="For one project, within the pool's limits.")
@pool_command
def limits(url: str | None, running: int | None, queued: int | None, project: str | None) -> None:
    """Show the limits, or set them at once, while everything runs."""
    figures = _dispatcher(url).limits(running=running, queued=queued, project=project)
    click.echo(_figures_text(figures))
    if project is not None:
        click.echo(_project_text(project, figures.project))


if __name__ == "__main__":
    main()
