"""
A session's results as Markdown: for the job's summary, and in short for the pull request.

Pure.  Names and messages of tests may be anything: all of it is text, none of it Markdown, HTML or a mention.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from action.context import Context
from action.outcome import Failure, Kind, Outcome
from pytest_supercheck.words import plural, seconds

#: Bytes that GitHub takes of a step, less a little for whoever else writes there.
LIMIT_BYTES: Final = 1_000_000
#: Bytes that stay free for what follows failures.
_TAIL_BYTES: Final = 10_000

#: What the states other than those of tests mean.
_WORDS: Final = {
    "cancelled": "the run was cancelled",
    "refused": "the queue is full, so the run was refused and nothing of it was kept",
    "unreachable": "the pool cannot be reached",
    "broken": "the infrastructure failed, which says nothing about the tests",
    "timeout": "the run's time is up",
    "empty": "no tests were found",
    "detached": "the run goes on without this job",
    "error": "the session ended with an error that the log tells",
}

_HEADINGS: Final[dict[Kind, str]] = {
    "new": "New failures",
    "": "Failures",
    "known": "Failing on the base branch already",
    "flaky": "Known to be flaky",
}


def render(outcome: Outcome, context: Context, *, limit_bytes: int, traces: bool = True) -> str:
    """
    The whole text.

    Args:
        limit_bytes: How long it may be; failures that have no room are counted.
        traces: Whether failures come with the end of what pytest says of them.
    """
    head, tail = "\n".join(_head(outcome)), "\n".join(_tail(outcome, context))
    room = limit_bytes - len(head.encode()) - max(_TAIL_BYTES, len(tail.encode()))
    body: list[str] = []
    told = 0
    for kind, heading in _HEADINGS.items():
        some = [one for one in outcome.failures if one.kind == kind]
        for number, failure in enumerate(some):
            text = "\n".join(_failure(failure, traces=traces))
            text = text if number else f"\n### {heading}\n\n{text}"
            room -= len(text.encode()) + 1
            if room < 0:
                break
            body.append(text)
            told += 1
    if told < outcome.failed:
        body.append(f"\n{plural(outcome.failed - told, 'more failure')} in the log.")
    return "\n".join([head, *body, tail, ""])[:limit_bytes]


def code(text: str) -> str:
    """Text in one line of Markdown, in the letters of code."""
    return f"<code>{_plain(' '.join(text.split()))}</code>"


def _plain(text: str) -> str:
    """Text of which nothing means anything: entities are no part of Markdown's or HTML's structure."""
    return "".join(letter if letter.isalnum() or letter in " /.,-()=" else f"&#{ord(letter)};" for letter in text)


def _head(outcome: Outcome) -> Iterator[str]:
    counts = [
        f"{number} {word}"
        for word in ("failed", "passed", "skipped", "flaky")
        if (number := getattr(outcome, word)) or (word == "passed" and outcome.state == "passed")
    ]
    yield f"## Tests: {', '.join(counts) or outcome.state}"
    yield ""
    if outcome.state in _WORDS:
        yield f"**{outcome.state.capitalize()}**: {_WORDS[outcome.state]}."
        if outcome.why:
            yield f"\n{code(outcome.why)}"
        yield ""
    yield "| tests | passed | failed | skipped | flaky | time |"
    yield "|---|---|---|---|---|---|"
    row = (outcome.total, outcome.passed, outcome.failed, outcome.skipped, outcome.flaky, seconds(outcome.duration_s))
    yield f"| {' | '.join(map(str, row))} |"


def _failure(failure: Failure, *, traces: bool) -> Iterable[str]:
    where = f" in {code(f'{failure.file}:{failure.line}')}" if failure.file else ""
    since = f", since run {code(failure.failing_since)}" if failure.failing_since else ""
    first = failure.message.strip().partition("\n")[0][:300]
    line = f"{code(failure.nodeid)}{where}{since}: {code(first)}"
    if not traces:
        return [f"- {line}"]
    # The text of <pre> is HTML's, up to its end, and no Markdown.
    return [f"<details><summary>{line}</summary>", "", f"<pre>{_plain_lines(failure.trace)}</pre>", "</details>", ""]


def _plain_lines(text: str) -> str:
    return "\n".join(_plain(line) for line in text.splitlines())


def _tail(outcome: Outcome, context: Context) -> Iterator[str]:
    slow = [(nodeid, taken) for nodeid, taken in outcome.slowest if taken >= 0.1]
    if slow:
        yield "\n<details><summary>Slowest tests</summary>\n\n| test | time |\n|---|---|"
        yield from (f"| {code(nodeid[:300])} | {seconds(taken)} |" for nodeid, taken in slow)
        yield "\n</details>"
    links = []
    if outcome.page:
        links.append(f"[the run]({_address(outcome.page)})")
    elif outcome.run:
        links.append(f"run {code(outcome.run)}")
    if context.repository:
        again = f", attempt {context.attempt}" if context.attempt > 1 else ""
        links.append(f"[the job]({_address(context.page)}){again}")
    yield f"\n{' · '.join(links)}"


def _address(url: str) -> str:
    return "".join(letter for letter in url if letter.isalnum() or letter in "-._~:/?#@!$&*+,;=%")
