"""What the shop refuses, as JSON for programs and as a page for people."""

from __future__ import annotations

from collections.abc import Mapping


class ShopError(Exception):
    """
    A request that the shop refuses.

    Args:
        status: HTTP status, 400 to 499.
        code: One word for programs.
        message: One sentence for people.
        fields: What is wrong with which input field.
    """

    def __init__(self, status: int, code: str, message: str, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.fields = dict(fields or {})

    def to_json(self) -> dict[str, object]:
        """The body of the answer."""
        error: dict[str, object] = {"code": self.code, "message": self.message}
        if self.fields:
            error["fields"] = self.fields
        return {"error": error}


def not_found(what: str) -> ShopError:
    """There is no such thing, or it is somebody else's."""
    return ShopError(404, "not_found", f"There is no such {what}.")


def invalid(fields: Mapping[str, str]) -> ShopError:
    """Some fields of the input are wrong."""
    return ShopError(422, "invalid", "Some of the input is not valid.", fields)
