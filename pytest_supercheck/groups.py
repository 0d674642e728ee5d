"""
Which tests stay together, as `--supercheck-group` and the mark `xdist_group` ask, and what all are called on the wire.

Between collection and offer, in the controller.  Knows pytest's items; not how they are handed out.
"""

from __future__ import annotations

import json
from collections import Counter
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


def wire_names(items: list[pytest.Item], places: list[int], joined: list[int]) -> list[str]:
    """
    The items' names on the wire, in the order in which they are to run.

    JSON of the nodeid; ``[nodeid, k]`` for the k-th repetition of one; and ``[nodeid, k, 1]`` for an item of the same
    group as the one before.
    """
    seen: Counter[str] = Counter()
    values: list[str | list[str | int]] = []
    for item in items:
        nodeid = item.nodeid
        values.append([nodeid, seen[nodeid]] if seen[nodeid] else nodeid)
        seen[nodeid] += 1
    values = [values[place] for place in places]
    for index in joined:
        value = values[index]
        values[index] = [value, 0, 1] if isinstance(value, str) else [*value, 1]
    return [json.dumps(value) for value in values]
