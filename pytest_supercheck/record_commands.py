"""
The commands of `supercheck` that show recorded runs: `runs` and `report`.

An edge beside `cli`: joins the store, its archive and the report.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from pytest_supercheck.operators import StoreSettings
from pytest_supercheck.options import reports_errors

if TYPE_CHECKING:
    from pytest_supercheck.record import RunSummary
    from pytest_supercheck.store import Store

_STORE: Final = click.option(
    "--store",
    metavar="STORE",
    help="Where runs are recorded: a directory, or s3://BUCKET/PREFIX. "
    "Default: $SUPERCHECK_STORE, then .supercheck/store of this directory or the nearest one above.",
)


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


@click.command()
@_STORE
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
    from pytest_supercheck.words import ordered, printable, seconds

    origin = summary.origin
    counts = ", ".join(f"{count} {outcome}" for outcome, count in ordered(summary.counts)) or "nothing ran"
    sources = " ".join(part for part in (origin.branch, origin.commit[:10]) if part)
    by = f", by {origin.user}" if origin.user else ""
    return printable(
        f"{summary.id}  {summary.submitted_at.astimezone():%Y-%m-%d %H:%M}  {summary.verdict:<9}  {summary.project}: "
        f"{counts} in {seconds(summary.duration_s)}{by}{f' from {sources}' if sources else ''}"
    )


@click.command()
@click.argument("run", default="")
@_STORE
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
