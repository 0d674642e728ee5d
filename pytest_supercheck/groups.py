"""
In which order tests are offered, which of them stay together, as `--supercheck-group` and the mark `xdist_group` ask,
and what all are called on the wire.

Between collection and offer, where that happens: in the controller, or in the user's environment.  Knows pytest's
items; not how they are handed out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import pytest

from pytest_supercheck.durations import long_first


class Arrangement:
    """
    In what order items are to run: that of collection, but the members of a group follow its first one, and what takes
    long may be put in front.

    Args:
        items: In collection order.
        group: What makes a group of items without a mark, as `settings.GROUPS` names it.
    """

    def __init__(self, items: Sequence[pytest.Item], group: str) -> None:
        members: dict[Hashable, list[int]] = {}
        for place, item in enumerate(items):
            key = group_of(item, group)
            members.setdefault(place if key is None else key, []).append(place)
        self._items = items
        self._groups = list(members.values())
        #: How many items are in front because groups of them take long.
        self.long = 0

    def put_long_first(self, known_s: Mapping[str, float], executions: int) -> None:
        """
        Begin with the groups that take long, so that none of them ends the run alone.

        Args:
            known_s: Seconds by nodeid; what is not known counts as short.
            executions: How many there may be at a time.
        """
        durations_s = [sum(known_s.get(self._items[place].nodeid, 0) for place in group) for group in self._groups]
        front = dict.fromkeys(long_first(durations_s, executions))
        self.long = sum(len(self._groups[number]) for number in front)
        order = [*front, *(number for number in range(len(self._groups)) if number not in front)]
        self._groups = [self._groups[number] for number in order]

    @property
    def groups(self) -> int:
        """How many there are; an item without a group is one of its own."""
        return len(self._groups)

    @property
    def places(self) -> list[int]:
        """The items' places in the session, in the order in which they are to run."""
        return [place for group in self._groups for place in group]

    @property
    def joined(self) -> list[int]:
        """The indexes, in that order, of the items that are of the same group as the one before."""
        followers = (following for group in self._groups for following in (False, *[True] * (len(group) - 1)))
        return [index for index, following in enumerate(followers) if following]


def group_of(item: pytest.Item, group: str) -> Hashable | None:
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
