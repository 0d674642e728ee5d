"""
Where other distributions can take part: one hook for each thing of which there may be more kinds than ours.

A plugin is a module, or an object, that an entry point of the group ``supercheck`` names; its functions bear the names
of hooks and the mark `hookimpl`, and take those arguments that they need.  What they get and give back are the nouns
that this package uses itself: its own stores, environments and messages come by the same hooks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pluggy

if TYPE_CHECKING:
    from pytest_supercheck.environment import Environment
    from pytest_supercheck.isolation import Confine
    from pytest_supercheck.store import Store
    from pytest_supercheck.uv_program import Tell
    from pytest_supercheck.wish import EnvironmentWish

#: Sends a message: title and body, which are plain text, and whether it is ``good`` news, ``bad`` or ``neither``.
#: Returns when the service has taken it, else raises.
Send = Callable[[str, str, str], None]

#: The name that marks belong to, and the group of entry points.
PROJECT: Final = "supercheck"

hookspec: Final = pluggy.HookspecMarker(PROJECT)
#: Marks a function of a plugin that answers a hook.
hookimpl: Final = pluggy.HookimplMarker(PROJECT)


class SupercheckHookspecs:
    """The hooks. The first that has an answer decides, our own before all others; None is for other cases."""

    @hookspec(firstresult=True)
    def supercheck_open_store(self, url: str, endpoint: str | None) -> Store | None:
        """
        Open a store; called on workers, the server and by commands that read records.

        Args:
            url: Its address, as in `SUPERCHECK_STORE`. A directory or ``SCHEME://...``.
            endpoint: `SUPERCHECK_S3_ENDPOINT`.

        Returns:
            None when the address is of another kind.

        Raises:
            StoreTrouble: It is of this kind, and malformed or out of reach.
        """

    @hookspec(firstresult=True)
    def supercheck_build_environment(  # noqa: PLR0913, PLR0917 - implementations take those that they need
        self,
        wish: EnvironmentWish,
        tree: Path,
        rootdir: Path,
        venv: Path,
        cache: Path,
        confine: Confine | None,
        pulse: Callable[[], None],
        tell: Tell,
    ) -> Environment | None:
        """
        Have the environment of a shipped run ready; called on workers, in each execution of the run.

        Args:
            wish: What its session wants; `kind` is what `--supercheck-env` says.
            tree: The run's own copy of what was shipped.
            rootdir: The session's root directory in it.
            venv: A path that is this run's alone; several executions may be here at once.
            cache: The worker's directory for what it keeps; shared by all runs.
            confine: Changes a command so that it is shut in as the run is; code of the project is run through it alone.
                What it writes into becomes its own: look there when it has ended, and follow no links.
                None where runs are not isolated.
            pulse: To be called about twice a second while something is awaited; what it raises is to be passed on.
            tell: Gets words for the user, and whether they are details.

        Returns:
            What has pytest and this package; None when the wish is of another kind.

        Raises:
            Fatal: There cannot be one.
        """

    @hookspec(firstresult=True)
    def supercheck_notifier(self, url: str) -> Send | None:
        """
        Find who sends messages to an address; called on the server, when it starts and for each message.

        Args:
            url: A target's address in the configuration file. Holds secrets: it is not to be logged, nor to be quoted.

        Returns:
            None when the address is of another kind.
        """
