"""
What a sandbox shows of the file system: a run's own, never what a client names of the service's or the worker's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_supercheck.errors import CannotIsolate
from pytest_supercheck.operators import BadVariable, IsolationSettings
from pytest_supercheck.sandbox import Places, Sandbox, installations

DEFAULTS = IsolationSettings.from_env({})


def spec(root: Path, **more: object) -> dict[str, object]:
    """A run in place."""
    return {"interpreter": sys.executable, "path": [], "rootdir": str(root), "cwd": str(root), **more}


def mounts(places: Places, *hidden: Path, settings: IsolationSettings = DEFAULTS) -> dict[str, str]:
    """What is mounted below the system's: how, by where."""
    words = Sandbox("/bwrap", [str(path) for path in hidden], settings).prefix(places, privileged=False)
    rest = iter(words[words.index("--dir") :])
    return dict(_pairs(rest))


def _pairs(words: Iterator[str]) -> Iterator[tuple[str, str]]:
    for word in words:
        if word in ("--bind", "--ro-bind", "--ro-bind-try"):
            next(words)
            yield next(words), word
        elif word == "--tmpfs":
            yield next(words), word


def test_a_project_in_place_may_be_written_to(tmp_path: Path) -> None:
    """And this package and Python read."""
    found = mounts(Places.of(spec(tmp_path)))
    assert found[str(tmp_path)] == "--bind"
    assert found[str(Path(__file__).parents[1] / "pytest_supercheck")] == "--ro-bind"
    assert found[sys.prefix] == "--ro-bind"


@pytest.mark.parametrize(
    "name",
    [
        *("/", "/tmp", "/etc", "/proc/1", "/dev/shm", "/run/user/1000", "relative", "~", "~/..", "~/.ssh"),
        f"{sys.prefix}/lib",
    ],
)
def test_what_is_not_a_project_is_refused(name: str) -> None:
    """The machine's, the kernel's, a sandbox's own, the worker's packages, its home and what is private there."""
    with pytest.raises(CannotIsolate, match="must not see"):
        mounts(Places.of(spec(Path(os.path.expanduser(name)))))


def test_the_workers_packages_in_a_project_are_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Python the run names: the worker loads them when it starts again."""
    (tmp_path / "project" / ".venv").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "project")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "project" / ".venv"))
    for name in ("project", "link"):
        found = mounts(Places.of(spec(tmp_path / name)))
        assert found[str(tmp_path / name)] == "--bind"
        assert found[str(tmp_path / name / ".venv")] == "--ro-bind"


def test_a_project_in_the_services_directories_is_refused(tmp_path: Path) -> None:
    """Also by a link."""
    (tmp_path / "service" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "service")
    for path in (tmp_path / "service", tmp_path / "service" / "inner", tmp_path / "link" / "inner"):
        with pytest.raises(CannotIsolate, match="must not see"):
            mounts(Places.of(spec(path)), tmp_path / "service")


def test_the_services_directories_in_a_project_are_covered(tmp_path: Path) -> None:
    """Whatever name leads there; and a socket."""
    project = tmp_path / "project"
    (project / ".supercheck").mkdir(parents=True)
    (project / "socket").touch()
    (tmp_path / "link").symlink_to(project)
    found = mounts(Places.of(spec(tmp_path / "link")), project / ".supercheck", project / "socket")
    assert found[str(tmp_path / "link" / ".supercheck")] == "--tmpfs"
    assert found[str(tmp_path / "link" / "socket")] == "--ro-bind"
    assert list(found).index(str(tmp_path / "link")) < list(found).index(str(tmp_path / "link" / ".supercheck"))


def test_modules_are_not_looked_for_in_private_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client names the directories of `sys.path`: none of the home's own begins with a dot, none is the service's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (".ssh", "src", "service"):
        (tmp_path / name).mkdir()
    project = tmp_path / "project"
    project.mkdir()
    path = [str(tmp_path / name) for name in (".ssh", "src", "service", "missing")] + ["", "/", str(tmp_path)]
    found = mounts(Places.of(spec(project, path=path)), tmp_path / "service")
    assert {name for name in path if name in found} == {str(tmp_path / "src")}


def test_a_workspace_is_shown_in_the_services_directories(tmp_path: Path) -> None:
    """It was made there for the run, as what it reads; nothing else of it."""
    cache = tmp_path / "cache"
    for name in ("runs/one/tree", "runs/one/venv", "runs/two", "environments/three"):
        (cache / name).mkdir(parents=True)
    shipped = {"workspace": str(cache / "runs/one"), "readable": [str(cache / "environments/three")], "path": ["/root"]}
    found = mounts(Places.of({**spec(cache / "runs/one"), **shipped}), cache)
    assert found[str(cache / "runs/one")] == "--ro-bind"
    assert found[str(cache / "runs/one/tree")] == "--bind"
    assert found[str(cache / "environments/three")] == "--ro-bind"
    assert str(cache) not in found
    assert str(cache / "runs/two") not in found
    assert "/root" not in found


def test_a_pythons_links_are_followed(tmp_path: Path) -> None:
    """An environment's Python is a link to another one's, perhaps by way of a third."""
    for name in ("real", "between", "venv"):
        (tmp_path / name / "bin").mkdir(parents=True)
    program = tmp_path / "real/bin/python3"
    program.touch(0o755)
    (tmp_path / "between/bin/python3").symlink_to(program)
    (tmp_path / "venv/bin/python").symlink_to("../../between/bin/python3")
    (tmp_path / "venv/pyvenv.cfg").write_text(f"home = {tmp_path}/real/bin\n")
    found = set(installations(str(tmp_path / "venv/bin/python")))
    assert found == {str(tmp_path / name) for name in ("real", "between", "venv")}
    (tmp_path / "venv/pyvenv.cfg").write_text("home = /root/.ssh/bin\n")
    assert "/root/.ssh" not in set(installations(str(tmp_path / "venv/bin/python")))


def test_a_python_that_a_pipe_describes_holds_nobody_up(tmp_path: Path) -> None:
    """A client names it; there is nobody who writes."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch(0o755)
    os.mkfifo(tmp_path / "pyvenv.cfg")
    code = "import sys; from pytest_supercheck.sandbox import installations; print(*installations(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(tmp_path / "bin" / "python")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(tmp_path)


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("bwrap"), reason="needs root and bubblewrap"
)
def test_a_workspace_below_var_is_open_to_its_user() -> None:
    """Root's workers have theirs there, and tests are somebody else."""
    uid = 60_990
    with tempfile.TemporaryDirectory(prefix="supercheck-test-", dir="/var/cache") as directory:
        tree = Path(directory) / "tree"
        tree.mkdir(0o700)
        os.chown(tree, uid, uid)
        os.chmod(directory, 0o711)
        places = Places.of({"interpreter": sys.executable, "workspace": directory})
        prefix = Sandbox(str(shutil.which("bwrap")), [], DEFAULTS).prefix(places, privileged=True)
        enter = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "touch", str(tree / "written")]
        done = subprocess.run([*prefix, *enter], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SUPERCHECK_ISOLATE", "strong"),
        ("SUPERCHECK_ISOLATE_UIDS", "0-63"),
        ("SUPERCHECK_ISOLATE_UIDS", "61063-61000"),
        ("SUPERCHECK_ISOLATE_UIDS", "1000"),
        ("SUPERCHECK_ISOLATE_UIDS", "61000-61001"),
        ("SUPERCHECK_ISOLATE_UIDS", "61000-71000"),
        ("SUPERCHECK_ISOLATE_READABLE", "relative"),
        ("SUPERCHECK_ISOLATE_PROCESSES", "0"),
        ("SUPERCHECK_ISOLATE_MEMORY_MB", "much"),
        ("SUPERCHECK_ISOLATE_NETWORK", "yes"),
    ],
)
def test_bad_settings_are_told(name: str, text: str) -> None:
    """By the variable's name."""
    with pytest.raises(BadVariable, match=name):
        IsolationSettings.from_env({name: text})
