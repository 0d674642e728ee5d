"""
Who answers a hook of `hookspecs`: our own implementation, else a plugin's.

Entry points are read where ours has no answer, once per process: whoever needs no plugin does not look for any.
"""

from __future__ import annotations

import functools
from importlib.metadata import entry_points
from typing import Any

import pluggy

from pytest_supercheck.errors import BadPlugin
from pytest_supercheck.hookspecs import PROJECT, SupercheckHookspecs


def first(hook: str, own: object, /, **arguments: Any) -> Any:
    """
    The first answer to a hook.

    Args:
        hook: Its name.
        own: The module or object with our own implementation.
        arguments: All that the hook has.

    Returns:
        None when nobody has one.

    Raises:
        BadPlugin: A plugin cannot be loaded, or is none. What implementations raise is passed on.
    """
    answer = getattr(_manager({"": own}).hook, hook)(**arguments)
    return answer if answer is not None else getattr(_plugins().hook, hook)(**arguments)


@functools.cache
def _plugins() -> pluggy.PluginManager:
    found: dict[str, object] = {}
    for entry in entry_points(group=PROJECT):
        try:
            found[f"{entry.name} = {entry.value}"] = entry.load()
        except Exception as exc:
            raise BadPlugin(f"The plugin {entry.name} = {entry.value} cannot be loaded: {exc!r}") from exc
    return _manager(found)


def _manager(plugins: dict[str, object]) -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(SupercheckHookspecs)
    for name, plugin in plugins.items():
        try:
            manager.register(plugin, name)
            manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as exc:
            raise BadPlugin(f"The plugin {name} does not fit this release of supercheck: {exc}") from exc
    return manager
