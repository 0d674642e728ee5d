"""
Which tests are of one group, and where they are put, on items that pytest has collected.
"""

from __future__ import annotations

import pytest

from pytest_supercheck.groups import Arrangement
from pytest_supercheck.settings import Group

SUITE = """
    import unittest, pytest

    def helper():
        '''
        >>> helper()
        '''

    def test_before(): pass

    class TestOuter:
        def test_a(self): pass
        class TestInner:
            def test_b(self): pass
        def test_c(self): pass

    class TestCase(unittest.TestCase):
        def test_d(self): pass

    def test_after(): pass
"""

MARKED = """
    import pytest

    @pytest.mark.xdist_group("one")
    def test_positional(): pass
    def test_without(): pass
    @pytest.mark.xdist_group(name="two")
    def test_by_name(): pass
    @pytest.mark.xdist_group
    def test_default(): pass
    @pytest.mark.xdist_group("one")
    class TestMarked:
        def test_of_class(self): pass
        @pytest.mark.xdist_group("two")
        def test_both(self): pass
    @pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.xdist_group(name="two"))])
    def test_parameter(n): pass
    @pytest.mark.xdist_group(name="default")
    def test_default_by_name(): pass
    @pytest.mark.xdist_group("two", name="one")
    @pytest.mark.xdist_group(1)
    def test_odd(): pass
    @pytest.mark.xdist_group("1", "ignored")
    @pytest.mark.xdist_group(name="two")
    def test_odd_too(): pass
"""

CONFTEST = """
    import pytest

    class Case(pytest.Item):
        def runtest(self): pass

    class Cases(pytest.File):
        def collect(self):
            return [Case.from_parent(self, name=name) for name in ("x", "y")]

    def pytest_collect_file(file_path, parent):
        if file_path.suffix == ".cases":
            return Cases.from_parent(parent, path=file_path)
"""


@pytest.fixture(autouse=True)
def few_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others take long to load."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def grouped(pytester: pytest.Pytester, group: Group, *args: str) -> list[list[str]]:
    """The names of the items of a directory, in the order in which they are to run, by group."""
    items, _ = pytester.inline_genitems("-p", "pytest_supercheck.plugin", "-p", "no:cacheprovider", *args)
    arrangement = Arrangement(items, group)
    places, joined = arrangement.places, arrangement.joined
    assert sorted(places) == list(range(len(items)))
    groups: list[list[str]] = []
    for index, place in enumerate(places):
        if index in joined:
            assert place > places[index - 1]
            groups[-1].append(items[place].name)
        else:
            groups.append([items[place].name])
    return groups


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("none", ["helper", "before", "a", "b", "c", "d", "after", "x", "y", "other"]),
        ("file", ["helper before a b c d after", "x y", "other"]),
        ("module", ["helper", "before a b c d after", "x", "y", "other"]),
        ("class", ["helper", "before after", "a c", "b", "d", "x", "y", "other"]),
    ],
)
def test_what_makes_a_group(pytester: pytest.Pytester, group: Group, expected: list[str]) -> None:
    """A path, a node of a module with its doctests apart, or the innermost class, with its module's functions apart."""
    pytester.makepyfile(test_one=SUITE, test_two="def test_other(): pass")
    pytester.makeconftest(CONFTEST)
    pytester.makefile(".cases", test_three="")
    found = grouped(pytester, group, "--doctest-modules", "test_one.py", "test_three.cases", "test_two.py")
    assert [
        " ".join(name.removeprefix("test_one.").removeprefix("test_") for name in names) for names in found
    ] == expected


@pytest.mark.parametrize("group", ["none", "file"])
def test_marks_make_groups(pytester: pytest.Pytester, group: Group) -> None:
    """By the names that xdist reads in them, whatever else makes a group; several marks are one name of their own."""
    pytester.makepyfile(
        test_marked=MARKED, test_other="import pytest\n@pytest.mark.xdist_group('one')\ndef test_far(): 0"
    )
    found = [" ".join(name.removeprefix("test_") for name in names) for names in grouped(pytester, group)]
    others = ["without", "parameter[1]"] if group == "none" else ["without parameter[1]"]
    assert sorted(found) == sorted(
        [
            "positional of_class far",
            "by_name parameter[2]",
            "default default_by_name",
            "both",
            "odd odd_too",
            *others,
        ]
    )


def test_groups_stand_where_their_first_item_does(pytester: pytest.Pytester) -> None:
    """So that what is not in a group keeps its order."""
    pytester.makepyfile(test_marked=MARKED)
    first = [names[0].removeprefix("test_") for names in grouped(pytester, "none")]
    assert first == ["positional", "without", "by_name", "default", "both", "parameter[1]", "odd"]
