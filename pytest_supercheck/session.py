"""
The local session of a run: starts it, follows it, and ends as pytest would.

The controller's side of the whole flow, from `begin`, which pytest's first hook calls, to the exit status.  Joins the
submission, perhaps an embedded stack, and the replay; knows neither Redis nor how workers work.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

from pytest_supercheck import durations, events
from pytest_supercheck.embedded import EmbeddedStack
from pytest_supercheck.ending import Refusal, conclude, fail
from pytest_supercheck.errors import Infrastructure, SupercheckError
from pytest_supercheck.model import RunRequest, new_run_id
from pytest_supercheck.operators import BadVariable, PoolSettings, masked
from pytest_supercheck.settings import HTTP_SCHEMES, Settings
from pytest_supercheck.submission import Submission, connect
from pytest_supercheck.xdist_protocol import Silencer, Speaker

if TYPE_CHECKING:
    from pytest_supercheck.events import Event
    from pytest_supercheck.model import Admission, RunStatus
    from pytest_supercheck.replay import Replay

#: Seconds that one read of events waits.
READ_S: Final = 1.0

#: Seconds that the executions of an interrupted run have to tear down.
INTERRUPT_S: Final = 10.0

#: Seconds without an answer from the pool after which a run is given up.
SILENCE_S: Final = 20.0
REMOTE_SILENCE_S: Final = 60.0

#: Options with which there is nothing to run.
_NOTHING_TO_RUN: Final = (
    *("collectonly", "help", "version"),
    *("showfixtures", "show_fixtures_per_test", "markers", "cacheshow"),
)


def begin(config: pytest.Config) -> None:
    """
    Start a session's run, as early as possible.

    Raises:
        pytest.UsageError: An option has a bad value.
    """
    options = config.known_args_namespace
    settings = Settings.from_pytest(config)
    try:
        PoolSettings.from_env()  # read by an embedded stack, which would tell less well what is wrong
    except BadVariable as exc:
        raise pytest.UsageError(str(exc)) from exc
    if any(getattr(options, name, None) for name in _NOTHING_TO_RUN):
        return
    local = [f"--{name}" for option, name in (("usepdb", "pdb"), ("trace", "trace")) if getattr(options, option, None)]
    local += ["-n 0"] * (settings.executions == 0)
    manager = config.pluginmanager
    manager.register(Silencer(), "supercheck-silencer")
    if local:
        verb = "runs" if len(local) == 1 else "run"
        manager.register(_LocalNotice(f"supercheck: {' and '.join(local)} {verb} every test here, in this process"))
        return
    try:
        local_session = LocalSession(config, settings)
    except SupercheckError as exc:
        manager.register(Refusal(config, exc), "supercheck-refusal")
        return
    config.add_cleanup(local_session.end)
    manager.register(local_session.speaker, "supercheck-speaker")
    manager.register(local_session, "supercheck-session")


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
        self.run_id = new_run_id()
        self._path = list(sys.path)
        self._args = [str(arg) for arg in config.invocation_params.args]
        self._show_output = getattr(config.known_args_namespace, "capture", "fd") in ("no", "tee-sys")
        self._stack: EmbeddedStack | None = None
        self._ended: Any = None
        self._unplayed: deque[bytes] = deque()
        self._replay: Replay | None = None
        self._hosts: dict[int, str] = {}
        self._recorded_here = settings.url is None and settings.record > 0
        count = settings.executions or os.cpu_count() or 1
        self.speaker = Speaker(count)
        if settings.url is None:
            self._stack = EmbeddedStack(self._notice)
            self._stack.start(self.run_id, self._spec(config, early=True), count)
            self._submission = Submission(self._stack.connect, self._stack.url, None, self._stack.fault)
        else:
            self._submission = connect(settings.url, settings.token)

    def _notice(self, text: str) -> None:
        """Show a line before there is a reporter, past pytest's early capture."""
        capture: Any = self._config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            sys.stderr.write(f"{text}\n")

    def _spec(self, config: pytest.Config, *, early: bool) -> dict[str, Any]:
        """What workers need to know of this session; `early`, before configuration, without the nodes."""
        import shutil

        capture = ["--capture=fd"] if self._show_output else []
        spec: dict[str, Any] = {
            "host": socket.gethostname(),
            "cwd": str(config.invocation_params.dir),
            "interpreter": sys.executable,
            "rootdir": str(config.rootpath),
            "path": self._path,
            "argv": self._public(sys.argv),
            "pytest": pytest.__version__,
            "plugins": [],
            "args": [*self._public(self._args), *capture],
            "start": self._settings.start,
            "uid": self.run_id,
            "count": self.speaker.count,
            "artifacts": self._artifacts(),
            "markup": _shows_colours(config),
            "width": shutil.get_terminal_size().columns,
        }
        if not early:
            found = config.pluginmanager.list_plugin_distinfo()
            spec["plugins"] = sorted({f"{about.project_name}-{about.version}" for _, about in found})
            factory = getattr(config, "_tmp_path_factory", None)
            spec["basetemp"] = str(factory.getbasetemp()) if factory else ""
        return spec

    def _artifacts(self) -> dict[str, Any]:
        """What test processes are to look for, as `Leftovers` wants it; nothing where there is no place for it."""
        settings = self._settings
        kept = settings.url is not None or self._recorded_here
        return {"of": settings.artifacts if kept else "none", "globs": list(settings.artifact)}

    def _public(self, words: list[str]) -> list[str]:
        """A command line as tests may see it: without the pool's password."""
        url = self._settings.url
        return [word.replace(url, masked(url)) for word in words] if url else words

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
        if self._stack is None and self._settings.executions is None:
            try:
                self.speaker.resize(session.config, max(1, self._submission.capacity()))
            except SupercheckError as exc:
                fail(self._config, exc)
        nodes = self.speaker.configure_nodes(session.config, self.run_id)
        if self._stack is not None:
            self._stack.configure(nodes[0])
        spec = {**self._spec(session.config, early=False), "nodes": nodes}
        request = RunRequest(
            run_id=self.run_id,
            project=self._settings.project or os.path.basename(spec["rootdir"]) or "default",
            priority=self._settings.priority,
            want=self.speaker.count,
            spec=json.dumps(spec, default=repr),
            timeout_s=self._settings.timeout_s or 0,
            labels=self._settings.labels if self._stack is None else (),
            maxfail=session.config.getoption("maxfail") or 0,
        )
        record = self._settings.record if self._recorded_here else 0
        self._submission.submit(request, self._settings.wait_s, record=record)

    def pytest_collectreport(self) -> None:
        """A refusal is told at once, not when everything is collected."""
        self._submission.poll()
        if self._submission.error is not None:
            fail(self._config, self._submission.error)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """In place of pytest's own loop, unless that has nothing to run."""
        if session.testsfailed and not session.config.option.continue_on_collection_errors:
            return None
        if not session.items:
            return None
        from pytest_supercheck.groups import Arrangement, wire_names
        from pytest_supercheck.replay import Replay

        stepwise = bool(session.config.getoption("stepwise", False))
        arrangement = Arrangement(session.items, self._settings.group)
        one_by_one = stepwise or session.config.getoption("maxfail")
        if not one_by_one:
            arrangement.put_long_first(durations.load(session.config), self.speaker.count)
        places, joined = arrangement.places, arrangement.joined
        self._replay = Replay(session, places, show_output=self._show_output, in_order=stepwise)
        try:
            admission = self._submission.result()
            names = wire_names(session.items, places, joined)
            self._submission.offer(names, single=len(names) if one_by_one else arrangement.long, joined=joined)
            self._announce(admission, arrangement.groups)
            self._follow()
        except SupercheckError as exc:
            fail(self._config, exc)
        conclude(session, self._replay, self._stopped, self._ended)
        return True

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        """Whatever the reason for the session's end, no run is left behind."""
        if self._ended is None:
            self._withdraw()
        if self._replay is not None:
            durations.save(self._config, self._replay.durations_s)
        return (yield)

    def end(self) -> None:
        """Leave nothing behind; a cleanup of the configuration, for sessions end before they are configured, too."""
        if self._ended is not None and self._recorded_here and (why := self._submission.recorded().get("error")):
            self._line(f"supercheck: run {self.run_id}, not recorded: {why}")
        self._withdraw()
        if self._stack is not None:
            self._stack.stop()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Where each failing test ran, and where it can be read again."""
        if self._replay is None or self._config.get_verbosity() < 0:
            return
        if self._replay.failures:
            terminalreporter.write_sep("-", "supercheck: where failing tests ran")
        for nodeid, n in self._replay.failures.items():
            terminalreporter.write_line(f"{nodeid}: execution {n} of run {self.run_id}, host {self._hosts.get(n, '?')}")
        if self._recorded_here and (self._replay.failures or self._config.get_verbosity() > 0):
            terminalreporter.write_line(f"supercheck: run {self.run_id}, see it with 'supercheck report --open'")

    # -- following the run

    def _announce(self, admission: Admission, count: int) -> None:
        status = self._submission.status or admission
        wish = min(self.speaker.count, count)
        if self._stack is not None:
            where = f"{wish} execution{'s' * (wish > 1)} on this machine"
        elif status.held:
            where = f"{min(status.held, wish)} of {wish} executions admitted"
        else:
            self._place_told = _place(status)
            where = f"queued ({self._place_told})"
            if not admission.figures.workers:
                where += "; no worker is alive: start one with 'supercheck worker'"
        self._line(f"supercheck: run {self.run_id}, {where}" + self._origin())

    def _origin(self) -> str:
        return "; -n sets the executions, xdist does not distribute" if self._settings.from_xdist else ""

    def _line(self, text: str) -> None:
        reporter: Any = self._config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None and self._config.get_verbosity() >= 0:
            reporter.ensure_newline()
            reporter.write_line(text)

    def _follow(self) -> None:
        """Replay events until the run has ended."""
        try:
            self._read(lambda: False)
        except KeyboardInterrupt:
            give_up_at = time.monotonic() + INTERRUPT_S
            self._submission.cancel(outcome="interrupted", how="interrupt", message="Ctrl-C")
            self._read(lambda: time.monotonic() > give_up_at)
            if self._replay is not None:
                self._replay.flush()
            raise KeyboardInterrupt from None  # where this process happened to wait is of no interest

    def _read(self, enough: Callable[[], bool]) -> None:
        while self._ended is None and not (enough() and not self._unplayed):
            self._unplayed = self._unplayed or deque(self._submission.events(READ_S))
            some = bool(self._unplayed)
            while self._unplayed:  # not a local: Ctrl-C in a hook must lose none
                self._on_event(events.decode(self._unplayed.popleft()))
            self._tell_place()
            if some:
                gc.freeze()  # reports stay until the summary
            else:
                self._check_state()
            self._heed()

    def _tell_place(self) -> None:
        """While the run waits for others, say where, whenever that changes; an embedded stack has no others."""
        status = self._submission.status if self._stack is None else None
        place = _place(status) if status is not None and status.state == "waiting" and status.position else ""
        if place and place != self._place_told:
            self._place_told = place
            self._line(f"supercheck: queued ({place})")

    _place_told = ""

    def _heed(self) -> None:
        """A plugin of this session wants it to end: nothing is started any more, what runs is reported."""
        assert self._replay is not None
        why = self._replay.stopped
        if why and not self._heeded and self._ended is None:
            self._heeded = True
            self._submission.cancel(outcome="stopped", how="leave", message=why)

    _heeded = False

    def _check_silence(self) -> None:
        if self._stack is not None and (fault := self._stack.fault()):
            self._lost(fault)
        silence_s = REMOTE_SILENCE_S if (self._settings.url or "").startswith(HTTP_SCHEMES) else SILENCE_S
        if time.monotonic() > self._submission.heard_at + silence_s:
            self._lost(f"the pool has not answered for {silence_s:.0f} s")

    def _check_state(self) -> None:
        if self._submission.error is not None:
            raise self._submission.error
        status = self._submission.status
        if status is not None and status.state == "gone":
            self._lost("the pool does not know this run any more (was Redis restarted or flushed?)")
        self._check_silence()

    def _lost(self, why: str) -> NoReturn:
        done = self._replay.count if self._replay else 0
        raise Infrastructure(
            f"{why}; {done} tests had been reported. This says nothing about them: start the run again."
        )

    def _on_event(self, event: Event) -> None:
        assert self._replay is not None
        match event:
            case events.Passed() | events.Result() | events.Missing() | events.Crash():
                self._replay.play(event)
            case events.Begin(n=n, host=host):
                self._hosts[n] = host
            case events.Files(left=left):
                if left and not self._told_left and self._config.get_verbosity() > 0:
                    self._told_left = True
                    which = ": ".join(filter(None, left[0]))
                    self._line(f"supercheck: files that tests left behind stay where they are, {which}")
            case events.Ready(n=n, workerinfo=info, spawned=reason):
                if reason and not self._told_spawn and self._config.get_verbosity() > 0:
                    self._told_spawn = True
                    self._line(f"supercheck: each execution collects for itself: {reason}")
                node = self.speaker.node(n)
                node.workerinfo = {**info, "id": node.gateway.id}
                self._config.hook.pytest_testnodeready(node=node)
            case events.Output(n=n, workeroutput=output):
                node = self.speaker.node(n)
                node.workeroutput = output
                self._config.hook.pytest_testnodedown(node=node, error=None)
            case events.Stop():
                self._stopped = event
            case events.End():
                self._ended = event
                self._submission.ended()
                if self._stack is not None:
                    self._stack.release()
            case events.Left():
                pass

    _stopped: Any = None
    _told_spawn = False
    _told_left = False

    def _withdraw(self) -> None:
        """Let go of the run; one that has not ended leaves nothing behind, or what it has done so far."""
        self._submission.close()


def _shows_colours(config: pytest.Config) -> bool:
    """Whether the terminal reporter, which is not there yet, will write colours: parts of reports depend on it."""
    color = getattr(config.known_args_namespace, "color", "auto")
    if color != "auto":
        return bool(color == "yes")
    from _pytest._io.terminalwriter import should_do_markup

    capture: Any = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        return should_do_markup(sys.stdout)


def _place(status: Admission | RunStatus) -> str:
    eta = f", about {status.eta_s:.0f} s" if status.eta_s is not None else ""
    return f"position {status.position}{eta}"
