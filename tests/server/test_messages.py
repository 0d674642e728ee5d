"""
What a notification says, and what hostile text cannot make it say.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_string
from email.message import Message as Mail
from typing import Any

import pytest

from supercheck_server.messages import (
    BODY_LIMIT,
    SAMPLE,
    SAMPLE_FAILURE,
    TITLE_LIMIT,
    VALUE_LIMIT,
    Message,
    Wording,
    plain,
)
from supercheck_server.notifier import Notifiers, without_address
from supercheck_server.rows import Reason, RunRow

JOINER = "\N{WORD JOINER}"


def written(run: RunRow = SAMPLE, reason: Reason = "failure", **templates: str) -> Message:
    """What the usual templates, or others, make of a run."""
    return Wording(**templates).write(run, [SAMPLE_FAILURE], reason=reason, link="https://h.example/runs/1")


def test_message_says_what_failed_and_where_to_look() -> None:
    """In a title for those in a hurry, and a body."""
    message = written()
    assert message.title == "sample, main: 1 of 41 tests failed"
    assert message.body.splitlines() == [
        "1 failed, 40 passed in 1 min 2 s",
        "commit 0123456789a\N{HORIZONTAL ELLIPSIS}, push by ada",
        "- tests/test_sample.py::test_nothing_is_wrong: This is only a sample: nothing has failed.",
        "https://h.example/runs/1",
    ]
    assert message.tone == "bad"


@pytest.mark.parametrize(
    ("changes", "reason", "words", "tone"),
    [
        pytest.param({}, "first-failure", "has begun to fail, 1 of 41 tests failed", "bad", id="first failure"),
        pytest.param({"verdict": "passed", "failed": 0}, "recovery", "passes again", "good", id="recovery"),
        pytest.param({"verdict": "passed", "failed": 0}, "always", "passed", "good", id="passed"),
        pytest.param({"verdict": "lost"}, "failure", "was lost", "neither", id="lost"),
        pytest.param({"verdict": "fatal"}, "failure", "could not run", "neither", id="fatal"),
        pytest.param({"verdict": "timeout"}, "failure", "took longer than it may", "neither", id="timeout"),
        pytest.param({"verdict": "cancelled"}, "always", "was cancelled", "neither", id="cancelled"),
        pytest.param({"verdict": "eaten"}, "always", "ended as eaten", "neither", id="unknown"),
    ],
)
def test_title_says_what_happened(changes: dict[str, Any], reason: Reason, words: str, tone: str) -> None:
    """What the machinery has ended is told as that."""
    message = written(replace(SAMPLE, **changes), reason)
    assert message.title == f"sample, main: {words}"
    assert message.tone == tone


def test_run_of_a_job_is_told_with_its_name() -> None:
    """A project has several, and they run other tests."""
    message = Wording().write(SAMPLE, [SAMPLE_FAILURE], job="nightly", reason="failure", link="")
    assert message.title == "sample/nightly, main: 1 of 41 tests failed"
    message = Wording(title="{{ run.job or 'no job' }}").write(SAMPLE, [], reason="failure", link="")
    assert message.title == "no job"


def test_lost_run_names_no_failing_test() -> None:
    """It is not known what its tests would have been."""
    message = written(replace(SAMPLE, verdict="lost", message="its executions were lost again and again", passed=3))
    assert "failed" not in message.body
    assert "test_nothing_is_wrong" not in message.body
    assert "4 of 41 tests had a result" in message.body
    assert "lost again and again" in message.body


@pytest.mark.parametrize(
    ("given", "harmless"),
    [
        pytest.param("a\r\nBcc: eve@example.org", f"a Bcc: eve@{JOINER}example.org", id="header"),
        pytest.param("a\x00\x1b[31mb\x85c\u2028d", "a [31mb c d", id="control characters"),
        pytest.param("@channel @everyone", f"@{JOINER}channel @{JOINER}everyone", id="mentions"),
        pytest.param("<!here> <@U123> <at>Bob</at>", None, id="Slack and Teams"),
        pytest.param("[click](https://evil.example)", f"[click]{JOINER}(https://evil.example)", id="link"),
        pytest.param("user\u202egnp.exe\u2066", "usergnp.exe", id="direction of reading"),
        pytest.param("lone \ud800 surrogate", "lone surrogate", id="surrogate"),
        pytest.param("https://ada:sesame@h.example/x", f"https://***@{JOINER}h.example/x", id="password"),
        pytest.param("https://ghp_sesame@h.example", f"https://***@{JOINER}h.example", id="token as user"),
        pytest.param("token=sesame, PASSWORD: 'sesame'", "token=***, PASSWORD: ***", id="named"),
        pytest.param('{"api_key": "sesame"}', '{"api_key": ***}', id="JSON"),
        pytest.param("AWS_SECRET_ACCESS_KEY=sesame secret_key='sesame'", None, id="parts of names"),
        pytest.param("private_key: sesame, signing-key='sesame x' y", "private_key: ***, signing-key=*** y", id="keys"),
        pytest.param("STRIPE_KEY=sesame", "STRIPE_KEY=***", id="variable"),
        pytest.param("sorted(key=len), primary_key: 7", "sorted(key=len), primary_key: 7", id="keys that open nothing"),
        pytest.param("assert token == 'sesame'", "assert token == ***", id="compared"),
        pytest.param("https://ada:ses@sesame@h.example", f"https://***@{JOINER}h.example", id="password with a sign"),
        pytest.param("KeyError: 'a', monkey: b, tokenizer: c", "KeyError: 'a', monkey: b, tokenizer: c", id="no names"),
        pytest.param("Authorization: Bearer se.sa-me", "Authorization: Bearer ***", id="header of HTTP"),
        pytest.param("{'Authorization': 'Basic sesame=='}", "{'Authorization': 'Basic ***'}", id="basic"),
        pytest.param("basic arithmetic, token of love", "basic arithmetic, token of love", id="ordinary words"),
        pytest.param("sct_sesame-sesame", "***", id="ours"),
        pytest.param("x" * 10_000, None, id="long"),
    ],
)
def test_hostile_text_is_one_harmless_line(given: str, harmless: str | None) -> None:
    """Whatever comes from a session or a test."""
    line = plain(given)
    assert harmless is None or line == harmless
    assert len(line) <= VALUE_LIMIT * 2
    assert line.isprintable() or JOINER in line
    assert "sesame" not in line
    for marked in ("<!", "<@", "<a", "](", "@c", "@e", "@U"):
        assert marked not in line


def test_everything_that_others_have_written_is_made_harmless() -> None:
    """Each value of a run, and each of a failure."""
    evil = "{{ 7 * 7 }}<!channel>\r\n@everyone"
    texts: dict[str, Any] = {name: evil for name in RunRow.__slots__ if isinstance(getattr(SAMPLE, name), str)}
    run = replace(SAMPLE, **(texts | {"verdict": "failed"}))
    failure = replace(SAMPLE_FAILURE, nodeid=evil, message=evil)
    whole = (
        "{{ run.values() | list }} {% for failure in failures %}{{ failure.nodeid }} {{ failure.message }}{% endfor %}"
    )
    for wording in (Wording(), Wording(whole, whole)):
        message = wording.write(run, [failure] * 9, reason="failure", link="")
        for text in (message.title, message.body):
            assert "49" not in text
            assert "@e" not in text
            assert "<!" not in text
            assert "\r" not in text
        assert "\n" not in message.title
        assert len(message.title) <= TITLE_LIMIT
        assert len(message.body) <= BODY_LIMIT


@pytest.mark.parametrize(
    "template",
    [
        pytest.param("{% if %}", id="syntax"),
        pytest.param("{{ run.colour }}", id="unknown name"),
        pytest.param("{{ run.__class__.__mro__ }}", id="out of the sandbox"),
        pytest.param("{{ 1 / 0 }}", id="arithmetic"),
        pytest.param("{{ run.branch + 1 }}", id="types"),
        pytest.param("{% include 'x' %}", id="files"),
    ],
)
def test_template_that_makes_no_sense_is_refused(template: str) -> None:
    """When it is read, not when a run fails."""
    with pytest.raises(ValueError, match="the template makes no sense"):
        Wording(title=template)


def test_words_of_a_service_have_nothing_of_its_address() -> None:
    """Neither host nor receiver nor what opens it, percent-encoded or not."""
    url = "mailtos://ada:se%40same@mail.example.org:587/eve@example.com?smtp=smtp.example.org"
    words = "Failed at mail.example.org to eve@example.com with se@same as ada: error=500"
    assert without_address(words, url) == "Failed at *** to ***@*** with *** as ***: error=500"


class MailServer:
    """As much of SMTP as a client needs (RFC 5321)."""

    def __init__(self) -> None:
        import socketserver

        mails = self.mails = list[Mail]()

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"220 here\r\n")
                while line := self.rfile.readline():
                    verb = line[:4].upper()
                    if verb == b"DATA":
                        self.wfile.write(b"354 go on\r\n")
                        lines = iter(self.rfile.readline, b".\r\n")
                        mails.append(message_from_string(b"".join(lines).decode()))
                    self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 yes\r\n")

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    """A mail server on a port of its own."""
    made = MailServer()
    made.thread.start()
    yield made
    made.server.shutdown()
    made.thread.join()
    made.server.server_close()


@pytest.mark.parametrize("form", ["text", "html"])
def test_mail_arrives_and_is_escaped(mail_server: MailServer, form: str) -> None:
    """Where the receiver reads HTML; no header can be forged."""
    port = mail_server.server.server_address[1]
    evil = "x\r\nBcc: eve@example.org <b>bold</b>"
    message = written(replace(SAMPLE, branch=evil, user=evil))
    address = f"mailto://127.0.0.1:{port}?from=ci@example.org&to=ada@example.org&mode=insecure&format={form}"
    Notifiers().send(address, message)
    [mail] = mail_server.mails
    assert mail["Bcc"] is None
    assert "Bcc" in mail["Subject"]
    parts = {part.get_content_type(): part.get_payload(decode=True) for part in mail.walk() if not part.is_multipart()}
    assert f"text/{'plain' if form == 'text' else form}" in parts
    assert b"<b>" not in parts.get("text/html", b"")
    assert b"40 passed" in parts["text/plain"]
