"""
The local session of a run: starts it, follows it, and ends as pytest would.

The controller's side of the whole flow, from `begin`, which pytest's first hook calls, to the exit status.  Joins the
submission, perhaps an embedded stack, and the replay; knows neither Redis nor how workers work.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_supercheck import durations
from pytest_supercheck.addresses import is_server
from pytest_supercheck.embedded import EmbeddedStack
from pytest_supercheck.ending import Refusal, conclude, explain, fail
from pytest_supercheck.errors import SupercheckError
from pytest_supercheck.follower import Follower
from pytest_supercheck.listing import Lister
from pytest_supercheck.masking import masked
from pytest_supercheck.model import Offer, RunId, RunRequest, new_run_id
from pytest_supercheck.operators import BadVariable, PoolSettings
from pytest_supercheck.settings import Settings
from pytest_supercheck.spec import Specifier
from pytest_supercheck.submission import Submission, connect
from pytest_supercheck.thin import make_thin, thin_of
from pytest_supercheck.xdist_protocol import Silencer, Speaker

if TYPE_CHECKING:
    from pytest_supercheck.groups import Arrangement
    from pytest_supercheck.model import Admission

#: Seconds without an answer from the pool after which a run is given up.
SILENCE_S: Final = 20.0
REMOTE_SILENCE_S: Final = 60.0

#: Options with which there is nothing to run.
_NOTHING_TO_RUN: Final = (
    *("collectonly", "help", "version"),
    *("showfixtures", "show_fixtures_per_test", "markers", "cacheshow"),
)


def begin(config: pytest.Config, args: list[str], parser: pytest.Parser) -> bool:
    """
    Start a session's run, as early as possible.

    Args:
        config: Before conftests are loaded.
        args: The command line, to be changed in place where options of it cannot be understood here.

    Returns:
        Whether its tests run elsewhere.

    Raises:
        pytest.UsageError: An option has a bad value.
    """
    options = config.known_args_namespace
    settings = Settings.from_pytest(config)
    thin = thin_of(config)
    if thin is not None and thin.run and settings.url is None:
        raise pytest.UsageError("no pool given, where the run would be: use --url, or set SUPERCHECK_URL")
    try:
        PoolSettings.from_env()  # read by an embedded stack, which would tell less well what is wrong
    except BadVariable as exc:
        raise pytest.UsageError(str(exc)) from exc
    if settings.collect == "remote":
        make_thin(config, args, parser)
    if any(getattr(options, name, None) for name in _NOTHING_TO_RUN):
        return False
    local = [f"--{name}" for option, name in (("usepdb", "pdb"), ("trace", "trace")) if getattr(options, option, None)]
    local += ["-n 0"] * (settings.executions == 0)
    manager = config.pluginmanager
    manager.register(Silencer(), "supercheck-silencer")
    if local:
        verb = "runs" if len(local) == 1 else "run"
        manager.register(_LocalNotice(f"supercheck: {' and '.join(local)} {verb} every test here, in this process"))
        return False
    try:
        local_session = LocalSession(config, settings)
    except SupercheckError as exc:
        manager.register(Refusal(config, exc), "supercheck-refusal")
        return False
    config.add_cleanup(local_session.end)
    manager.register(local_session.speaker, "supercheck-speaker")
    manager.register(local_session, "supercheck-session")
    if settings.collect == "remote":
        manager.register(_CollectedElsewhere(local_session), "supercheck-collection")
    return True


class _LocalNotice:
    """Says in the header why nothing is distributed."""

    def __init__(self, text: str) -> None:
        self._text = text

    def pytest_report_header(self) -> str:
        """Called once, before collection."""
        return self._text


class LocalSession:
    """The plugin of a session whose tests run elsewhere."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        thin = thin_of(config)
        self._attached = bool(thin and thin.run)
        self.run_id = RunId(thin.run) if thin and thin.run else new_run_id()
        self._specifier = Specifier(config, settings, self.run_id)
        self._lister = Lister()
        if settings.detach:
            config.pluginmanager.register(self._lister, "supercheck-lister")
        self._released = False
        #: Whether files of tests come back, and what has.
        self._brings = settings.source == "ship" and settings.artifacts != "none"
        self._brought: dict[str, Any] | None = None
        self._stack: EmbeddedStack | None = None
        count = settings.executions or os.cpu_count() or 1
        self.speaker = Speaker(count)
        if settings.url is None:
            self._stack = EmbeddedStack(self._notice)
            self._stack.start(self.run_id, self._specifier.early(config, count), count)
            self._submission = Submission(self._stack.connect, self._stack.url, None, self._stack.fault)
        else:
            self._submission = connect(settings.url, settings.token)
        if settings.source == "ship" and not self._attached:
            self._submission.ship(
                project=self._specifier.project(config),
                rootdir=str(config.rootpath),
                include=settings.include,
                exclude=settings.exclude,
                limit_bytes=settings.bundle_limit,
            )
        #: Where a server shows the run; empty without one.
        self._page = f"{masked(settings.url or '').rstrip('/')}/runs/{self.run_id}" if is_server(settings.url) else ""
        self._follower = Follower(
            config,
            self._submission,
            self.speaker,
            self._stack,
            silence_s=REMOTE_SILENCE_S if is_server(settings.url) else SILENCE_S,
            ours=not self._attached,
        )

    def _notice(self, text: str) -> None:
        """Show a line before there is a reporter, past pytest's early capture."""
        capture: Any = self._config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            sys.stderr.write(f"{text}\n")

    # -- hooks, in the order in which pytest calls them

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """With several executions results come from several files in turn: no file name at each change."""
        reporter: Any = config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None and self.speaker.count > 1:
            reporter.showfspath = False

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """All plugins are configured: now the nodes are known, and the run can be submitted."""
        if self._attached:
            self.speaker.configure_nodes(session.config, self.run_id)
            self._submission.attach(self.run_id, rootdir=str(session.config.rootpath) if self._brings else "")
            return
        if self._stack is None and self._settings.executions is None:
            try:
                self.speaker.resize(session.config, max(1, self._submission.capacity()))
            except SupercheckError as exc:
                fail(self._config, exc)
        nodes = self.speaker.configure_nodes(session.config, self.run_id)
        if self._stack is not None:
            self._stack.configure(nodes[0])
        request = RunRequest(
            run_id=self.run_id,
            project=self._specifier.project(session.config),
            priority=self._settings.priority,
            want=self.speaker.count,
            spec=json.dumps(self._specifier.whole(session.config, self.speaker.count, nodes), default=repr),
            timeout_s=self._settings.timeout_s or 0,
            labels=self._settings.labels if self._stack is None else (),
            maxfail=session.config.getoption("maxfail") or 0,
            detached=self._settings.detach and self._settings.collect == "remote",
            concurrency=self._settings.concurrency if self._stack is None else "",
            concurrency_limit=self._settings.concurrency_limit,
            cancel_in_progress=self._settings.cancel_in_progress,
        )
        record = self._settings.record if self._specifier.records else 0
        self._submission.submit(request, self._settings.wait_s, record=record)
        if self._specifier.words:
            self._follower.line(f"supercheck: {self._specifier.words}")

    def pytest_collectreport(self) -> None:
        """A refusal is told at once, not when everything is collected."""
        self._submission.poll()
        if self._submission.error is not None:
            fail(self._config, self._submission.error)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection(self) -> Generator[None, object, object]:
        """Before the terminal tells of it: nothing else is to be done here until there is an answer."""
        if self._settings.collect == "remote":
            try:
                admission = self._submission.result(self._follower.line)
            except SupercheckError as exc:
                fail(self._config, exc)
            if not self._attached:
                self._announce(admission, self.speaker.count)
        return (yield)

    def collect(self, session: pytest.Session) -> None:
        """Make it a session that has collected what others have."""
        if self._settings.detach:
            self._let_go()
            return
        try:
            self._follower.await_listing()
        except SupercheckError as exc:
            fail(self._config, exc)
        if self._follower.collected is None:
            assert self._follower.ended is not None
            explain(self._config, self._follower.ended, "nothing had been collected")
        from pytest_supercheck.restore import restore

        restore(session, self._follower.collected)
        session.config.hook.pytest_collection_finish(session=session)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """In place of pytest's own loop, unless that has nothing to run."""
        if self._released:
            return True
        collected = self._follower.collected
        if session.testsfailed and (
            not session.config.option.continue_on_collection_errors if collected is None else collected.trouble
        ):
            return None
        if not session.items:
            return None
        from pytest_supercheck.replay import Replay

        shows = self._specifier.shows_output
        try:
            if collected is not None:
                self._follower.replay = Replay(
                    session, collected.places or range(len(session.items)), show_output=shows
                )
            else:
                stepwise = bool(session.config.getoption("stepwise", False))
                arrangement = self._arrange(session, one_by_one=stepwise)
                places = arrangement.places
                self._follower.replay = Replay(session, places, show_output=shows, in_order=stepwise)
                self._offer(session, arrangement, one_by_one=stepwise)
                if self._settings.detach:
                    return self._let_go()
            self._follower.follow()
        except SupercheckError as exc:
            fail(self._config, exc)
        assert self._follower.ended is not None
        conclude(session, self._follower.replay, self._follower.stopped, self._follower.ended)
        return True

    def _arrange(self, session: pytest.Session, *, one_by_one: bool) -> Arrangement:
        """In which order the tests are to run."""
        from pytest_supercheck.groups import Arrangement

        arrangement = Arrangement(session.items, self._settings.group)
        if not one_by_one and not session.config.getoption("maxfail"):
            arrangement.put_long_first(durations.load(session.config), self.speaker.count)
        return arrangement

    def _offer(self, session: pytest.Session, arrangement: Arrangement, *, one_by_one: bool) -> None:
        """Hand over what there is to run."""
        from pytest_supercheck.groups import wire_names

        admission = self._submission.result(self._follower.line)
        places, joined = arrangement.places, arrangement.joined
        names = wire_names(session.items, places, joined)
        single = len(names) if one_by_one or session.config.getoption("maxfail") else arrangement.long
        detached = self._settings.detach
        listing = self._lister.tell(session, places).decode("ascii") if detached else ""
        offer = Offer(names=names, single=single, joined=joined, listing=listing, detached=detached)
        self._submission.offer(offer)
        self._announce(admission, min(self.speaker.count, arrangement.groups))

    def _announce(self, admission: Admission, wish: int) -> None:
        origin = "; -n sets the executions, xdist does not distribute" if self._settings.from_xdist else ""
        self._follower.announce(self.run_id, admission, wish, origin)

    def _let_go(self) -> bool:
        """The run goes on without this session."""
        self._released = True
        self._submission.ended()
        where = f", {self._page}" if self._page else ""
        self._follower.line(f"supercheck: it goes on without this session: supercheck attach {self.run_id}{where}")
        return True

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Whatever the reason for the session's end, no run is left behind that has not been let go of."""
        if self._released:
            session.exitstatus = pytest.ExitCode.OK  # not of having no tests
        follower = self._follower
        if follower.ended is None:
            self._submission.close()
        elif self._brings:
            self._brought = self._submission.brought()
        if follower.replay is not None and follower.collected is None:
            durations.save(self._config, follower.replay.durations_s)
        return (yield)

    def end(self) -> None:
        """Leave nothing behind; a cleanup of the configuration, for sessions end before they are configured, too."""
        ended, records = self._follower.ended, self._specifier.records
        if ended is not None and records and (why := self._submission.recorded().get("error")):
            self._follower.line(f"supercheck: run {self.run_id}, not recorded: {why}")
        self._submission.close()
        if self._stack is not None:
            self._stack.stop()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Where each failing test ran, where it can be read again, and which files have come back."""
        replay, hosts = self._follower.replay, self._follower.hosts
        status, collected = self._submission.status, self._follower.collected
        over = self._follower.ended is not None or (collected is not None and collected.trouble)
        if self._attached and not over and status is not None and status.state not in ("ended", "gone"):
            how = f"{self._page} can end it" if self._page else f"'supercheck queue cancel {self.run_id}' ends it"
            terminalreporter.write_line(f"supercheck: run {self.run_id} goes on; {how}")
        if replay is None or self._config.get_verbosity() < 0:
            return
        if self._brought is not None:
            self._tell_of_files(terminalreporter, self._brought)
        if replay.failures:
            terminalreporter.write_sep("-", "supercheck: where failing tests ran")
        for nodeid, n in replay.failures.items():
            terminalreporter.write_line(f"{nodeid}: execution {n} of run {self.run_id}, host {hosts.get(n, '?')}")
        page = self._page and f"at {self._page}"
        where = "with 'supercheck report --open'" if self._specifier.records else page
        if where and (replay.failures or self._config.get_verbosity() > 0):
            terminalreporter.write_line(f"supercheck: run {self.run_id}, see it {where}")

    def _tell_of_files(self, reporter: Any, told: dict[str, Any]) -> None:
        if not told:
            reporter.write_line("supercheck: files of tests may be missing here: they did not come in time")
        brought, left = told.get("brought", ()), told.get("left", ())
        if brought:
            where = f"{len(brought)} file{'s' * (len(brought) > 1)} of tests brought here"
            shown = brought if self._config.get_verbosity() > 0 else brought[:3]
            more = f" and {len(brought) - len(shown)} more" if len(brought) > len(shown) else ""
            reporter.write_line(f"supercheck: {where}: {', '.join(shown)}{more}")
        for path, why in left if self._config.get_verbosity() > 0 else left[:3]:
            reporter.write_line(f"supercheck: not brought here: {path}: {why}")


class _CollectedElsewhere:
    """In place of pytest's own collection, after the terminal has told of it."""

    def __init__(self, local: LocalSession) -> None:
        self._local = local

    def pytest_collection(self, session: pytest.Session) -> bool:
        """Nobody else collects."""
        self._local.collect(session)
        return True
