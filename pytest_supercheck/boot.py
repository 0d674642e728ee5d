"""
How a process of this package starts another one: the interpreter's arguments, and the socket between the two.

Stdlib only: processes that have imported nothing yet begin here.
"""

from __future__ import annotations

from typing import Final

#: The descriptor at which a started process finds the socket to the one that started it.
CONTROL_FD: Final = 3


def boot(module: str) -> list[str]:
    """
    Interpreter arguments that call ``main(CONTROL_FD)`` of a module of this package.

    Not ``-m``, which would put the working directory in front of `sys.path`, where a project's modules shadow others.
    """
    code = (
        f"import sys; sys.path[:1] == [''] and sys.path.pop(0); from {module} import main; sys.exit(main({CONTROL_FD}))"
    )
    return ["-c", code]
