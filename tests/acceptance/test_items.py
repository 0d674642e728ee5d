"""
Items of every kind: doctests, unittest, subtests, those of other collectors, and all sorts of ids.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.acceptance.twins import Twins

#: Whether pytest reports subtests, as from version 9.0 on.
SUBTESTS = find_spec("_pytest.subtests") is not None


def test_doctests(twins: Twins) -> None:
    """Doctests of modules and text files run, with their own failure texts."""
    twins.files(
        shop='''
            def price(n):
                """
                >>> price(2)
                4
                >>> price(3)
                7
                """
                return 2 * n

            def skipped():
                """
                >>> skipped()  # doctest: +SKIP
                1
                """

            class Basket:
                """
                >>> Basket().total()
                Traceback (most recent call last):
                AttributeError: 'Basket' object has no attribute 'total'
                """
        '''
    )
    (twins.path / "guide.txt").write_text(">>> 1 + 1\n2\n>>> 1 / 0\n0\n", "utf-8")
    seen = twins.same("--doctest-modules", "--doctest-glob=*.txt", "--doctest-continue-on-failure", "-v")
    assert seen.counts == {"passed": 1, "failed": 2, "skipped": 1}


def test_unittest(twins: Twins) -> None:
    """Classes of unittest: set-up at all levels, skips, expected failures, subtests, errors, clean-ups."""
    twins.files(
        test_cases="""
            import unittest

            def setUpModule(): print("module up")
            def tearDownModule(): print("module down")

            class TestThings(unittest.TestCase):
                @classmethod
                def setUpClass(cls): print("class up")
                @classmethod
                def tearDownClass(cls): raise RuntimeError("class down")
                def setUp(self): self.addCleanup(print, "cleaned up")
                def test_pass(self): self.assertEqual(1, 1)
                def test_fail(self): self.assertEqual({"a": 1}, {"a": 2}, "differ")
                @unittest.skip("not now")
                def test_skip(self): pass
                def test_skip_inside(self): self.skipTest("inside")
                @unittest.expectedFailure
                def test_expected(self): self.fail()
                @unittest.expectedFailure
                def test_unexpected(self): pass
                def test_sub(self):
                    for n in range(4):
                        with self.subTest("part", n=n):
                            print("part", n)
                            self.assertNotEqual(n % 2, 1)

            class TestBroken(unittest.TestCase):
                @classmethod
                def setUpClass(cls): raise RuntimeError("no class")
                def test_never(self): pass

            @unittest.skip("whole class")
            class TestSkipped(unittest.TestCase):
                def test_never(self): pass
        """
    )
    twins.executions = 1  # else classes are set up and torn down in several processes
    counts = twins.same("-rA", "-o", "junit_logging=all").counts
    seen = {"passed": 2, "failed": 4} if SUBTESTS else {"passed": 1, "failed": 3}
    assert counts == {**seen, "error": 2, "skipped": 3, "xfailed": 1}


@pytest.mark.parametrize("options", [("-q",), ("-v",), ("-s",), ("-v", "-o", "console_output_style=count")])
def test_progress_of_unittest_subtests(twins: Twins, options: tuple[str, ...]) -> None:
    """They are reported while output is captured: what is printed of the progress is the test's output."""
    twins.files(
        test_one="""
            import unittest

            class TestSubs(unittest.TestCase):
                def test_none(self): pass
                def test_some(self):
                    for n in range(9):
                        with self.subTest(n=n): print("part", n)
                    self.fail()
                def test_more(self):
                    for n in range(70):
                        with self.subTest(n=n): pass
                    self.fail()
        """
    )
    twins.executions = 1
    twins.same("-rA", *options)


@pytest.mark.skipif(not SUBTESTS, reason="this pytest has no subtests")
def test_subtests_fixture(twins: Twins) -> None:
    """Reports of pytest's own subtests come through, with what each printed."""
    twins.files(
        test_subs="""
            import pytest

            def test_subs(subtests):
                for n in range(4):
                    with subtests.test("part", n=n, odd={n}):
                        print("part", n)
                        if n == 2:
                            pytest.skip("not two")
                        assert n != 1
                print("after")

            def test_all_pass(subtests):
                with subtests.test(msg="one"): pass
                with subtests.test("two"): pytest.xfail("known")
        """
    )
    counts = twins.same("-v", "-rA", "-o", "verbosity_subtests=1").counts
    assert counts == {"passed": 1, "failed": 2, "skipped": 1, "xfailed": 1, "subtests passed": 3}


CUSTOM = """
    import pytest

    def pytest_collect_file(parent, file_path):
        if file_path.suffix == ".spec":
            return SpecFile.from_parent(parent, path=file_path)

    class SpecFile(pytest.File):
        def collect(self):
            for line in self.path.read_text("utf-8").splitlines():
                name, _, value = line.partition(": ")
                yield SpecItem.from_parent(self, name=name, value=value)

    class SpecError(Exception):
        pass

    class SpecItem(pytest.Item):
        def __init__(self, *, value, **kwargs):
            super().__init__(**kwargs)
            self.value = value

        def runtest(self):
            self.user_properties.append(("value", self.value))
            self.add_report_section("call", "spec", "checked " + self.value)
            if self.value == "skip":
                pytest.skip("as told")
            if self.value != "good":
                raise SpecError(self.value)

        def repr_failure(self, excinfo, style=None):
            if isinstance(excinfo.value, SpecError):
                return f"usage: {self.name} is {excinfo.value}"
            return super().repr_failure(excinfo)

        def reportinfo(self):
            return self.path, 7, f"spec: {self.name}"
"""


def test_items_of_another_collector(twins: Twins) -> None:
    """Items that are no Python functions run, with their own texts, sections and locations."""
    twins.files(conftest=CUSTOM)
    (twins.path / "shop.spec").write_text("one: good\ntwo: bad\nthree: skip\n", "utf-8")
    assert twins.same("-rA", "-v").counts == {"passed": 1, "failed": 1, "skipped": 1}


def test_items_with_the_same_id(twins: Twins) -> None:
    """Several items of one id are several tests: each runs once and is reported."""
    twins.files(conftest=CUSTOM)
    (twins.path / "shop.spec").write_text("same: good\nother: good\nsame: bad\nsame: good\nother: skip\n", "utf-8")
    seen = twins.same("-rA", "-v", "-p", "no:cacheprovider")
    assert seen.counts == {"passed": 3, "failed": 1, "skipped": 1}


@pytest.mark.parametrize("escaped", [True, False])
def test_odd_ids(twins: Twins, escaped: bool) -> None:
    """Ids may have any characters: other alphabets, NUL, newlines, brackets, quotes, very many; escaped and raw."""
    if not escaped:
        twins.ini("disable_test_id_escaping_and_forfeit_all_rights_to_community_support = true\n")
    twins.files(
        test_ids=r"""
            import pytest

            VALUES = ["é", "日本", "\x00", "a\x00b", "a\nb", "x[y]", "::", "a/b", '"', "'", "\\", " ", "",
                      "\x1b[31m", "☃" * 50, "z" * 300, "{}", "%s", "\u2028", "\x85"]

            @pytest.mark.parametrize("text", VALUES)
            def test_text(text):
                print(repr(text))
                assert text != "日本", text

            def test_ünïcode(): pass
        """
    )
    seen = twins.same("-o", "junit_logging=all", "-p", "no:cacheprovider", "-q")
    assert seen.counts == {"passed": 20, "failed": 1}


def test_ids_with_lone_surrogates(twins: Twins) -> None:
    """Names that are no valid Unicode, as a collector may take them from a file, do not get lost."""
    twins.files(conftest=CUSTOM.replace('read_text("utf-8")', 'read_text("utf-8", "surrogateescape")'))
    twins.environ["PYTHONIOENCODING"] = "utf-8:backslashreplace"
    (twins.path / "odd.spec").write_bytes(b"a\xff: good\na\xfe: bad \xfd\n\xe9: skip\n")
    assert twins.same("-p", "no:cacheprovider").counts == {"passed": 1, "failed": 1, "skipped": 1}


def test_odd_output(twins: Twins) -> None:
    """Output of any characters comes back as it was, in sections, failure texts and the junit file."""
    twins.files(
        test_out=r"""
            import os, sys, logging

            def test_odd():
                print("NUL \x00, escape \x1b[1m, bell \x07, é, 日本, \ud800")
                os.write(1, b"raw \xff\xfe bytes\n")
                os.write(2, b"\r\nline ends\r\n")
                sys.stderr.write("no newline")
                logging.warning("log é \ud800 \x00")
                raise ValueError("odd \x00 \ud800 é")
        """
    )
    assert twins.same("-o", "junit_logging=all").counts == {"failed": 1}


def test_outcomes(twins: Twins) -> None:
    """Every way to skip, to fail as expected, and to raise something unusual."""
    twins.options += ("-p", "xdist")  # whose fixtures are among those that are listed when one is missing
    twins.files(
        test_ways="""
            import pytest

            class Unpicklable(Exception):
                def __init__(self, a, b): self.a = lambda: a
                def __reduce__(self): raise TypeError("not me")
                def __str__(self): return "unpicklable"

            class NoText(Exception):
                def __str__(self): raise RuntimeError("no text")
                __repr__ = __str__

            def test_unpicklable(): raise Unpicklable(1, 2)
            def test_no_text(): raise NoText
            def test_group(): raise RuntimeError from ValueError(1)
            def test_system_exit(): raise SystemExit(3)
            def test_generator_exit(): raise GeneratorExit
            def test_base(): raise BaseException("base")
            def test_fail_without_trace(): pytest.fail("plainly", pytrace=False)
            def test_import(): pytest.importorskip("surely_not_installed")
            @pytest.mark.skipif(True, reason="always")
            def test_skipif(): pass
            @pytest.mark.xfail(raises=KeyError)
            def test_raises_other(): raise ValueError
            @pytest.mark.xfail(raises=KeyError, reason="missing")
            def test_raises(): raise KeyError
            @pytest.mark.xfail(run=False, reason="would hang")
            def test_not_run(): assert False
            def test_xfail_inside(): pytest.xfail("from inside")
            @pytest.mark.xfail(reason="the fixture")
            def test_xfail_setup(missing): pass
            def test_no_fixture(missing): pass
            def test_recursion():
                def again(): return again()
                again()
        """
    )
    seen = twins.same("-rA", "--tb=short")
    assert seen.counts == {"failed": 9, "error": 1, "skipped": 2, "xfailed": 4}
