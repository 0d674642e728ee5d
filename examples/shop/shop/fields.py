"""Reads untrusted input field by field, and collects everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping

from .errors import invalid

_MISSING = object()


class Fields:
    """
    Input from a JSON body, a query or a form.

    Args:
        given: What came; numbers may come as text.
    """

    def __init__(self, given: Mapping[str, object]) -> None:
        self._given = given
        self._wrong: dict[str, str] = {}

    def has(self, name: str) -> bool:
        """Whether a field was given."""
        return self._given.get(name, _MISSING) not in (_MISSING, None, "")

    def text(self, name: str, *, longest: int = 200, default: str | None = None) -> str:
        """A text, stripped; it may be empty only where there is a default."""
        given = self._given.get(name)
        if given in (None, "") and default is not None:
            return default
        if not isinstance(given, str) or not given.strip():
            self.refuse(name, "is required")
            return ""
        if len(given) > longest:
            self.refuse(name, f"may have {longest} characters at most")
            return ""
        return given.strip()

    def integer(self, name: str, *, least: int, most: int, default: int | None = None) -> int:
        """A whole number within bounds."""
        given = self._given.get(name)
        if given in (None, "") and default is not None:
            return default
        try:
            number = int(given) if isinstance(given, str) else given
        except ValueError:
            number = None
        if not isinstance(number, int) or isinstance(number, bool):
            self.refuse(name, "must be a whole number")
            return least
        if not least <= number <= most:
            self.refuse(name, f"must be {least} to {most}")
            return least
        return number

    def choice(self, name: str, choices: tuple[str, ...], *, default: str) -> str:
        """One of some words."""
        given = self.text(name, default=default)
        if given not in choices:
            self.refuse(name, f"must be one of {', '.join(choices)}")
        return given

    def email(self, name: str) -> str:
        """An address that has a chance, in lower case."""
        given = self.text(name)
        local, at, host = given.rpartition("@")
        if given and not (local and at and "." in host.strip(".") and " " not in given):
            self.refuse(name, "is no e-mail address")
        return given.lower()

    def refuse(self, name: str, why: str) -> None:
        """Note what is wrong with a field; the first fault counts."""
        self._wrong.setdefault(name, why)

    def check(self) -> None:
        """
        Stop here if anything was wrong.

        Raises:
            ShopError: 422, with every wrong field.
        """
        if self._wrong:
            raise invalid(self._wrong)
