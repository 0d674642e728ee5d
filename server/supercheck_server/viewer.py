"""
Playwright's trace viewer, a static site within its Python package, served from this server's own origin.

It needs a service worker, which reads the trace and hands out what the page then shows.  So its files have a policy of
their own: they may load from this server alone, also where a link says that the trace is elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from fastapi.staticfiles import StaticFiles
from starlette.responses import Response

#: Where it is in the package `playwright`.
_PLACE: Final = Path("driver", "package", "lib", "vite", "traceViewer")


def find_viewer() -> Path | None:
    """The viewer's directory; None where Playwright is not installed, or has none there."""
    package = find_spec("playwright")
    roots = (package.submodule_search_locations if package else None) or ()
    places = (Path(root) / _PLACE for root in roots)
    return next((place for place in places if (place / "index.html").is_file()), None)


class ViewerFiles(StaticFiles):
    """Its files, with the policy that it needs."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory=directory)
        self._headers = {"Content-Security-Policy": _policy(directory), "Cache-Control": "no-cache"}

    def file_response(self, full_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Response:
        """As of `StaticFiles`."""
        response = super().file_response(full_path, *args, **kwargs)
        response.headers.update(self._headers)
        return response


def _policy(directory: Path) -> str:
    """Its own scripts and what they make, nothing from elsewhere; of inline scripts those that are in its page."""
    page = (directory / "index.html").read_text("utf-8")
    inline = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in inline)
    scripts = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src 'self' {scripts}; worker-src 'self'; connect-src 'self' data: blob:; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
        "font-src 'self' data:; frame-src 'self' data:; manifest-src 'self'; form-action 'none'; base-uri 'none'; "
        "frame-ancestors 'self'"
    )
