"""
The package's face: its version and nothing else.
It imports nothing, since pytest imports it at every start, with or without --supercheck.

PYTEST_DONT_REWRITE: a runner imports it before pytest, which would warn that it comes too late to rewrite assertions.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
