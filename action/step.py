"""
The step: inputs → session → what GitHub is told, and the exit status.

Joins the action's other modules; what they say goes to files that GitHub names, and to the log.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Final

from action import summary
from action.commands import annotate, command
from action.comment import Comment
from action.context import Context
from action.inputs import BadInput, Inputs
from action.installation import InstallationError, python_for
from action.log import follow
from action.outcome import Outcome

#: pytest's exit code for wrong usage, and ours for what is not there, or breaks.
_USAGE: Final = 4
_UNREACHABLE: Final = 69
_BROKEN: Final = 70


def main(environ: MutableMapping[str, str]) -> int:
    """
    Run the step.

    Args:
        environ: This process's own; inputs are taken out of it, before any process is started that could see them.

    Returns:
        The exit status.
    """
    context = Context.read(environ)
    inputs = None
    try:
        inputs = Inputs.take(environ)
        outcome = _outcome(inputs, context, environ)
    except BadInput as exc:
        outcome = Outcome.without_session(_USAGE, str(exc))
    print()  # commands begin lines, and whoever has written last may not have ended one
    for line in annotate(outcome):
        print(line)
    _append(context.output_file, _outputs(outcome))
    _append(context.summary_file, summary.render(outcome, context, limit_bytes=_room(context.summary_file)))
    if inputs is not None and inputs.comment:
        words = Comment(context, inputs.github_token, inputs.comment).put(outcome)
        if words:
            print(command("notice", words, title="supercheck"))
    return outcome.exit_status(inputs.fail_on if inputs is not None else "any")


def _outcome(inputs: Inputs, context: Context, environ: MutableMapping[str, str]) -> Outcome:
    try:
        python = python_for(inputs, context.temporary)
    except InstallationError as exc:
        return Outcome.without_session(_UNREACHABLE, f"pytest-supercheck could not be installed: {exc}")
    with tempfile.TemporaryDirectory(dir=context.temporary, prefix="supercheck-") as directory:
        wish: dict[str, Any] = {"url": inputs.url, "args": [*inputs.options, *inputs.args], "remote": inputs.remote}
        wish |= {"base": context.base, "attempts": context.attempts}
        Path(directory, "wish.json").write_text(json.dumps(wish), "utf-8")
        own = {name: value for name, value in environ.items() if name != "SUPERCHECK_URL"}
        if inputs.token:
            own["SUPERCHECK_TOKEN"] = inputs.token
        status = _run([python, str(Path(__file__).with_name("session.py")), directory], own)
        try:
            return Outcome.of(json.loads(Path(directory, "told.json").read_bytes()))
        except (OSError, ValueError):  # it was killed before, or meanwhile
            status = status if status > 1 else _BROKEN  # 0 and 1 are about tests
            return Outcome.without_session(status, "the session ended before it could tell of its results")


def _run(program: list[str], environ: dict[str, str]) -> int:
    """Run the session; it is told when the job is cancelled, which reaches the step's first process alone."""
    sys.stdout.flush()
    process = subprocess.Popen(
        program, env=environ, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )

    def pass_on(_number: int, _frame: Any) -> None:
        process.send_signal(signal.SIGINT)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return follow(process)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _outputs(outcome: Outcome) -> str:
    values = {
        "run-id": outcome.run,
        "report-url": outcome.page,
        "state": outcome.state,
        "total": outcome.total,
        "passed": outcome.passed,
        "failed": outcome.failed,
        "skipped": outcome.skipped,
        "flaky": outcome.flaky,
        "duration": f"{outcome.duration_s:.2f}",
    }
    # One line each, whatever is in them: the next line would be another output.
    return "".join(f"{name}={' '.join(str(value).split())}\n" for name, value in values.items())


def _append(path: Path | None, text: str) -> None:
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)


def _room(path: Path | None) -> int:
    """Bytes that a summary may still have, which tests may have begun."""
    there = os.path.getsize(path) if path is not None and path.exists() else 0
    return max(0, summary.LIMIT_BYTES - there)
