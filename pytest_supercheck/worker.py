"""
An RQ worker process of the pool.

Third step of the flow: takes promoted executions from its own queue and forks a work-horse for each, which is the
supervisor.  Of RQ's ways only two are changed: what signals mean, and that a job is made where it is taken.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final

from redis import Redis
from rq import Queue, Worker
from rq.exceptions import NoSuchJobError, StopRequested
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.worker import WorkerStatus

from pytest_supercheck import supervisor
from pytest_supercheck.build_cache import remove
from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.errors import SupercheckError
from pytest_supercheck.model import JobId, queue_name
from pytest_supercheck.workplace import Workplace

logger = logging.getLogger(__name__)

#: What an RQ job of ours calls, with the job's id.
SUPERVISE: Final = "pytest_supercheck.supervisor.supervise"
#: Seconds for which RQ keeps the record of a job that has ended well, or not.
RESULT_TTL_S: Final = 3600
FAILURE_TTL_S: Final = 86400


class PoolJob(Job):
    """
    RQ's job, made from its id alone by the worker that takes it from its queue.

    A promotion is then one push in the dispatcher's script: nothing can come between it and the queue, and clients,
    who promote when they submit, need no RQ.
    """

    #: The queue of this worker process.
    home: ClassVar[str] = ""

    @classmethod
    def fetch(cls, id: str, connection: Redis | None = None, serializer: Any = None) -> Job:  # noqa: A002 - RQ's name
        """As RQ's, but an unknown job is a promoted execution."""
        try:
            return super().fetch(id, connection=connection, serializer=serializer)
        except NoSuchJobError:
            job = cls.create(
                SUPERVISE,
                args=[id],
                id=id,
                timeout=-1,  # our deadline rules
                result_ttl=RESULT_TTL_S,
                failure_ttl=FAILURE_TTL_S,
                status=JobStatus.QUEUED,
                origin=cls.home,
                connection=connection,
                serializer=serializer,
            )
            job.save()
            return job


class PoolWorker(Worker):
    """RQ's fork worker, whose first SIGTERM reaches the supervisor too, and is not forgotten."""

    _leaving = False

    def handle_warm_shutdown_request(self) -> None:
        """The supervisor lets the current test finish and gives the rest back."""
        self._leaving = True
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]
        if self.horse_pid:
            os.kill(self.horse_pid, signal.SIGTERM)

    def heartbeat(self, *args: Any, **kwargs: Any) -> None:
        """
        Leave, if that has been asked for; else as RQ's, which calls it whenever it looks for a job.

        RQ leaves by an exception that its handler of SIGTERM raises. If the signal comes while a line is logged, which
        is likely while Redis is away, logging takes it for a fault of its own, and RQ would go on for ever.
        """
        if self._leaving and self.get_state() == WorkerStatus.IDLE:
            raise StopRequested
        super().heartbeat(*args, **kwargs)

    def setup_work_horse_signals(self) -> None:
        """In the work-horse, which RQ would let die of SIGTERM."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, supervisor.on_signal)


def work(place: Workplace, name: str, leash: int) -> None:
    """
    Be a worker until told to stop.

    Args:
        place: Where.
        name: The worker's name, known to the dispatcher.
        leash: A descriptor that ends when the host has gone.
    """
    client = place.connect()
    supervisor.workplace = replace(place, host_leash=leash)
    directories = [os.path.dirname(place.host_socket), *filter(None, [place.workspaces])]
    threading.Thread(target=_end_with_host, args=(leash, directories), daemon=True).start()

    def on_killed(job: Job, _pid: int, _status: int, _usage: Any) -> None:
        """RQ calls this when a work-horse has died: no need to wait for its lease."""
        try:
            Dispatcher(client).lapse(JobId(job.id))
        except SupercheckError:
            logger.warning("lapse not told", extra={"job_id": job.id})

    PoolJob.home = queue_name(name)
    queue = Queue(PoolJob.home, connection=client, serializer=JSONSerializer, job_class=PoolJob)
    worker = PoolWorker(
        [queue],
        name=name,
        connection=client,
        serializer=JSONSerializer,
        job_class=PoolJob,
        work_horse_killed_handler=on_killed,
    )
    worker.log_job_description = False
    worker.work(logging_level="WARNING")
    queue.delete(delete_jobs=True)


def _end_with_host(leash: int, directories: list[str]) -> None:
    """A thread: the host holds the other end of the pipe and never writes; a killed one leaves its directory behind."""
    os.read(leash, 1)
    try:
        for directory in directories:
            remove(Path(directory))
    finally:  # also where no process can be started any more
        os._exit(1)
