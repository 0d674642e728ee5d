"""
The connection with the history: its schema, and its troubles in words.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import insert, text

from supercheck_server.access import Access
from supercheck_server.database import Database, _config
from supercheck_server.errors import DatabaseTrouble, WrongSchema
from supercheck_server.history import History, RunFilter
from supercheck_server.tables import metadata, runs, tokens


def test_migrations_make_the_tables_that_the_code_uses(database: Database) -> None:
    """Column by column, index by index."""
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_migrating_again_changes_nothing(database: Database) -> None:
    """As every start does."""
    database.migrate()
    database.check()


def test_servers_that_start_together_migrate_once(database_url: str) -> None:
    """The others wait, and find it done."""
    errors: list[BaseException] = []

    def migrate() -> None:
        one = Database(database_url)
        try:
            one.migrate()
        except DatabaseTrouble as exc:
            errors.append(exc)
        finally:
            one.close()

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors


def test_newer_tables_are_refused_in_words(database: Database) -> None:
    """And left as they are."""
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for attempt in (database.check, database.migrate):
        with pytest.raises(WrongSchema, match=r"does not know \(9999\): a newer one"):
            attempt()


def test_older_tables_are_brought_up_to_date_with_what_is_in_them(database_url: str) -> None:
    """From the first ones on."""
    database = Database(database_url)
    with database.write() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(insert(runs).values(id="r1", project="shop", verdict="passed", submitted_ms=1))
        connection.execute(insert(tokens).values(id="t1", name="ada", hash="h", created_ms=1))
    with pytest.raises(WrongSchema, match=r"of an older release \(0001"):
        database.check()
    database.migrate()
    database.check()
    assert [run.id for run in History(database).runs(RunFilter())] == ["r1"]
    assert [(one.name, one.project, one.scope) for one in Access(database).list()] == [("ada", "", "admin")]
    database.close()


def test_missing_tables_are_said_in_words(database_url: str) -> None:
    """By the check of readiness; a server's start makes them."""
    database = Database(database_url)
    with pytest.raises(WrongSchema, match="has no tables yet"):
        database.check()
    database.close()


def test_database_that_is_gone_is_trouble_without_its_password() -> None:
    """What the user has to check is said; the secret is not."""
    database = Database("postgresql+psycopg://ada:sesame@127.0.0.1:1/x")
    with pytest.raises(DatabaseTrouble) as caught:
        database.check()
    assert "sesame" not in str(caught.value)
    assert "cannot be used" in str(caught.value)


@pytest.mark.parametrize("url", ["nonsense", "sqlite+nonsense:///x:y"])
def test_malformed_address_is_trouble(url: str) -> None:
    """Not a traceback."""
    with pytest.raises(DatabaseTrouble):
        Database(url).check()


def test_locked_database_is_trouble_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the patience that a writer has for another."""
    monkeypatch.setattr("supercheck_server.database.BUSY_S", 0.1)
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    database.migrate()
    with sqlite3.connect(tmp_path / "x.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseTrouble, match="locked"), database.write():
            pass
    database.close()
    other.close()


def test_write_that_fails_leaves_nothing(database: Database) -> None:
    """One transaction."""

    def write() -> None:
        with database.write() as connection:
            connection.execute(text("INSERT INTO causes (key, project, title) VALUES ('k', 'p', 't')"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM causes")).scalar() == 0
