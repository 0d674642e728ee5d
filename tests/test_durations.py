"""
The order in which tests that took long are handed out, and what is kept of durations between sessions.
"""

from __future__ import annotations

import heapq
import random

import pytest

from pytest_supercheck import durations
from pytest_supercheck.durations import KEY, long_first
from pytest_supercheck.groups import Arrangement


def makespan(durations_s: list[float], order: list[int], executions: int) -> float:
    """When the last of some executions ends that take tests in that order, each when it is free."""
    free_at = [0.0] * executions
    for place in order:
        heapq.heappush(free_at, heapq.heappop(free_at) + durations_s[place])
    return max(free_at)


@pytest.mark.parametrize("seed", range(5))
def test_long_ones_first_end_near_the_bound(seed: int) -> None:
    """Within a twentieth of what nobody can do better, and so before collection order would."""
    source = random.Random(seed)
    durations_s = sorted(source.lognormvariate(0, 1.5) for _ in range(400))
    executions = 8
    in_order = list(range(400))
    front = long_first(durations_s, executions)
    order = front + [place for place in in_order if place not in front]
    bound = max(sum(durations_s) / executions, durations_s[-1])
    assert makespan(durations_s, order, executions) <= bound * 1.05
    assert makespan(durations_s, order, executions) < makespan(durations_s, in_order, executions)


def test_the_longest_come_first() -> None:
    """And only those that are long: the others stay where module fixtures are shared."""
    assert long_first([0.1, 0.1, 0.1, 4.0, 0.1, 6.0, *[0.1] * 40], 4) == [5, 3]


def test_those_that_take_about_as_long_stay_in_order() -> None:
    """A duration is never the same twice; an order that changes at each session would be a riddle."""
    assert long_first([1.0, 1.1, 0.95, 1.05, 1.0], 2) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("durations_s", "executions"),
    [([], 4), ([1.0, 2.0], 4), ([1.0, 2.0, 3.0], 1), ([0.0] * 50, 4), ([0.01] * 5000, 4)],
)
def test_nothing_to_choose(durations_s: list[float], executions: int) -> None:
    """No order is better where everything begins at once, one after the other, or takes as long as the rest."""
    assert long_first(durations_s, executions) == []


def test_a_group_is_as_long_as_its_members(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is put in front as a whole, and stays together."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    names = [f"test_{number}.py" for number in range(8)]
    for name in names:
        pytester.path.joinpath(name).write_text("def test_a(): pass\ndef test_b(): pass\n")
    items, _ = pytester.inline_genitems("-p", "pytest_supercheck.plugin", "-p", "no:cacheprovider")
    arrangement = Arrangement(items, "file")
    arrangement.put_long_first({"test_6.py::test_a": 0.2, "test_6.py::test_b": 0.3, "test_3.py::test_b": 0.01}, 2)
    order = [items[place].nodeid for place in arrangement.places]
    assert order[:3] == ["test_6.py::test_a", "test_6.py::test_b", "test_0.py::test_a"]
    assert sorted(arrangement.places) == list(range(16))
    assert arrangement.joined == list(range(1, 16, 2))
    assert arrangement.long == 2
    assert arrangement.groups == 8


def test_what_is_kept(pytester: pytest.Pytester) -> None:
    """Those worth keeping, with those that have not run this time; one that has become short is forgotten."""
    config = pytester.parseconfigure()
    assert durations.load(config) == {}
    durations.save(config, {"t.py::a": 0.5, "t.py::b": 0.25, "t.py::c": 0.0001})
    assert durations.load(config) == {"t.py::a": 0.5, "t.py::b": 0.25}
    durations.save(config, {"t.py::a": 0.0001, "t.py::d": 1.23456})
    assert durations.load(config) == {"t.py::b": 0.25, "t.py::d": 1.235}


@pytest.mark.parametrize("content", ["[1]", "{", '{"t.py::a": "long", "t.py::b": -1, "t.py::c": null}'])
def test_what_cannot_be_read_is_not_known(pytester: pytest.Pytester, content: str) -> None:
    """The cache is a file that anybody may write."""
    config = pytester.parseconfigure()
    durations.save(config, {"t.py::a": 0.5})
    pytester.path.joinpath(".pytest_cache", "v", KEY).write_text(content)
    assert durations.load(config) == {}


def test_without_a_cache_nothing_is_kept(pytester: pytest.Pytester) -> None:
    """As with ``-p no:cacheprovider``."""
    config = pytester.parseconfigure("-p", "no:cacheprovider")
    durations.save(config, {"t.py::a": 0.5})
    assert durations.load(config) == {}
    assert not pytester.path.joinpath(".pytest_cache").exists()
