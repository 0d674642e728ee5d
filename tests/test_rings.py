"""
The rings of docs/architecture.md: which module may import what, checked against the source itself.
"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

import pytest_supercheck
from pytest_supercheck import assembly

PACKAGE: Final = "pytest_supercheck"
SOURCE: Final = Path(pytest_supercheck.__file__).parent
ARCHITECTURE: Final = (Path(__file__).parent.parent / "docs" / "architecture.md").read_text("utf-8")

#: From the inside out. A module imports from its own ring and from those before it.
RINGS: Final = (
    frozenset(
        {
            *("__init__", "model", "errors", "events", "boot", "keeper", "operators", "settings", "valkey_wheel"),
            *("footprint", "masking"),
            *("record", "plain", "longrepr", "postmortem", "verdicts", "transcript", "origin", "words", "timeline"),
            *("variables", "fingerprint", "pyproject", "wish", "requirements", "resolution"),
            *("bundle", "descent", "digests", "gathering", "jobs", "job_file", "schedule", "ini", "job_spec"),
            *("isolation", "sandbox", "users", "warden"),
            "addresses",
        }
    ),
    frozenset({"gateway", "store", "archive", "packs"}),
    frozenset(
        {
            *("dispatch", "replies", "orphans", "redis_errors"),
            *("redis_gateway", "event_reader", "http_gateway", "valkey", "directory_store", "s3_store"),
            *("uv_program", "build_cache", "oidc"),
        }
    ),
    frozenset(
        {
            *("plugin", "session", "ending", "durations", "groups", "submission", "connector", "replay"),
            *("xdist_protocol", "xdist_fixtures"),
            *("local_archive", "diary", "markup", "report", "retry", "doctor", "artifacts"),
            *(
                "embedded",
                "cli",
                "options",
                "worker_command",
                "record_commands",
                "queue_commands",
                "session_commands",
                "host",
                "runners",
                "job_commands",
                "pool",
                "worker",
                "supervisor",
                "workplace",
                "mailbox",
                "process",
                "runner",
                "execution",
            ),
            *("recorder", "leftovers", "listing", "restore", "thin", "spec", "follower"),
            *(
                "run_venv",
                "installation",
                "assembly",
                "environment",
                "workspace",
                "preparation",
                "discard",
                "retrieval",
                "coverage_data",
            ),
            *("hookspecs", "extensions", "stores", "gateways"),
            *("shipping", "sources", "fetched"),
        }
    ),
)

#: What runs inside the user's environment: it imports the standard library, pytest and itself.
IN_USERS_ENVIRONMENT: Final = frozenset(
    {
        *("runner", "warden", "execution", "recorder", "leftovers", "keeper", "events", "xdist_fixtures"),
        *("listing", "groups", "durations"),
    }
)

#: Who may import a distribution when it is imported itself; everybody else, not at all.
IMPORTERS: Final = {
    "pytest": {
        "plugin",
        "settings",
        "session",
        "ending",
        "durations",
        "groups",
        "replay",
        "xdist_protocol",
        "xdist_fixtures",
        "runner",
        "execution",
        "recorder",
        *("leftovers", "listing", "restore", "thin", "spec", "follower", "ini"),
    },
    "redis": {"dispatch", "orphans", "redis_errors", "redis_gateway", "event_reader", "worker"},
    "rq": {"worker"},
    "httpx": {"http_gateway", "oidc"},
    "click": {
        *("cli", "options", "worker_command", "record_commands", "queue_commands"),
        *("session_commands", "job_commands"),
    },
    "pluggy": {"hookspecs", "extensions"},
    "jinja2": {"report"},
    "markupsafe": {"report", "markup"},
    "pygments": {"markup"},
    "boto3": {"s3_store"},
    "botocore": {"s3_store"},
    "tomllib": {"pyproject", "job_file"},
    "tomli": {"pyproject", "job_file"},
    "iniconfig": {"ini"},
    "packaging": {"resolution", "environment"},
    "cronsim": {"schedule"},
}

#: Who may import a distribution inside of a function.
LAZY_IMPORTERS: Final = {
    "coverage": {"coverage_data"},
    "rq": {"supervisor"},
    "pytest": {"session_commands"},
    "pathspec": {"gathering"},
    "uv": {"uv_program"},
}

#: What a session without --supercheck must not pay for.
EXPENSIVE: Final = ("redis", "rq", "httpx", "click", "boto3", "jinja2", f"{PACKAGE}.session", f"{PACKAGE}.settings")


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import statement's module."""

    #: Dotted name.
    target: str
    #: Whether it happens when the importing module is imported, not within a function.
    eager: bool
    #: Whether it is for type checkers only.
    typing_only: bool

    @property
    def distribution(self) -> str:
        """Where it comes from: the first part of the name, but pytest has two."""
        name = self.target.partition(".")[0]
        return "pytest" if name == "_pytest" else name

    @property
    def ours(self) -> str:
        """The module of this package that is imported, an empty string for any other."""
        name, _, rest = self.target.partition(".")
        return (rest or "__init__") if name == PACKAGE else ""


def imports_of(module: str) -> tuple[Import, ...]:
    """All imports in a module's source."""
    tree = ast.parse((SOURCE / f"{module}.py").read_text("utf-8"))
    return tuple(_walk(tree, eager=True, typing_only=False))


def _walk(node: ast.AST, *, eager: bool, typing_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        for target in _targets(child):
            yield Import(target=target, eager=eager, typing_only=typing_only)
        lazy = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            for statement in child.body:
                yield from _walk(ast.Module([statement], []), eager=eager, typing_only=True)
            yield from _walk(ast.Module(child.orelse, []), eager=eager, typing_only=typing_only)
        else:
            yield from _walk(child, eager=eager and not lazy, typing_only=typing_only)


def _targets(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    assert node.level == 0, "imports are absolute"
    if node.module == PACKAGE:  # a module of ours, or a name of the package's face
        return [f"{PACKAGE}.{alias.name}" if alias.name in MODULES else PACKAGE for alias in node.names]
    return [node.module or ""]


def _ring(module: str) -> int:
    return next(number for number, ring in enumerate(RINGS) if module in ring)


MODULES: Final = frozenset(path.stem for path in SOURCE.glob("*.py"))
IMPORTS: Final = {module: imports_of(module) for module in sorted(MODULES)}

every_module = pytest.mark.parametrize("module", sorted(MODULES))


def test_every_module_is_in_one_ring() -> None:
    """A new module has to be given its place."""
    placed = [module for ring in RINGS for module in ring]
    assert sorted(placed) == sorted(MODULES)


def test_the_table_of_rings_is_complete() -> None:
    """In docs/architecture.md, every module in the row of its ring; and all that runs in the user's environment."""
    section = ARCHITECTURE.partition("## Rings")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| [^|]+\|([^|]+`[^|]+)\|", section, re.MULTILINE)
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == [ring - {"__init__"} for ring in RINGS]
    [users] = re.findall(r"inside the user's environment \(([^)]+)\)", section)
    assert set(re.findall(r"`(\w+)`", users)) == IN_USERS_ENVIRONMENT


@every_module
def test_imports_point_inward(module: str) -> None:
    """No ring knows the ones outside of it, not even lazily or for types."""
    outward = {imported.ours for imported in IMPORTS[module] if imported.ours and _ring(imported.ours) > _ring(module)}
    assert not outward


def test_there_are_no_cycles() -> None:
    """Not even lazy ones; imports for types only are no dependencies."""
    graph = {
        module: {imported.ours for imported in imports if imported.ours and not imported.typing_only}
        for module, imports in IMPORTS.items()
    }
    graphlib.TopologicalSorter(graph).prepare()


@every_module
def test_foreign_imports_are_where_they_belong(module: str) -> None:
    """Each distribution has its importers; what is imported for types only costs nothing."""
    for imported in IMPORTS[module]:
        name = imported.distribution
        if imported.ours or imported.typing_only or name in sys.stdlib_module_names:
            continue
        may = IMPORTERS.get(name, set()) | (set() if imported.eager else LAZY_IMPORTERS.get(name, set()))
        assert module in may, f"{module} imports {imported.target}"


@pytest.mark.parametrize("module", sorted(IN_USERS_ENVIRONMENT))
def test_users_environment_needs_nothing_of_the_service(module: str) -> None:
    """Test processes load the standard library, pytest and each other, whenever it may be."""
    for imported in IMPORTS[module]:
        known = imported.ours in IN_USERS_ENVIRONMENT or imported.distribution == "pytest"
        assert known or imported.distribution in sys.stdlib_module_names, f"{module} imports {imported.target}"


def test_shipped_runs_bring_all_that_test_processes_need() -> None:
    """Their environments have these modules of the package, and no others."""
    assert set(assembly.RUNNER_MODULES) == {"__init__", "plugin"} | IN_USERS_ENVIRONMENT


def test_plugin_imports_nothing_but_pytest() -> None:
    """Every pytest of the environment imports it: at first it takes only what is loaded anyway."""
    eager = {imported.distribution for imported in IMPORTS["plugin"] if imported.eager and not imported.typing_only}
    assert "pytest" in eager
    assert eager <= {"pytest", *sys.stdlib_module_names}


def test_the_package_itself_imports_nothing() -> None:
    """It is imported before any module of it."""
    assert not IMPORTS["__init__"]


@pytest.mark.parametrize(
    ("module", "verbs"),
    [
        ("gateway", ["submit", "offer", "events", "keep", "cancel", "queue"]),
        ("store", ["put", "get", "head", "list", "delete", "url"]),
    ],
)
def test_the_ports_are_protocols(module: str, verbs: list[str]) -> None:
    """Each has six verbs, all of them public."""
    tree = ast.parse((SOURCE / f"{module}.py").read_text("utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    [port] = [node for node in classes if "Protocol" in [ast.unparse(base) for base in node.bases]]
    assert [node.name for node in port.body if isinstance(node, ast.FunctionDef)] == verbs


def test_public_names_of_the_package() -> None:
    """What users may import: a change here is a change of the public interface."""
    assert pytest_supercheck.__all__ == ["__version__"]


def test_plain_pytest_loads_nothing_expensive() -> None:
    """Importing the plugin, where pytest is imported already, brings in no client and no session."""
    code = (
        "import sys, pytest; before = set(sys.modules); import pytest_supercheck.plugin;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = done.stdout.split()
    assert loaded == [PACKAGE, f"{PACKAGE}.plugin"]
    assert not set(EXPENSIVE) & set(loaded)


SERVER: Final = SOURCE.parent / "server" / "supercheck_server"


def test_server_imports_the_package_and_never_the_other_way() -> None:
    """The command line finds the server's commands by their entry points."""
    for module, imports in IMPORTS.items():
        assert not [one.target for one in imports if one.distribution == "supercheck_server"], module
    ours = {
        one.distribution for path in SERVER.rglob("*.py") for one in _walk(_parsed(path), eager=True, typing_only=False)
    }
    assert PACKAGE in ours
    assert not ours & {"redis", "rq", "pytest"}, "what needs these is in the package"


def test_servers_commands_are_there_without_its_extra() -> None:
    """`supercheck --help` loads none of it."""
    tree = _parsed(SERVER / "commands.py")
    eager = {
        one.distribution for one in _walk(tree, eager=True, typing_only=False) if one.eager and not one.typing_only
    }
    assert eager <= {PACKAGE, "click", *sys.stdlib_module_names}


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))
