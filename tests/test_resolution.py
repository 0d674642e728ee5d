"""
From what an environment is made: which files are chosen, what they include, and which Python is asked for.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from pytest_supercheck.errors import Fatal
from pytest_supercheck.pyproject import read_project
from pytest_supercheck.requirements import local_place, read_requirements
from pytest_supercheck.resolution import Resolution, look, of_build, wanted_python
from pytest_supercheck.wish import EnvironmentWish, wish_for

PYPROJECT = """
[project]
name = "shop"
version = "1"
dependencies = ["attrs"]
requires-python = ">=3.10"
[project.optional-dependencies]
test = ["pytest"]
docs = ["sphinx"]
[dependency-groups]
dev = ["pytest"]
lint = ["ruff"]
"""


def write(directory: Path, **files: str) -> Path:
    """Files in a directory; in their names `__` is a slash, and `_` before the suffix a dot."""
    for name, text in files.items():
        path = directory / re.sub(r"_(?=[a-z]+$)", ".", name.replace("__", "/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def wish(**asked: object) -> EnvironmentWish:
    """A session's wish."""
    return EnvironmentWish(kind="uv", client_python="3.12.4", **asked)  # type: ignore[arg-type]


def found(tree: Path, rootdir: str = ".", **asked: object) -> Resolution:
    """What is found there."""
    return look(tree, tree / rootdir, wish(**asked))


def names(resolution: Resolution, tree: Path) -> list[str]:
    """The files whose content counts."""
    return sorted(str(path.relative_to(tree.resolve())) for path in resolution.files)


# -- which files


def test_a_lock_goes_before_everything(tmp_path: Path) -> None:
    """Its project says which extras and groups there are."""
    write(tmp_path, uv_lock="", pylock_toml="", requirements_txt="pytest", pyproject_toml=PYPROJECT)
    resolution = found(tmp_path)
    assert (resolution.kind, resolution.title) == ("lock", "uv.lock")
    assert (resolution.extras, resolution.groups) == (("test",), ("dev",))
    assert names(resolution, tmp_path) == ["pyproject.toml", "uv.lock"]


def test_then_a_pylock(tmp_path: Path) -> None:
    """It is nobody's in particular."""
    write(tmp_path, pylock_toml="", requirements_txt="pytest")
    assert found(tmp_path).kind == "pylock"


def test_requirement_files_are_taken_together_with_the_project(tmp_path: Path) -> None:
    """All that have one of the known names."""
    write(tmp_path, requirements_txt="attrs", requirements__dev_txt="pytest", other_txt="x", pyproject_toml=PYPROJECT)
    (tmp_path / "requirements-test.txt").write_text("pytest")
    resolution = found(tmp_path)
    assert resolution.title == "requirements.txt, requirements-test.txt, requirements/dev.txt, pyproject.toml"
    assert resolution.extras == ("test",)


def test_settings_of_tools_are_no_source(tmp_path: Path) -> None:
    """A pyproject.toml that only configures pytest adds nothing."""
    write(tmp_path, requirements_txt="pytest", pyproject_toml="[tool.pytest.ini_options]\n")
    assert found(tmp_path).title == "requirements.txt"


@pytest.mark.parametrize(
    ("files", "title", "installable"),
    [
        ({"pyproject_toml": PYPROJECT}, "pyproject.toml", False),
        ({"pyproject_toml": PYPROJECT + '[build-system]\nrequires = ["hatchling"]'}, "pyproject.toml", True),
        ({"setup_py": "", "pyproject_toml": '[build-system]\nrequires = ["setuptools"]'}, "setup.py", True),
        ({"setup_py": ""}, "setup.py", True),
        ({"setup_cfg": "[metadata]\nname = shop\n"}, "setup.cfg", True),
        ({"pyproject_toml": "[dependency-groups]\ndev = []"}, "pyproject.toml", False),
    ],
)
def test_then_the_projects_own_dependencies(
    tmp_path: Path, files: dict[str, str], title: str, installable: bool
) -> None:
    """In whatever file it has them; with a build system it is installed, too."""
    resolution = found(write(tmp_path, **files))
    assert resolution.title == title
    assert resolution.project is not None
    assert resolution.project.installable is installable


def test_nothing_is_said_at_length(tmp_path: Path) -> None:
    """With what to do."""
    with pytest.raises(Fatal, match=r"nothing to make an environment from.*supercheck_env = inherit"):
        found(write(tmp_path, setup_cfg="[tool:pytest]\n"))


def test_directories_above_are_looked_into(tmp_path: Path) -> None:
    """Up to the top of what was shipped, not beyond."""
    write(tmp_path, requirements_txt="no", tree__requirements_txt="pytest", tree__apps__shop__pytest_ini="")
    assert found(tmp_path / "tree", "apps/shop").title == "requirements.txt"
    with pytest.raises(Fatal, match="nothing to make"):
        found(tmp_path / "tree" / "apps", "shop")


def test_a_members_lock_is_the_workspaces(tmp_path: Path) -> None:
    """Where the workspace says that it is a member; else its own dependencies count."""
    workspace = '[tool.uv.workspace]\nmembers = ["apps/*"]\n'
    write(tmp_path, uv_lock="", pyproject_toml=workspace, apps__shop__pyproject_toml=PYPROJECT)
    write(tmp_path, other__pyproject_toml=PYPROJECT)
    member = found(tmp_path, "apps/shop")
    assert (member.title, member.directory) == ("uv.lock", tmp_path / "apps" / "shop")
    assert names(member, tmp_path) == ["apps/shop/pyproject.toml", "pyproject.toml", "uv.lock"]
    assert found(tmp_path, "other").title == "other/pyproject.toml"


def test_sources_that_are_named(tmp_path: Path) -> None:
    """Instead of all by convention; relative to the root directory."""
    write(tmp_path, uv_lock="", ci_txt="pytest", app__pytest_ini="", pyproject_toml=PYPROJECT)
    assert found(tmp_path, sources=("ci.txt",)).title == "ci.txt"
    assert found(tmp_path, "app", sources=("../ci.txt",)).title == "ci.txt"
    with pytest.raises(Fatal, match=r"nope\.txt was not shipped"):
        found(tmp_path, sources=("nope.txt",))
    with pytest.raises(Fatal, match="stands alone"):
        found(tmp_path, sources=("uv.lock", "ci.txt"))
    with pytest.raises(Fatal, match="outside of what was shipped"):
        found(tmp_path / "app", sources=("../ci.txt",))


def test_extras_and_groups_that_are_named(tmp_path: Path) -> None:
    """Instead of those by convention."""
    resolution = found(write(tmp_path, pyproject_toml=PYPROJECT), extras=("docs",), groups=("lint",))
    assert (resolution.extras, resolution.groups, resolution.exact) == (("docs",), ("lint",), True)


@pytest.mark.parametrize("name", ["pyproject_toml", "uv_lock"])
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    """Are named."""
    with pytest.raises(Fatal, match=name.replace("_", r"\.") + " cannot be read"):
        found(write(tmp_path, **{"requirements_txt": "pytest", name: "[["}))


# -- requirement files


def test_includes_are_followed(tmp_path: Path) -> None:
    """From the file that includes them, each once, in all forms; addresses are uv's business."""
    write(
        tmp_path,
        requirements_txt="-r reqs/base.txt  # why\n--constraint=limits.txt\n-r https://x/y.txt\n-rreqs/base.txt\n",
        reqs__base_txt="--requirement \\\n  more.txt\n-r ../requirements.txt\nattrs # -r none.txt\n",
        reqs__more_txt="--index-url https://index\n--pre\n-f wheels\npytest\n",
        limits_txt="attrs<25",
    )
    read = read_requirements([tmp_path / "requirements.txt"], tmp_path, tmp_path)
    found = [str(path.relative_to(tmp_path.resolve())) for path in read.files]
    assert found == ["requirements.txt", "reqs/base.txt", "limits.txt", "reqs/more.txt"]
    assert read.options == ("--index-url https://index", "--pre", "-f wheels")


@pytest.mark.parametrize("line", ["-r /etc/passwd", "-c ../secret.txt", "-r link.txt", "-e ..", "/etc/passwd"])
def test_nothing_outside_is_read(tmp_path: Path, line: str) -> None:
    """Not by way of a link either: what uv says of a line would tell what is there."""
    write(tmp_path, secret_txt="sesame", tree__requirements_txt=line)
    os.symlink(tmp_path / "secret.txt", tmp_path / "tree" / "link.txt")
    with pytest.raises(Fatal, match="outside of what was shipped") as caught:
        found(tmp_path / "tree")
    assert "sesame" not in str(caught.value)


def test_an_include_that_is_not_there(tmp_path: Path) -> None:
    """It and the file that wants it are named."""
    with pytest.raises(Fatal, match=r"none\.txt, which requirements\.txt includes, cannot be read: No such file"):
        found(write(tmp_path, requirements_txt="-r none.txt"))


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("-e .", "/t"),
        ("-e .[test,dev]", "/t"),
        ("--editable=./libs/a", "/t/libs/a"),
        ("-e libs/a ; python_version > '3'", "/t/libs/a"),
        ("./wheels/a-1.whl --hash=sha256:0", "/t/wheels/a-1.whl"),
        ("libs/a[x]", "/t/libs/a"),
        ("/abs/a", "/abs/a"),
        ("file:///abs/a%20b", "/abs/a b"),
        ("shop @ file:///abs/a", "/abs/a"),
        ("shop[x] @ ./a", "/t/a"),
        ("-e git+https://host/a", None),
        ("shop @ https://host/a.whl", None),
        ("https://host/a.whl", None),
        ("attrs>=1 ; sys_platform == 'a/b'", None),
        ("attrs", None),
        ("--index-url https://host/simple", None),
        ("-f ./wheels", None),
    ],
)
def test_lines_that_name_a_place(line: str, place: str | None) -> None:
    """A directory or archive on this machine."""
    found = local_place(line, Path("/t"))
    assert (found and os.path.normpath(found)) == place


# -- the project


def test_older_projects(tmp_path: Path) -> None:
    """As setuptools reads them."""
    text = "[metadata]\nname = Shop\n[options]\npython_requires = >=3.9\n[options.extras_require]\ntest = pytest\n"
    project = read_project(write(tmp_path, setup_cfg=text))
    assert project is not None
    assert (project.name, project.requires_python, project.extras) == ("Shop", ">=3.9", ("test",))
    assert read_project(tmp_path / "none") is None


def test_what_a_build_depends_on(tmp_path: Path) -> None:
    """What describes it, the names of packages, and sources that are compiled; not the content of modules."""
    write(tmp_path, pyproject_toml=PYPROJECT, src__shop__a_py="1", src__shop__fast_c="1", doc__a_txt="1")
    before = dict(of_build(tmp_path))
    write(tmp_path, src__shop__a_py="2", doc__a_txt="2", src__data__x_txt="1")
    assert dict(of_build(tmp_path)) == before
    for change in ({"src__shop__fast_c": "2"}, {"src__cart__a_py": ""}, {"setup_py": ""}, {"conf_py": ""}):
        before = dict(of_build(tmp_path))
        write(tmp_path, **change)
        assert dict(of_build(tmp_path)) != before, change


# -- which Python


@pytest.mark.parametrize(
    ("files", "asked", "wanted"),
    [
        ({}, "3.11", "3.11"),
        ({"_python-version": "# pin\n3.13.1\n"}, "", "3.13.1"),
        ({"_python-version": "3.13"}, "3.11", "3.11"),
        ({"pyproject_toml": PYPROJECT}, "", "3.12"),
        ({"pyproject_toml": PYPROJECT.replace(">=3.10", "<3.12")}, "", "<3.12"),
        ({}, "", "3.12"),
    ],
)
def test_which_python_is_asked_for(tmp_path: Path, files: dict[str, str], asked: str, wanted: str) -> None:
    """The wish, the project's file, the session's own if the project allows it, or what the project allows."""
    if pinned := files.pop("_python-version", None):
        (tmp_path / ".python-version").write_text(pinned)
    write(tmp_path, **files)
    (tmp_path / "app").mkdir()
    assert wanted_python(tmp_path, tmp_path / "app", read_project(tmp_path), wish(python=asked)) == wanted


@pytest.mark.parametrize("pinned", ["/tmp/evil", "-h", "../x", "http://x"])
def test_a_file_cannot_ask_for_a_program(tmp_path: Path, pinned: str) -> None:
    """Only for a version."""
    (tmp_path / ".python-version").write_text(pinned)
    with pytest.raises(Fatal, match="no version of Python"):
        wanted_python(tmp_path, tmp_path, None, wish())


def test_bad_specifiers(tmp_path: Path) -> None:
    """Are shown."""
    write(tmp_path, pyproject_toml=PYPROJECT.replace(">=3.10", "yes"))
    with pytest.raises(Fatal, match="'yes' does not say which Pythons"):
        wanted_python(tmp_path, tmp_path, read_project(tmp_path), wish())


# -- wishes


def test_a_wish_travels() -> None:
    """As JSON; lists come back as they were."""
    sent = wish(python=">=3.11", sources=("a/b.txt",), extras=("x",), groups=("y",), project="shop", version="1+a")
    assert EnvironmentWish.decode(sent.encode()) == sent


@pytest.mark.parametrize(
    "bad",
    [
        None,
        {"kind": "../docker"},
        {"kind": "uv", "python": "/bin/sh"},
        {"kind": "uv", "python": "-p"},
        {"kind": "uv", "extras": ["--all"]},
        {"kind": "uv", "groups": "dev"},
        {"kind": "uv", "sources": ["/etc/passwd"]},
        {"kind": "uv", "sources": ["-e."]},
        {"kind": "uv", "extras": ["x"] * 51},
        {"kind": "uv", "version": "1 2"},
        {"kind": "uv", "version": 1},
    ],
)
def test_a_strangers_wish(bad: object) -> None:
    """What no session sends is refused, before it is a word on a command line."""
    with pytest.raises(Fatal, match=r"^the run"):
        EnvironmentWish.decode(bad)


def test_a_sessions_wish(tmp_path: Path) -> None:
    """The version is that of what is installed; a project that says its own needs none sent."""
    write(tmp_path, pyproject_toml='[project]\nname = "PyTest"\ndynamic = ["version"]\n')
    made = wish_for(tmp_path, kind="uv")
    assert (made.project, made.version) == ("PyTest", pytest.__version__)
    write(tmp_path, pyproject_toml=PYPROJECT)
    assert wish_for(tmp_path, kind="uv").version == ""
    assert wish_for(tmp_path / "none", kind="uv").project == ""


def test_the_version_of_a_project_that_is_not_installed(tmp_path: Path) -> None:
    """Is that of git's last tag; without git, none."""
    write(tmp_path, pyproject_toml='[project]\nname = "not-installed"\ndynamic = ["version"]\n')
    assert wish_for(tmp_path, kind="uv").version == ""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"], ["tag", "release-v1.4.0"]):
        subprocess.run([*git, *words], check=True)
    assert wish_for(tmp_path, kind="uv").version == "1.4.0"
