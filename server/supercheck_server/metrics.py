"""
What Prometheus may know: the pool as it stands at the moment of the question, and what this server has recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.errors import SupercheckError

logger = logging.getLogger(__name__)

_WAITS_S: Final = (0.1, 1, 5, 15, 60, 300, 900, 3600)
_DURATIONS_S: Final = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600)


class _PoolCollector(Collector):
    """The pool's figures; without an answer there is only `supercheck_up` 0."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def collect(self) -> Iterator[Metric]:
        try:
            figures, pool = self._dispatcher.queue().figures, self._dispatcher.pool()
        except SupercheckError:
            yield GaugeMetricFamily("supercheck_up", "1 while the pool's Redis answers", value=0)
            return
        yield GaugeMetricFamily("supercheck_up", "1 while the pool's Redis answers", value=1)
        for name, value, help_text in (
            ("running", figures.running, "Executions that hold a slot"),
            ("running_capacity", figures.running_capacity, "Most executions at a time"),
            ("queued", figures.queued, "Runs that would wait even if every free slot had a worker"),
            ("queued_capacity", figures.queued_capacity, "Most queued runs"),
            ("waiting", figures.waiting, "Runs without a slot"),
            ("workers", figures.workers, "Worker processes that take work"),
            ("workers_idle", figures.idle, "Those of them that have none"),
            ("paused", int(figures.paused), "1 while nothing is promoted"),
            ("unrecorded_runs", pool.unrecorded, "Runs that have ended and are not recorded"),
        ):
            yield GaugeMetricFamily(f"supercheck_{name}", help_text, value=value)
        yield CounterMetricFamily("supercheck_refused", "Runs refused because the queue was full", value=pool.refused)


class Metrics:
    """A registry of its own, so that two servers in one process do not meet."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_PoolCollector(dispatcher))
        #: Runs recorded by this server, by outcome.
        self.runs = Counter("supercheck_runs", "Runs recorded", ["outcome"], registry=self.registry)
        #: Failed tests of those runs.
        self.failures = Counter("supercheck_failed_tests", "Failed tests of recorded runs", registry=self.registry)
        #: From submission to the first execution.
        self.wait_s = Histogram(
            "supercheck_wait_seconds",
            "From submission to the first execution",
            buckets=_WAITS_S,
            registry=self.registry,
        )
        #: From the first execution to the end.
        self.duration_s = Histogram(
            "supercheck_run_seconds",
            "From the first execution to the end",
            buckets=_DURATIONS_S,
            registry=self.registry,
        )
        #: From the end of a run until it can be seen.
        self.lag_s = Histogram(
            "supercheck_record_lag_seconds",
            "From a run's end until it is recorded",
            buckets=_WAITS_S,
            registry=self.registry,
        )
        #: Messages of this server, by target; the outcome is `sent`, `put_off` or `failed`.
        self.notifications = Counter(
            "supercheck_notifications", "Messages to targets", ["target", "outcome"], registry=self.registry
        )
