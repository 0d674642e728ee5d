"""
`supercheck queue`: who runs and who waits, and the commands that change it.

An edge beside `cli`: joins settings and the dispatcher.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pytest_supercheck.model import PRIORITIES, Figures, Priority, ProjectFigures, QueuedRun, RunId
from pytest_supercheck.options import pool_settings, reports_errors, url_option

if TYPE_CHECKING:
    from pytest_supercheck.dispatch import Dispatcher

_F = TypeVar("_F", bound=Callable[..., Any])


def _dispatcher(url: str | None) -> Dispatcher:
    from pytest_supercheck.dispatch import Dispatcher
    from pytest_supercheck.redis_gateway import connect_redis

    settings, address = pool_settings(url)
    return Dispatcher(connect_redis(address, password=settings.token))


def pool_command(command: _F) -> _F:
    """A subcommand of `queue`, which takes the pool's address as that does, behind its name or in front."""

    @functools.wraps(command)
    def wrapped(before: str | None, url: str | None, **given: Any) -> Any:
        return command(url or before, **given)

    return url_option(click.pass_obj(reports_errors(wrapped)))  # type: ignore[arg-type, return-value]


@click.group(invoke_without_command=True)
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
    from pytest_supercheck.retry import retry as again

    click.echo(again(_dispatcher(url), RunId(run), failed=failed))


@queue.command()
@click.argument("run")
@click.argument("rank", type=click.Choice(PRIORITIES))
@pool_command
def priority(url: str | None, run: str, rank: Priority) -> None:
    """Change the rank of a run that waits."""
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
