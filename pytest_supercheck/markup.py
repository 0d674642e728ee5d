"""
Texts of tests → HTML: escaped, coloured, and harmless.

For reports and pages.  Whatever a test prints or names is hostile here: nothing of it becomes markup, and what a reader
could not see, such as NULs or marks that turn the direction of writing, is shown as a sign.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from markupsafe import Markup, escape
from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, String

#: What has no sign of its own: controls but for tab and newline, marks of direction, surrogates without a partner.
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)

#: Escape sequences of terminals: those that change colours, and all others.
_SEQUENCE: Final = re.compile(
    r"\x1b\[(?P<colours>[0-9;]*)m|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]"
)

#: Classes of syntax, by the kinds of tokens that have one.
_SYNTAX: Final = (
    *((Comment, "c"), (Keyword, "k"), (Name.Builtin, "b"), (Name.Decorator, "d"), (Name.Function, "f")),
    *((Name.Class, "f"), (Name.Exception, "b"), (Number, "m"), (String, "s")),
)

#: A line of a traceback that is source, perhaps the one that failed.
_SOURCE: Final = re.compile(r">? {3,}|>$|$")

#: One that says where that is.
_PLACE: Final = re.compile(r"\S.*?:\d{1,9}: ")

#: One between two parts, and how long that or a place can be.
_RULER: Final = re.compile(r"(_ )+_?|[-=_*]{3,} .* [-=_*]{3,}|[-=_*]{10,}")
_SHORT: Final = 400


def visible(text: str) -> str:
    """The text with a sign for each character that has none, and newlines for other ends of lines."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _UNSEEN.sub(_sign, text)


def _sign(found: re.Match[str]) -> str:
    """As `cat -v` has it, ``^@`` to ``^?``; for the rest its number."""
    code = ord(found[0])
    return f"^{chr(code ^ 0x40)}" if code < 0x80 else f"<U+{code:04X}>"


def output(text: str) -> Markup:
    """What a test printed, with the colours that it meant, in classes ``t-0`` to ``t-15`` and ``t-bold``."""
    parts: list[str] = []
    state = _PLAIN
    at = 0
    for found in _SEQUENCE.finditer(text):
        parts.append(_coloured(text[at : found.start()], state))
        at = found.end()
        if found["colours"] is not None:
            state = _changed(state, found["colours"])
    parts.append(_coloured(text[at:], state))
    return Markup("".join(parts))


#: Neither bold nor coloured: whether bold, and the colour's number.
_PLAIN: Final[tuple[bool, int | None]] = (False, None)


def _changed(state: tuple[bool, int | None], colours: str) -> tuple[bool, int | None]:
    bold, colour = state
    codes = [int(code[:4] or 0) for code in colours.split(";")]
    if {38, 48} & set(codes):
        return state  # of 256 and more colours; not worth a page's while
    for code in codes:
        if code == 0:
            bold, colour = _PLAIN
        elif code in (1, 22):
            bold = code == 1
        elif code == 39:
            colour = None
        elif 30 <= code <= 37:
            colour = code - 30
        elif 90 <= code <= 97:
            colour = code - 82
    return bold, colour


def _coloured(text: str, state: tuple[bool, int | None]) -> str:
    shown = str(escape(visible(text)))
    if not shown or state == _PLAIN:
        return shown
    bold, colour = state
    classes = " ".join([*(["t-bold"] if bold else []), *([f"t-{colour}"] if colour is not None else [])])
    return f'<span class="{classes}">{shown}</span>'


def without_colours(text: str) -> str:
    """The text without the escape sequences of terminals."""
    return _SEQUENCE.sub("", text)


def traceback(text: str, *, syntax: bool = True) -> Markup:
    """
    A traceback of pytest.

    Args:
        syntax: Whether its source is coloured, in classes ``s-c`` (comments) to ``s-s`` (strings): it takes a
            millisecond for a few kilobytes.

    Returns:
        Lines, of which those have a span around them that are the error (``e``), failed (``m``), or tell the place
        (``p``).
    """
    lines = visible(without_colours(text)).split("\n")
    return Markup("\n".join(_traced(lines, syntax=syntax)))


def _traced(lines: Iterable[str], *, syntax: bool) -> Iterator[str]:
    block: list[str] = []
    for line in lines:
        if _SOURCE.match(line):
            block.append(line)
            continue
        yield from _source(block, syntax=syntax)
        block = []
        if line.startswith("E ") or line == "E":
            yield f'<span class="e">{escape(line)}</span>'
        elif len(line) < _SHORT and (_PLACE.match(line) or _RULER.fullmatch(line.strip())):
            yield f'<span class="p">{escape(line)}</span>'
        else:
            yield str(escape(line))
    yield from _source(block, syntax=syntax)


def _source(block: list[str], *, syntax: bool) -> Iterator[str]:
    """Lines of source; its first column, where pytest marks the line that failed, is none of it."""
    if not block:
        return
    bare = [line[1:] for line in block]
    shown = _highlighted(bare) if syntax else [str(escape(line)) for line in bare]
    for line, code in zip(block, shown, strict=True):
        yield f'<span class="m">&gt;{code}</span>' if line.startswith(">") else line[:1] + code


def _highlighted(lines: list[str]) -> list[str]:
    """Lines of Python with their syntax in spans, none of which goes over the end of a line."""
    shown, styled = [""], ""
    for kind, value in _lexer().get_tokens("\n".join(lines)):
        style = _style(kind)
        for place, piece in enumerate(value.split("\n")):
            if styled and (place or style != styled):
                shown[-1] += "</span>"
                styled = ""
            if place:
                shown.append("")
            if piece and style != styled:
                shown[-1] += f'<span class="s-{style}">'
                styled = style
            shown[-1] += str(escape(piece))
    if styled:
        shown[-1] += "</span>"
    return shown[: len(lines)]


@functools.cache
def _lexer() -> Any:
    return PythonLexer(stripnl=False, ensurenl=False)


@functools.cache
def _style(kind: Any) -> str:
    return next((style for known, style in _SYNTAX if kind in known), "")
