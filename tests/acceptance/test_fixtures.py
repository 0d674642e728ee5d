"""
Fixtures: scopes, errors in set-up and teardown, temporary directories, and what tests leave behind.
"""

from __future__ import annotations

import json

import pytest

from tests.acceptance.twins import Twins

SCOPES = """
    import pytest

    @pytest.fixture(scope="session", autouse=True)
    def session_wide():
        yield
        raise RuntimeError("session teardown")

    @pytest.fixture(scope="package", autouse=True)
    def package_wide():
        print("package up")
        yield
        print("package down")
"""

TESTS = """
    import pytest

    @pytest.fixture(scope="module", autouse=True)
    def module_wide():
        yield
        raise RuntimeError("module teardown")

    class TestOne:
        @pytest.fixture(scope="class", autouse=True)
        def class_wide(self):
            yield
            raise RuntimeError("class teardown")

        @pytest.fixture(autouse=True)
        def around(self, request):
            request.addfinalizer(lambda: print("finalised"))
            request.addfinalizer(lambda: 1 / 0)
            yield
            raise RuntimeError("function teardown")

        def test_a(self): pass
        def test_b(self): assert False

    @pytest.mark.parametrize("value", [1, 2])
    def test_c(value): print("c", value)

    @pytest.fixture(scope="module", params=["x", "y"])
    def param(request):
        print("up", request.param)
        yield request.param
        print("down", request.param)

    def test_d(param): pass
    def test_e(param): pass
"""


def test_teardown_errors_are_charged_to_the_same_tests(twins: Twins) -> None:
    """With one execution every error of a wide fixture's teardown belongs to the test that plain pytest names."""
    twins.executions = 1
    twins.files(conftest=SCOPES, test_one=TESTS, test_two=TESTS)
    seen = twins.same("-rA", "-v")
    assert seen.counts == {"passed": 14, "failed": 2, "error": 6}


def test_every_execution_tears_down_what_it_set_up(twins: Twins) -> None:
    """With several executions each has its own session fixture, and its last test is charged with the teardown."""
    twins.files(
        conftest=SCOPES,
        test_gate="""
            import pathlib, time, pytest

            @pytest.mark.parametrize("n", [0, 1])
            def test_meet(n):
                here = pathlib.Path(__file__).parent
                (here / f"gate-{n}").touch()
                while not (here / f"gate-{1 - n}").exists():
                    time.sleep(0.01)
        """,
    )
    seen = twins.supercheck()
    assert (seen.code, seen.counts) == (1, {"passed": 2, "error": 2})


def test_setup_errors(twins: Twins) -> None:
    """A fixture that cannot be set up fails each of its tests, also those that wait for a cached failure."""
    twins.executions = 1
    twins.files(
        test_setup="""
            import pytest

            @pytest.fixture(scope="module")
            def broken():
                print("trying")
                raise OSError("no database")

            @pytest.fixture
            def skipping(): pytest.skip("not on this machine")

            @pytest.fixture
            def failing(): pytest.fail("plainly")

            def test_a(broken): pass
            def test_skip(skipping): pass
            def test_fail(failing): pass

            def setup_module(): print("module set-up")

            class TestBroken:
                def setup_method(self): assert self is None
                def test_method(self): pass
        """
    )
    seen = twins.same("-rA")
    assert seen.counts == {"error": 3, "skipped": 1}


TEMPORARY = """
    import json, os, pathlib, pytest

    @pytest.fixture(scope="session")
    def wide(tmp_path_factory): return tmp_path_factory.mktemp("wide")

    @pytest.mark.parametrize("n", range(4))
    def test_paths(n, tmp_path, tmp_path_factory, wide, record_property):
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "mine").touch()
        (wide / str(n)).touch()
        record_property("paths", [str(tmp_path), str(wide), str(tmp_path_factory.getbasetemp())])
"""


def test_temporary_directories(twins: Twins) -> None:
    """Every execution has its own base directory inside the session's, as with xdist."""
    twins.files(test_temporary=TEMPORARY)
    base = twins.path / "base"
    seen = twins.supercheck(f"--basetemp={base}")
    assert seen.counts == {"passed": 4}
    paths = [value for row in seen.record if row[0] == "report" and row[4][-1] == ["when", "teardown"]
             for name, value in dict(row[4])["user_properties"]]  # fmt: skip
    bases = {basetemp for _, _, basetemp in paths}
    assert bases <= {f"{base}/popen-gw0", f"{base}/popen-gw1"}
    assert len({tmp for tmp, _, _ in paths}) == 4
    assert all(tmp.startswith(basetemp) and wide.startswith(basetemp) for tmp, wide, basetemp in paths)


def test_temporary_directories_are_kept_as_configured(twins: Twins) -> None:
    """What is kept of temporary directories after the session follows the same policy."""
    twins.ini("tmp_path_retention_policy = failed\n")
    twins.files(test_keep="def test_pass(tmp_path): pass\ndef test_fail(tmp_path): assert 0, tmp_path.name")
    base = twins.path / "base"
    twins.supercheck(f"--basetemp={base}")
    assert [path.name for path in base.glob("**/test_*") if not path.is_symlink()] == ["test_fail0"]


def test_leaks_stay_in_the_test_process(twins: Twins) -> None:
    """A test that changes directory or environment disturbs neither the session nor the report of later tests."""
    twins.executions = 1
    twins.files(
        test_leaks="""
            import os, sys, tempfile

            def test_chdir(monkeypatch, tmp_path): monkeypatch.chdir(tmp_path)
            def test_back(): assert os.path.exists("test_leaks.py")
            def test_environ(): os.environ["LEAKED"] = "yes"; os.environ.pop("HOME", None)
            def test_still_there(): assert os.environ["LEAKED"] == "yes"
            def test_leave(): os.chdir(tempfile.mkdtemp())
            def test_elsewhere(): assert not os.path.exists("test_leaks.py"), "relative"
            def test_fails_elsewhere(): assert 0
            def test_path(): sys.path[:] = []
            def test_end(): print("end")
        """
    )
    assert twins.same("-rA").counts == {"passed": 8, "failed": 1}


def test_random_state(twins: Twins) -> None:
    """Where a conftest seeded `random` every execution starts from that seed; else each is random for itself."""
    twins.files(
        conftest="import random\nrandom.seed(7)",
        test_random="import random\ndef test_random(): assert random.random() == random.Random(7).random()",
    )
    assert twins.same().counts == {"passed": 1}


def test_capture_fixtures(twins: Twins) -> None:
    """capsys, capfd, caplog and their relatives see what the test does and nothing else."""
    twins.files(
        test_capture="""
            import logging, os, sys, subprocess, pytest

            def test_capsys(capsys):
                print("out"); print("err", file=sys.stderr)
                assert capsys.readouterr() == ("out\\n", "err\\n")
                print("left over")

            def test_capfd(capfd):
                subprocess.run([sys.executable, "-c", "print('child')"])
                os.write(2, b"raw")
                assert capfd.readouterr() == ("child\\n", "raw")
                with capfd.disabled(): print("\\nDISABLED: straight to the terminal")

            def test_capsysbinary(capsysbinary):
                sys.stdout.buffer.write(b"\\xff")
                assert capsysbinary.readouterr().out == b"\\xff"

            def test_caplog(caplog):
                logging.getLogger("shop").error("sold %s", "out")
                assert caplog.messages == ["sold out"]
                assert 0

            @pytest.fixture
            def talkative(capsys):
                print("from set-up")
                yield
                print("from teardown")

            def test_phases(talkative): print("from call"); assert 0

            def test_nothing_before(capfd): assert capfd.readouterr() == ("", "")

            def test_child_without_capture(): subprocess.run(["echo", "from a child"]); assert 0
        """
    )
    assert twins.same("-rA").counts == {"passed": 4, "failed": 3}


@pytest.mark.parametrize("xdist", [True, False])
def test_identity_of_an_execution(twins: Twins, xdist: bool) -> None:
    """`worker_id`, `testrun_uid`, `config.workerinput` and xdist's variables agree, with and without xdist."""
    if xdist:
        twins.options += ("-p", "xdist")
    twins.files(
        test_identity="""
            import os, pytest

            @pytest.mark.parametrize("n", range(6))
            def test_identity(n, worker_id, testrun_uid, request, record_property):
                given = request.config.workerinput
                assert os.environ["PYTEST_XDIST_WORKER"] == given["workerid"] == worker_id
                assert os.environ["PYTEST_XDIST_TESTRUNUID"] == given["testrunuid"] == testrun_uid
                assert os.environ["PYTEST_XDIST_WORKER_COUNT"] == str(given["workercount"]) == "2"
                assert given["mainargv"]
                record_property("identity", [worker_id, testrun_uid])
        """
    )
    seen = twins.supercheck()
    assert seen.counts == {"passed": 6}
    identities = [json.loads(p["value"].replace("'", '"')) for p in properties(seen.junit)]
    assert {worker for worker, _ in identities} <= {"gw0", "gw1"}
    assert len({uid for _, uid in identities}) == 1


@pytest.mark.parametrize("xdist", [True, False])
def test_identity_of_the_local_session(twins: Twins, xdist: bool) -> None:
    """Without `--supercheck` there is no worker; what suites say to xdist is understood all the same."""
    if xdist:
        twins.options += ("-p", "xdist")
    twins.files(
        conftest="def pytest_configure_node(node): node.workerinput['greeting'] = 1",
        test_local="""
            def test_local(request, worker_id, testrun_uid):
                assert not hasattr(request.config, "workerinput")
                assert worker_id == "master"
                assert testrun_uid
        """,
    )
    assert twins.run().counts == {"passed": 1}


@pytest.mark.parametrize("options", [(), ("-p", "xdist"), ("-p", "no:xdist")])
def test_fixture_that_does_not_exist(twins: Twins, options: tuple[str, ...]) -> None:
    """The error lists the same fixtures, whoever provides `worker_id`."""
    twins.options += options
    twins.files(test_missing="def test_missing(no_such_fixture): pass")
    assert "worker_id" in twins.same().output


def properties(junit: dict[str, list[list[object]]]) -> list[dict[str, str]]:
    """The attributes of all properties of a junit file's tests."""
    found: list[dict[str, str]] = []
    for name, cases in junit.items():
        for case in cases if name else ():
            for tag, _, _, children in case[3]:  # type: ignore[attr-defined]
                found += [child[1] for child in children] if tag == "properties" else []
    return found
