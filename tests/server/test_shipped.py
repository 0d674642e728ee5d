"""
Runs whose project is on another machine than the workers: a real server, real workers that know another directory,
cache and home, and sessions that reach nothing but HTTP.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from supercheck_server.history import RunFilter
from tests.conftest import Valkey
from tests.pool.walls import entered
from tests.server.conftest import GUARD_S, Pool, Served, wait_for

TEST = """
    import os, pathlib, socket, sys, tempfile, warnings
    import pytest
    import helper

    def test_files():
        assert helper.VALUE == pathlib.Path("data", "value.txt").read_text().strip() == "12"
        assert os.access("tool.sh", os.X_OK)
        assert os.readlink("link") == "data/value.txt"
        assert not pathlib.Path(".env").exists()

    def test_place(tmp_path):
        print("this is", __file__)
        assert "worker-cache" in str(pathlib.Path.cwd().resolve()), "not where the session is"
        assert "worker-cache" in str(tmp_path) and "worker-cache" in str(pathlib.Path.home())
        with socket.socket(socket.AF_UNIX) as browser:
            browser.bind(tempfile.mkdtemp(prefix="org.chromium.Chromium.") + "/SingletonSocket")

    def test_variables():
        assert os.environ["PASSED"] == "1"
        assert not {"NOT_PASSED", "SUPERCHECK_TOKEN", "SUPERCHECK_STORE", "SUPERCHECK_REDIS_URL"} & {*os.environ}

    def test_bad():
        warnings.warn("careful")
        assert helper.VALUE == 13

    def test_writes():
        pathlib.Path("data", "value.txt").write_text("0")
        pathlib.Path("made").mkdir()
    """


@dataclass
class Far:
    """A project here, and workers that do not see it."""

    #: The project.
    path: Path
    #: What the worker keeps.
    cache: Path
    #: The server.
    url: str

    def write(self, **sources: str) -> None:
        """Write files; two underscores are a dot."""
        for name, source in sources.items():
            (self.path / name.replace("__", ".")).write_text(textwrap.dedent(source))

    def start(self, *args: str, command: str = "pytest", **environ: str) -> subprocess.Popen[str]:
        """Start a session."""
        if command == "pytest":
            words = ["-m", "pytest", "--supercheck", f"--supercheck-url={self.url}"]
        else:
            words = ["-m", "pytest_supercheck.cli", command, "--url", self.url]
        passed = "PASSED,PYTEST_DISABLE_PLUGIN_AUTOLOAD"
        own = {"PASSED": "1", "NOT_PASSED": "1", "SUPERCHECK_PASS_ENV": passed, "SUPERCHECK_ENV": "inherit"}
        return subprocess.Popen(
            [sys.executable, *words, *args],
            cwd=self.path,
            env={**os.environ, **own, **environ},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *args: str, command: str = "pytest", **environ: str) -> tuple[int, str]:
        """A whole session: its exit code and what it printed."""
        plugins = ("-p", "supercheck", "-p", "no:cacheprovider")
        words = (*plugins, *args) if command == "pytest" else (*args, *plugins)
        session = self.start(*words, command=command, **environ)
        output, _ = session.communicate(timeout=GUARD_S * 2)
        return session.returncode, output

    def workspaces(self) -> list[Path]:
        """The directories of runs on the worker."""
        return [one for one in self.cache.glob("worker/workspaces/*/*") if one.is_dir()]

    def links(self) -> list[Path]:
        """The links to directories of temporary files of runs on the worker."""
        return [one for one in self.cache.parent.glob("tmp/*/*") if one.is_symlink()]


@pytest.fixture
def far(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    valkey: redis.Redis,
    valkey_server: Valkey,
    served: Served,
    few_plugins: None,
) -> Iterator[Far]:
    """A small project, and a worker on another machine but for the kernel, perhaps with an isolation."""
    isolation = getattr(request, "param", "none")
    with tempfile.TemporaryDirectory(prefix="scf", dir="/tmp") as place:
        os.chmod(place, 0o755)  # tests may be somebody else's processes
        yield from _far(isolation, tmp_path / "project", Path(place), valkey_server, served)


def _far(isolation: str, project: Path, place: Path, valkey_server: Valkey, served: Served) -> Iterator[Far]:
    home, cache = place / "worker-home", place / "worker-cache"
    temporary = place / "tmp"
    for directory in (project, home, temporary, project / "data"):
        directory.mkdir()
    temporary.chmod(0o1777)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SUPERCHECK_")}
    environ |= {"HOME": str(home), "SUPERCHECK_CACHE": str(cache), "TMPDIR": str(temporary)}
    environ |= {"SUPERCHECK_STORE": served.parts.settings.store}
    words = ["-m", "pytest_supercheck.cli", "worker", "--url", valkey_server.url, "-c", "2"]
    prefix = entered(somebody=False) if isolation != "none" else []
    worker = subprocess.Popen([*prefix, sys.executable, *words, "--isolate", isolation], cwd=home, env=environ)
    made = Far(project, cache, served.url)
    made.write(
        pytest__ini="[pytest]\n",
        helper__py='VALUE = "12"\n',
        test_it__py=TEST,
        __env="PASSWORD=1\n",
        __gitignore="*.log\n",
    )
    made.write(noise__log="x" * 1000, tool__sh="#!/bin/sh\n")
    (project / "data" / "value.txt").write_text("12\n")
    (project / "tool.sh").chmod(0o755)
    (project / "link").symlink_to("data/value.txt")
    yield made
    worker.send_signal(signal.SIGTERM)
    worker.wait(GUARD_S)
    assert not made.workspaces(), "a worker that has ended leaves no workspace"


@pytest.mark.parametrize("far", ["none", "user", "bwrap"], indirect=True)
def test_project_goes_to_the_workers(far: Far, pool: Pool) -> None:
    """Its files, and the variables that it names; what the tests say of their place is said of the session's."""
    code, output = far.run("-rA", "--supercheck-executions=2")
    assert code == 1, output
    assert "4 passed, 1 failed" in output or "1 failed, 4 passed" in output, output
    assert f"this is {far.path}/test_it.py" in output
    assert re.search(rf"{far.path}/test_it.py:\d+: UserWarning: careful", output)
    assert "FAILED test_it.py::test_bad - AssertionError: assert '12' == 13" in output
    assert "worker-cache" not in output
    assert ".env" in output, "what is left out is named"
    assert (far.path / "data" / "value.txt").read_text() == "12\n"
    assert not (far.path / "made").exists()
    wait_for(lambda: not far.workspaces() and not far.links(), "the workspace goes")


def test_each_run_has_the_files_as_they_are(far: Far, pool: Pool) -> None:
    """What a test changes stays in its run; what the user changes goes along."""
    far.write(test_it__py="import pathlib\ndef test_it():\n    path = pathlib.Path('data/value.txt')\n"
              "    assert path.read_text() == '12\\n'\n    path.write_text('0')\n")  # fmt: skip
    for _ in range(2):
        assert far.run()[0] == 0
    (far.path / "data" / "value.txt").write_text("13\n")
    code, output = far.run()
    assert code == 1
    assert "assert '13" in output


def test_files_of_tests_come_back(far: Far, pool: Pool) -> None:
    """To where they would have been; nothing that was there before is touched, and nothing outside of the project."""
    far.write(
        test_it__py="""
            import os, pathlib, pytest

            @pytest.mark.parametrize("n", range(3))
            def test_it(n):
                folder = pathlib.Path("shots", str(n))
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "screen.png").write_bytes(bytes(range(256)) * 4000)
                pathlib.Path("kept.png").write_text("changed")
                pathlib.Path(".git").mkdir(exist_ok=True)
                pathlib.Path(".git", "hook.png").write_text("evil")
                assert n == 1
            """
    )
    (far.path / "kept.png").write_text("mine")
    (far.path / "shots").mkdir()
    outside = far.path.parent / "outside"
    outside.mkdir()
    (far.path / "shots" / "2").symlink_to(outside)
    output = ""
    for _ in range(2):  # what was brought once may be replaced
        # One at a time: files that tests write at the same time cannot be told apart by patterns.
        options = ("--supercheck-executions=1", "--supercheck-artifact=**/*.png", "--supercheck-artifact=.git/*.png")
        code, output = far.run(*options, "-v")
        assert code == 1, output
        assert "1 file of tests brought here: shots/0/screen.png" in output, output
    assert (far.path / "shots/0/screen.png").read_bytes() == bytes(range(256)) * 4000
    assert not (far.path / "shots/1").exists(), "of the tests that failed"
    assert (far.path / "kept.png").read_text() == "mine"
    assert "not brought here: kept.png: there is another file of that name" in output
    assert not (far.path / ".git").exists()
    assert not list(outside.iterdir())
    assert "not brought here: shots/2/screen.png: 2 is no directory here" in output
    (far.path / "shots/0/screen.png").write_bytes(b"")
    assert far.run("--supercheck-artifact=**/*.png", "-qq", "--no-summary")[0] == 1
    assert (far.path / "shots/0/screen.png").stat().st_size, "also where nobody is told of it"


def test_files_of_tests_come_to_who_follows(far: Far, pool: Pool, served: Served, tmp_path: Path) -> None:
    """Of a run that was left, below the root directory there, unless that is not wanted."""
    far.write(
        test_it__py="import pathlib\ndef test_it():\n    pathlib.Path('shot.png').write_text('png')\n    assert 0\n"
    )
    code, output = far.run("--supercheck-detach", "--supercheck-artifact=*.png")
    assert code == 0, output
    wait_for(served.parts.trends.slow, "the run is recorded")
    [row] = served.parts.history.runs(RunFilter())
    far.path = tmp_path / "elsewhere"
    far.path.mkdir()
    far.write(pytest__ini="[pytest]\n")
    assert far.run(row.id, "--", "--supercheck-artifacts=none", command="attach")[0] == 1
    assert not (far.path / "shot.png").exists()
    code, output = far.run(row.id, command="attach")
    assert code == 1, output
    assert "1 file of tests brought here: shot.png" in output
    assert (far.path / "shot.png").read_text() == "png"


@pytest.mark.parametrize("far", ["user", "bwrap"], indirect=True)
def test_tests_have_only_files_kept_that_they_can_read(far: Far, pool: Pool, served: Served) -> None:
    """Whatever the session says of its directories, and they of their files: nobody with more rights opens them."""
    far.write(
        conftest__py="""
            import pytest
            from pytest_supercheck.spec import Specifier

            whole = Specifier.whole
            Specifier.whole = lambda *args: {**whole(*args), "cwd": args[1].rootpath.as_posix() + "/.." * 20}
            """,
        test_it__py="""
            import os
            def test_it(pytestconfig):
                open("own.txt", "w").close()
                recorder = pytestconfig.pluginmanager.getplugin("supercheck-recorder")
                recorder._leftovers.named = lambda: [("/etc", "shadow"), (os.getcwd(), "own.txt")]
                assert 0
            """,
    )
    code, output = far.run(str(far.path), "-v")
    assert code == 1, output
    assert "shadow: Permission denied" in output
    assert "1 file of tests brought here: own.txt" in output
    assert not list(Path(served.parts.settings.store).rglob("shadow"))


def test_coverage_is_that_of_the_sessions_files(far: Far, pool: Pool) -> None:
    """pytest-cov's data come back, with the session's paths in them."""
    far.write(
        helper__py="def used():\n    return 1\n\n\ndef unused():\n    return 2\n",
        test_it__py="import helper\ndef test_it():\n    assert helper.used()\n",
    )
    code, output = far.run("-p", "pytest_cov", "--cov=helper", "--cov-report=term-missing")
    assert code == 0, output
    assert re.search(r"^helper.py +4 +1 +75% +6$", output, re.MULTILINE), output


def test_client_that_has_only_the_plugin(far: Far, pool: Pool) -> None:
    """The first worker collects what has been shipped; nothing of it is imported here."""
    far.write(conftest__py="import os\nassert 'NOT_PASSED' not in os.environ, 'imported by the session'\n")
    code, output = far.run("--", "-k", "files or bad", command="run")
    assert code == 1, output
    assert "1 failed, 1 passed, 3 deselected" in output, output


def test_left_run_needs_nobody(far: Far, pool: Pool, served: Served) -> None:
    """It ends, is recorded, and can be followed through the server."""
    code, output = far.run("--supercheck-detach")
    assert code == 0, output
    wait_for(served.parts.trends.slow, "the run is recorded")
    [row] = served.parts.history.runs(RunFilter())
    assert f"supercheck attach {row.id}, {served.url}/runs/{row.id}" in output
    code, output = far.run(row.id, command="attach")
    assert code == 1, output
    assert "1 failed, 4 passed" in output


def test_more_executions_than_one_share_a_tree(far: Far, pool: Pool) -> None:
    """Of one host; also when each collects for itself."""
    far.write(
        test_it__py="""
            import pathlib, time, pytest

            @pytest.mark.parametrize("n", range(6))
            def test_it(n):
                pathlib.Path(f"ran-{n}").touch()
                time.sleep(0.2)
            """
    )
    code, output = far.run("--supercheck-executions=2", "--supercheck-start=spawn")
    assert code == 0, output
    assert "6 passed" in output


def test_worker_without_a_store_says_so(far: Far, pool: Pool, valkey_server: Valkey) -> None:
    """The files are there, and it does not get at them: no run of this kind will do better."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SUPERCHECK_")}
    environ["SUPERCHECK_CACHE"] = str(far.cache)
    words = ["-m", "pytest_supercheck.cli", "worker", "--url", valkey_server.url, "-c", "1", "--label", "poor"]
    worker = subprocess.Popen([sys.executable, *words], env=environ)
    try:
        code, output = far.run("--supercheck-label=poor", "--supercheck-wait=60")
    finally:
        worker.terminate()
        worker.wait(GUARD_S)
    assert code == 70, output
    assert "set SUPERCHECK_STORE" in output


def test_ctrl_c_while_the_workspace_is_made(far: Far, pool: Pool) -> None:
    """An environment takes long to build: whoever does not want it any more does not wait for it."""
    far.write(
        pyproject__toml="""
            [project]
            name = "slow"
            version = "1"
            [dependency-groups]
            dev = ["pytest"]
            [build-system]
            requires = []
            build-backend = "backend"
            backend-path = ["."]
            """,
        backend__py="import time\ntime.sleep(600)\n",
        test_it__py="def test_it(): pass\n",
    )
    session = far.start("-p", "supercheck", "-p", "no:cacheprovider", "-v", SUPERCHECK_ENV="uv")
    assert session.stdout is not None
    for line in session.stdout:
        if "installing" in line:
            break
    session.send_signal(signal.SIGINT)
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 2, output
    wait_for(lambda: not far.workspaces(), "the workspace goes")


def test_environment_is_made_of_the_projects_own_files(far: Far, pool: Pool) -> None:
    """The project is installed there, as in development, and so is what it depends on."""
    far.write(
        pytest__ini="[pytest]\ntestpaths = test_env.py\n",
        pyproject__toml="""
            [project]
            name = "shopper"
            version = "1.2.3"
            [dependency-groups]
            dev = ["pytest"]
            [build-system]
            requires = ["hatchling"]
            build-backend = "hatchling.build"
            [tool.hatch.build.targets.wheel]
            packages = ["shopper"]
            """,
        test_env__py="""
            import importlib.metadata, subprocess, sys

            def test_it():
                import shopper
                assert importlib.metadata.version("shopper") == "1.2.3"
                assert subprocess.run([sys.executable, "-c", "import shopper"], cwd="/").returncode == 0
                assert not [one for one in importlib.metadata.distributions() if one.name == "pytest-xdist"]
            """,
    )
    (far.path / "shopper").mkdir()
    (far.path / "shopper" / "__init__.py").touch()
    code, output = far.run("--", "-v", command="run", SUPERCHECK_ENV="uv")
    assert code == 0, output
    assert "1 passed" in output


@pytest.mark.slow
@pytest.mark.parametrize("far", ["none", "bwrap"], indirect=True)
def test_builds_of_an_environment_are_shut_in_as_tests_are(
    far: Far, pool: Pool, request: pytest.FixtureRequest
) -> None:
    """They are the project's code: none of the service's processes or files is there for them, if runs are isolated."""
    home = far.cache.parent / "worker-home"
    (home / "secret").write_text("secret")
    far.write(
        pyproject__toml="""
            [build-system]
            requires = ["setuptools"]
            build-backend = "setuptools.build_meta"
            [project]
            name = "shop"
            version = "1"
            dependencies = ["pytest"]
            [tool.setuptools]
            py-modules = ["helper"]
            """,
        setup__py=f"""
            import json, os, pathlib, setuptools
            def command_line(pid):
                try:
                    return pathlib.Path("/proc", pid, "cmdline").read_text()
                except OSError:
                    return ""  # it has ended
            command_lines = [command_line(pid) for pid in os.listdir("/proc") if pid.isdigit()]
            seen = {{
                "service": any("pytest_supercheck.cli" in line for line in command_lines),
                "files": os.path.exists({str(home / "secret")!r}),
                "sources": os.path.exists({str(far.cache / "worker" / "sources")!r}),
            }}
            pathlib.Path(__file__).with_name("seen.json").write_text(json.dumps(seen))
            setuptools.setup()
            """,
        test_it__py="""
            import json, pathlib
            def test_it():
                print("seen", json.loads(pathlib.Path(__file__).with_name("seen.json").read_text()))
            """,
    )
    code, output = far.run("-rP", SUPERCHECK_ENV="uv")
    assert code == 0, output
    there = "bwrap" not in request.node.name
    assert f"seen {{'service': {there}, 'files': {there}, 'sources': {there}}}" in output, output
