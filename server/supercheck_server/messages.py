"""
What a notification says: a run's row and failures → a title and a body of plain text.

Whatever comes from a session or a test is hostile text: it becomes one bounded line that mentions nobody, marks nothing
up and has no secret in it, before a template sees it.  What the receiver's markup needs escaped, its notifier escapes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from supercheck_server.render import seconds_text
from supercheck_server.rows import FailureRow, Reason, RunRow

#: Characters of a title, of a body (the least that a common service takes is 2,000) and of one value in them.
TITLE_LIMIT: Final = 200
BODY_LIMIT: Final = 1800
VALUE_LIMIT: Final = 160
#: Failing tests that a message names.
FAILURES: Final = 5

TITLE: Final = (
    "{{ run.project }}{% if run.job %}/{{ run.job }}{% endif %}"
    "{% if run.branch %}, {{ run.branch }}{% endif %}"
    "{% if run.pull_request %} (pull request {{ run.pull_request }}){% endif %}: {{ run.words }}"
)
BODY: Final = """\
{{ run.counts }}{% if run.took %} in {{ run.took }}{% endif %}

{% if run.commit %}commit {{ run.commit }}, {% endif %}{{ run.trigger }}{% if run.user %} by {{ run.user }}{% endif %}

{% if run.message %}{{ run.message }}{% endif %}

{% for failure in failures %}
- {{ failure.nodeid }}: {{ failure.message }}
{% endfor %}
{% if more %}and {{ more }} more{% endif %}

{{ run.link }}
"""

#: What a template raises that does not fit what it is to tell of.
TEMPLATE_ERRORS: Final = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError)

#: What a run that has no verdict of its tests is told as.
_WORDS: Final = {
    "abandoned": "its session has gone",
    "cancelled": "was cancelled",
    "fatal": "could not run",
    "interrupted": "was interrupted",
    "lost": "was lost",
    "stopped": "was stopped",
    "timeout": "took longer than it may",
}

#: Characters of a text that are looked at.
_LOOKED_AT: Final = 10_000
#: Credentials in addresses, this server's tokens, and what is called a secret.
_SECRETS: Final = (
    (re.compile(r"(?<=://)[^/\s]*@"), "***@"),
    (re.compile(r"\bsct_[\w-]+"), "***"),
    (re.compile(r"(?i)(bearer +|authorization['\"]?\s*[=:]\s*['\"]?\w+ +)[\w.~+/=-]+"), r"\1***"),
    (
        re.compile(
            # A key alone is a dictionary's, or a function to sort by; one that is written as a variable is none.
            r"(?i)((?:token|passw(?:or)?d|secret|(?:api|access|private|secret|signing|encryption)[_-]?key|(?-i:[A-Z]_KEY))"
            r"(?:[_-][\w-]{0,40})?['\"]?\s*(?:=+|:)\s*)(?:'[^']*'?|\"[^\"]*\"?|[^\s'\",;&]+)"
        ),
        r"\1***",
    ),
)
#: After these somebody's or everybody's name is a mention; between those, a text becomes a link.
_MEANS_SOMETHING: Final = re.compile(r"[@<]|\](?=[(\[])")
_WORD_JOINER: Final = "\N{WORD JOINER}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is sent."""

    #: One line.
    title: str
    #: Plain text.
    body: str
    #: Whether it is good news, bad news or neither.
    tone: Literal["good", "bad", "neither"]


class Wording:
    """The two templates of a target."""

    def __init__(self, title: str | None = None, body: str | None = None) -> None:
        """
        Compile them and try them out.

        Args:
            title: None for the usual one.
            body: None for the usual one.

        Raises:
            ValueError: One makes no sense; the message says why.
        """
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        try:
            self._title = environment.from_string(TITLE if title is None else title)
            self._body = environment.from_string(BODY if body is None else body)
            self.write(SAMPLE, [SAMPLE_FAILURE], reason="failure", link="https://tests.example.org/runs/1")
        except TEMPLATE_ERRORS as exc:
            raise ValueError(f"the template makes no sense: {exc}") from exc

    def write(
        self, run: RunRow, failures: Sequence[FailureRow], *, reason: Reason, link: str, job: str = ""
    ) -> Message:
        """
        Write what is to be said of a run.

        Args:
            failures: Its first ones.
            job: The name of the job that it is of; empty for none.
            reason: Why it is told.
            link: Its page's address; empty when that is not known.

        Raises:
            One of `TEMPLATE_ERRORS`: A template fits the sample, and not this run.
        """
        context = _context(run, failures[:FAILURES], reason, link, job)
        return make_message(
            self._title.render(context),
            self._body.render(context),
            tone="bad" if run.verdict == "failed" else "good" if run.verdict == "passed" else "neither",
        )


def make_message(title: str, body: str, *, tone: Literal["good", "bad", "neither"]) -> Message:
    """A message of lines that are harmless already: the title in one, no more of all than a service takes."""
    lines = re.sub(r"\n\s*\n", "\n", body).strip()
    return Message(title=_cut(" ".join(title.split()), TITLE_LIMIT), body=_cut(lines, BODY_LIMIT), tone=tone)


def plain(text: str, limit: int = VALUE_LIMIT) -> str:
    """A hostile text as one harmless line: see the top of this file."""
    line = " ".join("".join(map(_visible, text[:_LOOKED_AT])).split())
    for pattern, instead in _SECRETS:
        line = pattern.sub(instead, line)
    return _MEANS_SOMETHING.sub(lambda found: found[0] + _WORD_JOINER, _cut(line, limit))


def _visible(character: str) -> str:
    # Neither line breaks and other orders to terminals and headers, nor what turns the direction of reading.
    category = unicodedata.category(character)
    if category in ("Cc", "Zl", "Zp", "Zs"):
        return " "
    return "" if category in ("Cf", "Cs", "Co", "Cn") else character


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}\N{HORIZONTAL ELLIPSIS}"


def _context(run: RunRow, failures: Sequence[FailureRow], reason: Reason, link: str, job: str) -> Mapping[str, Any]:
    has_verdict = run.verdict in ("passed", "failed")
    texts = ("id", "project", "verdict", "outcome", "message", "trigger", "branch", "user", "host", "repository", "url")
    told = [{"nodeid": plain(one.nodeid), "phase": one.phase, "message": plain(one.message)} for one in failures]
    return {
        "run": {
            **{name: plain(getattr(run, name)) for name in texts},
            "job": plain(job),
            "commit": plain(run.commit, 12),
            "pull_request": run.pull_request,
            **{name: getattr(run, name) for name in ("total", "done", "bad", "passed", "failed", "errors", "skipped")},
            "took": "" if run.duration_s is None else seconds_text(run.duration_s),
            "counts": _counts(run),
            "words": _words(run, reason),
            "link": link,
        },
        "reason": reason,
        # Of a run that the machinery has ended, tests are not what is wrong.
        "failures": told if has_verdict else [],
        "more": max(0, run.bad - len(told)) if has_verdict else 0,
    }


def _words(run: RunRow, reason: Reason) -> str:
    tests = f"{run.bad} of {run.total} tests failed"
    if run.verdict == "failed":
        return f"has begun to fail, {tests}" if reason == "first-failure" else tests
    if run.verdict == "passed":
        return "passes again" if reason == "recovery" else "passed"
    return _WORDS.get(run.verdict, f"ended as {plain(run.verdict)}")


def _counts(run: RunRow) -> str:
    if run.verdict not in ("passed", "failed"):
        return f"{run.done} of {run.total} tests had a result"
    named = [(run.failed, "failed"), (run.errors, "errors"), (run.passed, "passed"), (run.skipped, "skipped")]
    return ", ".join(f"{count} {name}" for count, name in named if count) or "no tests"


#: What templates are tried out with, and what `supercheck notify test` sends.
SAMPLE: Final = RunRow(
    no=1, id="sample", project="sample", verdict="failed", outcome="finished", message="", trigger="push",
    branch="main", commit="0123456789abcdef", pull_request=0, repository="", user="ada", host="", url="", total=41,
    passed=40, failed=1, errors=0, skipped=0, xfailed=0, xpassed=0, executions=1, submitted_ms=0, started_ms=1_000,
    ended_ms=63_000, folder="sample", delivered=True,
)  # fmt: skip
SAMPLE_FAILURE: Final = FailureRow(
    position=0,
    key="",
    nodeid="tests/test_sample.py::test_nothing_is_wrong",
    phase="call",
    message="This is only a sample: nothing has failed.",
    cause_key="",
    cause="",
)
