"""
One pytest session that notes what its results are, for the step that has started it.

Runs where pytest and pytest-supercheck are, on its own: the rest of the action is not there.  Its only argument is a
directory, where it reads `wish.json` and writes `told.json`.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_supercheck.addresses import is_server
from pytest_supercheck.errors import SupercheckError
from pytest_supercheck.model import RunId
from pytest_supercheck.settings import Settings
from pytest_supercheck.thin import Thin, command_line

#: Failures that are told in full, and the last characters and lines of each.
FAILURES: Final = 200
TRACE_LIMIT: Final = 4000
TRACE_LINES: Final = 40
#: Slow tests that are named.
SLOWEST: Final = 10
#: Characters of other texts.
TEXT_LIMIT: Final = 1000

#: How pytest names a line.
_PLACE: Final = re.compile(r"^(\S.*?):(\d{1,9}): ", re.MULTILINE)

#: What another plugin registers that tells GitHub of failures and warnings.
_OTHER_ANNOTATORS: Final = ("annotate_errors", "annotate_warnings")


class Notes:
    """
    The plugin.

    Args:
        root: Where the repository is; what is outside of it cannot be shown beside its lines.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._began = time.monotonic()
        self._outcomes: dict[str, str] = {}
        self._rerun: set[str] = set()
        self._durations_s: dict[str, float] = {}
        self._failures: dict[str, dict[str, Any]] = {}
        self._uncollected = 0
        self._config: pytest.Config | None = None
        self._told: dict[str, Any] = {}
        self._why = ""

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Called when all plugins are: what is told GitHub twice is read by nobody."""
        self._config = config
        for name in _OTHER_ANNOTATORS:
            if config.pluginmanager.has_plugin(name):
                config.pluginmanager.unregister(name=name)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called for each phase of a test; the worst of them is the test's outcome."""
        nodeid = str(report.nodeid)
        self._durations_s[nodeid] = self._durations_s.get(nodeid, 0.0) + report.duration
        if str(report.outcome) == "rerun":  # pytest-rerunfailures'
            self._rerun.add(nodeid)
        elif report.failed:
            self._outcomes[nodeid] = "failed"
            self._note_failure(nodeid, report)
        elif report.skipped:
            self._outcomes.setdefault(nodeid, "skipped")
        elif report.when == "call" and self._outcomes.get(nodeid) != "failed":
            self._outcomes[nodeid] = "passed"  # also when a subtest was skipped

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Called for each file: one that cannot be collected fails."""
        if report.failed:
            nodeid = str(report.nodeid) or "collection"
            self._outcomes[nodeid] = "failed"
            self._uncollected += 1
            self._note_failure(nodeid, report)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Called when something else than tests ends the session; its words say what."""
        self._why = str(excinfo.value)

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Called when pytest or a plugin breaks."""
        self._why = excinfo.exconly()

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Called however the session ends, once it has begun."""
        local: Any = session.config.pluginmanager.get_plugin("supercheck-session")
        settings = Settings.from_pytest(session.config)
        url = settings.url or ""
        self._told = {
            "run": str(local.run_id) if local else "",
            "url": url.rstrip("/") if is_server(url) else "",
            "detached": settings.detach,
            "total": session.testscollected,
        }

    def tell(self, status: int) -> dict[str, Any]:
        """
        All that was noted.

        Args:
            status: With which the session ended.
        """
        outcomes = list(self._outcomes.values())
        slowest = sorted(self._durations_s.items(), key=lambda one: -one[1])[:SLOWEST]
        return {
            "run": "",
            "url": "",
            "detached": False,
            "total": len(outcomes),
            **self._told,
            "status": status,
            "why": self._why[:TEXT_LIMIT],
            "passed": outcomes.count("passed"),
            "failed": outcomes.count("failed"),
            "skipped": outcomes.count("skipped"),
            "uncollected": self._uncollected,
            "flaky": sum(self._outcomes.get(nodeid) == "passed" for nodeid in self._rerun),
            "duration_s": time.monotonic() - self._began,
            "failures": list(self._failures.values()),
            "slowest": slowest,
        }

    def _note_failure(self, nodeid: str, report: pytest.TestReport | pytest.CollectReport) -> None:
        if nodeid in self._failures or len(self._failures) == FAILURES:
            return
        trace = report.longreprtext
        crash = getattr(report.longrepr, "reprcrash", None)
        lines = trace.strip().splitlines() or ["failed without a word"]
        file, line = self._place(report)
        self._failures[nodeid] = {
            "nodeid": nodeid,
            "message": (crash.message if crash else lines[-1].removeprefix("E").strip())[:TEXT_LIMIT],
            "trace": "\n".join(lines[-TRACE_LINES:])[-TRACE_LIMIT:],
            "file": file,
            "line": line,
            "judgement": None,
        }

    def _place(self, report: Any) -> tuple[str, int]:
        """The innermost line of the repository that had a part in a failure; without one, the test's first."""
        assert self._config is not None
        places: list[tuple[Path, Any, int]] = []
        cwd, crash = self._config.invocation_params.dir, getattr(report.longrepr, "reprcrash", None)
        if crash is not None:
            places.append((cwd, crash.path, crash.lineno))
        entries = getattr(getattr(report.longrepr, "reprtraceback", None), "reprentries", ())
        found = [getattr(entry, "reprfileloc", None) for entry in reversed(entries)]
        places += [(cwd, one.path, one.lineno) for one in found if one is not None]
        if crash is None:  # a text, as of a file that cannot be collected
            places += [(cwd, one[1], int(one[2])) for one in reversed([*_PLACE.finditer(report.longreprtext)])]
        file, line = (report.location or ("", None))[:2]
        places.append((self._config.rootpath, file, (line or 0) + 1))
        for directory, path, number in places:
            whole = Path(os.path.normpath(directory / str(path)))
            if whole.is_relative_to(self._root) and "site-packages" not in whole.parts:
                return whole.relative_to(self._root).as_posix(), int(number)
        return "", 0


def _repository(start: Path) -> Path:
    """The directory of the repository that a directory is in, or that directory."""
    return next((one for one in (start, *start.parents) if (one / ".git").exists()), start)


def _judge(told: dict[str, Any], base: str, attempts: str) -> None:
    """Ask the server what it knows of the tests that failed; without an answer nothing is claimed."""
    failures = {one["nodeid"]: one for one in told["failures"]}
    if not (told["url"] and told["run"] and failures):
        return
    from pytest_supercheck.http_gateway import HttpGateway  # needs httpx, which is there when there is a server

    gateway = HttpGateway(told["url"], os.environ.get("SUPERCHECK_TOKEN") or None)
    try:
        for found in gateway.judge(RunId(told["run"]), list(failures), branch=base, attempts=attempts):
            failures[found.pop("nodeid")]["judgement"] = found
    except SupercheckError as exc:
        print(f"supercheck: which failures are new is not known: {exc}")
    finally:
        gateway.close()


def main(directory: Path) -> int:
    """Run the session; returns its exit status."""
    wish = json.loads((directory / "wish.json").read_bytes())
    args, plugins = tuple(wish["args"]), [Notes(_repository(Path.cwd()))]
    where = ["--supercheck-url", wish["url"]] if wish["url"] else []
    sys.argv = ["pytest", *args]
    if wish["remote"]:
        status = int(pytest.main(command_line([*where, *args]), plugins=[Thin(args=args), *plugins]))
    else:
        status = int(pytest.main(["--supercheck", *where, *args], plugins=plugins))
    told = plugins[0].tell(status)
    _judge(told, wish["base"], wish["attempts"])
    (directory / "told.json").write_text(json.dumps(told), "utf-8")
    return status


if __name__ == "__main__":
    sys.path.pop(0)  # this directory: tests find no module there that is not theirs
    sys.exit(main(Path(sys.argv[1])))
