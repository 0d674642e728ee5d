"""
Plugins of supercheck: found by their entry points where ours has no answer, and the example of the guide, installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

import pytest_supercheck
from pytest_supercheck import extensions
from pytest_supercheck.directory_store import DirectoryStore
from pytest_supercheck.environment import Environments
from pytest_supercheck.errors import BadPlugin, Fatal, StoreTrouble
from pytest_supercheck.stores import open_store
from pytest_supercheck.uv_program import find_uv
from pytest_supercheck.wish import EnvironmentWish

ROOT: Final = Path(pytest_supercheck.__file__).parent.parent
EXAMPLE: Final = ROOT / "examples" / "files"

Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Has a plugin installed, given its source; nobody has looked for plugins before."""
    place = tmp_path / "site"

    def write(source: str) -> None:
        about = place / "a_plugin-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: a-plugin\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text("[supercheck]\nmine = a_plugin\n")
        (place / "a_plugin.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(str(place))

    extensions._plugins.cache_clear()
    yield write
    extensions._plugins.cache_clear()
    sys.modules.pop("a_plugin", None)


STORE: Final = """
    from pathlib import Path
    from pytest_supercheck.directory_store import DirectoryStore
    from pytest_supercheck.hookspecs import hookimpl

    @hookimpl
    def supercheck_open_store(url, endpoint):
        return DirectoryStore(Path(endpoint)) if url == "mine://" else None
    """


def test_plugin_opens_what_is_not_ours(install: Install, tmp_path: Path) -> None:
    """Nobody else's address, and not ours."""
    install(STORE)
    store = open_store("mine://", endpoint=str(tmp_path / "there"))
    store.put("a/b", b"1")
    assert (tmp_path / "there" / "a" / "b").read_bytes() == b"1"
    with pytest.raises(
        StoreTrouble, match=r"'other://' is no store: a directory, s3://.*, or what a plugin here opens"
    ):
        open_store("other://")
    with pytest.raises(StoreTrouble, match="'s3://' is no store"):
        open_store("s3://")


def test_nobody_looks_for_plugins_without_need(install: Install, tmp_path: Path) -> None:
    """One that cannot be imported disturbs only who needs it."""
    install("raise ImportError('no such thing')")
    assert isinstance(open_store(str(tmp_path)), DirectoryStore)
    with pytest.raises(BadPlugin, match=r"plugin mine = a_plugin cannot be loaded: ImportError\('no such thing'\)"):
        open_store("mine://")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def supercheck_open_store(url, colour): ...", "does not fit this release .*colour"),
        ("def supercheck_open_shop(): ...", "does not fit this release .*supercheck_open_shop"),
    ],
)
def test_plugin_of_another_release_is_told(install: Install, source: str, words: str) -> None:
    """By its name, and what does not fit."""
    install(f"from pytest_supercheck.hookspecs import hookimpl\n@hookimpl\n{source}\n")
    with pytest.raises(BadPlugin, match=f"(?s)The plugin mine = a_plugin {words}"):
        open_store("mine://")


def test_plugin_makes_environments(install: Install, tmp_path: Path) -> None:
    """For the kind that the session asks for; what nobody makes is told."""
    install(
        """
        import sys
        from pathlib import Path
        from pytest_supercheck.environment import Environment
        from pytest_supercheck.fingerprint import take
        from pytest_supercheck.hookspecs import hookimpl

        @hookimpl
        def supercheck_build_environment(wish, tell):
            if wish.kind != "prepared":
                return None
            tell("taking the prepared one", False)
            python = Path(sys.executable)
            return Environment(
                interpreter=python,
                programs=python.parent,
                key="prepared",
                fingerprint=take(),
                reads=(Path(sys.prefix),),
            )
        """
    )
    environments, told = Environments(tmp_path, os.environ), []

    def prepare(kind: str) -> str:
        def tell(text: str, detail: bool) -> None:
            told.append(text)

        return environments.prepare(tmp_path, tmp_path, tmp_path / "venv", EnvironmentWish(kind=kind), tell).key

    assert (prepare("prepared"), told) == ("prepared", ["taking the prepared one"])
    assert prepare("inherit") == "inherit"
    with pytest.raises(Fatal, match="nothing that makes environments of the kind 'docker'"):
        prepare("docker")


# -- the example


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the example installed, and what this one has."""
    venv = tmp_path_factory.mktemp("example") / "venv"
    uv = str(find_uv(os.environ))
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, venv], check=True)
    python = venv / "bin" / "python"
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "--no-deps", EXAMPLE], check=True)
    [packages] = venv.glob("lib/python*/site-packages")
    ours = [sysconfig.get_path("purelib"), str(ROOT), str(ROOT / "server")]
    (packages / "ours.pth").write_text("\n".join(ours))
    return python


def supercheck(interpreter: str | Path, *words: str, **environ: str) -> tuple[int, str]:
    """What a command of `supercheck` says, and its exit code."""
    command = [str(interpreter), "-m", "pytest_supercheck.cli", *words]
    done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_example_opens_a_store(python: Path, tmp_path: Path, few_plugins: None) -> None:
    """A run that was recorded in a directory is found there by its file:// address, which without it is none."""
    (tmp_path / "test_it.py").write_text("def test(): pass\n")
    session = [str(python), "-m", "pytest", "-p", "supercheck", "--supercheck", "-q"]
    done = subprocess.run(session, cwd=tmp_path, capture_output=True, text=True)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    address = f"file://{tmp_path}/.supercheck/store"

    code, output = supercheck(python, "runs", "--store", address)
    assert (code, "1 passed" in output) == (0, True), output
    code, output = supercheck(python, "runs", "--store", "file://elsewhere/store")
    assert (code, "file:///DIRECTORY, on this machine" in output) == (69, True), output
    code, output = supercheck(sys.executable, "runs", "--store", address)
    assert (code, "is no store" in output) == (69, True), output


def test_example_sends_messages(python: Path, tmp_path: Path) -> None:
    """To a target of the server's configuration, whose address without it is none."""
    file, config = tmp_path / "messages", tmp_path / "server.toml"
    config.write_text(f"[notify.log]\nurl = 'file://{file}'\n")
    code, output = supercheck(python, "notify", "test", "log", SUPERCHECK_CONFIG=str(config))
    assert code == 0, output
    [message] = map(json.loads, file.read_text("utf-8").splitlines())
    assert message.keys() == {"title", "body", "tone"}
    assert message["tone"] == "bad"
    code, output = supercheck(sys.executable, "notify", "test", "log", SUPERCHECK_CONFIG=str(config))
    assert (code, "neither apprise nor a plugin knows it" in output) == (2, True), output
