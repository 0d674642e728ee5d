"""
The commands of `supercheck jobs`: a project's jobs, here in its file and there on a server.

An edge beside `cli`, which finds them by their entry point.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import click

from pytest_supercheck.addresses import is_server
from pytest_supercheck.errors import Infrastructure, QueueFull
from pytest_supercheck.gateways import open_server
from pytest_supercheck.options import reports_errors
from pytest_supercheck.words import plural, printable, seconds

if TYPE_CHECKING:
    from pytest_supercheck.http_gateway import HttpGateway
    from pytest_supercheck.jobs import Job
    from pytest_supercheck.settings import Settings

#: Seconds between two looks whether a start has become a run.
LOOK_S: Final = 0.5

_URL: Final = click.option("--url", metavar="URL", help="The server, http(s)://. Default: $SUPERCHECK_URL.")
_PROJECT: Final = click.option("--project", metavar="NAME", default="", help="Needed where several have such a job.")
_JSON: Final = click.option("--json", "as_json", is_flag=True, help="As JSON.")
_DIRECTORY: Final = click.argument(
    "directory", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path(), metavar="[DIRECTORY]"
)


@click.group()
def jobs() -> None:
    """
    Define runs in supercheck.toml, and have a server start them.

    \b
    supercheck jobs check             is what it says right?
    supercheck jobs sync              bring it to the server, with the project's files
    supercheck jobs run nightly       start one now
    """


@jobs.command()
@_DIRECTORY
@reports_errors
def check(directory: Path) -> None:
    """Check what a directory's supercheck.toml, or [tool.supercheck.jobs] in its pyproject.toml, says."""
    found, _ = _read(directory.resolve())
    click.echo(f"{plural(len(found), 'job')}: {', '.join(job.name for job in found) or '-'}")


@jobs.command()
@_URL
@click.option(
    "--prune", is_flag=True, help="Remove jobs from the server that the file has no more, with their history."
)
@_DIRECTORY
@reports_errors
def sync(url: str | None, directory: Path, prune: bool) -> None:
    """
    Bring a directory's jobs to a server, with the files of those that have no source of their own.

    Whether a job is enabled stays. What has been changed on the server stays while the job's definition does.
    """
    from pytest_supercheck.job_spec import job_spec

    rootdir = directory.resolve()
    found, settings = _read(rootdir)
    default = settings.project or rootdir.name or "default"
    with _server(url) as server:
        # A file without jobs any more is that of its directory's project.
        for project in sorted({job.project or default for job in found} or {default}):
            source: Mapping[str, str] = {}
            brought = []
            for job in [job for job in found if (job.project or default) == project]:
                elsewhere = job.source is not None or job.dispatch is not None
                if not elsewhere and not source:
                    source = _ship(server, project, rootdir, settings)
                spec = None if elsewhere else job_spec(job, rootdir, settings, source)
                brought.append({"name": job.name, "definition": job.encode(), "spec": spec})
            told = server.jobs("PUT", body={"jobs": brought, "prune": prune}, project=project)
            for what in ("added", "changed", "same"):
                for name in told[what]:
                    click.echo(printable(f"{what:<8}{project}/{name}"))
            for name in told["gone"]:
                words = "removed" if prune else "not in the file; --prune removes it"
                click.echo(printable(f"{'gone':<8}{project}/{name}: {words}"))
            for name in told["unknown_targets"]:
                click.echo(
                    printable(f"{project}: nobody is told as {name!r}: the server has no [notify.{name}]"), err=True
                )


@jobs.command("list")
@_URL
@click.option("--project", metavar="NAME", default="", help="Only those of one project.")
@_JSON
@reports_errors
def list_jobs(url: str | None, project: str, as_json: bool) -> None:
    """List a server's jobs."""
    with _server(url) as server:
        found = server.jobs("GET", project=project)["jobs"]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for one in found:
        state = "on" if one["enabled"] else "off"
        click.echo(printable(f"{one['project']}/{one['name']}  {state}  {_when(one)}; {_last(one)}"))


@jobs.command()
@_URL
@_PROJECT
@_JSON
@click.argument("name")
@reports_errors
def show(url: str | None, project: str, name: str, as_json: bool) -> None:
    """Show a job: what is in force, what has been changed on the server, and how its runs went."""
    with _server(url) as server:
        one = server.jobs("GET", _path(name), project=project)
    if as_json:
        click.echo(json.dumps(one, indent=2))
        return
    for line in _lines(one):
        click.echo(printable(line))


@jobs.command(context_settings={"ignore_unknown_options": True})
@_URL
@_PROJECT
@click.option("--wait", is_flag=True, help="Follow the run as `supercheck attach`, and end with pytest's exit code.")
@click.argument("name")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@reports_errors
def run(url: str | None, project: str, wait: bool, name: str, args: tuple[str, ...]) -> None:
    """
    Start a job now, and print its run's id, or the address of its workflow.

    \b
    supercheck jobs run nightly                         it goes on by itself
    supercheck jobs run nightly --wait -- --junitxml=x  what follows is pytest's: how results are shown
    """
    from pytest_supercheck.model import new_run_id

    if args and not wait:
        raise click.UsageError("arguments say how results are shown: give --wait, too")
    with _server(url) as server:
        if wait and "dispatch" in server.jobs("GET", _path(name), project=project)["effective"]:
            raise click.UsageError(f"{name} is a workflow of GitHub, which cannot be followed here: leave --wait out")
        start = server.jobs("POST", _path(name, "/starts"), {"run_id": new_run_id()}, project=project)
        while start["state"] in ("claimed", "queued"):
            time.sleep(LOOK_S)
            known = server.jobs("GET", _path(name, "/starts"), project=project)["starts"]
            start = next((one for one in known if one["run"] == start["run"]), start)
    if start["state"] == "refused":
        click.echo(f"supercheck: {printable(start['reason'])}", err=True)
        sys.exit(QueueFull.exit_code)
    if start["state"] != "started":
        raise Infrastructure(f"{name} was not started ({start['state']}): {printable(start['reason'])}")
    if not wait:
        if where := _where(start):
            click.echo(where)
        else:
            words = f"GitHub has not said where {name} runs: `supercheck jobs history {name}` tells it later"
            click.echo(f"supercheck: {words}", err=True)
        return
    from pytest_supercheck.session_commands import start_session

    # To ask the server took modules that pytest would else have to rewrite.
    quiet = ("-W", "ignore:Module already imported so cannot be rewritten")
    sys.exit(start_session(_address(url), (*quiet, *args), run=start["run"]))


@jobs.command()
@_URL
@_PROJECT
@click.argument("name")
@reports_errors
def enable(url: str | None, project: str, name: str) -> None:
    """Have a job start by itself again, as its schedule says; what was due meanwhile is not made up for."""
    _switch(url, project, name, on=True)


@jobs.command()
@_URL
@_PROJECT
@click.argument("name")
@reports_errors
def disable(url: str | None, project: str, name: str) -> None:
    """Have a job not start by itself; it can be started by hand."""
    _switch(url, project, name, on=False)


@jobs.command()
@_URL
@_PROJECT
@click.option("--limit", type=click.IntRange(1, 200), default=20, metavar="N", help="How many, at most.  [default: 20]")
@_JSON
@click.argument("name")
@reports_errors
def history(url: str | None, project: str, name: str, limit: int, as_json: bool) -> None:
    """List the last starts of a job, the newest first, and what became of them."""
    with _server(url) as server:
        found = server.jobs("GET", _path(name, "/starts"), project=project, limit=str(limit))["starts"]
    for one in found:
        if as_json:
            click.echo(json.dumps(one))
            continue
        became = one["verdict"] or one["state"]
        more = f": {one['reason']}" if one["reason"] else ""
        by = f" by {one['user']}" if one["user"] else ""
        where = _where(one) or "no page known"
        click.echo(printable(f"{_time(one['due_ms'])}  {one['trigger']:<8}  {became:<9}  {where}{by}{more}"))


def _read(rootdir: Path) -> tuple[list[Job], Settings]:
    """The jobs of a directory, and the settings that its ini file has for their runs."""
    from pytest_supercheck.ini import read_settings
    from pytest_supercheck.job_file import find_jobs, read_jobs

    return read_jobs(find_jobs(rootdir)), read_settings(rootdir)


def _address(url: str | None) -> str:
    address = url or os.environ.get("SUPERCHECK_URL") or ""
    if not is_server(address):
        raise click.UsageError("no server given: use --url https://HOST, or set SUPERCHECK_URL")
    return address


def _server(url: str | None) -> closing[HttpGateway]:
    return closing(open_server(_address(url), os.environ.get("SUPERCHECK_TOKEN") or None))


def _path(name: str, more: str = "") -> str:
    return f"/{quote(name, safe='')}{more}"


def _ship(server: HttpGateway, project: str, rootdir: Path, settings: Settings) -> Mapping[str, str]:
    from pytest_supercheck.shipping import Shipment

    patterns = {"include": settings.include, "exclude": settings.exclude}
    wish = {"project": project, "rootdir": str(rootdir), "limit_bytes": settings.bundle_limit, **patterns}
    shipment = Shipment(server, wish, lambda words: click.echo(words, err=True))
    shipment.join()
    return shipment.source()


def _switch(url: str | None, project: str, name: str, *, on: bool) -> None:
    with _server(url) as server:
        one = server.jobs("PATCH", _path(name), {"enabled": on}, project=project)
    click.echo(printable(f"{one['project']}/{one['name']}  {'on' if on else 'off'}  {_when(one)}"))


def _lines(one: Mapping[str, Any]) -> Iterator[str]:
    yield f"{one['project']}/{one['name']}, {'enabled' if one['enabled'] else 'disabled'}"
    yield f"  starts: {_when(one)}"
    for key, value in one["effective"].items():
        changed = " (changed here)" if key in one["overrides"] else ""
        yield f"  {key}: {value if isinstance(value, str) else json.dumps(value)}{changed}"
    for key in one["overrides"].keys() - one["effective"].keys():
        yield f"  {key}: none (changed here)"
    yield f"  {_last(one)}"


def _when(one: Mapping[str, Any]) -> str:
    if not one["schedule"]:
        return "by hand"
    return f"{one['schedule']}, next {_time(one['next_ms'])}" if one["next_ms"] else one["schedule"]


def _last(one: Mapping[str, Any]) -> str:
    figures, last = one["figures"], one["figures"]["last"]
    if last is None:
        return "never started"
    took = f", {seconds(figures['mean_s'])} each" if figures["mean_s"] is not None else ""
    runs = f"{plural(figures['runs'], 'run')}, {figures['failures']} failed{took}"
    return f"last {_time(last['due_ms'])} {last['verdict'] or last['state']}; {runs}"


def _where(start: Mapping[str, Any]) -> str:
    """The run of a start, or the page of its workflow; empty while GitHub has not shown that."""
    return str(start["url"] or ("" if start["asked_ms"] is not None else start["run"]))


def _time(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000))
