"""
The tables of the history, as the newest migration leaves them.

The history is an index of what is in the store and can be rebuilt from it; tokens and sessions are state of the
server. Times are ms since 1970, durations microseconds; `no` are numbers of our own, small enough for ten million rows.
A run's number grows with its time of recording, so "the newest first" is "the highest number first".
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
)

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: SQLite numbers rows by itself only where the type is INTEGER.
_Number = BigInteger().with_variant(Integer, "sqlite")

#: One row per run that was seen alive or recorded.
runs: Final = Table(
    "runs",
    metadata,
    Column("no", _Number, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("project", Text, nullable=False),
    # `live`, or as `RunSummary.verdict` has it.
    Column("verdict", Text, nullable=False),
    Column("outcome", Text, nullable=False, default=""),
    Column("message", Text, nullable=False, default=""),
    Column("trigger", Text, nullable=False, default=""),
    Column("branch", Text, nullable=False, default=""),
    Column("commit", Text, nullable=False, default=""),
    Column("pull_request", Integer, nullable=False, default=0),
    Column("repository", Text, nullable=False, default=""),
    Column("user", Text, nullable=False, default=""),
    Column("host", Text, nullable=False, default=""),
    Column("url", Text, nullable=False, default=""),
    Column("total", Integer, nullable=False, default=0),
    Column("passed", Integer, nullable=False, default=0),
    Column("failed", Integer, nullable=False, default=0),
    Column("errors", Integer, nullable=False, default=0),
    Column("skipped", Integer, nullable=False, default=0),
    Column("xfailed", Integer, nullable=False, default=0),
    Column("xpassed", Integer, nullable=False, default=0),
    Column("executions", Integer, nullable=False, default=0),
    Column("submitted_ms", BigInteger, nullable=False),
    Column("started_ms", BigInteger),
    Column("ended_ms", BigInteger),
    # Its folder in the store; empty while it is not recorded.
    Column("folder", Text, nullable=False, default=""),
    # 0 while its record waits on a server's own disk for the store.
    Column("delivered", SmallInteger, nullable=False, default=0),
    Index(None, "submitted_ms", "no"),
    Index(None, "project", "submitted_ms", "no"),
    Index(None, "verdict", "submitted_ms", "no"),
    Index(None, "branch", "submitted_ms", "no"),
    Index(None, "trigger", "submitted_ms", "no"),
    # For the attempts of one workflow's run.
    Index(None, "project", "url"),
    # For the question how many wait for the store.
    Index(None, "delivered", "verdict"),
)

#: One row per test of a project, with what its last runs say.
tests: Final = Table(
    "tests",
    metadata,
    Column("no", _Number, primary_key=True, autoincrement=True),
    # Of project and nodeid, which can be too long for an index; names the test in addresses.
    Column("key", Text, nullable=False, unique=True),
    Column("project", Text, nullable=False),
    Column("nodeid", Text, nullable=False),
    # A letter for each of the last runs, the newest last; see `outcomes`.
    Column("recent", Text, nullable=False, default=""),
    # Changes between passing and failing in `recent`, as a share of the changes that there could be.
    Column("flakiness", Float, nullable=False, default=0.0),
    # What it takes, recent runs counting more.
    Column("mean_us", BigInteger, nullable=False, default=0),
    Column("last_ms", BigInteger, nullable=False, default=0),
    Index(None, "flakiness", "no"),
    Index(None, "mean_us", "no"),
    Index(None, "project", "flakiness", "no"),
    Index(None, "project", "mean_us", "no"),
)

#: One row per test and run.
results: Final = Table(
    "results",
    metadata,
    Column("run_no", _Number, ForeignKey("runs.no", ondelete="CASCADE"), primary_key=True),
    # Its place in the run's list of items.
    Column("position", Integer, primary_key=True),
    Column("test_no", _Number, ForeignKey("tests.no"), nullable=False),
    Column("outcome", Text, nullable=False),
    Column("duration_us", BigInteger, nullable=False),
    # Number of the execution that ran it.
    Column("n", Integer, nullable=False),
    Column("attempt", SmallInteger, nullable=False),
    Index(None, "test_no", "run_no"),
    sqlite_with_rowid=False,
)

#: What tests fail of, without what differs from time to time.
causes: Final = Table(
    "causes",
    metadata,
    Column("no", _Number, primary_key=True, autoincrement=True),
    Column("key", Text, nullable=False, unique=True),
    Column("project", Text, nullable=False),
    Column("title", Text, nullable=False),
)

#: One row per failing test and run.
failures: Final = Table(
    "failures",
    metadata,
    Column("run_no", _Number, ForeignKey("runs.no", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("test_no", _Number, ForeignKey("tests.no"), nullable=False),
    Column("cause_no", _Number, ForeignKey("causes.no"), nullable=False),
    Column("phase", Text, nullable=False),
    Column("message", Text, nullable=False),
    Index(None, "cause_no", "run_no"),
    sqlite_with_rowid=False,
)

#: One row per file that a test left behind in a run.
artifacts: Final = Table(
    "artifacts",
    metadata,
    Column("run_no", _Number, ForeignKey("runs.no", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    # Its place among the files of the test.
    Column("number", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    # In the run's folder.
    Column("key", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

#: One row per execution of a run.
executions: Final = Table(
    "executions",
    metadata,
    Column("run_no", _Number, ForeignKey("runs.no", ondelete="CASCADE"), primary_key=True),
    Column("job", Text, primary_key=True),
    Column("n", Integer, nullable=False),
    Column("host", Text, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger),
    sqlite_with_rowid=False,
)

#: One row per minute of the last 48 hours: how full the pool was.
loads: Final = Table(
    "loads",
    metadata,
    # Minutes since 1970.
    Column("minute", Integer, primary_key=True, autoincrement=False),
    Column("running", Integer, nullable=False),
    Column("queued", Integer, nullable=False),
    # Seconds for which the run has waited that has waited longest.
    Column("wait_s", Integer, nullable=False),
)

#: One row per message to a target: what is to be sent, and what became of it.
notifications: Final = Table(
    "notifications",
    metadata,
    Column("no", _Number, primary_key=True, autoincrement=True),
    # What it is about: `run ID`, or a moment of an alert.
    Column("about", Text, nullable=False),
    # The target's name in the configuration file.
    Column("target", Text, nullable=False),
    # Why: `failure`, `first-failure`, `recovery`, `always`, `alert`, `resolved` or `missed`.
    Column("reason", Text, nullable=False),
    # What an alert says; empty for a run, of which the history knows.
    Column("title", Text, nullable=False, default=""),
    Column("body", Text, nullable=False, default=""),
    # `waiting`, `sent` or `failed`.
    Column("state", Text, nullable=False),
    # How often it was tried to send it.
    Column("tries", SmallInteger, nullable=False, default=0),
    Column("made_ms", BigInteger, nullable=False),
    # When it is tried next; while somebody tries, when somebody else may.
    Column("due_ms", BigInteger, nullable=False),
    UniqueConstraint("about", "target"),
    Index(None, "state", "due_ms"),
)

#: One row per alert, and per job of which starts are missed: what is known of it from one look to the next.
alerts: Final = Table(
    "alerts",
    metadata,
    Column("name", Text, primary_key=True),
    # When somebody looked last.
    Column("looked_ms", BigInteger, nullable=False, default=0),
    # Since when it is as it should not be; NULL while it is not.
    Column("since_ms", BigInteger),
    # When it was told last, and whether its end is still to be told.
    Column("told_ms", BigInteger),
    Column("is_open", SmallInteger, nullable=False, default=0),
    sqlite_with_rowid=False,
)

#: Packs of pieces of projects' files, in the store; an index of it, as what follows.
packs: Final = Table(
    "packs",
    metadata,
    Column("no", _Number, primary_key=True, autoincrement=True),
    # The project's folder in the store.
    Column("folder", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("made_ms", BigInteger, nullable=False),
    UniqueConstraint("folder", "name"),
    Index(None, "made_ms"),
)

#: Where each piece is; a project has its own.
pieces: Final = Table(
    "pieces",
    metadata,
    Column("folder", Text, primary_key=True),
    # Its sha256.
    Column("piece", Text, primary_key=True),
    Column("pack_no", _Number, ForeignKey("packs.no", ondelete="CASCADE"), nullable=False),
    Column("offset", Integer, nullable=False),
    Column("stored", Integer, nullable=False),
    Column("size", Integer, nullable=False),
    Index(None, "pack_no"),
    sqlite_with_rowid=False,
)

#: Bundles whose pieces are all there.
bundles: Final = Table(
    "bundles",
    metadata,
    Column("no", _Number, primary_key=True, autoincrement=True),
    Column("folder", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("used_ms", BigInteger, nullable=False),
    UniqueConstraint("folder", "id"),
    Index(None, "used_ms"),
)

#: Which packs a bundle needs: these stay.
bundle_packs: Final = Table(
    "bundle_packs",
    metadata,
    Column("bundle_no", _Number, ForeignKey("bundles.no", ondelete="CASCADE"), primary_key=True),
    Column("pack_no", _Number, ForeignKey("packs.no"), primary_key=True),
    Index(None, "pack_no"),
    sqlite_with_rowid=False,
)

#: Jobs as they were last synced, and what has been changed here since.
jobs: Final = Table(
    "jobs",
    metadata,
    Column("no", _Number, primary_key=True, autoincrement=True),
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    # JSON, as `Job.encode` makes it, and its checksum.
    Column("definition", Text, nullable=False),
    Column("checksum", Text, nullable=False),
    # JSON of the spec of its runs, as `job_spec` makes it; empty for a job whose sources are elsewhere.
    Column("source", Text, nullable=False, default=""),
    # The bundle, which stays as long as the job has it; empty for none.
    Column("bundle", Text, nullable=False, default=""),
    # JSON, as `Job.changed` takes it.
    Column("overrides", Text, nullable=False, default="{}"),
    Column("enabled", SmallInteger, nullable=False, default=1),
    Column("synced_ms", BigInteger, nullable=False),
    # Since when its schedule holds: no moment before is due.
    Column("since_ms", BigInteger, nullable=False),
    # The next moment that is due, `NEVER_MS` for none; NULL while nobody has looked.
    Column("next_ms", BigInteger),
    UniqueConstraint("project", "name"),
    Index(None, "enabled", "next_ms"),
)

#: Moments at which a job was started, or was to be started.
starts: Final = Table(
    "starts",
    metadata,
    Column("no", _Number, primary_key=True, autoincrement=True),
    Column("job_no", _Number, ForeignKey("jobs.no", ondelete="CASCADE"), nullable=False),
    # Whoever inserts this pair has the start.
    Column("due_ms", BigInteger, nullable=False),
    # The id of its run, made before anything is submitted; also where none has come of it.
    Column("run", Text, nullable=False),
    # As in `Origin.trigger`, and who it was: a token's name, or empty.
    Column("trigger", Text, nullable=False),
    Column("user", Text, nullable=False, default=""),
    # From 1; more when machinery failed the one before.
    Column("attempt", SmallInteger, nullable=False, default=1),
    # See `starts.State`, and why, in words.
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False, default=""),
    # When somebody last took it on: one that is not settled long after is taken on by another.
    Column("claimed_ms", BigInteger, nullable=False),
    # Since when it is tried to submit it: what nobody could submit for long has failed.
    Column("since_ms", BigInteger, nullable=False, server_default="0"),
    # Of what is started elsewhere, as a workflow of GitHub: when that was asked for, where it can be followed, how it
    # ended (`live` before) and when.
    Column("asked_ms", BigInteger),
    Column("url", Text, nullable=False, default=""),
    Column("verdict", Text, nullable=False, default=""),
    Column("ended_ms", BigInteger),
    UniqueConstraint("job_no", "due_ms"),
    UniqueConstraint("run"),
    Index(None, "state", "claimed_ms"),
    Index(None, "verdict", "claimed_ms"),
)

#: Who may come in. Of a token only its hash is kept.
tokens: Final = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    # The one that it is good for; empty for all.
    Column("project", Text, nullable=False, server_default=""),
    # `read`, `submit` or `admin`.
    Column("scope", Text, nullable=False, server_default="admin"),
    Column("hash", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),
    Column("revoked_ms", BigInteger),
    UniqueConstraint("hash"),
)

#: Browsers that are signed in. Of a cookie only its hash is kept.
sessions: Final = Table(
    "sessions",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("token_id", Text, ForeignKey("tokens.id", ondelete="CASCADE"), nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Index(None, "token_id"),
    sqlite_with_rowid=False,
)


def run_key(run: str) -> str:
    """A run as `notifications.about` has it."""
    return f"run {run}"
