"""
The gateway of clients that reach nothing but a server's HTTP: a laptop, a CI job.

The same verbs as over Redis, at the server's `/api/v1`.  Must not know pytest or what a spec says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import httpx

from pytest_supercheck import __version__
from pytest_supercheck.errors import BadJob, Infrastructure, NotLetIn, QueueFull, SourceTrouble, Unreachable
from pytest_supercheck.gateway import NO_JOB, NO_RUN, VERSION_HEADER
from pytest_supercheck.masking import hide, masked
from pytest_supercheck.model import (
    Admission,
    Figures,
    How,
    Offer,
    PoolExecution,
    PoolStatus,
    PoolWorker,
    QueuedRun,
    QueueStatus,
    RunId,
    RunRequest,
    RunStatus,
)
from pytest_supercheck.oidc import job_sign_in

#: Seconds for which a run outlives the last word of its session: a network may be away for a while.
GRACE_S: Final = 60.0
#: Seconds to wait for a connection, for an answer, and for a stream's next sign: it gives one every 5 s.
CONNECT_S: Final = 5.0
ANSWER_S: Final = 35.0
SIGN_S: Final = 12.0
#: Pauses in seconds before a request that got no answer is sent again: all of them may be repeated.
AGAIN_S: Final = (0.2, 1.0, 3.0)
#: Seconds for which a server that has answered before may be away, as it is while it starts anew.
AWAY_S: Final = 30.0
#: Answers that may be another one a moment later: of a proxy, or of a server whose Redis or database is away.
PASSING: Final = frozenset({502, 503, 504})


class _NoRun(Infrastructure):
    """The server has no such run."""


class _Refused(Infrastructure):
    """The server does not do it, and says why in words."""

    def __init__(self, message: str, detail: str) -> None:
        super().__init__(message)
        self.detail = detail


class HttpGateway:
    """`Gateway` over a server's HTTP API; safe to share between threads, of which one reads events."""

    def __init__(self, url: str, token: str | None, *, mask: Callable[[str], None] = hide) -> None:
        """
        Make a gateway; nothing is sent yet.

        Args:
            url: The server's address; a path is where it is mounted.
            token: As `supercheck token create` prints it; None for a server on this machine that has no tokens yet, and
                for a job of GitHub Actions that signs in with its own.
            mask: Is told the secrets of such a job.

        Raises:
            Unreachable: The URL is malformed.
        """
        headers = {"User-Agent": f"pytest-supercheck/{__version__}"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        #: The server's address, for messages.
        self.address: Final = masked(url)
        #: The server's release of this package, once it has answered; None when it does not say.
        self.version: str | None = None
        self._url = url.rstrip("/")
        try:
            self._client = httpx.Client(
                base_url=f"{self._url}/api/v1/",
                headers=headers,
                auth=None if token else job_sign_in(url, os.environ, mask),
                timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
            )
        except (httpx.InvalidURL, ValueError) as exc:
            raise Unreachable(f"{self.address} is no address of a server ({exc}).") from exc
        self._met = False
        self._asks = False
        self._stream: Iterator[bytes] | None = None
        self._response: httpx.Response | None = None
        self._heard = b""

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def submit(self, request: RunRequest) -> Admission:
        """As `Gateway.submit`; the run lives for 60 s without a word from its session."""
        row = self._call("POST", "runs", {**dataclasses.asdict(request), "grace_s": GRACE_S})
        return Admission(**{**row, "figures": Figures.from_json(row["figures"])})

    def offer(self, run: RunId, offer: Offer) -> bool:
        """As `Gateway.offer`."""
        try:
            return bool(self._call("POST", f"runs/{quote(run)}/items", dataclasses.asdict(offer))["taken"])
        except _NoRun:
            return False

    def events(self, run: RunId, *, after: str, wait_s: float) -> tuple[list[bytes], str]:
        """
        As `Gateway.events`; one stream serves all calls, so `wait_s` is the server's to choose: 5 s at most.

        A proxy may hold a stream back until it ends: then each call is a request of its own, for what there is by then.
        """
        del wait_s
        try:
            if self._stream is None:
                self._open(run, after)
            assert self._stream is not None
            self._heard += b"".join(self._stream) if self._asks else next(self._stream)
            if self._asks:
                self._hang_up()
        except httpx.ReadTimeout:
            self._hang_up()
            self._asks = True
            return [], after
        except (httpx.HTTPError, StopIteration) as exc:
            self._hang_up()
            raise Unreachable(f"{self.address} has ended the stream of events ({_words(exc)}).") from exc
        whole, separator, self._heard = self._heard.rpartition(b"\n\n")
        batches: list[bytes] = []
        for block in (whole + separator).split(b"\n\n"):
            lines = block.split(b"\n")
            if data := [line[6:] for line in lines if line.startswith(b"data: ")]:
                batches.append(b"\n".join(data))
                after = next(line[4:] for line in lines if line.startswith(b"id: ")).decode()
        return batches, after

    def keep(self, run: RunId, *, ours: bool = True) -> RunStatus:
        """As `Gateway.keep`, but every 60 seconds at least."""
        return self._stand("POST", "keep", run) if ours else self._stand("GET", "status", run)

    def cancel(self, run: RunId, *, outcome: str, how: How, message: str = "") -> RunStatus:
        """As `Gateway.cancel`."""
        words = {"outcome": outcome, "how": how, "message": message}
        return self._stand("POST", "stop", run, words, patient=False)

    def queue(self) -> QueueStatus:
        """As `Gateway.queue`."""
        row = self._call("GET", "queue")
        runs = tuple(QueuedRun(**run) for run in row.pop("runs"))
        row.pop("executions")
        return QueueStatus(figures=Figures.from_json(row), runs=runs)

    def pool(self) -> PoolStatus:
        """Look at the workers and the executions, as `Dispatcher.pool`."""
        row = self._call("GET", "workers")
        workers = tuple(PoolWorker(**{**one, "labels": tuple(one["labels"])}) for one in row.pop("workers"))
        executions = tuple(PoolExecution(**one) for one in row.pop("executions"))
        return PoolStatus(workers=workers, executions=executions, **row)

    def troubles(self) -> dict[str, str]:
        """What the server needs and cannot use just now, and why; empty when it says nothing of that."""
        try:
            parts = self._client.get(f"{self._url}/readyz").json()["parts"]
            return {str(name): str(part["words"])[:500] for name, part in parts.items() if not part["ready"]}
        except httpx.HTTPError as exc:
            raise Unreachable(f"{self.address} does not answer ({_words(exc)}).") from exc
        except (ValueError, LookupError, TypeError, AttributeError):
            return {}  # a proxy keeps it back

    def judge(self, run: RunId, nodeids: Sequence[str], *, branch: str, attempts: str = "") -> list[dict[str, Any]]:
        """
        Ask what the history says of tests of a run, 200 at most, that fail.

        Args:
            branch: On which they may have failed before.
            attempts: With what pages of CI jobs begin whose runs do not count there; empty for none.

        Returns:
            Of each its ``nodeid``, its ``flakiness`` and since which run it is ``failing_since`` on the branch.
        """
        asked = {"nodeids": list(nodeids), "branch": branch, "attempts": attempts}
        found: list[dict[str, Any]] = self._call("POST", f"runs/{quote(run)}/judge", asked)["tests"]
        return found

    def bundle(self, project: str, bundle: str, wish: bytes = b"") -> tuple[str, list[str]]:
        """
        Ask for a bundle of a project's files.

        Args:
            bundle: Its id.
            wish: Its manifest, or what differs from one that the server has, compressed; nothing to ask by id alone.

        Returns:
            ``ready``; ``incomplete``, with pieces that are missing, perhaps not all of them; or ``unknown``: say more.
        """
        row = self._call("POST", f"bundles/{quote(bundle)}", params={"project": project}, content=wish)
        return str(row["state"]), [str(piece) for piece in row["missing"]]

    def pack(self, project: str, pack: bytes) -> None:
        """Bring pieces of a project's files."""
        self._call("POST", "packs", params={"project": project}, content=pack)

    def file(self, run: RunId, key: str) -> Iterator[bytes]:
        """
        The content of a file that a test has left behind, part by part; the server may say where in the store it is.

        Args:
            key: In the run's folder.

        Raises:
            Unreachable: The server, or the store, does not answer, or has no such file.
        """
        with contextlib.ExitStack() as stack:
            where = self.address
            try:
                asked = self._client.stream("GET", f"runs/{quote(run)}/files/{quote(key)}")
                response = stack.enter_context(asked)
                if response.has_redirect_location:  # to a signed address: the token is not for whoever is there
                    target = httpx.URL(response.headers["Location"])
                    where = f"the store at {target.host}"
                    response = stack.enter_context(httpx.stream("GET", target, timeout=self._client.timeout))
                if response.is_error or response.is_redirect:
                    response.read()
                    raise Unreachable(f"{where} does not give it: {_detail(response)}")
                yield from response.iter_bytes(1 << 18)
            except (httpx.HTTPError, httpx.InvalidURL) as exc:
                raise Unreachable(f"{where} has not sent all of it ({_words(exc)})") from exc

    def jobs(self, method: str, path: str = "", body: object = None, **params: str) -> dict[str, Any]:
        """
        See or change jobs.

        Args:
            path: Below `/jobs`, quoted.
            params: What is empty is left out.

        Raises:
            BadJob: The server refuses, or has no such job.
        """
        given = {name: value for name, value in params.items() if value}
        try:
            row: dict[str, Any] = self._call(method, f"jobs{path}", body, params=given)
        except _Refused as exc:
            raise BadJob(exc.detail) from exc
        return row

    def _stand(self, method: str, verb: str, run: RunId, body: object = None, *, patient: bool = True) -> RunStatus:
        """Where a run stands after a verb; `gone` also when the server says that the token's project has none such."""
        try:
            row = self._call(method, f"runs/{quote(run)}/{verb}", body, patient=patient)
        except _NoRun:
            figures = self.queue().figures
            return RunStatus(
                run=run, state="gone", outcome="", message="", held=0, position=0, eta_s=None, done=0, total=None,
                figures=figures,
            )  # fmt: skip
        return RunStatus(**{**row, "figures": Figures.from_json(row["figures"])})

    def _call(
        self, method: str, path: str, body: object = None, *,
        params: Mapping[str, str] | None = None, content: bytes | None = None, patient: bool = True,
    ) -> Any:  # fmt: skip
        """The answer to a request, which is repeated where there is none; errors as `Gateway` has them."""
        for pause_s in self._pauses_s(AWAY_S if patient and self._met else 0):
            try:
                response = self._client.request(method, path, json=body, params=params, content=content)
            except httpx.HTTPError as exc:
                trouble = f"{self.address} does not answer ({_words(exc)}). {_remedy(exc)}"
            else:
                if response.status_code not in PASSING:
                    return self._read(response)
                trouble = f"{self.address} cannot serve just now: {_detail(response)}"
            if pause_s is None:
                raise Unreachable(trouble)
            time.sleep(pause_s)
        raise AssertionError

    def _pauses_s(self, patience_s: float) -> Iterator[float | None]:
        """Until a request is sent again, and None when it is not."""
        give_up_at = time.monotonic() + patience_s
        yield from AGAIN_S
        while time.monotonic() < give_up_at:
            yield AGAIN_S[-1]
        yield None

    def _read(self, response: httpx.Response) -> Any:
        status = response.status_code
        self.version = response.headers.get(VERSION_HEADER)
        self._check_let_in(response)
        if status == 413:
            raise SourceTrouble(
                f"{self.address} does not take that much: {_detail(response)} Proxies on the way have to let requests "
                "of 10 MB through."
            )
        try:
            row = response.json()
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise Unreachable(f"{self.address} answers {status}, and not as a pytest-supercheck server does.")
        if status == 429 and "figures" in row:
            raise QueueFull(figures=Figures.from_json(row["figures"]), retry_after_s=row["retry_after_s"])
        if status == 429:
            raise Unreachable(f"{self.address} does not let us in just now: {_detail(response)}")
        if status == 404 and row.get("detail") == NO_RUN:
            raise _NoRun
        if status == 404 and row.get("detail") == NO_JOB:
            raise _Refused(NO_JOB, f"{NO_JOB} 'supercheck jobs list' lists those that there are.")
        if status == 404:
            raise Unreachable(f"{self.address} has no such address: is it a pytest-supercheck server of this release?")
        if response.is_error:
            raise _Refused(f"{self.address} answers {status}: {_detail(response)}", _detail(response))
        self._met = True
        return row

    def _check_let_in(self, response: httpx.Response) -> None:
        if response.status_code in (401, 403):
            whose = "This was the job's own token; another one" if self._client.auth else "The token"
            raise NotLetIn(
                f"{self.address} does not let us in: {_detail(response)} {whose} is taken from SUPERCHECK_TOKEN."
            )

    def _open(self, run: RunId, after: str) -> None:
        headers = {"Last-Event-ID": after, "Accept": "text/event-stream"}
        path, asks = f"runs/{quote(run)}/events", {"once": "true"} if self._asks else {}
        timeout = httpx.Timeout(SIGN_S, connect=CONNECT_S)
        request = self._client.build_request("GET", path, headers=headers, params=asks, timeout=timeout)
        self._response = self._client.send(request, stream=True)
        if self._response.is_error:
            self._response.read()
            self._check_let_in(self._response)
        self._response.raise_for_status()
        self._stream, self._heard = self._response.iter_bytes(), b""

    def _hang_up(self) -> None:
        if self._response is not None:
            self._response.close()
        self._response = self._stream = None


def _detail(response: httpx.Response) -> str:
    """What the server says of a refusal, bounded: it may be anything's page."""
    try:
        return str(response.json()["detail"])[:500]
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}."


def _remedy(exc: Exception) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in str(exc):
        return "Is its certificate of an authority of your own? Name that one's file in SSL_CERT_FILE."
    return "Check the URL, the network and the proxy."


def _words(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
