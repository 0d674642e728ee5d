"""
pytest's way in: options, and the decision whether this session is ours.

Imported by every pytest that has the distribution installed, so it imports nothing but pytest, and a small module where
xdist is not loaded; what a run needs is imported once `--supercheck` is given.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any, Final

import pytest

#: Options in the order of `--help`: the name, what stands for the value (nothing for a flag, and with dots where it may
#: be given several times), and the meaning; in short, because `settings` is not imported without --supercheck.
_OPTIONS: Final = (
    ("url", "URL", "the pool: redis://, rediss://, unix://, or a server's https:// (default: an embedded stack)"),
    ("executions", "N", "most executions at a time, or 'auto' (default)"),
    ("priority", "RANK", "high, normal (default) or low: rank among the runs that wait"),
    ("wait", "SECONDS", "how long to wait for admission when the queue is full (default: 0)"),
    ("timeout", "SECONDS", "time limit of the run, from its first start (default: none embedded, else the pool's)"),
    ("project", "NAME", "the project whose limits count (default: the root directory's name)"),
    ("label", "LABEL", "run on workers with this label only; several are all needed (a pool's runs)"),
    ("record", "RUNS", "how many embedded runs to keep in .supercheck of the root directory (default: 20; 0: none)"),
    ("start", "HOW", "auto (default), fork or spawn: how test processes come to be after collection"),
    ("source", "HOW", "auto (default: ship to a server), place (workers see the same files) or ship"),
    ("collect", "WHERE", "local (default), or remote: by the first worker, which alone needs the packages"),
    ("group", "HOW", "none (default), file, class or module: tests that stay together on one execution"),
    ("artifacts", "TESTS", "failed (default), all or none: of which tests the files are kept that they leave behind"),
    ("env", "KIND", "uv (default) or inherit: the environment of a shipped run, from the project's files or as is"),
    ("python", "VERSION", "the Python of a shipped run, such as 3.12 (default: what the project says)"),
    ("concurrency", "NAME", "the run's concurrency group: so many of its runs at a time (a pool's runs)"),
    ("concurrency-limit", "K", "how many (default: 1)"),
    ("bundle-limit", "SIZE", "how much a project that is shipped may have: 500MB, 2GB (default: 1GB)"),
    ("detach", "", "start the run and leave it to the pool: 'supercheck attach' follows it"),
    ("artifact", "GLOB...", "files below the root directory that a test leaves behind, if it wrote them"),
    ("include", "GLOB...", "files to ship although git ignores them, or they look like secrets"),
    ("exclude", "GLOB...", "files not to ship, whatever else is said of them"),
    ("env-sources", "FILE...", "what a shipped run's environment is made from (default: the first that is found)"),
    ("env-extras", "NAME...", "extras of the project in it (default: dev, test, tests)"),
    ("env-groups", "NAME...", "dependency groups of the project in it (default: dev, test, tests)"),
    ("pass-env", "PATTERN...", "environment variables that go along with a shipped run (default: none)"),
    ("strict-env", "", "end a shipped run whose environment differs from this one"),
    ("cancel-in-progress", "", "stop the oldest runs of the concurrency group where there are too many"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Called while plugins are loaded, before the command line is parsed."""
    group = parser.getgroup("supercheck", "run the tests on a shared pool of workers")
    group.addoption(
        "--supercheck", action="store_true", default=False, help="run the collected tests on a pool of workers"
    )
    parser.addini("supercheck", "as --supercheck", type="bool", default=False)
    for name, metavar, text in _OPTIONS:
        option, key = f"--supercheck-{name}", f"supercheck_{name.replace('-', '_')}"
        if not metavar:
            group.addoption(option, action="store_true", default=False, help=text)
            parser.addini(key, f"as {option}", type="bool", default=False)
        elif metavar.endswith("..."):
            several = f"{text}; may be given several times"
            group.addoption(option, action="append", metavar=metavar[:-3], default=None, help=several)
            parser.addini(key, f"as {option}, one a line", type="linelist", default=[])
        else:
            action = "append" if name == "label" else "store"  # an ini key has several on its line
            group.addoption(option, action=action, metavar=metavar, default=None, help=text)
            parser.addini(key, f"as {option}", default=None)


def pytest_configure(config: pytest.Config) -> None:
    """Called in every session: tests may have xdist's mark, also where they run locally and xdist is not installed."""
    if not config.pluginmanager.has_plugin("xdist"):
        config.addinivalue_line("markers", "xdist_group(name): tests of one name run on one execution, one at a time.")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, args: list[str], parser: pytest.Parser
) -> Generator[None, object, object]:
    """Called when plugins are loaded and the command line is known: before other plugins begin, and any conftest."""
    _begin(early_config, args, parser)
    return (yield)


def _begin(early_config: pytest.Config, args: list[str], parser: pytest.Parser) -> None:
    manager = early_config.pluginmanager
    if not manager.has_plugin("xdist"):
        from pytest_supercheck import xdist_fixtures

        manager.register(xdist_fixtures, "supercheck-fixtures")
    options = early_config.known_args_namespace
    if not (getattr(options, "supercheck", False) or early_config.getini("supercheck")):
        return
    if any(getattr(plugin, "is_supercheck_runner", False) for plugin in manager.get_plugins()):
        _announce_distribution(options)  # the same command line, in the process that runs its tests
        options.cov_append = True  # pytest-cov erases when it begins, and others may have ended by then
        return
    sys.meta_path.insert(0, _OwnModules)
    from pytest_supercheck import session

    if session.begin(early_config, args, parser):
        _announce_distribution(options)


def _announce_distribution(options: Any) -> None:
    """Let plugins that look for xdist's options this early, as pytest-cov does, find what `-n` leaves there."""
    options.numprocesses, options.dist = 1, "load"


class _OwnModules:
    """
    Finds this package's modules before pytest's import hook does.

    pytest rewrites the asserts of every module of a distribution with a plugin (`_pytest/assertion/rewrite.py`), each
    time where bytecode is not written: that would cost a session 40 ms, and these modules assert nothing for tests.
    """

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, _target: object = None) -> ModuleSpec | None:
        """As of a meta path finder."""
        return PathFinder.find_spec(name, path) if name.startswith("pytest_supercheck.") else None
