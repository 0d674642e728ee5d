"""
Sessions that need nothing of the project: the tests are collected where they run, or somebody else has started the run.

Before everything else in the local session.  Knows pytest's start; neither pools nor events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest

#: Options that choose tests by what only this machine remembers, or that want to show what there is.
_LOCAL_ONLY: Final = {
    "lf": "--lf",
    "failedfirst": "--ff",
    "newfirst": "--nf",
    "stepwise": "--sw",
    "collectonly": "--collect-only",
    "usepdb": "--pdb",
    "trace": "--trace",
}


@dataclass(frozen=True)
class Thin:
    """The plugin by which `supercheck run` and `supercheck attach` say what session they start."""

    #: The command line that the workers get; None when somebody else has started the run.
    args: tuple[str, ...] | None
    #: The run to follow; empty for a new one.
    run: str = ""


def thin_of(config: pytest.Config) -> Thin | None:
    """What a command of ours has said; None for a session that a user has started."""
    return next((plugin for plugin in config.pluginmanager.get_plugins() if isinstance(plugin, Thin)), None)


def make_thin(config: pytest.Config, args: list[str], parser: pytest.Parser) -> None:
    """
    Let a session whose tests are collected elsewhere import nothing of the project's.

    Args:
        config: Before conftests are loaded.
        args: The command line; options of plugins that are not here are removed.

    Raises:
        pytest.UsageError: An option needs what is collected here.
    """
    options: Any = config.known_args_namespace
    for name, option in _LOCAL_ONLY.items():
        if getattr(options, name, None):
            raise pytest.UsageError(
                f"{option} needs the tests to be collected here: leave it out, or --supercheck-collect=remote"
            )
    options.noconftest = True
    _, unknown = parser.parse_known_and_unknown_args(args)
    args[:] = [arg for arg in args if arg not in unknown]
    # Its public name is deprecated since pytest 9.2, and older ones have only that.
    for key in config._inicfg if hasattr(config, "_inicfg") else config.inicfg:
        try:
            config.getini(key)
        except ValueError:
            parser.addini(key, "of a plugin that is not here", default=None)


def command_line(args: Sequence[str]) -> list[str]:
    """
    The command line of a session that a command of ours starts.

    Args:
        args: pytest's, as the user has given them; what the project's configuration wants to be imported is left out.
    """
    return ["-o", "required_plugins=", "-o", "filterwarnings=", "--supercheck", "--supercheck-collect=remote", *args]
