"""
What GitHub is told: commands, summaries and statuses of outcomes, whatever is in them.
"""

from __future__ import annotations

import html
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from action.commands import SHOWN, annotate, command
from action.context import Context
from action.inputs import BadInput, Inputs
from action.log import follow
from action.outcome import Failure, Outcome
from action.summary import LIMIT_BYTES, code, render
from pytest_supercheck.origin import find_origin

HOSTILE = "a::b%0A,\r\n::error::x </code></pre><img src=x> | `c` **d** [e](http://f) @ada #1 <!-- -->"


def make_failure(number: int = 0, **changes: Any) -> Failure:
    """A test that failed."""
    made = Failure(
        nodeid=f"test_a.py::test_{number}",
        message="assert 0",
        trace="def test():\n>   assert 0\nE   assert 0",
        file="test_a.py",
        line=2,
        kind="",
        failing_since="",
    )
    return replace(made, **changes)


def make_outcome(*failures: Failure, **changes: Any) -> Outcome:
    """A session's."""
    counts = {"total": 3, "passed": 3 - len(failures), "failed": len(failures)}
    return replace(Outcome.without_session(1 if failures else 0, ""), **{**counts, "failures": failures, **changes})


@pytest.fixture
def context() -> Context:
    """A job of a push."""
    return Context.read({"GITHUB_REPOSITORY": "acme/shop", "GITHUB_RUN_ID": "5", "GITHUB_RUN_ATTEMPT": "2"})


def test_commands_have_one_line_and_no_end_before_it() -> None:
    """Whatever is in a message or a property."""
    line = command("error", HOSTILE, title=HOSTILE, file="", line=3)
    assert len(line.splitlines()) == 1
    head, properties, message = line.split(" ", 1)[0], *line.split(" ", 1)[1].split("::", 1)
    assert head == "::error"
    assert properties.split(",")[1] == "line=3", "no comma in the title"
    assert message.replace("%0A", "\n").replace("%0D", "\r").replace("%25", "%") == HOSTILE


def test_text_that_is_none_is_told(context: Context) -> None:
    """As an exception may have that quotes bytes: the log and the summary take UTF-8 alone."""
    failure = make_failure(message="ValueError: \ud800", trace="\udcff", nodeid="test_\ud800")
    for text in (*annotate(make_outcome(failure)), render(make_outcome(failure), context, limit_bytes=LIMIT_BYTES)):
        assert "ValueError" in text.encode().decode()


def test_new_failures_have_the_room_that_there_is() -> None:
    """GitHub shows ten of a kind; those that are known are of another kind."""
    known = [make_failure(number, kind="known") for number in range(3)]
    new = [make_failure(number, kind="new") for number in range(20)]
    lines = list(annotate(make_outcome(*known, *new)))
    assert [line.split(" ")[0] for line in lines] == ["::warning"] * 3 + ["::error"] * SHOWN


def test_trouble_that_is_no_test_is_told() -> None:
    """With its words."""
    refused = Outcome.without_session(75, "the queue is full")
    assert list(annotate(refused)) == ["::error title=supercheck::the queue is full"]


def test_names_of_tests_are_text(context: Context) -> None:
    """Nothing in them is Markdown or HTML, or ends what is around them."""
    failure = make_failure(nodeid=HOSTILE, message=HOSTILE, trace=HOSTILE)
    text = render(make_outcome(failure, slowest=((HOSTILE, 2.0),)), context, limit_bytes=LIMIT_BYTES)
    assert not [one for one in ("<img", "<!--", "@ada") if one in text]
    page = MarkdownIt("commonmark").enable("table").render(text)
    assert page.count("</code>") == 4  # a failure's name, place and message, and a slow test's name
    assert "<strong>" not in page
    shown = html.unescape(MarkdownIt("commonmark").render(code(HOSTILE)))
    assert shown.strip() == f"<p><code>{' '.join(HOSTILE.split())}</code></p>"


def test_summary_has_a_limit(context: Context) -> None:
    """Failures that have no room are counted, and the end is there."""
    failures = [make_failure(number, trace="é" * 4000) for number in range(200)]
    text = render(make_outcome(*failures, failed=300), context, limit_bytes=LIMIT_BYTES)
    assert 900_000 < len(text.encode()) <= LIMIT_BYTES
    assert f"{300 - text.count('<details>')} more failures in the log" in text
    assert "attempt 2" in text
    assert len(render(make_outcome(*failures), context, limit_bytes=5000).encode()) <= 5000


def test_kinds_of_failures_are_apart(context: Context) -> None:
    """The new ones first, and since when the others fail."""
    old, new = make_failure(1, kind="known", failing_since="0190-1"), make_failure(2, kind="new")
    text = render(make_outcome(old, new), context, limit_bytes=LIMIT_BYTES)
    assert text.index("New failures") < text.index("2</code>") < text.index("branch already") < text.index("0190-1")


@pytest.mark.parametrize(
    ("status", "kinds", "statuses"),
    [
        (0, [], {"any": 0, "new": 0, "never": 0}),
        (1, ["known", "flaky"], {"any": 1, "new": 0, "never": 0}),
        (1, ["known", "new"], {"any": 1, "new": 1, "never": 0}),
        (1, [""], {"any": 1, "new": 1, "never": 0}),
        (75, [], {"any": 75, "new": 75, "never": 75}),
        (2, ["known"], {"any": 2, "new": 2, "never": 2}),
    ],
)
def test_what_fails_the_step(status: int, kinds: list[Any], statuses: dict[str, int]) -> None:
    """Tests are forgiven as asked, and nothing else ever is."""
    outcome = make_outcome(*(make_failure(kind=kind) for kind in kinds), status=status)
    assert {fail_on: outcome.exit_status(fail_on) for fail_on in statuses} == statuses


def test_failures_that_were_not_told_are_not_forgiven() -> None:
    """The server is asked about the first ones only."""
    assert make_outcome(make_failure(kind="known"), failed=2).exit_status("new") == 1


def test_inputs_leave_the_environment() -> None:
    """And are words, options and choices."""
    environ = {
        "INPUT_URL": "https://tests.example.org",
        "INPUT_ARGS": "-k 'a b'\n  tests",
        "INPUT_EXECUTIONS": "4",
        "INPUT_COMMENT": "true",
        "INPUT_TOKEN": "sct_1",
        "PATH": "/bin",
    }
    inputs = Inputs.take(environ)
    assert environ == {"PATH": "/bin"}
    assert inputs.args == ("-k", "a b", "tests")
    assert inputs.options == ("--supercheck-executions=4",)
    assert inputs.remote
    assert "sct_1" not in repr(inputs)


@pytest.mark.parametrize("wrong", [{"INPUT_ARGS": "'"}, {"INPUT_COLLECT": "here"}, {"INPUT_FAIL_ON": "all"}])
def test_senseless_input_is_refused(wrong: dict[str, str]) -> None:
    """By its name."""
    with pytest.raises(BadInput, match=next(iter(wrong)).removeprefix("INPUT_").lower().replace("_", "-")):
        Inputs.take(wrong)


def test_base_of_a_push_is_the_default_branch(tmp_path: Path) -> None:
    """Of a pull request, what it is to go into; what comes of a fork is known."""
    event = tmp_path / "event.json"
    event.write_text('{"repository": {"default_branch": "trunk"}}')
    environ = {"GITHUB_EVENT_PATH": str(event), "GITHUB_REPOSITORY": "acme/shop", "GITHUB_EVENT_NAME": "push"}
    assert (Context.read(environ).base, Context.read(environ).pull_request) == ("trunk", 0)
    event.write_text('{"pull_request": {"number": 7, "head": {"repo": null}}}')
    fork = Context.read({**environ, "GITHUB_BASE_REF": "main", "GITHUB_EVENT_NAME": "pull_request"})
    assert (fork.base, fork.pull_request, fork.from_fork) == ("main", 7, True)


def test_attempts_of_a_job_are_known_by_their_pages() -> None:
    """As their runs name them."""
    environ = {"GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "acme/shop", "GITHUB_RUN_ID": "5"}
    context = Context.read({**environ, "GITHUB_RUN_ATTEMPT": "2"})
    origin = find_origin(
        {"args": [], "rootdir": "/", "pytest": "9", "plugins": []}, {**environ, "GITHUB_RUN_ATTEMPT": "1"}
    )
    assert context.page == "https://github.com/acme/shop/actions/runs/5/attempts/2"
    assert origin["url"] == f"{context.attempts}1"


def test_what_a_test_prints_is_no_command_but_a_mask(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Also behind a carriage return, at which GitHub's runner ends a line as well."""
    told = r"print('::add-mask::sesame\r::error file=a.py::forged', '::error::forged too', sep='\n')"
    process = subprocess.Popen([sys.executable, "-c", told], stdout=subprocess.PIPE)
    assert follow(process) == 0
    assert process.stdout is not None
    process.stdout.close()
    stopped, heard = "", []
    for line in re.split(r"[\r\n]+", capfdbinary.readouterr().out.decode()):
        if stopped:
            stopped = "" if line == f"::{stopped}::" else stopped
        elif line.startswith("::stop-commands::"):
            stopped = line.rpartition("::")[2]
        elif line:
            heard.append(line)
    assert heard == ["::add-mask::sesame"]


def test_known_failures_are_forgiven_and_a_session_that_fails_otherwise_is_not() -> None:
    """As one whose coverage is too low: none of its tests has failed."""
    known = make_outcome(make_failure(kind="known"))
    assert [known.exit_status(on) for on in ("any", "new", "never")] == [1, 0, 0]
    assert make_outcome(status=1).exit_status("new") == 1
