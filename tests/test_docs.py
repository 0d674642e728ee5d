"""
The documentation against the code: what users can type, set or read is documented, and what is documented exists.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest

import pytest_supercheck
from pytest_supercheck import cli
from pytest_supercheck.errors import SupercheckError

SOURCE: Final = Path(pytest_supercheck.__file__).parent
ROOT: Final = Path(__file__).parent.parent
REFERENCE: Final = (ROOT / "docs" / "reference.md").read_text("utf-8")
PAGES: Final = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
}
PYTHON: Final = {path.stem: path.read_text("utf-8") for path in SOURCE.glob("*.py")}
#: The server's modules, by name.
SERVER: Final = {path.stem: path.read_text("utf-8") for path in (ROOT / "server" / "supercheck_server").glob("*.py")}
SCRIPT: Final = (SOURCE / "dispatch.lua").read_text("utf-8")

#: Variables of this checkout's own tools that begin like the package's, none so far.
TOOLS_VARIABLES: Final = frozenset[str]()

#: What can be imported and begins like an ini key.
PACKAGES: Final = frozenset({"supercheck_server", "supercheck_files"})

#: The least exit code that is ours; those below are pytest's.
FIRST_OWN_CODE: Final = 64

every_page = pytest.mark.parametrize("page", sorted(PAGES))


@pytest.fixture(scope="module")
def pytest_help(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest says of itself with the plugin installed."""
    environ = {name: setting for name, setting in os.environ.items() if name != "PYTEST_ADDOPTS"}
    command = [sys.executable, "-m", "pytest", "--help", "-p", "no:cacheprovider"]
    place = tmp_path_factory.mktemp("help")
    return subprocess.run(
        command, cwd=place, env=environ, capture_output=True, text=True, check=True, timeout=60
    ).stdout


@pytest.fixture(scope="module")
def options(pytest_help: str) -> frozenset[str]:
    """The plugin's options of pytest."""
    found = frozenset(re.findall(r"^ +(--supercheck[a-z-]*)", pytest_help, re.MULTILINE))
    assert {"--supercheck", "--supercheck-url"} <= found
    return found


@pytest.fixture(scope="module")
def ini_keys(pytest_help: str) -> frozenset[str]:
    """The plugin's ini keys."""
    return frozenset(re.findall(r"^ +(supercheck[a-z_]*) \(", pytest_help, re.MULTILINE))


@pytest.fixture(scope="module")
def variables(options: frozenset[str]) -> frozenset[str]:
    """The environment variables: those that the source names, and one per option that takes a value."""
    named = {
        name for text in (*PYTHON.values(), *SERVER.values()) for name in re.findall(r"SUPERCHECK_[A-Z0-9_]+", text)
    }
    of_options = {option.lstrip("-").replace("-", "_").upper() for option in options if option != "--supercheck"}
    return frozenset(named | of_options)


def commands(command: click.Command = cli.main, path: str = "supercheck") -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, f"{path} {name}")


def command_options(command: click.Command) -> set[str]:
    """The options of a command itself."""
    return {name for parameter in command.params if isinstance(parameter, click.Option) for name in parameter.opts}


def undocumented(names: Iterator[str] | frozenset[str] | set[str]) -> list[str]:
    """Those names that the reference does not have as a whole word in code."""
    return sorted(name for name in names if not re.search(rf"`{re.escape(name)}(?![\w-])", REFERENCE))


def test_every_option_is_documented(options: frozenset[str]) -> None:
    """In a table, with its default."""
    missing = [option for option in options if not re.search(rf"^\| `{option}[ `]", REFERENCE, re.MULTILINE)]
    assert not missing


def test_every_ini_key_is_documented(ini_keys: frozenset[str], options: frozenset[str]) -> None:
    """And each option has one."""
    assert ini_keys == {option.lstrip("-").replace("-", "_") for option in options}
    assert not undocumented(ini_keys)


def test_every_variable_is_documented(variables: frozenset[str]) -> None:
    """Operators' and reserved ones too."""
    assert "SUPERCHECK_REDIS_URL" in variables
    assert not undocumented(variables)


def test_every_command_and_its_options_are_documented() -> None:
    """A heading per command; its options in the section below it."""
    for path, command in commands():
        if path == "supercheck":
            continue
        heading = f"### `{path}`\n"
        assert heading in REFERENCE, path
        section = re.split(r"^##", REFERENCE.partition(heading)[2], maxsplit=1, flags=re.MULTILINE)[0]
        assert {name for name in command_options(command) if f"`{name}" not in section} == set(), path


def event_kinds() -> set[str]:
    """The kinds that the package's reader knows, and those that the script writes."""
    read = {
        pattern.value.value
        for node in ast.walk(ast.parse(PYTHON["events"]))
        if isinstance(node, ast.match_case) and isinstance(pattern := node.pattern, ast.MatchValue)
        if isinstance(pattern.value, ast.Constant)
    }
    assert {"result", "crash", "end"} <= read
    written = set(re.findall(r"'t', '(\w+)'", SCRIPT))
    assert {"promoted", "lapsed"} <= written
    return {"passed", *read, *written}


def test_every_event_is_documented() -> None:
    """Of both streams."""
    assert not undocumented(event_kinds())


def test_every_outcome_is_documented() -> None:
    """What a run can end with, from whoever says it."""
    said = set(re.findall(r"(?:stop_run|end_run)\(run, '(\w+)'", SCRIPT))
    for text in PYTHON.values():
        said |= set(re.findall(r'\.cancel\([^\n]*outcome="(\w+)"', text))
    assert {"finished", "timeout", "lost", "cancelled", "stopped"} <= said
    assert not undocumented(said)


def error_classes() -> dict[str, type[BaseException]]:
    """The public exceptions of all modules."""
    found: dict[str, type[BaseException]] = {}
    modules = [f"pytest_supercheck.{module}" for module in PYTHON] + [
        f"supercheck_server.{module}" for module in SERVER
    ]
    for module in modules:
        for name, value in vars(importlib.import_module(module)).items():
            public_error = isinstance(value, type) and issubclass(value, BaseException) and not name.startswith("_")
            if public_error and value.__module__.startswith(("pytest_supercheck", "supercheck_server")):
                found[name] = value
    return found


def test_every_error_is_documented_with_its_exit_code() -> None:
    """In the table of errors."""
    found = error_classes()
    assert {"SupercheckError", "QueueFull", "WireError"} <= found.keys()
    for name, error in found.items():
        row = re.search(rf"^\| `{name}` \| (\d+) \|", REFERENCE, re.MULTILINE)
        assert row, name
        if issubclass(error, SupercheckError):
            assert int(row[1]) == error.exit_code, name


@pytest.mark.parametrize("module", ["pytest_supercheck.errors", "supercheck_server.errors"])
def test_the_tree_of_errors_is_drawn_as_it_is(module: str) -> None:
    """At the top of the file: every class below the one that it is derived from, with its exit code."""
    errors = importlib.import_module(module)
    drawn: dict[str, tuple[str, int]] = {}
    above: list[str] = []
    tree = re.compile(r"^ {4}((?:[│├└─ ]{4})*)(\w+)(?: +(\d+).*)?$", re.MULTILINE)
    for indent, name, code in tree.findall(errors.__doc__ or ""):
        above[len(indent) // 4 :] = [name]
        if code:
            drawn[name] = (above[-2] if len(above) > 1 else "Exception", int(code))
    found = {
        name: (value.__bases__[0].__name__, value.exit_code)
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, SupercheckError) and value.__module__ == module
    }
    assert {name: drawn.get(name) for name in found} == found


def test_every_exit_code_is_documented() -> None:
    """Ours and pytest's own, of which later releases have more."""
    known_to_pytest = {int(code) for code in pytest.ExitCode}
    codes = {error.exit_code for error in error_classes().values() if issubclass(error, SupercheckError)}
    codes |= {int(code) for text in PYTHON.values() for code in re.findall(r"returncode=(\d+)", text)}
    assert {69, 70, 75, 124} <= codes
    table = REFERENCE.partition("## Exit codes")[2].partition("\n## ")[0]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert known_to_pytest <= documented
    assert {code for code in documented if code >= FIRST_OWN_CODE} == {code for code in codes if code >= FIRST_OWN_CODE}


def test_every_route_is_documented(tmp_path: Path) -> None:
    """Those that programs may use, and no others."""
    from supercheck_server.app import create_app
    from supercheck_server.parts import Parts
    from supercheck_server.settings import Settings

    parts = Parts(Settings.from_env({"SUPERCHECK_REDIS_URL": "unix:///nonexistent"}, data=tmp_path))
    described = create_app(parts).openapi()["paths"]
    parts.close()
    routes = {f"{method.upper()} {path}" for path, methods in described.items() for method in methods}
    assert "GET /api/v1/queue" in routes
    assert set(re.findall(r"^\| `((?:GET|POST|PUT|PATCH) [^`]+)` \|", REFERENCE, re.MULTILINE)) == routes


def hooks() -> set[str]:
    """Hooks that the package declares."""
    return {
        function.name
        for text in PYTHON.values()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Hookspecs")
        for function in node.body
        if isinstance(function, ast.FunctionDef)
    }


def test_every_hook_is_documented() -> None:
    """Ours, and xdist's."""
    assert {"supercheck_open_store", "pytest_configure_node"} <= hooks()
    assert not undocumented(hooks())


@every_page
def test_no_page_makes_up_an_option(page: str, options: frozenset[str], ini_keys: frozenset[str]) -> None:
    """Options and ini keys that a page names exist."""
    text = PAGES[page]
    assert set(re.findall(r"--supercheck(?:-[a-z]+)*", text)) <= options
    assert set(re.findall(r"\bsupercheck_[a-z_]+", text)) <= ini_keys | hooks() | PACKAGES


@every_page
def test_no_page_makes_up_a_variable(page: str, variables: frozenset[str]) -> None:
    """Variables that a page names are read, or reserved."""
    assert set(re.findall(r"\bSUPERCHECK_[A-Z0-9_]+", PAGES[page])) <= variables | TOOLS_VARIABLES


@every_page
def test_no_page_makes_up_a_command(page: str) -> None:
    """Commands that a page shows exist, with the options shown."""
    known = dict(commands())
    for words in re.findall(r"(?:^ {4}(?:\$ )?|`)supercheck((?: +[^\s`=]+)+)(?! *=)", PAGES[page], re.MULTILINE):
        path, shown = "supercheck", set[str]()
        allowed = command_options(known[path]) | {"--version", "--help", "-h"}
        for word in words.partition("#")[0].partition(" -- ")[0].split():  # after that, pytest's
            if f"{path} {word}" in known:
                path = f"{path} {word}"
                allowed |= command_options(known[path])
            elif word.startswith("-"):
                shown.add(word)
        assert path != "supercheck" or shown, f"{page}: supercheck{words}"
        assert shown <= allowed, f"{page}: supercheck{words}"


@every_page
def test_tables_are_whole(page: str) -> None:
    """Each has a head, all rows have its columns, and nothing that has a name is in it twice."""
    for table in re.findall(r"(?:^\|.*\n)+", PAGES[page], re.MULTILINE):
        # A border within code is none.
        whole = re.sub(r"`[^`]*`", lambda code: code[0].replace("|", "/"), table)
        head, line, *rows = [row.split("|") for row in whole.splitlines()]
        assert set("".join(line)) <= set(" -"), f"{page}: {table[:80]}"
        assert {len(row) for row in (line, *rows)} == {len(head)}, f"{page}: {table[:80]}"
        names = [row[1] for row in rows if row[1].startswith(" `")]
        assert len(names) == len(set(names)), f"{page}: {table[:80]}"


@every_page
def test_links_between_pages_lead_somewhere(page: str) -> None:
    """Files and headings."""
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        assert path.is_file(), f"{page}: {target}"
        headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, f"{page}: {target}"
