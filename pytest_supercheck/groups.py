"""
Which tests stay together: what `--supercheck-group` and the mark `xdist_group` ask for.

Between collection and offer, in the controller.  Knows pytest's items; not how they are handed out.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import pytest

from pytest_supercheck.settings import Group


def arrange(items: Sequence[pytest.Item], group: Group) -> tuple[list[int], list[int]]:
    """
    Bring the members of each group together.

    Args:
        items: In collection order.
        group: What makes a group of items without a mark.

    Returns:
        The items' places in the order in which they are to run: that of collection, but the members of a group follow
        its first one.  And the indexes, in that order, of those that are of the same group as the one before.
    """
    members: dict[Hashable, list[int]] = {}
    for place, item in enumerate(items):
        key = group_of(item, group)
        members.setdefault(place if key is None else key, []).append(place)
    places: list[int] = []
    joined: list[int] = []
    for group_places in members.values():
        joined += range(len(places) + 1, len(places) + len(group_places))
        places += group_places
    return places, joined


def group_of(item: pytest.Item, group: Group) -> Hashable | None:
    """
    What an item's group is known by; None for an item that is in none.

    Items with marks are in the group of the marks' names, whatever else is asked for; names are found as xdist finds
    them for ``--dist loadgroup`` (its remote.py).  Of the others, `file` brings together what comes from one file.
    `module` goes by pytest's own node, on which fixtures of that scope depend: a file's doctests are a module of their
    own, and an item that is not of Python code is in none.  `class` is the innermost one, and the module for what is in
    no class, as with ``--dist loadscope``.
    """
    names = {
        str(mark.args[0] if mark.args else mark.kwargs.get("name", "default"))
        for mark in item.iter_markers("xdist_group")
    }
    if names:
        return frozenset(names)
    if group == "file":
        return item.path
    if group == "module":
        return item.getparent(pytest.Module)
    if group == "class":
        return item.getparent(pytest.Class) or item.getparent(pytest.Module)
    return None
