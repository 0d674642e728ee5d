"""
Environments of shipped runs: real uv, real small projects, real builds.

What uv fetches stays in the user's cache of supercheck, so only the first session on a machine downloads anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pytest_supercheck import __version__, uv_program
from pytest_supercheck.boot import CONTROL_FD, boot
from pytest_supercheck.directory_store import DirectoryStore
from pytest_supercheck.environment import Environment, Environments
from pytest_supercheck.errors import Fatal, Infrastructure
from pytest_supercheck.isolation import Walls
from pytest_supercheck.operators import IsolationSettings, StoreSettings
from pytest_supercheck.sandbox import Sandbox
from pytest_supercheck.users import LOCKS, Users
from pytest_supercheck.uv_program import Job, Uv, find_uv, uv_environ
from pytest_supercheck.valkey import cache_dir
from pytest_supercheck.wish import EnvironmentWish
from pytest_supercheck.workspace import Workspaces
from tests.conftest import small_disk
from tests.test_sources import shipped

#: Not the default range of users: a worker may be running here.
FIRST = 62_520

HATCHLING = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
SETUPTOOLS = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
SHOP = HATCHLING + '[project]\nname = "shop"\nversion = "1.5"\ndependencies = ["iniconfig"]\n'
TEST_EXTRA = '[project.optional-dependencies]\ntest = ["pytest"]\n'
SCRIPT = '[project.scripts]\nshop = "shop:main"\n[project.entry-points."shop.plugins"]\na = "shop:main"\n'
MAIN = "import sys\ndef main(): print(sys.prefix, __file__)\n"


def write(directory: Path, files: dict[str, str]) -> Path:
    """Files in a directory."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


class Bed:
    """A worker with a cache of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cache = directory / "cache"
        self.cache.mkdir()
        fetched = cache_dir() / "tests-uv"
        fetched.mkdir(parents=True, exist_ok=True)
        (self.cache / "uv").symlink_to(fetched)
        self.told: list[str] = []
        self.environments = self.make()
        self._runs = 0
        self._held: list[Environment] = []

    def make(self, **more: object) -> Environments:
        """Environments of this worker."""
        worker = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
        return Environments(self.cache, worker, **more)  # type: ignore[arg-type]

    def ship(self, project: Path) -> Path:
        """A run's own copy of a project, without its history."""
        self._runs += 1
        tree = self.directory / f"run-{self._runs}" / "tree"
        shutil.copytree(project, tree, symlinks=True, ignore=shutil.ignore_patterns(".git"))
        return tree

    def prepare(self, project: Path, rootdir: str = ".", **wish: object) -> Environment:
        """A run's environment; `told` has the log of this one."""
        tree = self.ship(project)
        self.told = []
        wanted = EnvironmentWish(kind="uv", client_python=sys.version.split()[0], **wish)  # type: ignore[arg-type]
        venv = tree.parent / "venv"
        made = self.environments.prepare(tree, tree / rootdir, venv, wanted, self.tell)
        self._held.append(made)
        return made

    def tell(self, text: str, detail: bool) -> None:
        """What is told of a run."""
        self.told.append(text if detail else f"! {text}")

    def close(self) -> None:
        """Let go of everything."""
        for environment in self._held:
            environment.close()


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    """A worker."""
    made = Bed(tmp_path)
    yield made
    made.close()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A place for a project."""
    made = tmp_path / "project"
    made.mkdir()
    return made


def tree_of(environment: Environment) -> str:
    """The run's own tree."""
    return str(environment.interpreter.parents[2] / "tree")


def run(environment: Environment, *command: str) -> str:
    """What a program of the environment prints, wherever it is started."""
    program = environment.interpreter.with_name(command[0])
    done = subprocess.run([program, *command[1:]], cwd="/", env={}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_later_executions_look_at_nothing_that_tests_have_changed(bed: Bed, tmp_path: Path) -> None:
    """They find what the first one has made ready, whatever the tree has become; and hold the environment, too."""
    store = DirectoryStore(tmp_path / "store")
    bundle = shipped(store, {"pyproject.toml": (SHOP + TEST_EXTRA).encode(), "shop.py": b"", "test_it.py": b""})
    settings = StoreSettings(url=str(store), s3_endpoint=None)
    runs = tmp_path / "runs"
    runs.mkdir()
    workspaces = Workspaces(runs, bed.cache, tmp_path, settings)
    wish = json.loads(json.dumps(EnvironmentWish(kind="uv", client_python=sys.version.split()[0]).encode()))
    spec = {"source": {"bundle": bundle, "root": "/x"}, "rootdir": "/x", "cwd": "/x/..", "path": [], "argv": [],
            "args": ["/x/test_it.py"], "env": wish}  # fmt: skip
    first = workspaces.prepare("run-of-a-test", "shop", spec, bed.tell, lambda: None)
    tree = runs / "run-of-a-test" / "tree"
    assert first.spec["cwd"] == str(tree)
    assert (runs / "run-of-a-test" / "ready.json").stat().st_mode & 0o777 == 0o600
    shutil.rmtree(tree)
    tree.mkdir()
    (tree / ".python-version").symlink_to("/proc/self/environ")
    (tree / "requirements.txt").write_text("nothing-like-this==1\n")
    later = workspaces.prepare("run-of-a-test", "shop", spec, bed.tell, lambda: None)
    assert (later.spec, [one.path for one in later.held]) == (first.spec, [one.path for one in first.held])
    assert later.home(str(tree).encode()) == b"/x"
    for one in (*first.held, *later.held):
        one.close()
    for one in first.held:  # others have needed the room
        subprocess.run(["rm", "-rf", one.path], check=True)
    again = workspaces.prepare("run-of-a-test", "shop", spec, bed.tell, lambda: None)
    assert (again.spec, [one.path for one in again.held]) == (first.spec, [one.path for one in first.held])
    names = subprocess.run([again.spec["interpreter"], "-c", "import shop, iniconfig, pytest"], env={}, cwd="/")
    assert names.returncode == 1, "the tree has become another one, and is left alone"
    code = "import iniconfig, pytest, pytest_supercheck.runner"
    assert subprocess.run([again.spec["interpreter"], "-c", code], env={}, cwd="/").returncode == 0
    assert sorted(path.name for path in tree.iterdir()) == [".python-version", "requirements.txt"]
    assert sorted(path.name for path in tree.parent.iterdir()) == ["home", "ready.json", "tmp", "tree", "venv"]
    for one in again.held:
        one.close()


def test_a_src_layout(bed: Bed, project: Path) -> None:
    """Importable from the run's own tree, with metadata, entry points and console scripts, as in development."""
    write(project, {"pyproject.toml": SHOP + TEST_EXTRA + SCRIPT, "src/shop/__init__.py": MAIN})
    one = bed.prepare(project)
    assert "! installing . as in development" in bed.told
    other = bed.prepare(project)
    assert bed.told == []
    assert one.key == other.key
    for environment in (one, other):
        source = f"{tree_of(environment)}/src/shop/__init__.py"
        assert run(environment, "shop") == f"{environment.interpreter.parents[1]} {source}"
        code = (
            "import importlib.metadata as m; about = m.distribution('shop'); "
            "[entry] = m.entry_points(group='shop.plugins'); "
            "print(about.version, entry.value, about.read_text('direct_url.json'))"
        )
        version, entry, url = run(environment, "python", "-c", code).split(" ", 2)
        assert (version, entry, json.loads(url)["url"]) == ("1.5", "shop:main", f"file://{tree_of(environment)}")
    assert one.fingerprint["distributions"]["iniconfig"]


def test_what_tests_start_sees_the_same(bed: Bed, project: Path) -> None:
    """Without any variable: `sys.executable` is the run's own, also isolated from the user's settings."""
    write(project, {"pyproject.toml": SHOP + TEST_EXTRA, "src/shop/__init__.py": MAIN})
    environment = bed.prepare(project)
    inner = "import shop, pytest, sys; print(shop.__file__, sys.prefix)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-c', {inner!r}], check=True)"
    source, prefix = run(environment, "python", "-c", code).split()
    assert source == f"{tree_of(environment)}/src/shop/__init__.py"
    assert prefix == str(environment.interpreter.parents[1])


def test_the_workers_own_modules_come_first(bed: Bed, project: Path) -> None:
    """Plugin and runner are the worker's, whatever version the project asks for; nothing else of it is there."""
    fake = '[project]\nname = "pytest-supercheck"\nversion = "99"\n'
    files = {"requirements.txt": "pytest\n./fake\n", "fake/pyproject.toml": HATCHLING + fake}
    write(project, {**files, "fake/pytest_supercheck/__init__.py": "", "test_a.py": "def test_a(): pass"})
    environment = bed.prepare(project)
    assert f"supercheck-{__version__}" in run(environment, "pytest", "-p", "no:cacheprovider", tree_of(environment))
    code = "import pytest_supercheck.runner as r, importlib.metadata as m; "
    code += "print(r.__file__, m.version('pytest-supercheck'))"
    file, version = run(environment, "python", "-c", code).split()
    assert file.startswith(str(bed.cache / "runners"))
    assert version == __version__
    with pytest.raises(AssertionError, match="No module named 'redis'"):
        run(environment, "python", "-c", "import redis")


def test_a_runner_boots_there(bed: Bed, project: Path) -> None:
    """It waits for its host, and ends with it."""
    import socket

    write(project, {"requirements.txt": "pytest"})
    environment = bed.prepare(project)
    ours, theirs = socket.socketpair()
    saved = os.dup(CONTROL_FD) if os.path.exists(f"/dev/fd/{CONTROL_FD}") else -1
    os.dup2(theirs.fileno(), CONTROL_FD)
    try:
        command = [str(environment.interpreter), *boot("pytest_supercheck.runner")]
        process = subprocess.Popen(command, pass_fds=[CONTROL_FD], env={}, cwd="/", stderr=subprocess.PIPE, text=True)
    finally:
        os.dup2(saved, CONTROL_FD) if saved >= 0 else os.close(CONTROL_FD)
    theirs.close()
    ours.close()
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0


def test_a_finder_of_setuptools(bed: Bed, project: Path) -> None:
    """Code that says where packages are says it of the run's own tree."""
    layout = '[tool.setuptools]\npackages = ["shop", "shop.inner"]\npackage-dir = {"shop" = "lib/code"}\n'
    about = '[project]\nname = "shop"\nversion = "2"\n'
    files = {"lib/code/__init__.py": MAIN, "lib/code/inner/__init__.py": "", "requirements-dev.txt": "pytest"}
    write(project, {"pyproject.toml": SETUPTOOLS + about + layout, **files})
    bed.prepare(project)
    environment = bed.prepare(project)
    code = "import shop, shop.inner; print(shop.__file__, shop.inner.__file__)"
    place = f"{tree_of(environment)}/lib/code"
    assert run(environment, "python", "-c", code).split() == [f"{place}/__init__.py", f"{place}/inner/__init__.py"]
    assert not list(Path(tree_of(environment)).rglob("*.egg-info"))


def test_packages_that_come_later_are_found(bed: Bed, project: Path) -> None:
    """Setuptools lists them when it builds; contents of modules change without a build."""
    about = '[project]\nname = "shop"\nversion = "2"\n[tool.setuptools.packages.find]\ninclude = ["shop*", "cart*"]\n'
    write(project, {"pyproject.toml": SETUPTOOLS + about, "shop/__init__.py": "", "requirements.txt": "pytest"})
    bed.prepare(project)
    write(project, {"shop/__init__.py": "x = 1", "shop/more.py": "y = 2"})
    environment = bed.prepare(project)
    assert bed.told == []
    assert run(environment, "python", "-c", "import shop.more; print(shop.x, shop.more.y)") == "1 2"
    write(project, {"cart/__init__.py": ""})
    run(bed.prepare(project), "python", "-c", "import cart")


def test_a_version_from_git(bed: Bed, project: Path) -> None:
    """There is none: it is the session's; and files that the build writes are in the run's tree."""
    build = '[build-system]\nrequires = ["setuptools", "setuptools-scm"]\nbuild-backend = "setuptools.build_meta"\n'
    about = '[project]\nname = "shop"\ndynamic = ["version"]\n'
    about += '[tool.setuptools_scm]\nversion_file = "src/shop/_version.py"\n'
    files = {"pyproject.toml": build + about, "requirements.txt": "pytest"}
    write(project, {**files, "src/shop/__init__.py": "from shop._version import version\n"})
    code = "import shop, importlib.metadata as m; print(shop.version, m.version('shop'))"
    for version, wanted in (("3.2.dev1+gabc", "3.2.dev1+gabc"), ("", "0.1.dev0"), ("", "0.1.dev0")):
        assert run(bed.prepare(project, version=version), "python", "-c", code) == f"{wanted} {wanted}"
    assert bed.told == []


def test_hatch_vcs(bed: Bed, project: Path) -> None:
    """The same variable; its dependencies are resolved with it."""
    build = '[build-system]\nrequires = ["hatchling", "hatch-vcs"]\nbuild-backend = "hatchling.build"\n'
    about = '[project]\nname = "shop"\ndynamic = ["version"]\ndependencies = ["iniconfig"]\n'
    about += '[tool.hatch.version]\nsource = "vcs"\n'
    write(project, {"pyproject.toml": build + about + TEST_EXTRA, "src/shop/__init__.py": ""})
    code = "import iniconfig, shop, importlib.metadata as m; print(m.version('shop'))"
    assert run(bed.prepare(project, version="7.0"), "python", "-c", code) == "7.0"


def test_requirement_files_with_includes(bed: Bed, project: Path) -> None:
    """What any of them says counts; `-e` of a part of the tree is the run's own."""
    write(
        project,
        {
            "requirements-dev.txt": "-r reqs/base.txt\n-c limits.txt\n-e ./libs/cart[more]\n",
            "reqs/base.txt": "pytest\n",
            "limits.txt": "iniconfig<2.1\n",
            "libs/cart/pyproject.toml": HATCHLING
            + '[project]\nname = "cart"\nversion = "1"\n[project.optional-dependencies]\nmore = ["iniconfig"]\n',
            "libs/cart/cart/__init__.py": "",
        },
    )
    environment = bed.prepare(project)
    assert environment.fingerprint["distributions"]["iniconfig"] == "2.0.0"
    cart = f"{tree_of(environment)}/libs/cart/cart/__init__.py"
    assert run(environment, "python", "-c", "import cart; print(cart.__file__)") == cart
    write(project, {"limits.txt": "iniconfig==2.1.0\n"})
    changed = bed.prepare(project)
    assert changed.fingerprint["distributions"]["iniconfig"] == "2.1.0"
    assert changed.key != environment.key


def test_hashes_are_checked(bed: Bed, project: Path) -> None:
    """Those that requirement files have, also beside a project."""
    wrong = "iniconfig==2.0.0 --hash=sha256:" + "0" * 64 + "\n"
    write(project, {"requirements.txt": f"pytest\n{wrong}", "pyproject.toml": SHOP, "shop/__init__.py": ""})
    with pytest.raises(Fatal, match=r"(?s)cannot be built.*[Hh]ash"):
        bed.prepare(project)


def uv(*words: str, at: Path) -> None:
    """Run uv as a developer would."""
    environ = {**uv_environ(os.environ, cache_dir()), "UV_CACHE_DIR": str(cache_dir() / "tests-uv")}
    command = [find_uv(os.environ), *words, "--quiet", "--python", sys.executable]
    subprocess.run(command, cwd=at, env=environ, check=True)


WORKSPACE = {
    "pyproject.toml": '[project]\nname = "all"\nversion = "0"\n[tool.uv.workspace]\nmembers = ["apps/*"]\n',
    "apps/shop/pyproject.toml": SHOP.replace('["iniconfig"]', '["cart"]')
    + '[dependency-groups]\ndev = ["pytest"]\nlint = ["pygments"]\n[tool.uv.sources]\ncart = { workspace = true }\n',
    "apps/shop/src/shop/__init__.py": "",
    "apps/cart/pyproject.toml": HATCHLING + '[project]\nname = "cart"\nversion = "1"\n',
    "apps/cart/src/cart/__init__.py": "",
}


def test_a_lock_of_a_workspace(bed: Bed, project: Path) -> None:
    """Just what the member needs, the other members that it needs among it; not resolved anew."""
    write(project, WORKSPACE)
    uv("lock", at=project)
    environment = bed.prepare(project, "apps/shop")
    for name in ("shop", "cart"):
        file = run(environment, "python", "-c", f"import {name}; print({name}.__file__)")
        assert file == f"{tree_of(environment)}/apps/{name}/src/{name}/__init__.py"
    assert any("apps/shop" in line and "apps/cart" in line for line in bed.told if line.startswith("! "))
    assert not (Path(tree_of(environment)) / ".venv").exists()


def test_archives_of_the_tree(bed: Bed, project: Path) -> None:
    """Are installed as any other; the run has nothing of its own of them."""
    write(project, {"cart/pyproject.toml": WORKSPACE["apps/cart/pyproject.toml"], "cart/src/cart/__init__.py": ""})
    built = ["uv", "build", "--wheel", "--quiet", "--python", sys.executable, "--out-dir", str(project / "wheels")]
    subprocess.run([find_uv(os.environ), *built[1:]], cwd=project / "cart", check=True)
    shutil.rmtree(project / "cart")
    [wheel] = (project / "wheels").glob("*.whl")
    source = f'[tool.uv.sources]\ncart = {{ path = "wheels/{wheel.name}" }}\n'
    text = SHOP.replace('["iniconfig"]', '["cart"]') + TEST_EXTRA + source
    write(project, {"pyproject.toml": text, "shop/__init__.py": ""})
    uv("lock", at=project)
    locked = bed.prepare(project)
    (project / "uv.lock").unlink()
    for environment in (locked, bed.prepare(project)):
        assert environment.fingerprint["distributions"]["cart"] == "1"
        run(environment, "python", "-c", "import cart, shop")


def test_groups_that_are_named(bed: Bed, project: Path) -> None:
    """Are the only ones."""
    lock = SHOP + '[dependency-groups]\ndev = ["click"]\nchecks = ["pytest"]\n'
    write(project, {"pyproject.toml": lock, "shop/__init__.py": ""})
    uv("lock", at=project)
    found = bed.prepare(project, groups=("checks",)).fingerprint["distributions"]
    assert "pytest" in found
    assert "click" not in found


def test_a_pylock(bed: Bed, project: Path) -> None:
    """The project in it is the run's own."""
    write(project, {"pyproject.toml": SHOP + TEST_EXTRA, "shop/__init__.py": ""})
    uv("lock", at=project)
    uv("export", "--frozen", "--extra", "test", "--output-file", "pylock.toml", at=project)
    (project / "uv.lock").unlink()
    environment = bed.prepare(project)
    assert "from pylock.toml" in bed.told[0]
    file = run(environment, "python", "-c", "import shop, pytest, iniconfig; print(shop.__file__)")
    assert file == f"{tree_of(environment)}/shop/__init__.py"


def test_without_a_build_system_nothing_is_installed(bed: Bed, project: Path) -> None:
    """As uv sees it: a place for tests, and what they need."""
    write(project, {"pyproject.toml": '[dependency-groups]\ndev = ["pytest"]\n'})
    environment = bed.prepare(project)
    assert not [line for line in bed.told if "as in development" in line]
    run(environment, "pytest", "--version")


# -- what goes wrong


def test_what_does_not_resolve(bed: Bed, project: Path) -> None:
    """Uv's own words are the end of the message, and the log was told."""
    write(project, {"requirements.txt": "pytest\niniconfig==0.0.99\n"})
    with pytest.raises(
        Fatal, match=r"(?s)the environment cannot be built: uv ended with 1.*iniconfig==0\.0\.99"
    ) as caught:
        bed.prepare(project)
    assert "because" in str(caught.value).lower()
    assert [line for line in bed.told if "iniconfig==0.0.99" in line]
    assert not [path for path in (bed.cache / "environments").iterdir() if path.suffix != ".lock"]


def test_a_lock_that_cannot_be_installed(bed: Bed, project: Path) -> None:
    """Here for another Python."""
    write(project, {"pyproject.toml": SHOP + TEST_EXTRA, "shop/__init__.py": ""})
    uv("lock", at=project)
    lock = (project / "uv.lock").read_text()
    (project / "uv.lock").write_text(lock.replace('requires-python = "', 'requires-python = ">=3.50, '))
    with pytest.raises(Fatal, match=r"(?s)cannot be built: uv ended with \d.*3\.50"):
        bed.prepare(project)


def test_a_build_that_needs_a_compiler(bed: Bed, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none: its log says so, and so does the run."""
    setup = "from setuptools import Extension, setup\nsetup(ext_modules=[Extension('fast', ['fast.c'])])\n"
    about = '[project]\nname = "shop"\nversion = "1"\n'
    write(project, {"pyproject.toml": SETUPTOOLS + about, "setup.py": setup, "requirements.txt": "pytest"})
    write(project, {"fast.c": "int x;"})
    monkeypatch.setenv("CC", "/nonexistent/cc")
    bed.environments = bed.make()
    with pytest.raises(Fatal, match=r"(?s)the environment cannot be built.*/nonexistent/cc"):
        bed.prepare(project)
    assert [line for line in bed.told if "/nonexistent/cc" in line]


@pytest.mark.parametrize(("size_bytes", "what"), [(1_000_000, "tree"), (4_000_000, "packages")])
def test_a_full_disk(project: Path, tmp_path: Path, size_bytes: int, what: str) -> None:
    """It is the worker's trouble, not the project's; nothing half is left."""
    write(project, {"pyproject.toml": SHOP + TEST_EXTRA, "src/shop/__init__.py": "", "data": "x" * 2_000_000})
    if what == "packages":
        (project / "data").unlink()
    with small_disk(tmp_path / "small", size_bytes) as small:
        bed = Bed(small)
        with pytest.raises(Infrastructure, match="no room for the environment on the worker's disk"):
            bed.environments.prepare(
                project, project, tmp_path / "venv", EnvironmentWish(kind="uv", client_python="3.11.1"), bed.tell
            )
        assert not [path for path in (bed.cache / "environments").iterdir() if path.suffix != ".lock"]


def test_no_pytest(bed: Bed, project: Path) -> None:
    """Said with where to put it; an environment that is there is not built again for that."""
    write(project, {"pyproject.toml": SHOP, "shop/__init__.py": ""})
    for _ in range(2):
        with pytest.raises(Fatal, match=r"made from pyproject\.toml has no pytest: put it among"):
            bed.prepare(project)
    assert bed.told == []


def test_a_pytest_that_is_too_old(bed: Bed, project: Path) -> None:
    """Both versions are named."""
    write(project, {"requirements.txt": "pytest==7.4.4"})
    with pytest.raises(Fatal, match=r"has pytest 7\.4\.4, and pytest-supercheck needs 8\.0\.2"):
        bed.prepare(project)


def test_a_python_that_is_not_there(bed: Bed, project: Path) -> None:
    """And cannot be fetched."""
    write(project, {"requirements.txt": "pytest"})
    with pytest.raises(Fatal, match=r"(?s)Python 3\.99 is not on this worker, and cannot be fetched"):
        bed.prepare(project, python="3.99")
    with pytest.raises(Fatal, match=r"Python <3\.9 is not on this worker|test processes need 3\.10"):
        bed.prepare(project, python="<3.9")


def test_another_python(bed: Bed, project: Path) -> None:
    """One that uv finds on this machine."""
    uv_here = Uv(bed.cache, bed.cache, os.environ, lambda: None)
    ours = ".".join(sys.version.split()[0].split(".")[:2])
    others = (f"3.{minor}" for minor in range(10, 15) if f"3.{minor}" != ours)
    find = ("--system", "--no-python-downloads")
    other = next((version for version in others if uv_here.find_python(*find, version)), None)
    if other is None:
        pytest.skip("there is no other Python on this machine")
    write(project, {"pyproject.toml": SHOP + TEST_EXTRA, "shop/__init__.py": "", ".python-version": f"{other}\n"})
    environment = bed.prepare(project)
    assert environment.fingerprint["python"].startswith(f"{other}.")
    code = "import sys, shop, pytest_supercheck.runner; print('%d.%d' % sys.version_info[:2])"
    assert run(environment, "python", "-c", code) == other


def test_no_uv(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said with what to install."""
    monkeypatch.setitem(sys.modules, "uv", None)
    with pytest.raises(Fatal, match=r"no uv.*pip install 'pytest-supercheck\[uv\]'"):
        find_uv({"PATH": "/nonexistent"})


def test_the_package_uv_will_do() -> None:
    """Where there is none on PATH."""
    assert Path(find_uv({"PATH": "/nonexistent"})).name == "uv"


# -- what uv gets to know


def test_uvs_environment() -> None:
    """Indexes, proxies and certificates, by pip's names too; nothing of the service, nothing that redirects."""
    worker = {
        "PATH": "/bin",
        "https_proxy": "http://proxy",
        "SSL_CERT_FILE": "/ca.pem",
        "PIP_INDEX_URL": "https://pips",
        "PIP_EXTRA_INDEX_URL": "https://a\n https://b",
        "PIP_FIND_LINKS": "/x /y",
        "UV_HTTP_TIMEOUT": "9",
        "UV_PUBLISH_TOKEN": "t",
        "UV_PROJECT": "/elsewhere",
        "UV_CACHE_DIR": "/elsewhere",
        "SUPERCHECK_TOKEN": "t",
        "AWS_SECRET_ACCESS_KEY": "s",
        "DATABASE_URL": "d",
    }
    assert uv_environ(worker, Path("/c")) == {
        "PATH": "/bin",
        "https_proxy": "http://proxy",
        "SSL_CERT_FILE": "/ca.pem",
        "UV_DEFAULT_INDEX": "https://pips",
        "UV_INDEX": "https://a https://b",
        "UV_FIND_LINKS": "/x,/y",
        "UV_HTTP_TIMEOUT": "9",
        "UV_CACHE_DIR": "/c/uv",
        "UV_PYTHON_INSTALL_DIR": "/c/pythons",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    own = uv_environ({**worker, "UV_INDEX_URL": "https://uvs"}, Path("/c"))
    assert (own["UV_INDEX_URL"], "UV_DEFAULT_INDEX" in own) == ("https://uvs", False)


def script(directory: Path, text: str) -> dict[str, str]:
    """A worker's environment in which `uv` is a program of ours."""
    write(directory, {"bin/uv": f"#!{sys.executable}\nimport os, sys, time\n{text}\n"})
    (directory / "bin" / "uv").chmod(0o755)
    return {"PATH": str(directory / "bin")}


def test_what_is_told_has_no_credentials_and_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords and tokens of addresses, our own long paths, and floods of lines."""
    monkeypatch.setattr(uv_program, "LINES_LIMIT", 3)
    text = "print('https://ada:sesame@host/x https://token@host', os.getcwd(), '\\n'.join('abcdef')); sys.exit(3)"
    told: list[str] = []
    program = Uv(tmp_path / "c", tmp_path / "c", script(tmp_path, text), lambda: None)
    with pytest.raises(Fatal, match=r"(?s)uv ended with 3\n\$ uv x https://\*\*\*@h\n.*c\nd\ne\nf$") as caught:
        program.run(["x", "https://a:b@h"], tmp_path, Job(place=tmp_path, tell=lambda text, detail: told.append(text)))
    assert told == [
        "$ uv x https://***@h",
        "https://***@host/x https://***@host ENV a",
        "b",
        "c",
        "[what follows is not told]",
    ]
    assert "sesame" not in str(caught.value)


def test_builds_can_be_confined(tmp_path: Path) -> None:
    """What runs uv gets to know where it writes, and what it reads: no build writes where Pythons are."""
    seen: list[tuple[Sequence[Path], Sequence[Path]]] = []

    def confine(command: list[str], writes: Sequence[Path], reads: Sequence[Path]) -> list[str]:
        seen.append((writes, reads))
        return ["/bin/echo", "confined", *command[1:]]

    told: list[str] = []
    program = Uv(tmp_path / "c", tmp_path / "own", script(tmp_path, ""), lambda: None, confine)
    program.run(["pip", "x"], tmp_path, Job(place=tmp_path / "p", tell=lambda text, detail: told.append(text)))
    assert told[1] == "confined pip x --no-progress --color=never"
    assert seen == [([tmp_path / "p", tmp_path / "own" / "uv"], [tmp_path / "c" / "pythons"])]


BACKEND = """
import os, pathlib, subprocess, sys, zipfile
def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    {code}
    with zipfile.ZipFile(f"{{wheel_directory}}/evil-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("evil-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: evil\\nVersion: 1\\n")
        wheel.writestr("evil-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("evil-1.dist-info/RECORD", "")
    return "evil-1-py3-none-any.whl"
"""
OWN_BACKEND = (
    '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    '[project]\nname = "evil"\nversion = "1"\n[dependency-groups]\ndev = ["pytest"]\n'
)


@pytest.fixture
def walls() -> Iterator[Walls]:
    """How a worker shuts builds in: as root, with users; else with namespaces alone."""
    if shutil.which("bwrap") is None:
        pytest.skip("bwrap is not installed")
    users = Users(FIRST, FIRST + 3) if os.geteuid() == 0 else None
    made = Walls(users, Sandbox("/usr/bin/bwrap", [], IsolationSettings.from_env({})), {})
    yield made
    made.close()
    for uid in range(FIRST, FIRST + 4):
        (LOCKS / str(uid)).unlink(missing_ok=True)


HOSTILE = {
    "programs": "at = os.path.abspath('../scratch/bin'); os.rename(at, at + '-'); os.symlink({victim!r}, at)",
    "tree": "at = os.getcwd(); os.rename(at, at + '-'); os.symlink({victim!r}, at)",
    "report": "os.symlink({victim!r} + '/secret', '../failed.txt'); sys.exit(1)",
    "link": "os.unlink('out'); os.mkdir('out'); open('out/evil', 'w').close()",
    "parts": "[os.symlink({victim!r}, f'../../{{name}}') for name in ('site', 'made')]",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_build_leads_nobody_elsewhere(bed: Bed, project: Path, tmp_path: Path, walls: Walls, what: str) -> None:
    """Links that it leaves in place of what is to be taken, read or removed are not followed by who is not shut in."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "secret").write_text("sesame")
    (victim / "secret").chmod(0o400)
    victim.chmod(0o500)
    code = HOSTILE[what].format(victim=str(victim))
    write(project, {"pyproject.toml": OWN_BACKEND, "backend.py": BACKEND.format(code=code)})
    (project / "out").symlink_to(victim)
    bed.environments = bed.make(project="evil", confine=walls.confine)
    said = ""
    try:
        bed.prepare(project)
    except Fatal as exc:
        said = str(exc)
    assert "sesame" not in said + "".join(bed.told)
    assert what == "tree" or said
    assert [(path.name, path.read_text(), path.stat().st_mode & 0o777) for path in victim.iterdir()] == [
        ("secret", "sesame", 0o400)
    ]
    assert (victim.stat().st_mode & 0o777, victim.stat().st_uid) == (0o500, os.geteuid())
    copies = [path for path in tmp_path.rglob("*") if path.name == "secret" and path.parent != victim]
    assert not copies


@pytest.mark.parametrize("how", ["done", "given up"])
def test_a_build_is_nobody_and_leaves_nobody(bed: Bed, project: Path, walls: Walls, how: str) -> None:
    """Whoever starts it, it cannot read what is root's alone; when it ends, or is ended, so do all its processes."""
    if walls.users is None:
        pytest.skip("CANNOT BE TRIED: changing users takes root")

    class GivenUp(Exception):
        pass

    def pulse() -> None:
        if how == "given up" and processes_of(FIRST + 1, "sleep"):
            raise GivenUp

    code = (
        "pathlib.Path('found.py').write_text(repr([os.getuid(), os.access('/etc/shadow', os.R_OK)]));"
        "subprocess.Popen(['sleep', '600'], start_new_session=True, stdin=-3, stdout=-3, stderr=-3)"
    )
    code += ".wait()" if how == "given up" else ""
    write(project, {"pyproject.toml": OWN_BACKEND, "backend.py": BACKEND.format(code=code)})
    bed.environments = bed.make(project="evil", confine=walls.confine, pulse=pulse)
    if how == "given up":
        with pytest.raises(GivenUp):
            bed.prepare(project)
        give_up_at = time.monotonic() + 30
        while processes_of(FIRST + 1):
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
        return
    environment = bed.prepare(project)
    assert not processes_of(FIRST + 1)
    assert (Path(tree_of(environment)) / "found.py").read_text() == f"[{FIRST + 1}, False]"
    taken = walls.users.take()
    assert taken is not None
    assert taken.uid > FIRST + 1, "no run is the builder"
    walls.users.release(taken)
    run(environment, "python", "-c", "import pytest")


def processes_of(uid: int, name: str = "") -> list[int]:
    """Those of a user that live, or of them those of one program."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if path.stat().st_uid == uid and name in (path / "comm").read_text() and alive(int(path.name)):
                found.append(int(path.name))
    return found


@pytest.mark.parametrize("isolation", ["user", "bwrap"])
def test_no_strangers_interpreter_is_run(bed: Bed, project: Path, tmp_path: Path, walls: Walls, isolation: str) -> None:
    """A directory that is taken for an environment, to see which Python it has: not outside of a sandbox."""
    write(tmp_path / "theirs", {"bin/python3": f"#!/bin/sh\ntouch {tmp_path}/ran\n", "pyvenv.cfg": ""})
    (tmp_path / "theirs" / "bin" / "python3").chmod(0o755)
    (tmp_path / "theirs" / "bin" / "python").symlink_to("python3")
    write(project, {"requirements.txt": "pytest"})
    if isolation == "user":
        walls = Walls(walls.users, None, {})
    bed.environments = bed.make(confine=walls.confine)
    with pytest.raises(Fatal, match="cannot shut in" if isolation == "user" else "is not on this worker"):
        bed.prepare(project, python=str(tmp_path / "theirs"))
    assert not (tmp_path / "ran").exists()


def test_what_is_built_others_can_read(bed: Bed, project: Path, walls: Walls) -> None:
    """Tests are somebody else; how the worker was started, as by a unit with UMask=0077, does not matter."""
    write(project, {"pyproject.toml": SHOP + TEST_EXTRA, "shop.py": ""})
    bed.environments = bed.make(project="shop", confine=walls.confine)
    before = os.umask(0o077)
    try:
        made = bed.prepare(project)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    for place in (made.interpreter.parents[1], *(held.path for held in made.held[:2])):
        for path in (place, *place.rglob("*")):
            if not path.is_symlink():
                assert path.stat().st_mode & 0o005 == (
                    0o005 if path.is_dir() else path.stat().st_mode & 0o001 | 0o004
                ), path
    assert (bed.cache / "apart").stat().st_mode & 0o777 == 0o700, "a project's own are shown to its own"


def test_builds_of_projects_that_are_shut_in_share_nothing(
    bed: Bed, project: Path, tmp_path: Path, walls: Walls
) -> None:
    """What one's builds have written no other one's read: neither packages, nor Pythons, nor environments."""
    code = (
        f"[pathlib.Path(folder, 'poison').touch() for folder, _, _ in os.walk({str(bed.cache)!r}) "
        "if os.access(folder, os.W_OK)]"
    )
    write(project, {"pyproject.toml": OWN_BACKEND, "backend.py": BACKEND.format(code=code)})
    made = []
    for name in ("ours", "theirs"):
        bed.environments = bed.make(project=name, confine=walls.confine)
        made.append(bed.prepare(project))
        poisoned = {path.relative_to(bed.cache).parts[:2] for path in bed.cache.rglob("poison")}
        assert {top for top, _ in poisoned} == {"apart"}, poisoned
        assert len(poisoned) == len(made), "a directory for each"
    ours, theirs = ({*one.reads} for one in made)
    python, runner = made[0].interpreter.resolve().parent.parent, made[0].held[1].path
    assert ours & theirs == {python, runner}
    assert not list(runner.rglob("poison"))


def test_a_build_that_is_given_up(tmp_path: Path) -> None:
    """By what `pulse` raises; none of its processes stays."""

    class GivenUp(Exception):
        pass

    def pulse() -> None:
        if (tmp_path / "pid").exists():
            raise GivenUp

    steps = (
        "pid = os.fork() or time.sleep(600)",
        f"open({str(tmp_path / 'part')!r}, 'w').write(str(pid))",
        f"os.rename({str(tmp_path / 'part')!r}, {str(tmp_path / 'pid')!r})",
        "time.sleep(600)",
    )
    worker = script(tmp_path, "if sys.argv[1] == '--version': sys.exit()\n" + "\n".join(steps))
    program = Uv(tmp_path / "c", tmp_path / "c", worker, pulse)
    with pytest.raises(GivenUp):
        program.run(["x"], tmp_path, Job(place=tmp_path, tell=lambda text, detail: None))
    pid = int((tmp_path / "pid").read_text())
    while alive(pid):
        time.sleep(0.01)


def test_a_projects_build_that_is_given_up(bed: Bed, project: Path, tmp_path: Path) -> None:
    """Likewise, with all that is between the worker and the project's code."""

    class GivenUp(Exception):
        pass

    def pulse() -> None:
        if (tmp_path / "pid").exists():
            raise GivenUp

    code = (
        f"pathlib.Path({str(tmp_path / 'part')!r}).write_text(str(os.getpid()));"
        f"os.rename({str(tmp_path / 'part')!r}, {str(tmp_path / 'pid')!r});"
        "subprocess.run(['sleep', '600'])"
    )
    write(project, {"pyproject.toml": OWN_BACKEND, "backend.py": BACKEND.format(code=code)})
    bed.environments = bed.make(pulse=pulse)
    with pytest.raises(GivenUp):
        bed.prepare(project)
    pid, give_up_at = int((tmp_path / "pid").read_text()), time.monotonic() + 30
    while alive(pid):
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


# -- one host, many runs


CHILD = """
import os, sys
from pathlib import Path
from pytest_supercheck.environment import Environments
from pytest_supercheck.wish import EnvironmentWish
from tests.conftest import small_disk

cache, tree, version = Path(sys.argv[1]), Path(sys.argv[2]), sys.version.split()[0]
wish = EnvironmentWish(kind="uv", client_python=version)
tell = lambda text, detail: print(text, flush=True)
made = Environments(cache, os.environ).prepare(tree, tree, tree.parent / "venv", wish, tell)
print("ready", flush=True)
"""

SLOW = """
import pathlib, time
from setuptools import setup
pathlib.Path({begun!r}).touch()
while not pathlib.Path({go!r}).exists():
    time.sleep(0.05)
setup(name="slow", version="1")
"""


def child(bed: Bed, tree: Path) -> subprocess.Popen[str]:
    """Another process of the worker that prepares a run."""
    command = [sys.executable, "-c", CHILD, str(bed.cache), str(tree)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def slow_project(project: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A project that waits to be told to go on; returns where it says that it has begun, and where to tell it."""
    begun, go = tmp_path / "begun", tmp_path / "go"
    write(project, {"pyproject.toml": SETUPTOOLS, "setup.py": SLOW.format(begun=str(begun), go=str(go))})
    write(project, {"requirements.txt": "pytest"})
    return begun, go


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Until a file is there."""
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.02)


def outputs(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    """What they printed, all of which have succeeded."""
    found = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), found
    return found


def test_two_at_once_build_once(bed: Bed, project: Path, tmp_path: Path) -> None:
    """The other one waits, is told so, and has its own environment afterwards."""
    begun, go = slow_project(project, tmp_path)
    trees = [bed.ship(project) for _ in range(2)]
    one = child(bed, trees[0])
    wait_for(begun, one)
    other = child(bed, trees[1])
    assert other.stdout is not None
    assert "waiting for the environment" in other.stdout.readline()
    go.touch()
    first, second = outputs([one, other])
    assert "building an environment" in first
    assert "building an environment" not in second
    assert all((tree.parent / "venv" / "bin" / "python").exists() for tree in trees)


def test_a_killed_build_leaves_nothing_that_counts(bed: Bed, project: Path, tmp_path: Path) -> None:
    """What it has started may outlive it; until that has ended, nobody builds in the same place."""
    begun, go = slow_project(project, tmp_path)
    one = child(bed, bed.ship(project))
    wait_for(begun, one)
    one.send_signal(signal.SIGKILL)
    one.communicate()
    begun.unlink()
    other = child(bed, bed.ship(project))
    assert other.stdout is not None
    assert "waiting for the environment" in other.stdout.readline()
    assert [path.suffix for path in (bed.cache / "environments").iterdir() if path.suffix != ".lock"] == [".building"]
    go.touch()
    [told] = outputs([other])
    assert "building an environment" in told
    run(bed.prepare(project), "python", "-c", "import pytest")
    assert bed.told == []


def test_what_is_shared_cannot_be_changed_by_accident(bed: Bed, project: Path) -> None:
    """Nothing in it has a bit to write; bytecode is there already."""
    write(project, {"requirements.txt": "pytest"})
    environment = bed.prepare(project)
    shared, runner, _ = environment.reads
    for place in (shared, runner):
        inner = [path for path in place.rglob("*") if not path.is_symlink()]
        assert inner
        assert not [path for path in inner if path.stat().st_mode & 0o222]
    assert list(shared.rglob("_pytest/__pycache__/main.*.pyc"))


def test_an_environment_in_use_stays(bed: Bed, project: Path) -> None:
    """However few are kept."""
    bed.environments = bed.make(kept=1)
    write(project, {"requirements.txt": "pytest"})
    held = bed.prepare(project)
    write(project, {"requirements.txt": "pytest\nclick"})
    bed.prepare(project)
    run(held, "python", "-c", "import pytest")
    bed.close()
    bed._held.clear()
    write(project, {"requirements.txt": "pytest\nsix"})
    bed.prepare(project)
    assert len([path for path in (bed.cache / "environments").iterdir() if not path.suffix]) == 1


def test_a_runs_other_executions_use_what_is_there(bed: Bed, project: Path) -> None:
    """Of the same run on the same host."""
    write(project, {"requirements.txt": "pytest"})
    tree = bed.ship(project)
    wish = EnvironmentWish(kind="uv", client_python=sys.version.split()[0])
    made = [bed.environments.prepare(tree, tree, tree.parent / "venv", wish, bed.tell) for _ in range(2)]
    assert made[0].interpreter == made[1].interpreter
    assert {path.name for path in tree.parent.iterdir()} == {"tree", "venv"}
    for environment in made:
        environment.close()


def test_the_workers_own_environment(bed: Bed, tmp_path: Path) -> None:
    """As it is, without uv."""
    made = bed.environments.prepare(tmp_path, tmp_path, tmp_path / "v", EnvironmentWish(kind="inherit"), bed.tell)
    assert made.interpreter == Path(sys.executable)
    assert made.programs is None
    assert "redis" in made.fingerprint["distributions"]
    wish, theirs = EnvironmentWish(kind="inherit"), {**made.fingerprint, "python": "3.9.1"}
    assert made.compare(made.fingerprint, wish, strict=True) == ""
    told = made.compare(theirs, wish, strict=False)
    assert told == f"the environment differs from this one: Python 3.9.1 here, {made.fingerprint['python']} there"
    with pytest.raises(Fatal, match=r"which --supercheck-strict-env forbids: Python 3\.9\.1 here"):
        made.compare(theirs, wish, strict=True)
    assert bed.told == []
    made.close()
