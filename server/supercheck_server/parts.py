"""
What a server is made of: settings in, an object graph out.

The one place that knows all parts; below it everybody is handed what it needs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from pytest_supercheck.directory_store import DirectoryStore
from pytest_supercheck.errors import Unreachable
from pytest_supercheck.local_archive import mark_served
from pytest_supercheck.redis_gateway import RedisGateway
from pytest_supercheck.store import Store
from pytest_supercheck.stores import open_store
from supercheck_server.access import Access
from supercheck_server.alerts import Alerts
from supercheck_server.bundles import Bundles, live_bundles
from supercheck_server.configuration import read_configuration
from supercheck_server.database import Database
from supercheck_server.feed import Feeds
from supercheck_server.github import GitHub, Workflows
from supercheck_server.history import History
from supercheck_server.job_routes import Desk
from supercheck_server.jobs import Jobs
from supercheck_server.ledger import Ledger
from supercheck_server.messenger import Messenger
from supercheck_server.metrics import Metrics
from supercheck_server.mirror import Mirror
from supercheck_server.notifications import Outbox
from supercheck_server.notifier import Notifier, Notifiers
from supercheck_server.recorder import Recorder
from supercheck_server.repositories import Repositories
from supercheck_server.retention import Retention
from supercheck_server.scheduler import Scheduler
from supercheck_server.settings import Settings
from supercheck_server.shelf import Shelf
from supercheck_server.starter import Starter
from supercheck_server.starts import Starts
from supercheck_server.targets import Target, read_targets
from supercheck_server.trends import Trends


class Parts:
    """What a server is made of; made once, closed at its end."""

    def __init__(self, settings: Settings) -> None:
        """
        Make the parts, and the database's tables.

        Raises:
            Unreachable: No pool was given, or its URL is malformed.
            DatabaseTrouble: The database cannot be used.
            StoreTrouble: The store's address is malformed, or its directory cannot be written.
            BadVariable: The configuration file makes no sense.
            NotifierMissing: It names somebody to be told, and apprise is not installed.
        """
        if settings.redis_url is None:
            raise Unreachable("No pool was given: set SUPERCHECK_REDIS_URL, or use --url redis://HOST:6379/0.")
        self.settings = settings
        self.configuration = read_configuration(settings.config)
        notifier = Notifiers() if self.configuration.notify else None
        targets = read_targets(self.configuration.notify, notifier, os.environ) if notifier else {}
        self.gateway = RedisGateway.later(settings.redis_url, password=settings.redis_password)
        self.dispatcher = self.gateway.dispatcher
        self.database = Database(settings.database_url)
        self.database.migrate()
        self.history = History(self.database)
        self.trends = Trends(self.database)
        store = open_store(settings.store, endpoint=settings.s3_endpoint)
        mark_served(settings.store)
        self.shelf = self._shelf(store)
        self.access = Access(self.database, closed=bool(self.configuration.oidc))
        self.mirror = Mirror(self.access, store)
        self.metrics = Metrics(self.dispatcher)
        self.feeds = Feeds()
        ledger = Ledger(self.database)
        outbox = Outbox(self.database, targets)
        self.messenger = self._messenger(outbox, targets, notifier) if notifier else None
        self.alerts = Alerts(
            rules=self.configuration.alerts,
            dispatcher=self.dispatcher,
            database=self.database,
            history=self.history,
            outbox=outbox,
            public_url=self.configuration.public_url,
        )
        self.starts = Starts(self.database, tell=self.alerts.missed, note=outbox.note)
        self.recorder = Recorder(
            dispatcher=self.dispatcher,
            shelf=self.shelf,
            ledger=ledger,
            history=self.history,
            metrics=self.metrics,
            outbox=outbox,
            starts=self.starts,
        )
        self.retention = Retention(
            history=self.history,
            ledger=ledger,
            shelf=self.shelf,
            days=settings.retention_days,
            runs_per_project=settings.retention_runs,
        )
        self.jobs = Jobs(self.database)
        self.bundles = Bundles(self.database, store, days=settings.bundle_days, needed=self._needed_bundles)
        self.github = GitHub(self.configuration.github)
        self.starter = Starter(
            jobs=self.jobs,
            starts=self.starts,
            dispatcher=self.dispatcher,
            bundles=self.bundles,
            repositories=Repositories(self.configuration.jobs, settings.data / "fetched"),
            workflows=Workflows(self.github, self.starts),
        )
        self.scheduler = Scheduler(self.jobs, self.starts, self.starter)

    @property
    def desk(self) -> Desk:
        """What routes and pages of jobs are made from."""
        return Desk(
            jobs=self.jobs,
            starts=self.starts,
            starter=self.starter,
            scheduler=self.scheduler,
            bundles=self.bundles,
            targets=self.configuration.notify.keys(),
        )

    def _shelf(self, store: Store) -> Shelf:
        """The store, with what it does not take just now, and as clients reach it, where they do."""
        settings, public = self.settings, None
        if settings.s3_public_endpoint is not None and "://" in settings.store:
            public = open_store(settings.store, endpoint=settings.s3_public_endpoint)
        return Shelf(store, DirectoryStore(settings.data / "waiting"), public)

    def _needed_bundles(self) -> set[str]:
        return live_bundles(self.dispatcher) | self.jobs.bundles()

    def _messenger(self, outbox: Outbox, targets: Mapping[str, Target], notifier: Notifier) -> Messenger:
        """What sends what is to be sent."""
        return Messenger(
            outbox=outbox,
            targets=targets,
            notifier=notifier,
            history=self.history,
            metrics=self.metrics,
            public_url=self.configuration.public_url,
        )

    def close(self) -> None:
        """Close the connections."""
        self.github.close()
        self.gateway.close()
        self.database.close()
