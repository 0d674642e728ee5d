"""
What workers need to know of a session, so that test processes are like it.

Between the session and `RunRequest.spec`, which is its JSON.  Knows pytest's configuration and our settings.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
from typing import Any

import pytest

from pytest_supercheck.masking import masked
from pytest_supercheck.settings import Settings
from pytest_supercheck.thin import thin_of


class Specifier:
    """
    Describes one session.

    Args:
        config: Before conftests are loaded.
        run: Its run's id.
    """

    def __init__(self, config: pytest.Config, settings: Settings, run: str) -> None:
        self._settings = settings
        self._run = run
        self._path = list(sys.path)
        thin = thin_of(config)
        given = [str(arg) for arg in config.invocation_params.args]
        self._args = given if thin is None or thin.args is None else list(thin.args)
        self._argv = sys.argv if thin is None else ["pytest", *self._args]
        #: What the user is to know of it.
        self.words = ""
        #: Whether tests show what they print.
        self.shows_output = getattr(config.known_args_namespace, "capture", "fd") in ("no", "tee-sys")
        #: Whether the session records its run itself.
        self.records = settings.url is None and settings.record > 0

    def early(self, config: pytest.Config, count: int) -> dict[str, Any]:
        """What is known before configuration: enough to collect."""
        settings = self._settings
        kept = settings.url is not None or self.records
        return {
            "host": socket.gethostname(),
            "cwd": str(config.invocation_params.dir),
            "interpreter": sys.executable,
            "rootdir": str(config.rootpath),
            "path": self._path,
            "argv": self._public(self._argv),
            "pytest": pytest.__version__,
            "plugins": [],
            "args": [*self._public(self._args), *(["--capture=fd"] if self.shows_output else [])],
            "start": settings.start,
            "collect": settings.collect,
            "group": settings.group,
            "uid": self._run,
            "count": count,
            "artifacts": {"of": settings.artifacts if kept else "none", "globs": list(settings.artifact)},
            "markup": _shows_colours(config),
            "width": shutil.get_terminal_size().columns,
        }

    def whole(self, config: pytest.Config, count: int, nodes: list[dict[str, Any]]) -> dict[str, Any]:
        """
        All of it.

        Args:
            nodes: xdist's workerinput of each execution.
        """
        found = config.pluginmanager.list_plugin_distinfo()
        factory = getattr(config, "_tmp_path_factory", None)
        return {
            **self.early(config, count),
            "plugins": sorted({f"{about.project_name}-{about.version}" for _, about in found}),
            "basetemp": str(factory.getbasetemp()) if factory else "",
            "nodes": nodes,
            **(self._surroundings(config) if self._settings.source == "ship" else {}),
        }

    def _surroundings(self, config: pytest.Config) -> dict[str, Any]:
        """What a shipped run is to have around it."""
        from pytest_supercheck.variables import pick
        from pytest_supercheck.wish import wish_for

        settings = self._settings
        wish = wish_for(
            config.rootpath,
            kind=settings.env,
            python=settings.python,
            sources=settings.env_sources,
            extras=settings.env_extras,
            groups=settings.env_groups,
        )
        try:
            picked = pick(settings.pass_env, os.environ)
        except ValueError as exc:
            raise pytest.UsageError(f"--supercheck-pass-env: {exc}") from exc
        self.words = picked.words
        return {"env": wish.encode(), "environ": picked.passed, "strict_env": settings.strict_env}

    def project(self, config: pytest.Config) -> str:
        """The project whose limits count."""
        return self._settings.project or os.path.basename(config.rootpath) or "default"

    def _public(self, words: list[str]) -> list[str]:
        """A command line as tests may see it: without the pool's password."""
        url = self._settings.url
        return [word.replace(url, masked(url)) for word in words] if url else list(words)


def _shows_colours(config: pytest.Config) -> bool:
    """Whether the terminal reporter, which is not there yet, will write colours: parts of reports depend on it."""
    color = getattr(config.known_args_namespace, "color", "auto")
    if color != "auto":
        return bool(color == "yes")
    from _pytest._io.terminalwriter import should_do_markup

    capture: Any = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        return should_do_markup(sys.stdout)
