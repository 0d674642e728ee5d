"""
Hostile texts as HTML.
"""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_supercheck import markup

#: Texts with what matters here in them.
texts = st.lists(
    st.text(max_size=4)
    | st.sampled_from(
        ["<script>", "&lt;", '"', "\x1b[31m", "\x1b[0m", "\x1b]8;;x\x07", "\x1b", "\r\n", "\n", "E   ", ">   "]
    ),
    max_size=20,
).map("".join)


class Spans(HTMLParser):
    """A page's tags and its text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One more tag."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """One more text."""
        self.text += data


def parse(shown: str) -> Spans:
    """What a browser makes of it."""
    parser = Spans()
    parser.feed(str(shown))
    parser.close()
    return parser


@given(texts)
def test_no_text_becomes_markup(text: str) -> None:
    """There are spans with classes of ours and nothing else, and each is closed."""
    for shown in (markup.output(text), markup.traceback(text), markup.traceback(text, syntax=False)):
        for tag, attributes in parse(shown).tags:
            assert tag == "span"
            assert list(attributes) == ["class"]
            assert re.fullmatch(r"[est]|[mp]|s-[a-z]|(t-bold)?( ?t-\d+)?", attributes["class"] or "")
        assert shown.count("<span") == shown.count("</span>")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", shown)
        shown.encode("utf-8")


@given(texts)
def test_no_text_is_lost(text: str) -> None:
    """But for escape sequences of terminals: whoever prints cannot hide the rest."""
    expected = markup.visible(markup.without_colours(text))
    assert parse(markup.traceback(text)).text == expected
    assert parse(markup.output(text)).text == expected


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x00b", "a^@b"),
        ("a\x7fb", "a^?b"),
        ("a\tb\nc", "a\tb\nc"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("a\x85b", "a<U+0085>b"),
        ("access \u202elevel", "access <U+202E>level"),
        ("\ud83d", "<U+D83D>"),
        ("\U0001f600 é", "\U0001f600 é"),
    ],
)
def test_what_cannot_be_seen_has_a_sign(text: str, shown: str) -> None:
    """And ends of lines are newlines."""
    assert markup.visible(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m plain", '<span class="t-1">red</span> plain'),
        (
            "\x1b[1;92mbold\x1b[22mnot\x1b[39mplain",
            '<span class="t-bold t-10">bold</span><span class="t-10">not</span>plain',
        ),
        ("\x1b[mplain", "plain"),
        ("\x1b[38;5;196mmany\x1b[0m", "many"),
        ("\x1b[2K\x1b[1Aover", "over"),
        ("\x1b]8;;https://example.com\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;never ends, and hides\nnothing", "0;never ends, and hides\nnothing"),
        ("\x1b(Bascii", "ascii"),
        ("alone \x1b", "alone ^["),
        ("\x1b[99999999999999999999mbig", "big"),
        ("\x1b[31m<b>", '<span class="t-1">&lt;b&gt;</span>'),
    ],
)
def test_colours_of_terminals(text: str, shown: str) -> None:
    """Those that pages have are kept, everything else that steers a terminal is dropped."""
    assert markup.output(text) == shown


def test_tracebacks_are_coloured() -> None:
    """Source by its syntax, the line that failed, the error, and the place."""
    code = '    def test(value):\n>       assert value == "x"  # why\n'
    text = f'{code}E       assert 1 == "x"\n\ntest_it.py:3: AssertionError'
    source, failed, error, _, place = markup.traceback(text).split("\n")
    assert source == '    <span class="s-k">def</span> <span class="s-f">test</span>(value):'
    assert failed.startswith('<span class="m">&gt;       <span class="s-k">assert</span>')
    assert '<span class="s-s">&#34;x&#34;</span>' in failed
    assert '<span class="s-c"># why</span>' in failed
    assert error == '<span class="e">E       assert 1 == &#34;x&#34;</span>'
    assert place == '<span class="p">test_it.py:3: AssertionError</span>'


def test_strings_over_several_lines_are_closed_on_each() -> None:
    """So that a line can be marked."""
    lines = markup.traceback('    x = """a\n    b\n    c"""').split("\n")
    assert len(lines) == 3
    assert all(line.count("<span") == line.count("</span>") for line in lines)


@pytest.mark.parametrize(
    "text",
    ["a" * 200_000, ":1" * 100_000, "- " * 100_000, "\x1b]" * 50_000, "\x1b[" * 50_000, "'" * 20_000, "(" * 20_000],
)
def test_no_text_takes_long(text: str) -> None:
    """However it was made: a page is rendered in seconds."""
    started = time.process_time()
    markup.output(text)
    markup.traceback(text[:20_000])
    assert time.process_time() - started < 5
