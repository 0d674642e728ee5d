"""
The connection with the history: SQLite or PostgreSQL, its schema and its troubles in words.

Between SQLAlchemy and everything that reads or writes rows; knows tables and migrations, not what rows mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Select, Table, create_engine, event, func, make_url, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Engine
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from supercheck_server.errors import DatabaseTrouble, WrongSchema

#: Seconds to wait for another writer of a SQLite file.
BUSY_S: Final = 15
#: Any number, the same in every server: only one of them migrates at a time.
_MIGRATION_LOCK: Final = 7_308_322


class Database:
    """The history's database; safe to share between threads."""

    def __init__(self, url: str) -> None:
        """
        Prepare connections; none is made yet.

        Args:
            url: As SQLAlchemy has it: `sqlite:///...` or `postgresql+psycopg://...`.

        Raises:
            DatabaseTrouble: The URL is malformed.
        """
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise DatabaseTrouble("SUPERCHECK_DATABASE_URL is not a database's URL.") from None
        #: For messages: without its password.
        self.name: Final = parsed.render_as_string(hide_password=True)
        #: `sqlite` or `postgresql`.
        self.kind: Final = parsed.get_backend_name()
        try:
            self._engine = _sqlite_engine(parsed) if self.kind == "sqlite" else _postgres_engine(parsed)
        except (SQLAlchemyError, ImportError) as exc:
            raise DatabaseTrouble(f"{self.name} cannot be used: {exc}") from exc

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """
        Read in one transaction.

        Raises:
            DatabaseTrouble: The database cannot be used.
        """
        with self._troubles(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """
        Read and write in one transaction, which is committed at the end.

        Raises:
            DatabaseTrouble: The database cannot be used; nothing was written.
        """
        with self._troubles(), self._engine.connect() as connection:
            connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    def rows(self, query: Select[Any]) -> list[dict[str, Any]]:
        """
        All rows of a query, by the names of its columns, read in a transaction of its own.

        Raises:
            DatabaseTrouble: The database cannot be used.
        """
        with self.read() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def insert(self, table: Table) -> Any:
        """An INSERT of this kind of database, which can say what happens ON CONFLICT."""
        return (postgresql if self.kind == "postgresql" else sqlite).insert(table)

    def lock(self, connection: Connection, name: str) -> None:
        """Let nobody else in who locks the same name, until this transaction's end; one of SQLite is alone anyway."""
        if self.kind == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))

    def check(self) -> None:
        """
        Check that the database answers and has the tables of this release.

        Raises:
            DatabaseTrouble: It does not; the message says why and what to do.
        """
        with self.read() as connection:
            self._compare(_revision(connection))

    def migrate(self) -> None:
        """
        Make the tables, or bring older ones up to date; what is in them is kept.

        Raises:
            WrongSchema: They are of a newer release.
            DatabaseTrouble: The database cannot be used.
        """
        with self.write() as connection:
            if self.kind == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
            revision = _revision(connection)
            if revision is None or revision in _known():
                config = _config()
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
            else:
                self._compare(revision)

    def _compare(self, revision: str | None) -> None:
        known = _known()
        if revision == known[0]:
            return
        if revision is None:
            raise WrongSchema(f"{self.name} has no tables yet. Start 'supercheck server', which makes them.")
        if revision in known:
            raise WrongSchema(
                f"{self.name} has the tables of an older release ({revision}, this one needs {known[0]}). "
                "Start 'supercheck server' anew: it brings them up to date and keeps what is in them."
            )
        raise WrongSchema(
            f"{self.name} has tables that this release does not know ({revision}): a newer one has been here. "
            "Install that, or give another SUPERCHECK_DATABASE_URL."
        )

    @contextmanager
    def _troubles(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as exc:
            if exc.connection_invalidated or type(exc.orig).__name__ in ("OperationalError", "InterfaceError"):
                raise DatabaseTrouble(f"{self.name} cannot be used: {_words(exc)}") from exc
            raise DatabaseTrouble(f"{self.name} failed: {_words(exc)}") from exc
        except SQLAlchemyError as exc:
            raise DatabaseTrouble(f"{self.name} failed: {exc}") from exc


def _words(exc: DBAPIError) -> str:
    # The driver's own, on one line and without the statement, which may quote what tests have printed.
    return " ".join(str(exc.orig).split())[:500]


def _sqlite_engine(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        try:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise DatabaseTrouble(f"The directory of {url.database} cannot be made: {exc}") from exc
    engine = create_engine(url, connect_args={"timeout": BUSY_S})

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: object) -> None:
        # The driver would begin transactions by itself, too late: see SQLAlchemy's pages on SQLite.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "cache_size=-32000"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        # A transaction that reads first could not wait for another writer.
        immediate = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _postgres_engine(url: URL) -> Engine:
    return create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 5})


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("supercheck_server") / "migrations"))
    return config


def _known() -> list[str]:
    """The revisions of this release, the newest first."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
