"""
What can go wrong in the server beside what the package knows.

    SupercheckError
    └── DatabaseTrouble              70   the database cannot be used
        └── WrongSchema              70   it is of another release
"""

from __future__ import annotations

from pytest_supercheck.errors import SupercheckError


class DatabaseTrouble(SupercheckError):
    """The database cannot be used. Check SUPERCHECK_DATABASE_URL and that its server runs."""


class WrongSchema(DatabaseTrouble):
    """The database's tables are of another release of pytest-supercheck."""
