"""
The package's face: its version and nothing else.
It imports nothing, since pytest imports it at every start, with or without --supercheck.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
