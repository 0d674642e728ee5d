"""
What can go wrong in the server beside what the package knows.

    SupercheckError
    ├── DatabaseTrouble              70   the database cannot be used
    │   └── WrongSchema              70   it is of another release
    ├── WrongJobToken                70   a job's own token lets nobody in
    ├── WorkflowTrouble              70   a workflow of GitHub cannot be started
    └── Unreachable
        ├── IssuerTrouble            69   the issuer of a job's token cannot be asked
        ├── NotifierMissing          69   a target is configured, and nothing that could send to it is installed
        └── NotSent                  69   a service has not taken a message
"""

from __future__ import annotations

from pytest_supercheck.errors import SupercheckError, Unreachable


class DatabaseTrouble(SupercheckError):
    """The database cannot be used. Check SUPERCHECK_DATABASE_URL and that its server runs."""


class WrongSchema(DatabaseTrouble):
    """The database's tables are of another release of pytest-supercheck."""


class WrongJobToken(SupercheckError):
    """The job's own token lets nobody in."""


class IssuerTrouble(Unreachable):
    """The issuer of the job's token cannot be asked for its keys now."""


class WorkflowTrouble(SupercheckError):
    """GitHub does not start the workflow."""


class NotifierMissing(Unreachable):
    """Notifications need one more package. Install it with: pip install 'pytest-supercheck[notify]'"""


class NotSent(Unreachable):
    """The service has not taken the message."""
