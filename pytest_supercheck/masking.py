"""
Secrets out of sight: in messages that name an address, and in the logs of CI jobs.
"""

from __future__ import annotations

import os
import re


def masked(url: str) -> str:
    """
    Take the credentials out of a URL, for messages.

    Args:
        url: Any URL.

    Returns:
        The URL without user, password and query.
    """
    return re.sub(r"//.*@", "//", url.split("?", 1)[0])


def hide(secret: str) -> None:
    """Have the runner of a job of GitHub Actions show asterisks in its log, wherever a secret should come up there."""
    # Not the standard output, which may go into a file.
    os.write(2, f"::add-mask::{secret}\n".encode())
